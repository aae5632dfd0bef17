"""match_anchors: the oracle's labels exactly, and torchvision's Matcher's where it is defined."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher

from fastrpn import ops
from fastrpn.ops import reference

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
THRESHOLDS = {"high": 0.7, "low": 0.3}
KINDS = ["plain", "integers", "duplicates", "small", "not finite", "inverted"]


def random_boxes(shape, generator, kind="plain") -> torch.Tensor:
    """`[*shape, 4]` float64 boxes; all kinds but "plain" give ties or empty boxes."""

    def rand(*size):
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    centre, size = 64 * rand(*shape, 2), torch.exp(4 * rand(*shape, 2))
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
    if kind == "integers":
        boxes = (boxes / 8).round()
    elif kind == "duplicates":
        boxes = (boxes / 32).round() * 32
    elif kind == "small":  # inside many anchors: ties of area ratios
        boxes = torch.cat([centre.round(), centre.round() + 1], dim=-1)
    elif kind == "not finite":
        bad = rand(*boxes.shape)
        boxes[bad < 0.02] = math.nan
        boxes[(bad > 0.02) & (bad < 0.03)] = math.inf
        boxes[(bad > 0.03) & (bad < 0.04)] = -math.inf
    elif kind == "inverted":
        flip = rand(*shape) < 0.2
        boxes[flip] = boxes[flip][:, [2, 1, 0, 3]]
    return boxes


def grid_anchors(height: int, width: int) -> torch.Tensor:
    """`[height * width * 3, 4]`: integer anchors of three sizes at stride 8."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = 8.0 * torch.stack([x, y, x, y], dim=-1)[:, :, None]
    half = torch.tensor([8.0, 16.0, 32.0])[:, None] * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    return (centre + half).reshape(-1, 4)


def assert_same(ours, wanted) -> None:
    assert ours[0].dtype == torch.int64 and ours[1].dtype == wanted[1].dtype
    assert torch.equal(ours[0], wanted[0])
    assert torch.equal(ours[1], wanted[1])


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(0, 3),
    num_anchors=st.sampled_from([0, 1, 5, 63, 64, 65, 300]),
    num_gt=st.sampled_from([0, 1, 3, 8, 9, 40]),
    dtype=st.sampled_from(DTYPES),
    anchor_kind=st.sampled_from(KINDS),
    gt_kind=st.sampled_from(KINDS),
    batched_anchors=st.booleans(),
    valid_dims=st.sampled_from([0, 1, 2]),
    thresholds=st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.5, 0.0), (1.0, 0.1), (1 / 3, 0.25)]),
    allow_low_quality=st.booleans(),
)
def test_equals_the_oracle(
    seed, batch, num_anchors, num_gt, dtype, anchor_kind, gt_kind, batched_anchors, valid_dims,
    thresholds, allow_low_quality,
):  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_anchors) if batched_anchors else (num_anchors,)
    anchors = random_boxes(shape, generator, anchor_kind).to(dtype)
    gt_boxes = random_boxes((batch, num_gt), generator, gt_kind).to(dtype)
    gt_counts = torch.randint(0, num_gt + 1, (batch,), generator=generator)
    valid = None
    if valid_dims:
        valid = torch.rand((batch, num_anchors)[2 - valid_dims :], generator=generator) < 0.8
    options = {
        "high": thresholds[0],
        "low": thresholds[1],
        "allow_low_quality": allow_low_quality,
        "valid": valid,
    }
    ours = ops.match_anchors(anchors, gt_boxes, gt_counts, **options)
    assert_same(ours, reference.match_anchors(anchors, gt_boxes, gt_counts, **options))


@pytest.mark.parametrize("allow_low_quality", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_equals_torchvisions_matcher(seed, allow_low_quality):
    generator = torch.Generator().manual_seed(seed)
    anchors = grid_anchors(9, 11)
    kind = ["plain", "integers", "small"][seed % 3]
    gt_boxes = random_boxes((7,), generator, kind).float() + torch.tensor([0.0, 0.0, 1.0, 1.0])
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=allow_low_quality)
    iou = torchvision.ops.box_iou(gt_boxes, anchors)
    met = iou.amax(dim=1) > 0  # a ground truth that meets no anchor would claim all of them
    wanted = matcher(iou[met])
    labels, max_iou = ops.match_anchors(
        anchors, gt_boxes[met][None], met.sum()[None], **THRESHOLDS,
        allow_low_quality=allow_low_quality,
    )  # fmt: skip
    assert torch.equal(labels[0], wanted)
    assert torch.equal(max_iou[0], iou.amax(dim=0))


def test_every_tied_anchor_gets_its_own_best_ground_truth():
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [30, 0, 40, 10]])
    # The first ground truth lies across the first two anchors: both have its best IoU of 1/4.
    gt_boxes = torch.tensor([[[6.0, 0, 14, 10 / 2], [100, 100, 101, 101]]])
    labels, max_iou = ops.match_anchors(anchors, gt_boxes, torch.tensor([2]), **THRESHOLDS)
    assert labels.tolist() == [[0, 0, -1]]
    assert max_iou[0, 0] == max_iou[0, 1] > 0
    assert max_iou[0, 2] == 0  # and the ground truth that meets nothing claims nothing


def test_the_lowest_ground_truth_wins_a_tie():
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    labels, _ = ops.match_anchors(boxes, boxes.expand(1, 5, 4), torch.tensor([5]), **THRESHOLDS)
    assert labels.tolist() == [[0]]


def test_anchors_that_are_not_valid_join_no_maximum():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    gt_boxes = torch.tensor([[[0.0, 0, 10, 10]]])
    valid = torch.tensor([False, True])
    labels, max_iou = ops.match_anchors(
        anchors, gt_boxes, torch.tensor([1]), high=0.9, low=0.3, valid=valid
    )
    assert labels.tolist() == [[-2, 0]]  # the second is now the ground truth's best
    assert max_iou[0, 0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_simd_levels_and_the_order_of_anchors_do_not_matter(dtype, simd_level, num_threads):
    generator = torch.Generator().manual_seed(0)
    anchors = grid_anchors(60, 70).to(dtype)
    gt_boxes = 8 * random_boxes((2, 50), generator, "integers").to(dtype)
    gt = (gt_boxes, torch.tensor([50, 13]))
    wanted = reference.match_anchors(anchors, *gt, **THRESHOLDS)
    assert_same(ops.match_anchors(anchors, *gt, **THRESHOLDS), wanted)
    shuffled = torch.randperm(len(anchors), generator=generator)
    ours = ops.match_anchors(anchors[shuffled], *gt, **THRESHOLDS)
    assert_same(ours, [tensor[:, shuffled] for tensor in wanted])


def test_non_contiguous_inputs_and_other_integer_counts():
    generator = torch.Generator().manual_seed(0)
    anchors, gt_boxes = random_boxes((40,), generator), random_boxes((2, 6), generator)
    wanted = ops.match_anchors(anchors[::2], gt_boxes[:, 1::2], torch.tensor([3, 2]), **THRESHOLDS)
    ours = ops.match_anchors(
        anchors[::2].t().contiguous().t(),
        gt_boxes[:, 1::2].contiguous(),
        torch.tensor([3, 2], dtype=torch.int32),
        **THRESHOLDS,
    )
    assert_same(ours, wanted)


def test_no_gradient_flows_back():
    anchors = grid_anchors(2, 2).requires_grad_()
    _, max_iou = ops.match_anchors(anchors, anchors[None, :2], torch.tensor([2]), **THRESHOLDS)
    assert not max_iou.requires_grad


def test_the_raw_operator_does_not_drop_a_gradient_silently():
    anchors = grid_anchors(2, 2).requires_grad_()
    arguments = (anchors, anchors.detach()[None], torch.tensor([2]), 0.7, 0.3, True, None)
    _, max_iou = torch.ops.fastrpn.match_anchors(*arguments)
    with pytest.raises(NotImplementedError, match="match_anchors has no gradient"):
        max_iou.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_and_compile(dtype):
    generator = torch.Generator().manual_seed(0)
    anchors, gt_boxes = random_boxes((70,), generator), random_boxes((2, 6), generator)
    inputs = (anchors.to(dtype), gt_boxes.to(dtype), torch.tensor([6, 0]))
    for valid in (None, torch.arange(70) % 3 > 0, (torch.arange(140) % 3 > 0).view(2, 70)):
        arguments = (*inputs, 0.7, 0.3, True, valid)
        torch.library.opcheck(torch.ops.fastrpn.match_anchors.default, arguments)
    compiled = torch.compile(
        lambda *tensors: ops.match_anchors(*tensors, **THRESHOLDS),
        fullgraph=True,
        backend="aot_eager",
    )
    assert_same(compiled(*inputs), ops.match_anchors(*inputs, **THRESHOLDS))


GOOD = {
    "anchors": torch.zeros(3, 4),
    "gt_boxes": torch.zeros(2, 1, 4),
    "gt_counts": torch.zeros(2, dtype=torch.int64),
    "high": 0.7,
    "low": 0.3,
}


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"anchors": None}, TypeError, "anchors.*NoneType"),
        ({"anchors": torch.zeros(3, 4).long()}, TypeError, "anchors.*int64"),
        ({"anchors": torch.zeros(3, 5)}, ValueError, r"anchors.*\[3, 5\]"),
        ({"anchors": torch.zeros(4)}, ValueError, r"anchors.*\[4\]"),
        ({"anchors": torch.zeros(3, 3, 4)}, ValueError, r"anchors.*\[3, 3, 4\]"),
        ({"gt_boxes": torch.zeros(1, 4)}, ValueError, r"gt_boxes.*\[1, 4\]"),
        ({"gt_boxes": torch.zeros(2, 1, 4).double()}, TypeError, "gt_boxes.*float64"),
        ({"gt_counts": torch.zeros(2)}, TypeError, "gt_counts.*float32"),
        ({"gt_counts": torch.zeros(3).long()}, ValueError, r"gt_counts.*\[3\]"),
        ({"valid": torch.zeros(3)}, TypeError, "valid.*float32"),
        ({"valid": torch.zeros(2).bool()}, ValueError, r"valid.*\[2\]"),
        ({"valid": torch.zeros(3, 3).bool()}, ValueError, r"valid.*\[3, 3\]"),
        ({"gt_counts": torch.zeros(2, device="meta").long()}, ValueError, "gt_counts.*meta"),
        ({"low": 0.8}, ValueError, "low=0.8"),
        ({"low": -0.1}, ValueError, "low=-0.1"),
        ({"low": 0.0, "high": 0.0}, ValueError, "high=0.0"),
    ],
)
def test_bad_input(changed, error, words):
    with pytest.raises(error, match=words):
        ops.match_anchors(**(GOOD | changed))


@pytest.mark.parametrize("name", ["high", "low"])
def test_a_threshold_that_is_nan_is_refused(name):
    arguments = torch.rand(5, 4), torch.rand(1, 2, 4), torch.tensor([2])
    thresholds = {"high": 0.7, "low": 0.3, name: float("nan")}
    with pytest.raises(ValueError, match=f"{name}=nan"):
        ops.match_anchors(*arguments, **thresholds)
    with pytest.raises(RuntimeError, match=f"{name} must not be NaN"):
        torch.ops.fastrpn.match_anchors(*arguments, *thresholds.values(), True, None)
