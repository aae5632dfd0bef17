"""Other people's modes of torch: where torchvision's operators work, ours do, with equal results;
elsewhere they raise in words."""

import copy
import pickle

import numpy
import pytest
import torch
import torchvision
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_leaves, tree_map_only

from fastrpn import ops
from fastrpn.ops import box_iou, nms, roi_align, roi_pool  # bound by name, as many callers do

GENERATOR = torch.Generator().manual_seed(0)
CORNERS = torch.rand(6, 2, generator=GENERATOR) * 8
BOXES = torch.cat([CORNERS, CORNERS + torch.rand(6, 2, generator=GENERATOR) * 8], dim=1)
SCORES = torch.tensor([0.9, 0.7, 0.8, 0.3, 0.5, 0.6])
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
FEATURES = torch.rand(2, 3, 8, 9, generator=GENERATOR)
ROIS = torch.cat([LABELS[:, None], BOXES], dim=1)
SIZES = torch.tensor([[14, 15]])
PYRAMID = {"a": FEATURES, "b": FEATURES[:, :, ::2, ::2]}
IMAGE_SHAPES = [(16, 18), (16, 18)]
POOLERS = {
    "RoIAlign": (ops.RoIAlign(2, 0.5, 2), torchvision.ops.RoIAlign(2, 0.5, 2)),
    "RoIPool": (ops.RoIPool((2, 3), 0.5), torchvision.ops.RoIPool((2, 3), 0.5)),
}
PYRAMID_POOLERS = tuple(
    module.MultiScaleRoIAlign(["a", "b"], 2, 2) for module in (ops, torchvision.ops)
)
TOP_N = {"pre_nms_top_n": 5, "post_nms_top_n": 4, "nms_threshold": 0.7, "min_size": 0.0}

# Every public function, and what it is given.
CASES = {
    "batched_nms": (lambda b, s, i: ops.batched_nms(b, s, i, 0.3), (BOXES, SCORES, LABELS)),
    "box_area": (lambda b: ops.box_area(b), (BOXES,)),
    "box_convert": (lambda b: ops.box_convert(b, "xyxy", "cxcywh"), (BOXES,)),
    "box_iou": (lambda b, c: box_iou(b, c), (BOXES, BOXES + 1)),
    "clip_boxes_to_image": (lambda b: ops.clip_boxes_to_image(b, (9, 10)), (BOXES,)),
    "complete_box_iou": (lambda b, c: ops.complete_box_iou(b, c), (BOXES, BOXES + 1)),
    "decode_boxes": (lambda d, b: ops.decode_boxes(d, b), (BOXES * 0.1, BOXES)),
    "distance_box_iou": (lambda b, c: ops.distance_box_iou(b, c), (BOXES, BOXES + 1)),
    "encode_boxes": (lambda b, c: ops.encode_boxes(b, c), (BOXES, BOXES + 1)),
    "generalized_box_iou": (lambda b, c: ops.generalized_box_iou(b, c), (BOXES, BOXES + 1)),
    "generate_proposals": (
        lambda s, d, b, z: ops.generate_proposals(s, d, b, z, **TOP_N),
        (SCORES[None], BOXES[None] * 0.01, BOXES, SIZES),
    ),
    "match_anchors": (
        lambda b, g, n: ops.match_anchors(b, g, n, high=0.7, low=0.3),
        (BOXES, BOXES[None, :2] + 1, torch.tensor([2])),
    ),
    "multiscale_roi_align": (
        lambda x, y, r, v: ops.multiscale_roi_align([x, y], r, v, 2, [0.5, 0.25]),
        (*PYRAMID.values(), ROIS, LABELS.int()),
    ),
    "nms": (lambda b, s: nms(b, s, 0.3), (BOXES, SCORES)),
    "nms_padded": (
        lambda b, s, n, g: ops.nms_padded(b, s, 0.3, 4, counts=n, groups=g),
        (BOXES[None], SCORES[None], torch.tensor([5]), LABELS[None]),
    ),
    "remove_small_boxes": (lambda b: ops.remove_small_boxes(b, 3.0), (BOXES,)),
    "roi_align": (lambda x, r: roi_align(x, r, 2, 0.5), (FEATURES, ROIS)),
    "roi_align, list": (
        lambda x, b, c: ops.roi_align(x, [b, c], 2, 0.5), (FEATURES, BOXES, BOXES[:2]),
    ),
    "roi_pool": (lambda x, r: roi_pool(x, r, 2, 0.5), (FEATURES, ROIS)),
    "soft_nms": (lambda b, s: ops.soft_nms(b, s), (BOXES, SCORES)),
}  # fmt: skip
ALL = pytest.mark.parametrize("name", CASES)
COMPOSED = ("box_area", "box_convert", "clip", "complete", "distance", "generalized")
KERNELS = [name for name in CASES if not name.startswith(COMPOSED) and "code_" not in name]
WITH_KERNEL = pytest.mark.parametrize("name", KERNELS)  # slow modes: torch's own ops go without


def assert_same(a, b):
    a, b = tree_leaves(a), tree_leaves(b)
    assert len(a) == len(b) > 0
    for part, wanted in zip(a, b, strict=True):
        torch.testing.assert_close(part, wanted, rtol=0, atol=1e-6, equal_nan=True)


def module_of(name):
    """The case as a module whose `forward` takes as many arguments."""
    function, arguments = CASES[name]
    names = ", ".join("abcd"[: len(arguments)])
    scope = {"function": function}
    exec(f"def forward(self, {names}): return function({names})", scope)
    return type("Case", (torch.nn.Module,), {"forward": scope["forward"]})()


@ALL
def test_fx_symbolic_trace(name):
    function, arguments = CASES[name]
    traced = torch.fx.symbolic_trace(module_of(name))
    assert_same(traced(*arguments), function(*arguments))
    assert_same(pickle.loads(pickle.dumps(traced))(*arguments), function(*arguments))


@WITH_KERNEL
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(name, mode):
    function, arguments = CASES[name]
    traced = make_fx(function, tracing_mode=mode)(*arguments)
    assert_same(traced(*arguments), function(*arguments))


@WITH_KERNEL
def test_fake_tensors_have_the_right_shapes(name):
    function, arguments = CASES[name]
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        fakes = tree_leaves(function(*map(mode.from_tensor, arguments)))
    for fake, real in zip(fakes, tree_leaves(function(*arguments)), strict=True):
        assert (fake.dtype, fake.dim()) == (real.dtype, real.dim())
        if all(isinstance(size, int) for size in fake.shape):
            assert (fake.shape, fake.stride()) == (real.shape, real.stride())


@WITH_KERNEL
def test_export(name):
    function, arguments = CASES[name]
    exported = torch.export.export(module_of(name), arguments)
    assert_same(exported.module()(*arguments), function(*arguments))


@WITH_KERNEL
def test_compile(name):
    function, arguments = CASES[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_same(compiled(*arguments), function(*arguments))


@ALL
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_jit_trace_serves_other_sizes(name):
    function, arguments = CASES[name]
    traced = torch.jit.trace(function, arguments, check_trace=False)
    assert_same(traced(*arguments), function(*arguments))
    if name not in ("generate_proposals", "match_anchors", "nms_padded"):  # fixed shapes
        fewer = [a if a.dim() == 4 else a[:4] for a in arguments]
        assert_same(traced(*fewer), function(*fewer))


@ALL
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_jit_script_is_refused_in_words(name):
    name = name.split(",")[0]
    with pytest.raises(NotImplementedError, match=rf"{name}: .*accelerate_torchvision\(\)"):
        torch.jit.script(getattr(ops, name))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripting_what_calls_us_is_refused_in_words():
    def keep(boxes, scores):
        return nms(boxes, scores, 0.5)

    with pytest.raises(NotImplementedError, match="nms: .*accelerate_torchvision"):
        torch.jit.script(keep)
    for module in (*(ours for ours, _ in POOLERS.values()), PYRAMID_POOLERS[0]):
        with pytest.raises(NotImplementedError, match="accelerate_torchvision"):
            torch.jit.script(torch.nn.Sequential(module))


class Holder(torch.nn.Module):
    def __init__(self, pooler):
        super().__init__()
        self.pooler = pooler

    def forward(self, *args):
        return self.pooler(*args)


class PyramidHolder(Holder):
    def forward(self, maps, boxes, shapes):
        return self.pooler(maps, boxes, shapes)


class MapHolder(Holder):
    def forward(self, features, boxes):
        return self.pooler(features, boxes)


MODULE_CASES = [
    *(
        pytest.param(MapHolder, *both, (FEATURES, boxes), id=f"{name}, {type(boxes).__name__}")
        for name, both in POOLERS.items()
        for boxes in (ROIS, [BOXES, BOXES[:2]])
    ),
    pytest.param(
        PyramidHolder, *PYRAMID_POOLERS, (PYRAMID, [BOXES * 4, BOXES[:2]], IMAGE_SHAPES),
        id="MultiScaleRoIAlign",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("holder", "ours", "theirs", "arguments"), MODULE_CASES)
def test_modules_trace_copy_and_pickle_as_torchvisions(holder, ours, theirs, arguments):
    wanted = theirs(*arguments)
    traced = torch.fx.symbolic_trace(holder(ours))
    for module in (
        traced, pickle.loads(pickle.dumps(traced)), torch.fx.symbolic_trace(ours),
        copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)),
        torch.export.export(holder(ours), arguments).module(),
    ):  # fmt: skip
        assert_same(module(*arguments), wanted)


HALVES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("boxes_dtype", HALVES)
@pytest.mark.parametrize("scores_dtype", HALVES)
def test_autocast_takes_boxes_and_scores_of_two_dtypes(boxes_dtype, scores_dtype):
    boxes, scores = BOXES.to(boxes_dtype), SCORES.to(scores_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = torchvision.ops.nms(boxes, scores, 0.3)
        assert torch.equal(ops.nms(boxes, scores, 0.3), kept)
        padded, count = ops.nms_padded(boxes[None], scores[None], 0.3, 6)
        assert torch.equal(padded[0, : count[0]], kept)
        batched = ops.batched_nms(boxes, scores, LABELS, 0.3)
        assert torch.equal(batched, ops.batched_nms(boxes.float(), scores.float(), LABELS, 0.3))
    if boxes_dtype != scores_dtype:
        with pytest.raises(TypeError, match="scores: expected the dtype of boxes"):
            ops.nms(boxes, scores, 0.3)
        with torch.autocast("cpu"), pytest.raises(TypeError, match="scores"):
            ops.nms(boxes.double(), scores, 0.3)  # as torchvision: float64 is left alone


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rois_dtype", HALVES)
def test_autocast_takes_features_and_rois_of_two_dtypes(dtype, rois_dtype):
    features, rois = FEATURES.to(dtype), ROIS.to(rois_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = ops.roi_align(features, rois, 2, 0.5, 2)
        expected = torchvision.ops.roi_align(features, rois, 2, 0.5, 2)
        torch.testing.assert_close(pooled, expected)
        wanted = ops.roi_pool(features, rois.float(), 2)
        assert_same(ops.roi_pool(features, rois, 2), wanted)
        if rois_dtype != torch.float16:  # autocast's torch.cat refuses float16 on the CPU
            assert ops.roi_align(features, [BOXES.to(rois_dtype)] * 2, 2).dtype == dtype
        leaf = features.clone().requires_grad_()
        ops.roi_align(leaf, rois, 2).sum().backward()
        assert leaf.grad.dtype == dtype
    if dtype == torch.float32 != rois_dtype:
        with pytest.raises(TypeError, match="boxes: expected the dtype of input"):
            ops.roi_align(features, rois, 2)


def test_compiled_autocast():
    scores, rois = SCORES.bfloat16(), ROIS.bfloat16()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(boxes, scores, features, rois):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ops.nms(boxes, scores, 0.3), ops.roi_pool(features, rois, 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = ops.nms(BOXES, scores, 0.3), ops.roi_pool(FEATURES, rois, 2)
    assert_same(compiled(BOXES, scores, FEATURES, rois), wanted)


NUMBERS = [
    torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64), torch.tensor(1),
    numpy.float32(0.5), numpy.float64(0.5), numpy.int64(1),
]  # fmt: skip
WITH_A_NUMBER = {
    "nms": lambda t: ops.nms(BOXES, SCORES, t),
    "batched_nms": lambda t: ops.batched_nms(BOXES, SCORES, LABELS, t),
    "nms_padded": lambda t: ops.nms_padded(BOXES[None], SCORES[None], t, 3),
    "roi_align": lambda t: ops.roi_align(FEATURES, ROIS, 2, t),
    "roi_pool": lambda t: ops.roi_pool(FEATURES, ROIS, 2, t),
    "score_threshold": lambda t: ops.nms_padded(
        BOXES[None], SCORES[None], 0.5, 3, score_threshold=t
    ),
    "multiscale": lambda t: ops.multiscale_roi_align([FEATURES], ROIS, None, 2, [t]),
    "soft_nms": lambda t: ops.soft_nms(
        BOXES, SCORES, sigma=t, iou_threshold=t, score_threshold=t
    ),
    "match_anchors": lambda t: ops.match_anchors(
        BOXES, BOXES[None], torch.tensor([2]), high=t, low=t
    ),
    "generate_proposals": lambda t: ops.generate_proposals(
        SCORES[None], BOXES[None] / 100, BOXES, torch.tensor([[50, 50]]),
        pre_nms_top_n=9, post_nms_top_n=5, nms_threshold=t, min_size=t,
    ),
}  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
@pytest.mark.parametrize("name", WITH_A_NUMBER)
def test_thresholds_and_scales_that_are_no_python_numbers(name, number):
    function = WITH_A_NUMBER[name]
    assert_same(function(number), function(float(number)))


@pytest.mark.parametrize("name", WITH_A_NUMBER)
def test_compiled_code_takes_tensors_as_thresholds_and_scales(name):
    function = WITH_A_NUMBER[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager")  # reading one breaks the graph
    for number in (torch.tensor(0.5), torch.tensor(0.25, dtype=torch.float64)):
        assert_same(compiled(number), function(float(number)))


@pytest.mark.parametrize("size", [numpy.int64(2), (numpy.int32(2), 3), torch.Size([2, 3])])
def test_output_sizes_that_are_no_python_integers(size):
    plain = 2 if isinstance(size, numpy.int64) else (2, 3)
    for pool in (ops.roi_pool, ops.roi_align):
        assert_same(pool(FEATURES, ROIS, size), pool(FEATURES, ROIS, plain))


QUANTIZED = torch.quantize_per_tensor(BOXES, 0.1, 0, torch.quint8)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.nms(QUANTIZED, QUANTIZED[:, 0], 0.5),
        lambda: ops.batched_nms(QUANTIZED, QUANTIZED[:, 0], LABELS, 0.5),
        lambda: ops.nms_padded(QUANTIZED[None], QUANTIZED[None, :, 0], 0.5, 3),
        lambda: ops.soft_nms(QUANTIZED, QUANTIZED[:, 0]),
        lambda: ops.box_iou(QUANTIZED, QUANTIZED),
        lambda: ops.box_area(QUANTIZED),
        lambda: ops.roi_align(QUANTIZED[None, None], ROIS, 2),
        lambda: ops.roi_pool(FEATURES, [QUANTIZED, QUANTIZED], 2),
    ],
)
def test_quantized_tensors_are_refused_in_words(call):
    with pytest.raises(TypeError, match=r"quint8; dequantize it, .*accelerate_torchvision\(\)"):
        call()


def test_a_batch_index_is_checked_where_there_are_values():
    wrong = ROIS + torch.tensor([7.0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="batch index"):
        ops.roi_align(FEATURES, wrong, 2)
    assert torch.vmap(lambda r: ops.roi_align(FEATURES, r, 2))(wrong[None]).abs().sum() == 0
    with FakeTensorMode() as mode:
        rois, features = tree_map_only(torch.Tensor, mode.from_tensor, (wrong, FEATURES))
        assert ops.roi_pool(features, rois, 2).shape == (6, 3, 2, 2)
