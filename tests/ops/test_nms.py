"""nms, batched_nms and nms_padded: the oracle's and torchvision's indices, exactly."""

import math

import pytest
import torch
import torchvision

from fastrpn import ops
from fastrpn._library import core, set_simd_level
from fastrpn.ops import reference

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
THRESHOLDS = [-0.1, 0.0, 1e-7, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 0.99, 1.0, 1.5, math.nan]
SIMD_LEVELS = core().build_info()["simd_levels"]


def random_boxes(n: int, generator: torch.Generator, kind: str) -> torch.Tensor:
    """`[n, 4]` float64 boxes that stress one aspect of the comparison."""

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    extent = 10 ** (1 + 2 * rand(1))
    centre = rand(n, 2) * extent
    size = torch.exp(2 * rand(n, 2) + rand(1) * 3)
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    if kind == "integers":  # IoUs that equal 1/2, 1/3, ... exactly
        boxes = (boxes / 8).round()
    elif kind == "duplicates":
        boxes = boxes[torch.randint(0, max(n // 4, 1), (n,), generator=generator)] if n else boxes
    elif kind == "jitter":  # many near-copies of a few boxes
        boxes = boxes[torch.randint(0, max(n // 8, 1), (n,), generator=generator)] if n else boxes
        boxes = boxes + rand(n, 4) * size.mean() * 0.2
    elif kind == "huge":
        boxes = boxes * 1e16
    elif kind == "tiny":
        boxes = boxes * 1e-21
    elif kind == "far":  # coordinates so large that a box is a few units in the last place wide
        boxes = boxes + 1e6
    elif kind == "negative sides":
        flip = rand(n) < 0.3
        boxes[flip] = boxes[flip][:, [2, 1, 0, 3]]
    elif kind == "not finite":
        bad = rand(n, 4)
        boxes[bad < 0.02] = math.nan
        boxes[(bad > 0.02) & (bad < 0.04)] = math.inf
        boxes[(bad > 0.04) & (bad < 0.06)] = -math.inf
    elif kind == "slender":
        boxes[:, 2] = boxes[:, 0] + size[:, 0] * 1000 * rand(n)
    return boxes


KINDS = [
    "plain", "integers", "duplicates", "jitter", "huge", "tiny", "far", "negative sides",
    "not finite", "slender",
]  # fmt: skip


def random_scores(n: int, generator: torch.Generator, kind: str) -> torch.Tensor:
    scores = torch.randn(n, generator=generator, dtype=torch.float64)
    if kind == "ties":
        scores = (scores * 3).round() / 3  # includes 0.0 and -0.0
    elif kind == "not finite":
        bad = torch.rand(n, generator=generator)
        scores[bad < 0.1] = math.nan
        scores[(bad > 0.1) & (bad < 0.15)] = math.inf
        scores[(bad > 0.15) & (bad < 0.2)] = -math.inf
    return scores


def random_case(seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    generator = torch.Generator().manual_seed(seed)

    def choose(options):
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    n = choose([1, 2, 7, 8, 9, 31, 33, 64, 100, 257, 600, 1100])
    dtype = choose([torch.float32, torch.float32, torch.float64])
    boxes = random_boxes(n, generator, choose(KINDS)).to(dtype)
    scores = random_scores(n, generator, choose(["plain", "ties", "not finite"])).to(dtype)
    return boxes, scores, choose(THRESHOLDS)


@pytest.fixture
def simd_level():
    """Sets a SIMD level for the test, or skips where this CPU lacks it."""
    before = core().build_info()["simd_level"]

    def choose(level):
        try:
            set_simd_level(level)
        except ValueError:
            pytest.skip(f"this CPU has no {level}")

    yield choose
    set_simd_level(before)


@pytest.mark.parametrize("level", SIMD_LEVELS)
def test_indices_equal_torchvisions_in_2000_random_cases(level, simd_level):
    simd_level(level)
    for seed in range(2000):
        boxes, scores, threshold = random_case(seed)
        expected = torchvision.ops.nms(boxes, scores, threshold)
        assert torch.equal(ops.nms(boxes, scores, threshold), expected), f"seed {seed}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.5, 0.7, 0.95])
def test_many_boxes_equal_torchvisions(kind, threshold):
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    boxes = random_boxes(6000, generator, kind).float()
    scores = random_scores(6000, generator, "ties").float()
    expected = torchvision.ops.nms(boxes, scores, threshold)
    assert torch.equal(ops.nms(boxes, scores, threshold), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_indices_equal_the_oracles(dtype, kind):
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        boxes = random_boxes(80, generator, kind).to(dtype)
        scores = random_scores(80, generator, "ties").to(dtype)
        idxs = torch.randint(-2, 3, (80,), generator=generator) * 2**40
        for threshold in (0.2, 0.5, 0.8):
            assert torch.equal(
                ops.nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold)
            )
            assert torch.equal(
                ops.batched_nms(boxes, scores, idxs, threshold),
                reference.batched_nms(boxes, scores, idxs, threshold),
            )


def test_iou_equal_to_the_threshold_does_not_suppress():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU exactly 1/2
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert ops.nms(boxes, scores, math.nextafter(0.5, 0)).tolist() == [0]


def test_float32_iou_is_compared_with_the_threshold_as_a_double():
    boxes = torch.tensor([[0.0, 0, 10, 7], [0, 0, 10, 10]])
    scores = torch.tensor([0.9, 0.8])
    iou = ops.box_iou(boxes[:1], boxes[1:]).item()  # float32(0.7), a little below 0.7
    assert iou < 0.7
    assert ops.nms(boxes, scores, 0.7).tolist() == [0, 1]
    assert ops.nms(boxes, scores, math.nextafter(iou, 0)).tolist() == [0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_boxes(dtype):
    boxes, scores = torch.empty(0, 4, dtype=dtype), torch.empty(0, dtype=dtype)
    idxs = torch.empty(0, dtype=torch.int64)
    assert ops.nms(boxes, scores, 0.5).tolist() == []
    assert ops.batched_nms(boxes, scores, idxs, 0.5).tolist() == []
    indices, counts = ops.nms_padded(boxes[None], scores[None], 0.5, 2)
    assert indices.tolist() == [[-1, -1]] and counts.tolist() == [0]
    indices, counts = ops.nms_padded(boxes.expand(0, 0, 4), scores.expand(0, 0), 0.5, 2)
    assert indices.shape == (0, 2) and counts.shape == (0,)


def test_copies_of_one_box_leave_the_first_of_the_best():
    boxes = torch.tensor([[1.0, 2, 30, 40]]).expand(10000, 4)
    scores = torch.zeros(10000)
    scores[[7000, 8000]] = 1
    assert ops.nms(boxes, scores, 0.5).tolist() == [7000]


def test_not_contiguous():
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(200, generator, "jitter").float()
    scores = random_scores(200, generator, "plain").float()
    wide = torch.zeros(200, 7)
    wide[:, 1:5], wide[:, 6] = boxes, scores
    expected = ops.nms(boxes, scores, 0.5)
    assert torch.equal(ops.nms(wide[:, 1:5], wide[:, 6], 0.5), expected)


def test_classes_do_not_see_each_other_at_negative_coordinates():
    boxes = torch.tensor([[-10.0, -10, -5, -5]] * 3)
    scores = torch.tensor([0.1, 0.2, 0.3])
    assert ops.batched_nms(boxes, scores, torch.tensor([0, 1, 1]), 0.5).tolist() == [2, 0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32])
def test_batched_equals_torchvisions_loop_over_classes(dtype):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        boxes = random_boxes(1500, generator, "jitter").float()
        scores = random_scores(1500, generator, "plain").float()
        idxs = torch.randint(0, 5, (1500,), generator=generator).to(dtype)
        expected = torchvision.ops.batched_nms(boxes, scores, idxs, 0.5)
        assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.5), expected)


def padded_case(seed: int):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.stack([random_boxes(120, generator, "jitter") for _ in range(3)]).float()
    scores = torch.stack([random_scores(120, generator, "not finite") for _ in range(3)]).float()
    groups = torch.randint(-1, 2, (3, 120), generator=generator)
    return boxes, scores, groups


@pytest.mark.parametrize("max_output", [0, 1, 7, 120, 500])
@pytest.mark.parametrize("score_threshold", [None, 0.0, math.inf])
def test_padded_equals_the_oracle(max_output, score_threshold):
    for seed in range(5):
        boxes, scores, groups = padded_case(seed)
        for options in (
            {},
            {"groups": groups},
            {"counts": torch.tensor([0, 60, 1000])},
            {"counts": torch.tensor([-1, 120, 1], dtype=torch.int32), "groups": groups},
        ):
            options["score_threshold"] = score_threshold
            indices, counts = ops.nms_padded(boxes, scores, 0.5, max_output, **options)
            wanted = reference.nms_padded(boxes, scores, 0.5, max_output, **options)
            assert torch.equal(indices, wanted[0]) and torch.equal(counts, wanted[1])


@pytest.mark.parametrize("kind", KINDS)
def test_padded_of_many_boxes_is_the_head_of_nms(kind):
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    boxes = random_boxes(6000, generator, kind).float()
    scores = random_scores(6000, generator, "ties").float()
    expected = ops.nms(boxes, scores, 0.5)
    for width in (1, 600, 1400, 1600, 5000):
        indices, counts = ops.nms_padded(boxes[None], scores[None], 0.5, width)
        assert counts.item() == min(width, len(expected))
        assert torch.equal(indices[0, : counts.item()], expected[:width])


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_do_not_change_the_result(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for kind in ("plain", "jitter", "not finite"):
            generator = torch.Generator().manual_seed(1)
            boxes = random_boxes(20000, generator, kind).float()
            scores = random_scores(20000, generator, "ties").float()
            idxs = torch.randint(0, 40, (20000,), generator=generator)
            expected = torchvision.ops.nms(boxes, scores, 0.6)
            assert torch.equal(ops.nms(boxes, scores, 0.6), expected)
            scores = torch.randperm(20000, generator=generator).float()  # it merges ties at random
            expected = torchvision.ops.batched_nms(boxes, scores, idxs, 0.6)
            assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.6), expected)
    finally:
        torch.set_num_threads(before)


def test_operators_pass_opcheck():
    boxes, scores, groups = padded_case(0)
    torch.library.opcheck(torch.ops.fastrpn.nms, (boxes[0], scores[0], 0.5))
    torch.library.opcheck(torch.ops.fastrpn.batched_nms, (boxes[0], scores[0], groups[0], 0.5))
    torch.library.opcheck(
        torch.ops.fastrpn.nms_padded,
        (boxes, scores, 0.5, 30, torch.tensor([120, 60, 0]), groups, 0.1),
    )


def test_compiles_without_graph_breaks():
    boxes, scores, groups = padded_case(1)

    def postprocess(boxes, scores, groups):
        indices, counts = ops.nms_padded(boxes, scores, 0.5, 20, groups=groups)
        kept = ops.nms(boxes[0], scores[0], 0.5)
        return indices, counts, boxes[0][kept].sum(0)

    compiled = torch.compile(postprocess, fullgraph=True, backend="eager")
    for got, wanted in zip(
        compiled(boxes, scores, groups), postprocess(boxes, scores, groups), strict=True
    ):
        assert torch.equal(got, wanted)


BOXES, SCORES = torch.zeros(3, 4), torch.zeros(3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ops.nms([[0, 0, 1, 1]], SCORES, 0.5), TypeError, "boxes.*list"),
        (lambda: ops.nms(BOXES.int(), SCORES, 0.5), TypeError, "boxes.*int32"),
        (lambda: ops.nms(BOXES, SCORES.double(), 0.5), TypeError, "scores.*float64"),
        (lambda: ops.nms(BOXES, SCORES, "half"), TypeError, "iou_threshold.*half"),
        (lambda: ops.nms(BOXES, SCORES, None), TypeError, "iou_threshold.*None"),
        (lambda: ops.nms(BOXES[:, :3], SCORES, 0.5), ValueError, r"boxes.*\[3, 3\]"),
        (lambda: ops.nms(BOXES, SCORES[:2], 0.5), ValueError, r"scores.*\[2\]"),
        (lambda: ops.nms(BOXES, SCORES.to("meta"), 0.5), ValueError, "scores.*meta"),
        (lambda: ops.batched_nms(BOXES, SCORES, SCORES[:1], 0.5), ValueError, r"idxs.*\[1\]"),
        (lambda: ops.nms_padded(BOXES, SCORES, 0.5, 1), ValueError, r"boxes.*\[3, 4\]"),
        (lambda: ops.nms_padded(BOXES[None], SCORES[None], 0.5, -1), ValueError, "max_output.*-1"),
        (
            lambda: ops.nms_padded(BOXES[None], SCORES[None], 0.5, 1, counts=torch.ones(2).int()),
            ValueError,
            r"counts.*\[2\]",
        ),
        (
            lambda: ops.nms_padded(BOXES[None], SCORES[None], 0.5, 1, groups=SCORES[:, None].int()),
            ValueError,
            r"groups.*\[3, 1\]",
        ),
        (
            lambda: ops.nms_padded(BOXES[None], SCORES[None], 0.5, 1, groups=SCORES[None]),
            TypeError,
            "groups.*float32",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
