"""Sizes whose index products pass 2^31, and memory that must not grow with such a product."""

import numpy as np
import pytest
import torch
from roi_cases import LAYOUTS

from fastrpn import ops
from fastrpn.ops import reference

GIB = 2**30


def kilobytes(path: str, name: str) -> int:
    with open(path) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def needs(gib: int):
    """For tests that take this much memory and some ten seconds."""
    available = kilobytes("/proc/meminfo", "MemAvailable") * 1024 / GIB
    skip = pytest.mark.skipif(available < 1.4 * gib, reason=f"needs {1.4 * gib:.0f} GiB of memory")
    return lambda test: pytest.mark.slow(skip(test))


def lazy_zeros(shape, layout) -> torch.Tensor:
    """bfloat16 zeros; pages that are never written take no memory and no time."""
    n, c, h, w = shape
    channels_last = layout == torch.channels_last
    zeros = np.zeros((n, h, w, c) if channels_last else shape, np.int16)
    tensor = torch.from_numpy(zeros).view(torch.bfloat16)
    return tensor.permute(0, 3, 1, 2) if channels_last else tensor


def test_match_anchors_keeps_no_matrix():
    count, num_gt = 2_200_000, 1000  # 2.2e9 pairs
    at = torch.arange(count)
    corner = torch.stack([at % 2000, at // 2000], dim=1) * 4.0
    anchors = torch.cat([corner, corner + 16], dim=1)
    gt_boxes = anchors[-num_gt:].flip(0)[None]
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # forget the peak up to here
    before = kilobytes("/proc/self/status", "VmRSS")
    labels, max_iou = ops.match_anchors(
        anchors, gt_boxes, torch.tensor([num_gt]), high=0.7, low=0.3
    )
    used = (kilobytes("/proc/self/status", "VmHWM") - before) * 1024
    assert used < 80e6  # the result is 26 MB
    assert torch.equal(labels[0, -num_gt:], torch.arange(num_gt).flip(0))
    assert (max_iou[0, -num_gt:] == 1).all()


@needs(9)
def test_box_iou():
    generator = torch.Generator().manual_seed(0)
    corner, size = (50 * torch.rand(46_342, 2, generator=generator) for _ in range(2))
    boxes = torch.cat([corner, corner + size], dim=1)
    iou = ops.box_iou(boxes, boxes)
    for rows in (slice(0, 3), slice(-3, None)):
        assert torch.equal(iou[rows], reference.box_iou(boxes[rows], boxes))
        assert torch.equal(iou[:, rows], reference.box_iou(boxes, boxes[rows]))


@needs(5)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_map(layout):
    shape = (1, 8, 17_000, 17_000)
    y, x = 16_998, 16_997
    values = torch.arange(1, 9, dtype=torch.bfloat16)
    features = lazy_zeros(shape, layout)
    features[0, :, y, x] = values
    wide = torch.tensor([[0.0, 16_990, 16_990, 16_999, 16_999]])
    pooled, argmax = torch.ops.fastrpn.roi_pool_argmax(features, wide, 1.0, 2, 2)
    assert torch.equal(pooled[0, :, 1, 1], values) and not pooled[0, :, 0].any()
    assert (argmax[0, :, 1, 1] == y * shape[3] + x).all()
    assert torch.equal(ops.roi_pool(features, wide, 2), pooled)
    narrow = torch.tensor([[0.0, x, y, x + 1, y + 1]])  # sampled half a cell off both ways
    aligned = ops.roi_align(features, narrow, 1, 1.0, 1)
    assert torch.equal(aligned[0, :, 0, 0], values / 4)
    del features

    def last_cells(grad):
        assert grad.shape == shape and grad.is_contiguous(memory_format=layout)
        return grad[0, :, y - 90 : y + 2, x - 90 : x + 2].float()

    grad = torch.zeros_like(pooled).index_fill_(2, torch.tensor([1]), 1)
    grad = last_cells(torch.ops.fastrpn.roi_pool_backward(grad, wide, argmax, 1.0, *shape))
    assert (grad[:, 90, 90] == 1).all() and (grad.sum((1, 2)) == 2).all()
    grad = torch.ops.fastrpn.roi_align_backward(
        aligned, narrow, None, [1.0], 1, False, 1, [shape[2]], [shape[3]], layout == LAYOUTS[1]
    )
    grad = last_cells(grad[0])
    assert torch.equal(grad[:, 90, 90], (values / 16).float())
    assert torch.equal(grad.sum((1, 2)), (values / 4).float())


@needs(5)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", [ops.roi_pool, ops.roi_align])
def test_a_large_output(operator, layout):
    channels, count = 1024, 2**21 + 3
    features = torch.arange(4 * channels).reshape(1, channels, 2, 2).bfloat16()
    at = torch.arange(count) % 4
    x, y = (at % 2).float(), (at // 2).float()
    rois = torch.stack([torch.zeros(count), x, y, x, y], dim=1)  # one cell each
    if operator is ops.roi_align:
        rois += torch.tensor([0, -0.5, -0.5, 0.5, 0.5])
    output = operator(features.contiguous(memory_format=layout), rois, 1)
    for rows in (slice(0, 9), slice(2**20, 2**20 + 9), slice(-9, None)):
        expected = features.flatten(2)[0, :, at[rows]].t()
        assert torch.equal(output[rows, :, 0, 0], expected)
