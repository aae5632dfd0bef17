"""nms and batched_nms: the oracle's and torchvision's indices, exactly."""

import functools
import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from nms_cases import DTYPES, KINDS, any_boxes, random_boxes, random_case, random_scores

from fastrpn import ops
from fastrpn.ops import reference


def test_indices_equal_torchvisions_in_2000_random_cases(simd_level):
    for seed in range(2000):
        boxes, scores, threshold = random_case(seed)
        if math.isnan(threshold):  # with it torchvision suppresses nothing
            with pytest.raises(ValueError, match="iou_threshold: expected a number, got nan"):
                ops.nms(boxes, scores, threshold)
            continue
        expected = torchvision.ops.nms(boxes, scores, threshold)
        assert torch.equal(ops.nms(boxes, scores, threshold), expected), f"seed {seed}"


@functools.cache
def many_boxes(kind: str, dtype: torch.dtype):
    """So many that a grid is searched once 128 are kept; half types compute in float32."""
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    boxes = random_boxes(6000, generator, kind).to(dtype)
    scores = random_scores(6000, generator, "ties").to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    nms = functools.partial(torchvision.ops.nms, boxes.to(wide), scores.to(wide))
    return boxes, scores, {threshold: nms(threshold) for threshold in (0.0, 0.05, 0.5, 0.8)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_many_boxes_equal_torchvisions(kind, dtype, simd_level):
    boxes, scores, expected = many_boxes(kind, dtype)
    for threshold, kept in expected.items():
        assert torch.equal(ops.nms(boxes, scores, threshold), kept), threshold


def test_many_of_the_cases_above_reach_the_grid():
    kept = [len(k) for kind in KINDS for k in many_boxes(kind, torch.float32)[2].values()]
    assert sum(count > 128 for count in kept) > 25


@pytest.mark.parametrize("dtype, side", [(torch.float32, 1e-18), (torch.float64, 1e-150)])
@pytest.mark.parametrize("last", [True, False])
def test_tiny_boxes_among_many(dtype, side, last, simd_level):
    """Areas near underflow take the grid back to the definition, when many boxes are kept."""
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(4000, generator, "plain").to(dtype)
    scores = torch.rand(4000, generator=generator).to(dtype)
    tiny = torch.randperm(4000, generator=generator)[:600]
    boxes[tiny] = side * random_boxes(600, generator, "jitter").to(dtype)
    if last:  # else they come between the others
        scores[tiny] -= 1
    kept = torchvision.ops.nms(boxes, scores, 0.5)
    assert 10 < torch.isin(kept, tiny).sum() < 590 and len(kept) > 1000
    assert torch.equal(ops.nms(boxes, scores, 0.5), kept)


@settings(max_examples=200, deadline=None)
@given(any_boxes, st.integers(0, 3), st.floats(0, 1))
def test_any_floats_equal_the_oracle(boxes, seed, threshold):
    boxes = torch.tensor(boxes)
    scores = torch.randint(3, (len(boxes),), generator=torch.Generator().manual_seed(seed)).float()
    kept = ops.nms(boxes, scores, threshold)
    assert torch.equal(kept, reference.nms(boxes, scores, threshold))
    assert torch.equal(kept, torchvision.ops.nms(boxes, scores, threshold))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_kept_boxes_are_apart_and_the_others_each_near_a_better_one(seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(300, generator, "jitter")
    scores = torch.randperm(300, generator=generator).double()
    kept = ops.nms(boxes, scores, threshold)
    near = ops.box_iou(boxes, boxes) > threshold
    near.fill_diagonal_(False)
    assert not near[kept][:, kept].any()
    better = scores[kept] > scores[:, None]
    dropped = torch.ones(300, dtype=torch.bool).index_fill(0, kept, False)
    assert (near[:, kept] & better)[dropped].any(1).all()
    assert torch.equal(ops.nms(boxes[kept], scores[kept], threshold), torch.arange(len(kept)))
    shuffled = torch.randperm(300, generator=generator)
    assert torch.equal(shuffled[ops.nms(boxes[shuffled], scores[shuffled], threshold)], kept)


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


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32]
)
def test_batched_equals_torchvisions_loop_over_classes(dtype):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        boxes = random_boxes(1500, generator, "jitter").float()
        scores = torch.randperm(1500, generator=generator).float()  # it merges ties at random
        idxs = torch.randint(0, 5, (1500,), generator=generator).to(dtype)
        expected = torchvision.ops.batched_nms(boxes, scores, idxs, 0.5)
        assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.5), expected)


@functools.cache
def many_classes(kind: str, dtype: torch.dtype):
    """Without ties, whose order torchvision leaves to chance."""
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(20000, generator, kind).to(dtype)
    scores = torch.randperm(20000, generator=generator).to(dtype)
    idxs = torch.randint(0, 5, (20000,), generator=generator)
    return boxes, scores, idxs, torchvision.ops.batched_nms(boxes, scores, idxs, 0.6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["plain", "jitter", "not finite"])
def test_classes_of_many_boxes_on_threads(kind, dtype, simd_level, num_threads):
    boxes, scores, idxs, expected = many_classes(kind, dtype)
    assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.6), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_pass_opcheck(dtype):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(120, generator, "jitter").to(dtype)
    scores = random_scores(120, generator, "not finite").to(dtype)
    groups = torch.randint(-1, 2, (120,), generator=generator)
    torch.library.opcheck(torch.ops.fastrpn.nms, (boxes, scores, 0.5))
    torch.library.opcheck(torch.ops.fastrpn.batched_nms, (boxes, scores, groups, 0.5))


def test_compiles_without_graph_breaks():
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(120, generator, "jitter").float()
    scores, idxs = random_scores(120, generator, "plain").float(), torch.arange(120) % 3

    def postprocess(boxes, scores, idxs):
        kept = ops.nms(boxes, scores, 0.5)
        return boxes[kept].sum(0), ops.batched_nms(boxes, scores, idxs, 0.5)

    compiled = torch.compile(postprocess, fullgraph=True, backend="eager")
    wanted = postprocess(boxes, scores, idxs)
    assert all(map(torch.equal, compiled(boxes, scores, idxs), wanted))


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
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_threshold_that_is_nan_is_refused_others_are_legal():
    boxes, scores = torch.rand(5, 4).sort(dim=1).values, torch.rand(5)
    labels = torch.zeros(5, dtype=torch.int64)
    nan, inf = float("nan"), float("inf")
    calls = {
        "nms": lambda threshold: ops.nms(boxes, scores, threshold),
        "batched_nms": lambda threshold: ops.batched_nms(boxes, scores, labels, threshold),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=r"iou_threshold.*nan"):
            call(nan)
        assert len(call(inf)) == len(call(7.0)) == 5
        assert len(call(-inf)) == len(call(-1.0)) == 1
        compiled = torch.compile(call, backend="eager", fullgraph=True)
        with pytest.raises(Exception, match=r"iou_threshold"):
            compiled(nan)
        assert len(compiled(inf)) == 5, name
