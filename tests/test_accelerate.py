"""accelerate_torchvision: torchvision's models, unchanged, give the same with our kernels."""

import pytest
import torch
import torchvision
from torchvision.models import detection

import fastrpn

OPERATORS = ["nms", "roi_pool", "_roi_pool_backward", "roi_align", "_roi_align_backward"]


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in ((96, 128), (96, 80))]


def build(name: str) -> torch.nn.Module:
    """A detector with random weights that finds much, for a small image."""
    torch.manual_seed(0)
    model = getattr(detection, name)(
        weights=None,
        weights_backbone=None,
        num_classes=5,
        min_size=96,
        max_size=128,
        **({"box_score_thresh": 0.0} if "rcnn" in name else {"score_thresh": 0.0}),
    )
    return model.eval()


def assert_same(ours, wanted, rtol: float = 1e-5, atol: float = 1e-4) -> None:
    """The default tolerances allow for RoI Align's sums in another order.

    Masks are pasted at boxes that differ by 3e-5 pixels, and edges of random ones are steep: 1.5e-4
    with AVX2, where torchvision's float32 and its float64 differ by 0.6.
    """
    assert len(ours) == len(wanted)
    for mine, theirs in zip(ours, wanted, strict=True):
        assert len(theirs["boxes"]) > 10
        for key in theirs:
            bound = 2 * atol if key == "masks" else atol
            torch.testing.assert_close(mine[key], theirs[key], rtol=rtol, atol=bound)


def implementations() -> str:
    return "".join(torch._C._dispatch_dump(f"torchvision::{name}") for name in OPERATORS)


@pytest.fixture(autouse=True)
def restored():
    yield
    fastrpn.restore_torchvision()


@pytest.mark.parametrize(
    "name",
    [
        f"{name}_resnet50_fpn"
        for name in ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos")
    ],
)
def test_detections_are_torchvisions(name):
    model = build(name)
    tolerance = {} if "rcnn" in name else {"rtol": 0, "atol": 0}  # the others use no RoI Align
    with torch.inference_mode():
        wanted = model(images())
        with fastrpn.accelerate_torchvision():
            assert_same(model(images()), wanted, **tolerance)


def test_a_scripted_model_gives_the_same_before_and_after():
    model = build("fasterrcnn_resnet50_fpn")
    scripted = torch.jit.script(model)
    with torch.inference_mode():
        _, wanted = scripted(images())
        with fastrpn.accelerate_torchvision():
            assert_same(scripted(images())[1], wanted)
            assert_same(torch.jit.script(model)(images())[1], wanted)


def test_training_gives_the_same_losses_and_gradients():
    def losses_and_gradients():
        model = build("fasterrcnn_resnet50_fpn").train()
        targets = [
            {"boxes": torch.tensor([[10.0, 10, 60, 70]]), "labels": torch.tensor([1])},
            {"boxes": torch.tensor([[20.0, 30, 50, 80]]), "labels": torch.tensor([2])},
        ]
        torch.manual_seed(1)
        losses = model(images(), targets)
        sum(losses.values()).backward()
        weight = model.backbone.fpn.inner_blocks[0][0].weight
        return {**losses, "gradient": weight.grad}

    wanted = losses_and_gradients()
    with fastrpn.accelerate_torchvision():
        torch.testing.assert_close(losses_and_gradients(), wanted, rtol=1e-4, atol=1e-5)


def test_operators_are_torchvisions_and_differentiate():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 20, 24, generator=generator).requires_grad_()
    corners = 100 * torch.rand(30, 4, generator=generator)
    rois = torch.cat(
        [torch.arange(30)[:, None] % 2, corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1
    )

    def results(features):
        pooled = torchvision.ops.roi_pool(features, rois, (7, 7), 0.2)
        aligned = torchvision.ops.roi_align(features, rois, (7, 5), 0.2, 2, True)
        outputs = [pooled, aligned, torchvision.ops.nms(rois[:, 1:], rois[:, 1], 0.3)]
        gradients = [torch.autograd.grad((out * out).sum(), features)[0] for out in outputs[:2]]
        return outputs, gradients

    channels_last = features.detach().contiguous(memory_format=torch.channels_last)
    for inputs in (features, channels_last.requires_grad_()):
        wanted = results(inputs)
        with fastrpn.accelerate_torchvision():
            ours = results(inputs)
        torch.testing.assert_close(ours, wanted)
        for mine, theirs in zip(ours[0], wanted[0], strict=True):
            assert mine.stride() == theirs.stride()


def test_the_functions_give_torchvisions_results_and_fall_back():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    scores, idxs = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 2])
    corners = 100 * torch.rand(3000, 2, generator=torch.Generator().manual_seed(0))
    many = torch.cat([corners, corners + 20], dim=1)
    calls = [
        lambda: torchvision.ops.box_iou(boxes, boxes),
        lambda: torchvision.ops.box_iou(boxes, boxes, fmt="cxcywh"),
        lambda: torchvision.ops.box_iou(boxes.long(), boxes.long()),
        lambda: torchvision.ops.box_iou(boxes.half(), boxes.half()),
        lambda: torchvision.ops.box_iou(boxes[None], boxes[None]),
        lambda: torchvision.ops.batched_nms(boxes, scores, idxs, 0.5),
        lambda: torchvision.ops.batched_nms(boxes[:0], scores[:0], idxs[:0], 0.5),
        lambda: torchvision.ops.batched_nms(many, many[:, 0], many[:, 1].long() % 7, 0.5),
        lambda: torchvision.ops.nms(boxes, scores, 0.5),
    ]
    wanted = [call() for call in calls]
    with fastrpn.accelerate_torchvision():
        for call, result in zip(calls, wanted, strict=True):
            torch.testing.assert_close(call(), result, rtol=0, atol=0)
        leaf = boxes.clone().requires_grad_()
        torchvision.ops.box_iou(leaf, boxes).sum().backward()
        assert leaf.grad is not None


def kernels_of(call) -> set[str]:
    """Our operators that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    names = [event.key for event in profile.key_averages()]
    return {name.removeprefix("fastrpn::") for name in names if name.startswith("fastrpn::")}


def pool_align_and_suppress(features: torch.Tensor, rois: torch.Tensor):
    pooled = torchvision.ops.roi_pool(features, rois, 3, 0.5)
    aligned = torchvision.ops.roi_align(features, rois, 3, 0.5, 2)
    return pooled + aligned, torchvision.ops.nms(rois[:, 1:], rois[:, 3], 0.5)


PREPARE = {
    "eager": lambda function: function,
    "scripted": torch.jit.script,
    "compiled": lambda function: torch.compile(function, fullgraph=True, backend="aot_eager"),
}


@pytest.mark.parametrize("how", PREPARE)
def test_our_kernels_run_forward_and_backward(how):
    rois = torch.tensor([[0.0, 0, 0, 10, 10], [0, 1, 1, 11, 11], [0, 20, 20, 30, 30]])
    features = torch.rand(1, 2, 16, 16).requires_grad_()
    function = PREPARE[how](pool_align_and_suppress)

    def step():
        function(features, rois)[0].sum().backward()

    assert not kernels_of(step)
    wanted = function(features, rois)
    with fastrpn.accelerate_torchvision():
        torch.testing.assert_close(function(features, rois), wanted)
        assert kernels_of(step) == {
            "nms", "roi_pool_argmax", "roi_pool_backward", "roi_align", "roi_align_backward",
        }  # fmt: skip
    assert not kernels_of(step)


def test_our_kernels_run_behind_the_functions():
    boxes = torch.rand(2000, 4)
    classes = boxes[:, 1] > 0.5
    calls = {
        "box_iou_values": lambda: torchvision.ops.box_iou(boxes, boxes[:5]),
        "batched_nms": lambda: torchvision.ops.batched_nms(boxes, boxes[:, 0], classes, 0.5),
    }
    for name, call in calls.items():
        assert not kernels_of(call)
        with fastrpn.accelerate_torchvision():
            assert kernels_of(call) == {name}


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32])
@pytest.mark.parametrize("n", [50, 3000])
def test_classes_of_any_type(dtype, n):
    generator = torch.Generator().manual_seed(0)
    corners = 100 * torch.rand(n, 2, generator=generator)
    boxes, scores = torch.cat([corners, corners + 20], dim=1), torch.rand(n, generator=generator)
    idxs = torch.randint(0, 3, (n,), generator=generator).to(dtype)
    wanted = torchvision.ops.batched_nms(boxes, scores, idxs, 0.5)
    with fastrpn.accelerate_torchvision():
        assert torch.equal(torchvision.ops.batched_nms(boxes, scores, idxs, 0.5), wanted)


@pytest.mark.parametrize("multi_label", [False, True])
def test_ultralytics_finds_the_same(multi_label):
    suppress = pytest.importorskip("ultralytics.utils.nms").non_max_suppression
    generator = torch.Generator().manual_seed(0)
    predictions = torch.rand(2, 4 + 20, 4000, generator=generator)  # cxcywh, 20 classes
    predictions[:, :4] *= torch.tensor([640.0, 640, 200, 200])[:, None]
    results = []

    def detect():
        options = {"conf_thres": 0.5, "iou_thres": 0.6, "multi_label": multi_label}
        options["max_time_img"] = 1000.0  # it gives up after seconds, on a busy machine too soon
        results.append(suppress(predictions.clone(), **options))

    assert not kernels_of(detect)
    with fastrpn.accelerate_torchvision():
        assert kernels_of(detect) == {"nms"}
    for ours, wanted in zip(*results, strict=True):
        assert len(wanted) > 100 and torch.equal(ours, wanted)


def test_restoring_is_exact():
    before = implementations()
    functions = [torchvision.ops.boxes.box_iou, torchvision.ops.batched_nms]
    fastrpn.accelerate_torchvision()
    assert implementations() != before
    assert [torchvision.ops.boxes.box_iou, torchvision.ops.batched_nms] != functions
    fastrpn.accelerate_torchvision()  # twice is once
    fastrpn.restore_torchvision()
    assert implementations() == before
    assert [torchvision.ops.boxes.box_iou, torchvision.ops.batched_nms] == functions
    assert torchvision.ops.box_iou is functions[0]
    fastrpn.restore_torchvision()


def test_an_inner_block_leaves_the_outer_acceleration_on():
    with fastrpn.accelerate_torchvision():
        accelerated = implementations()
        with fastrpn.accelerate_torchvision():
            pass
        assert implementations() == accelerated


def test_it_is_found_among_the_operators():
    assert fastrpn.ops.accelerate_torchvision is fastrpn.accelerate_torchvision
    assert fastrpn.ops.restore_torchvision is fastrpn.restore_torchvision


def test_no_warning_is_shown(recwarn):
    with fastrpn.accelerate_torchvision():
        pass
    assert not recwarn.list


def test_a_threshold_that_is_nan_still_suppresses_nothing():
    """As in torchvision; our own names refuse it."""
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(1500, 1)
    scores, classes = torch.rand(1500), torch.zeros(1500, dtype=torch.int64)
    with fastrpn.accelerate_torchvision():
        assert len(torchvision.ops.nms(boxes, scores, float("nan"))) == 1500
        assert len(torchvision.ops.batched_nms(boxes, scores, classes, float("nan"))) == 1500
        assert len(torchvision.ops.batched_nms(boxes, scores, classes, 0.5)) == 1
