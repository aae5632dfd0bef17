"""Sizes whose index products pass 2^31, and memory that must not grow with such a product."""

import numpy as np
import pytest
import torch
import torchvision
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


def grid_boxes(rows: int, columns: int) -> torch.Tensor:
    """[rows * columns, 4] boxes that do not meet."""
    at = torch.arange(rows * columns)
    corner = torch.stack([at % columns, at // columns], dim=1) * 20.0
    return torch.cat([corner, corner + 16], dim=1)


@pytest.mark.parametrize("scores_of", [torch.zeros, torch.arange], ids=["ties", "ranked"])
def test_nms_of_more_pairs_than_an_int_counts(scores_of):
    apart = grid_boxes(300, 300)  # with its copy 1.6e10 pairs
    boxes, scores = apart.repeat(2, 1), scores_of(2 * len(apart)).float()
    first = scores[0] == scores[-1]  # ties go to the lower index
    expected = torch.arange(len(apart)) if first else torch.arange(len(apart)).flip(0) + len(apart)
    classes = torch.zeros(len(boxes), dtype=torch.int64)
    assert torch.equal(ops.nms(boxes, scores, 0.5), expected)
    assert torch.equal(ops.batched_nms(boxes, scores, classes, 0.5), expected)
    everything = torch.arange(len(boxes)) if first else torch.arange(len(boxes)).flip(0)
    classes[len(apart) :] = 1
    assert torch.equal(ops.batched_nms(boxes, scores, classes, 0.5), everything)


def test_soft_nms_of_more_pairs_than_an_int_counts():
    apart = grid_boxes(200, 250)
    boxes, scores = apart.repeat(2, 1), torch.linspace(1, 0.5, 2 * len(apart))
    keep, new_scores = ops.soft_nms(boxes, scores, score_threshold=0.4)
    assert torch.equal(keep, torch.arange(len(apart)))  # a copy's score becomes 0
    assert torch.equal(new_scores, scores[: len(apart)])


@needs(6)
def test_many_images():
    images, most = 2**20 + 3, 513  # 2.15e9 coordinates, of which few exist
    boxes = torch.from_numpy(np.zeros((images, most, 4), np.int16)).view(torch.bfloat16)
    scores = torch.from_numpy(np.zeros((images, most), np.int16)).view(torch.bfloat16)
    counts = torch.zeros(images, dtype=torch.int64)
    boxes[-1, :3] = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 7], [9, 0, 16, 8]])
    scores[-1, :3] = torch.tensor([0.25, 0.5, 0.75])
    counts[-1] = 3
    indices, kept = ops.nms_padded(boxes, scores, 0.5, 2, counts=counts)
    assert indices[-1].tolist() == [2, 1] and kept[-1] == 2
    assert not kept[:-1].any() and (indices[:-1] == -1).all()


@needs(11)
def test_proposals_of_many_anchors():
    count = 2**29 + 5  # 2.15e9 deltas
    make = [np.zeros(shape, np.int16) for shape in [(1, count), (1, count, 4), (count, 4)]]
    logits, deltas, anchors = (torch.from_numpy(x).view(torch.bfloat16) for x in make)
    anchors[-2:] = torch.tensor([[0, 0, 8, 8], [16, 0, 32, 16]])
    logits[0, -2:] = torch.tensor([1.0, 2.0])
    proposals, scores, kept = ops.generate_proposals(
        *(logits, deltas, anchors, torch.tensor([[100, 100]])),
        pre_nms_top_n=2,
        post_nms_top_n=3,
        nms_threshold=0.5,
        min_size=1.0,
    )
    assert kept.tolist() == [2] and proposals[0, :2].tolist() == [[16, 0, 32, 16], [0, 0, 8, 8]]
    assert torch.equal(scores[0, :2], torch.tensor([2.0, 1.0]).sigmoid())


@needs(9)
def test_box_iou():
    generator = torch.Generator().manual_seed(0)
    corner, size = (50 * torch.rand(46_342, 2, generator=generator) for _ in range(2))
    boxes = torch.cat([corner, corner + size], dim=1)
    iou = ops.box_iou(boxes, boxes)
    for rows in (slice(0, 3), slice(-3, None)):
        assert torch.equal(iou[rows], reference.box_iou(boxes[rows], boxes))
        assert torch.equal(iou[:, rows], reference.box_iou(boxes, boxes[rows]))


@needs(10)
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", [ops.roi_pool, ops.roi_align])
def test_rois_around_the_most_that_is_packed(operator, layout, simd_level, num_threads):
    """Several RoIs of up to a whole map each, for maps of a quarter to twice 2^17 cells."""
    generator = torch.Generator().manual_seed(0)
    for height, width in [(128, 256), (256, 257), (260, 520), (511, 512)]:
        features = torch.randn(1, 2, height, width, generator=generator)
        edges = torch.tensor([[0.0, 0, width, height], [9, -7, width + 50, height - 9]])
        rois = torch.cat([torch.zeros(6, 1), edges.repeat(3, 1)], dim=1)
        found = operator(features.contiguous(memory_format=layout), rois, (2, 7))
        alone = [operator(features.contiguous(), roi[None], (2, 7)) for roi in rois]
        assert torch.equal(found, torch.cat(alone))
        if operator is ops.roi_pool:
            assert torch.equal(found, torchvision.ops.roi_pool(features, rois, (2, 7)))
        else:
            expected = torchvision.ops.roi_align(features, rois, (2, 7))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


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
