"""libfastrpn's C functions, called as other languages do: they compute what the operators do."""

import ctypes
import math
from pathlib import Path

import pytest
import torch

import fastrpn
from fastrpn import ops

LIBRARY = Path(fastrpn.__file__).with_name("libfastrpn.so")


class Pooling(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in "batch channels height width num_rois pooled_height pooled_width".split()
    ] + [("spatial_scale", ctypes.c_double)]


@pytest.fixture(scope="module")
def call():
    """(name, arguments) -> the function's message or None. Floats are doubles, tensors pointers."""
    library = ctypes.CDLL(str(LIBRARY))

    def call(name, *arguments):
        function = getattr(library, f"fastrpn_{name}")
        function.restype = ctypes.c_char_p
        message = function(*map(as_c, arguments))
        return None if message is None else message.decode()

    return call


def as_c(value):
    if isinstance(value, torch.Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, Pooling):
        return ctypes.byref(value)
    if value is None:
        return ctypes.c_void_p(None)
    kinds = {bool: ctypes.c_bool, int: ctypes.c_int64, float: ctypes.c_double}
    return kinds[type(value)](value)


def random_boxes(number):
    corner = torch.rand(number, 2) * 80
    return torch.cat([corner, corner + 5 + torch.rand(number, 2) * 40], 1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_box_iou(call):
    boxes1, boxes2, iou = random_boxes(7), random_boxes(5), torch.empty(7, 5)
    assert call("box_iou", boxes1, 7, boxes2, 5, iou) is None
    assert torch.equal(iou, ops.box_iou(boxes1, boxes2))


@pytest.mark.parametrize("groups", [None, torch.arange(50) % 3])
def test_nms(call, groups):
    boxes, scores = random_boxes(50), torch.rand(50)
    kept, number = torch.empty(20, dtype=torch.int64), torch.empty(1, dtype=torch.int64)
    assert call("nms", boxes, scores, groups, 50, 0.4, 0.1, 20, kept, number) is None
    expected, counts = ops.nms_padded(
        boxes[None],
        scores[None],
        0.4,
        20,
        groups=None if groups is None else groups[None],
        score_threshold=0.1,
    )
    assert torch.equal(kept, expected[0]) and number == counts
    assert call("nms", boxes, scores, None, 50, 1.0, -math.inf, 20, kept, number) is None
    assert number == 20 and torch.equal(kept, scores.argsort(descending=True)[:20])


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms(call, method):
    boxes, scores = random_boxes(50), torch.rand(50)
    kept, number = torch.empty(50, dtype=torch.int64), torch.empty(1, dtype=torch.int64)
    decayed, gaussian = torch.empty(50), method == "gaussian"
    arguments = (boxes, scores, 50, gaussian, 0.5, 0.3, 0.2, kept, decayed, number)
    assert call("soft_nms", *arguments) is None
    expected = ops.soft_nms(boxes, scores, method=method, score_threshold=0.2)
    assert 0 < number < 50
    assert torch.equal(kept[:number], expected[0]) and torch.equal(decayed[:number], expected[1])


@pytest.mark.parametrize("num_gt", [0, 4])
def test_match_anchors(call, num_gt):
    anchors, truth = random_boxes(60), random_boxes(num_gt)
    matched, iou = torch.empty(60, dtype=torch.int64), torch.empty(60)
    arguments = (anchors, 60, truth, num_gt, 0.6, 0.3, True, matched, iou)
    assert call("match_anchors", *arguments) is None
    expected = ops.match_anchors(anchors, truth[None], torch.tensor([num_gt]), high=0.6, low=0.3)
    assert torch.equal(matched, expected[0][0]) and torch.equal(iou, expected[1][0])


def test_generate_proposals(call):
    objectness, deltas, anchors = torch.randn(90), torch.randn(90, 4) * 0.2, random_boxes(90)
    levels = torch.tensor([60, 30])
    proposals, scores = torch.empty(40, 4), torch.empty(40)
    count = torch.empty(1, dtype=torch.int64)
    assert (
        call(
            *("generate_proposals", objectness, deltas, anchors, levels, 2, 100, 120),
            *(50, 40, 0.5, 2.0, proposals, scores, count),
        )
        is None
    )
    expected = ops.generate_proposals(
        objectness[None],
        deltas[None],
        anchors,
        torch.tensor([[100, 120]]),
        pre_nms_top_n=50,
        post_nms_top_n=40,
        nms_threshold=0.5,
        min_size=2.0,
        anchors_per_level=[60, 30],
    )
    assert torch.equal(proposals, expected[0][0]) and torch.equal(scores, expected[1][0])
    assert count == expected[2] and count > 5


@pytest.fixture
def pooled():
    """Features that require a gradient, RoIs, their shape, and a gradient of the output."""
    features = torch.randn(2, 3, 12, 16, requires_grad=True)
    rois = torch.cat([torch.arange(9.0)[:, None] % 2, random_boxes(9)], 1)
    shape = Pooling(2, 3, 12, 16, 9, 5, 7, 1 / 8)
    return features, rois, shape, torch.randn(9, 3, 5, 7)


def test_roi_pool_forward_and_backward(call, pooled):
    features, rois, shape, grad = pooled
    expected = ops.roi_pool(features, rois, (5, 7), 1 / 8)
    expected.backward(grad)
    output, argmax = torch.empty(9, 3, 5, 7), torch.empty(9, 3, 5, 7, dtype=torch.int32)
    assert call("roi_pool", shape, features, rois, output, argmax) is None
    assert torch.equal(output, expected)
    found = torch.empty(2, 3, 12, 16)
    assert call("roi_pool_backward", shape, grad, rois, argmax, found) is None
    assert torch.equal(found, features.grad)


@pytest.mark.parametrize(("sampling_ratio", "aligned"), [(2, False), (0, True)])
def test_roi_align_forward_and_backward(call, pooled, sampling_ratio, aligned):
    features, rois, shape, grad = pooled
    expected = ops.roi_align(features, rois, (5, 7), 1 / 8, sampling_ratio, aligned)
    expected.backward(grad)
    output, found = torch.empty(9, 3, 5, 7), torch.empty(2, 3, 12, 16)
    assert call("roi_align", shape, features, rois, sampling_ratio, aligned, output) is None
    assert torch.equal(output, expected)
    arguments = (shape, grad, rois, sampling_ratio, aligned, found)
    assert call("roi_align_backward", *arguments) is None
    assert torch.equal(found, features.grad)


def test_a_region_of_no_image_gives_zeros(call, pooled):
    features, rois, shape, _ = pooled
    rois[0, 0], rois[1, 0] = 2, -1
    for name, arguments in (("roi_pool", (None,)), ("roi_align", ())):
        output = torch.ones(9, 3, 5, 7)
        tail = (output, *arguments) if name == "roi_pool" else (2, False, output)
        assert call(name, shape, features, rois, *tail) is None
        assert not output[:2].any() and output[2:].any()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("box_iou", (None, -1, None, 2, None), "n and m must not be negative"),
        ("box_iou", (None, 1, None, 2, None), "an array is null"),
        ("nms", (None, None, None, 1, math.nan, 0.0, 1, None, None), "a threshold is NaN"),
        ("nms", (None, None, None, 1, 0.5, 0.0, -1, None, None), "must not be negative"),
        ("soft_nms", (None, None, 1, True, 0.0, 0.5, 0.0, None, None, None), "sigma must be"),
        ("match_anchors", (None, 1, None, 1, 0.3, 0.7, True, None, None), "low must not exceed"),
        ("roi_pool", (None, None, None, None, None), "shape must not be null"),
        ("roi_pool", (Pooling(1, 1, 1, 1, 1, 0, 1, 1.0), *[None] * 4), "pooled size"),
        ("roi_align", (Pooling(1, 1, 1, 1, 1, 1, 1, 0.0), None, None, 2, True, None), "scale"),
    ],
)
def test_bad_arguments_are_refused(call, name, arguments, message):
    assert message in call(name, *arguments)
