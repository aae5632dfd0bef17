"""Every operator on a GPU gives the CPU's result: in every dtype and layout, empty, accelerated.

Sizes are small: compute-sanitizer runs this file, too.
"""

import pytest
import torch
import torchvision
from gpu_cases import (
    DEVICE,
    DTYPES,
    LAYOUTS,
    NO_SYNC,
    check_equal,
    features,
    gradient,
    matched,
    on_gpu,
    padded_with_all,
    proposals,
    pyramid,
    randn,
    random_boxes,
    random_rois,
    roi_align,
    roi_pool,
)

from fastrpn import accelerate_torchvision, ops

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def check(function, *inputs, inexact=False):
    """The function's result on the device and on the CPU: the same, strides included."""
    actual, expected = function(*on_gpu(inputs)), function(*inputs)
    pairs = (actual, expected) if isinstance(actual, tuple) else ((actual,), (expected,))
    for a, e in zip(*pairs, strict=True):
        assert a.device.type == DEVICE and a.dtype == e.dtype and a.stride() == e.stride()
    check_equal(actual, expected, inexact)


@pytest.mark.parametrize("name", NO_SYNC)
def test_equals_the_cpu(name):
    op = NO_SYNC[name]
    check(op.function, *op.inputs(0), inexact=op.uses_exp)


@every_dtype
@pytest.mark.parametrize("n", [0, 1, 65, 5000, 20_000])
def test_nms_keeps_the_rows_of_the_cpu(n, dtype):
    boxes, scores = random_boxes(n, seed=n).to(dtype), randn(n, seed=n).to(dtype)
    boxes[: n // 50, 0], scores[: n // 70] = float("nan"), float("nan")
    check(lambda b, s: ops.nms(b, s, 0.5), boxes, scores)
    check(lambda b, s, g: ops.batched_nms(b, s, g, 0.5), boxes, scores, torch.arange(n) % 7)


@every_dtype
def test_nms_padded_in_every_dtype(dtype):
    boxes, scores = random_boxes(3, 400, seed=0).to(dtype), randn(3, 400, seed=1).to(dtype)
    counts, groups = torch.tensor([400, 0, 123]), torch.arange(1200).reshape(3, 400) % 3
    check(padded_with_all, boxes, scores, counts, groups)


@every_dtype
@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("n", [0, 1, 500])
def test_soft_nms_selects_the_rows_of_the_cpu(n, method, dtype):
    # Few scores that half types would make equal: ties in the end, where exp differs, are unfair.
    scores = torch.linspace(0.1, 1, max(n, 1))[torch.randperm(n, generator=torch.manual_seed(0))]
    options = {"method": method, "sigma": 0.5, "iou_threshold": 0.3, "score_threshold": 0.2}
    boxes = random_boxes(n, seed=1)
    exact = method == "linear" and dtype in (torch.float32, torch.float64)

    def select(boxes, scores):
        return ops.soft_nms(boxes, scores, **options)

    if exact or n < 2:
        return check(select, boxes.to(dtype), scores.to(dtype))
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    actual, expected = select(*on_gpu((boxes, scores))), select(boxes, scores)
    assert abs(len(actual[0]) - len(expected[0])) <= 1
    tolerance = 4 * torch.finfo(dtype).eps
    some = min(len(actual[1]), len(expected[1]))
    torch.testing.assert_close(
        actual[1][:some].cpu(), expected[1][:some], rtol=tolerance, atol=tolerance
    )


@every_dtype
@pytest.mark.parametrize("columns", [1, 13, 64])
def test_box_iou_in_every_dtype(columns, dtype):
    one, two = random_boxes(70, seed=0).to(dtype), random_boxes(columns, seed=1).to(dtype)
    check(ops.box_iou, one, two)


def test_box_iou_of_boxes_that_are_not_aligned():
    shifted = torch.cat([torch.zeros(1), random_boxes(30, seed=0).flatten()]).to(DEVICE)[1:]
    boxes = shifted.view(30, 4)
    check_equal(ops.box_iou(boxes, boxes), ops.box_iou(boxes.cpu(), boxes.cpu()))


@every_dtype
@pytest.mark.parametrize("batched", [False, True])
def test_match_anchors_in_every_dtype(batched, dtype):
    images = (2,) if batched else ()
    anchors, gt_boxes = random_boxes(*images, 700, seed=0), random_boxes(2, 9, seed=1)
    valid = randn(*images, 700, seed=2) > 0
    check(matched, anchors.to(dtype), gt_boxes.to(dtype), torch.tensor([9, 4]), valid)


@every_dtype
def test_generate_proposals_in_every_dtype(dtype):
    logits, deltas = randn(2, 1200, seed=0), randn(2, 1200, 4, seed=1) / 4
    anchors = random_boxes(1200, seed=2).to(torch.promote_types(dtype, torch.float32))
    check(proposals, logits.to(dtype), deltas.to(dtype), anchors, inexact=True)


@every_dtype
@every_layout
@pytest.mark.parametrize("function", [roi_pool, roi_align])
@pytest.mark.parametrize("channels", [24, 5])
def test_pooling_and_its_gradient_in_every_dtype_and_layout(function, layout, dtype, channels):
    x = randn(2, channels, 30, 34, seed=0).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    rois = random_rois(40, seed=1).to(torch.promote_types(dtype, torch.float32))
    check(function, x, rois)
    check(gradient(function), x, rois)


@every_dtype
@every_layout
def test_a_pyramid_and_its_gradient_in_every_dtype_and_layout(layout, dtype):
    levels = features(0, layout=layout).to(dtype), features(1, 2, layout).to(dtype)
    rois = random_rois(40, seed=1).to(torch.promote_types(dtype, torch.float32))
    check(pyramid, *levels, rois)
    check(gradient(pyramid), *levels, rois)


@pytest.mark.parametrize("sampling_ratio", [4, 8, 16])
def test_reversed_rois(sampling_ratio):
    x, rois = features(0), random_rois(20, seed=0)
    rois = rois[:, [0, 3, 4, 1, 2]].contiguous()
    check(lambda x, r: ops.roi_align(x, r, 7, 1 / 16, sampling_ratio, True), x, rois)


@every_layout
@pytest.mark.parametrize("function", [roi_pool, roi_align])
def test_no_rois(function, layout):
    x, rois = features(0, layout=layout), torch.zeros(0, 5)
    check(function, x, rois)
    check(gradient(function), x, rois)


@pytest.mark.parametrize("batch, anchors, gts", [(0, 4, 2), (2, 0, 2), (2, 4, 0)])
def test_nothing_to_match(batch, anchors, gts):
    counts = torch.full((batch,), gts)
    check(matched, random_boxes(anchors, seed=0), random_boxes(batch, gts, seed=1), counts)


@pytest.mark.parametrize("batch, n", [(0, 5), (2, 0)])
def test_empty_images_and_batches(batch, n):
    boxes, scores = random_boxes(batch, n, seed=0), randn(batch, n, seed=0)
    check(lambda b, s: ops.nms_padded(b, s, 0.5, 3), boxes, scores)
    check(ops.box_iou, boxes.reshape(-1, 4), random_boxes(3, seed=1))
    options = {"pre_nms_top_n": 5, "post_nms_top_n": 3, "nms_threshold": 0.7, "min_size": 1.0}
    sizes = torch.full((batch, 2), 400)

    def propose(*inputs):
        return ops.generate_proposals(*inputs, **options)

    check(propose, scores, boxes, random_boxes(n, seed=2), sizes)


@every_layout
def test_torchvision_is_accelerated(layout):
    """The kernels that torchvision's operators reach are ours: equal to the last bit."""
    boxes, scores = on_gpu((random_boxes(300, seed=0), randn(300, seed=0)))
    x, rois = on_gpu((features(0, layout=layout), random_rois(60, seed=0)))
    groups = torch.arange(300, device=DEVICE) % 5

    def their_pool(x, rois):
        return torchvision.ops.roi_pool(x, rois, 7, 1 / 16)

    def their_align(x, rois):
        return torchvision.ops.roi_align(x, rois, 7, 1 / 16, 2, True)

    with accelerate_torchvision():
        check_equal(torchvision.ops.nms(boxes, scores, 0.5), ops.nms(boxes, scores, 0.5))
        check_equal(
            torchvision.ops.batched_nms(boxes, scores, groups, 0.5),
            ops.batched_nms(boxes, scores, groups, 0.5),
        )
        check_equal(torchvision.ops.box_iou(boxes, boxes), ops.box_iou(boxes, boxes))
        for theirs, ours in [(their_pool, roi_pool), (their_align, roi_align)]:
            check_equal(theirs(x, rois), ours(x, rois))
            check_equal(gradient(theirs)(x, rois), gradient(ours)(x, rois))
