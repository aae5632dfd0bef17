"""match_anchors' CUDA kernels against the oracle."""

import pytest
import torch

from fastrpn.ops import reference

from . import harness

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def grid_anchors(dtype=torch.float32) -> torch.Tensor:
    """300 anchors of three shapes on a 10 x 10 grid: many have equal IoUs with a ground truth."""
    centre = torch.arange(10.0) * 8
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    centres = torch.stack([x, y, x, y], dim=2).reshape(100, 1, 4)
    shapes = torch.tensor([[-8.0, -8, 8, 8], [-16, -8, 16, 8], [-8, -16, 8, 16]])
    return (centres + shapes).reshape(300, 4).to(dtype)


def random_gt(batch: int, count: int, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    corners = torch.randint(0, 60, (batch, count, 2), generator=generator)
    sides = torch.randint(4, 30, (batch, count, 2), generator=generator)
    return torch.cat([corners, corners + sides], dim=2).to(dtype)


def run_both(anchors, gt_boxes, gt_counts, high=0.6, low=0.3, allow_low_quality=True, **valid):
    arguments = {"high": high, "low": low, "allow_low_quality": allow_low_quality, **valid}
    expected = reference.match_anchors(anchors, gt_boxes, gt_counts, **arguments)
    inputs = {"anchors": anchors, "gt_boxes": gt_boxes, "gt_counts": gt_counts, **arguments}
    outputs = harness.run("match_anchors", seeds=3, **inputs)
    assert torch.equal(outputs["matched_gt"], expected[0])
    assert torch.equal(outputs["max_iou"], expected[1])
    return expected[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("allow_low_quality", [False, True])
def test_equals_the_oracle(allow_low_quality, dtype):
    gt_counts = torch.tensor([6, 0, 3])
    labels = run_both(
        grid_anchors(dtype),
        random_gt(3, 6, dtype),
        gt_counts,
        allow_low_quality=allow_low_quality,
    )
    assert (labels == -1).any() and (labels == -2).any() and (labels >= 0).any()


def test_more_ground_truths_than_fit_shared_memory():
    run_both(grid_anchors(), random_gt(1, 600), torch.tensor([600]))


def test_anchors_and_valid_of_each_image():
    anchors = torch.stack([grid_anchors(), grid_anchors() + 3])
    valid = torch.rand(2, 300, generator=torch.Generator().manual_seed(0)) < 0.7
    run_both(anchors, random_gt(2, 5), torch.tensor([5, 4]), valid=valid)
    run_both(grid_anchors(), random_gt(2, 5), torch.tensor([5, 4]), valid=valid[0])


def test_degenerate_nan_and_infinite_boxes():
    inf, nan = float("inf"), float("nan")
    gt_boxes = torch.tensor(
        [
            [
                [3.0, 3, 3, 3],
                [nan, 0, 9, 9],
                [-inf, -inf, inf, inf],
                [20, 20, 40, 40],
                [500, 500, 600, 600],
            ]
        ]
    )
    anchors = grid_anchors()
    anchors[5], anchors[7, 2] = 3.0, nan
    run_both(anchors, gt_boxes, torch.tensor([5]))


@pytest.mark.parametrize("batch, num_anchors, num_gt", [(0, 4, 2), (2, 0, 2), (2, 4, 0)])
def test_nothing_to_match(batch, num_anchors, num_gt):
    gt_counts = torch.full((batch,), num_gt)
    run_both(torch.rand(num_anchors, 4), torch.rand(batch, num_gt, 4), gt_counts)
