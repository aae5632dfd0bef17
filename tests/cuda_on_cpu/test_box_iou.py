"""box_iou's CUDA kernel against plain torch."""

import pytest
import torch

from . import harness


def random_boxes(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, generator=generator) * 60
    return torch.cat([corners, corners + torch.rand(n, 2, generator=generator) * 40], dim=1).to(
        dtype
    )


def expected_iou(boxes1: torch.Tensor, boxes2: torch.Tensor) -> torch.Tensor:
    """torchvision's formula, in float32 for half types."""
    a, b = (x if x.dtype == torch.float64 else x.float() for x in (boxes1, boxes2))
    area_a, area_b = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(dim=2)
    return inter / (area_a[:, None] + area_b - inter)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n, m", [(1, 1), (7, 20), (300, 3), (3, 1100)])
def test_equals_the_formula(n, m, dtype):
    boxes1, boxes2 = random_boxes(n, dtype, 0), random_boxes(m, dtype, 1)
    iou = harness.run("box_iou", boxes1=boxes1, boxes2=boxes2, seeds=3)["iou"]
    assert torch.equal(iou, expected_iou(boxes1, boxes2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_memory_that_is_not_16_byte_aligned(dtype):
    boxes1, boxes2 = random_boxes(5, dtype, 0), random_boxes(8, dtype, 1)
    iou = harness.run("box_iou", boxes1=boxes1, boxes2=boxes2, misalign=1)["iou"]
    assert torch.equal(iou, expected_iou(boxes1, boxes2))


def test_degenerate_and_nan_boxes():
    inf, nan = float("inf"), float("nan")
    boxes = torch.tensor(
        [[0, 0, 0, 0], [0, 0, 2, 2], [5, 5, 1, 1], [nan, 0, 1, 1], [-inf, 0, inf, 1]]
    )
    iou = harness.run("box_iou", boxes1=boxes, boxes2=boxes)["iou"]
    torch.testing.assert_close(iou, expected_iou(boxes, boxes), rtol=0, atol=0, equal_nan=True)


def test_no_boxes_launch_nothing():
    boxes = random_boxes(3, torch.float32, 0)
    assert harness.run("box_iou", boxes1=boxes[:0], boxes2=boxes)["iou"].shape == (0, 3)
