"""The box functions that are plain torch: torchvision's results."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder

from fastrpn import ops

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]
VARIANTS = ["generalized_box_iou", "distance_box_iou", "complete_box_iou"]


def random_boxes(*shape: int, dtype=torch.float32, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre = 100 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    size = torch.exp(2 + torch.randn(*shape, 2, generator=generator, dtype=torch.float64))
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1).to(dtype)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int16, torch.int64])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (0,)])
def test_elementary_functions_equal_torchvision(dtype, shape):
    boxes = random_boxes(*shape, dtype=dtype)
    for fmt in ("xyxy", "xywh", "cxcywh"):
        wanted = torchvision.ops.box_area(boxes, fmt)
        torch.testing.assert_close(ops.box_area(boxes, fmt), wanted, rtol=0, atol=0)
    wanted = torchvision.ops.clip_boxes_to_image(boxes, (60, 50))
    torch.testing.assert_close(ops.clip_boxes_to_image(boxes, (60, 50)), wanted, rtol=0, atol=0)
    if len(shape) == 1:
        wanted = torchvision.ops.remove_small_boxes(boxes, 9)
        assert torch.equal(ops.remove_small_boxes(boxes, 9), wanted)


@pytest.mark.parametrize("in_fmt", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("out_fmt", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_box_convert_equals_torchvision_and_copies(in_fmt, out_fmt, dtype):
    boxes = random_boxes(2, 9, dtype=dtype)
    converted = ops.box_convert(boxes, in_fmt, out_fmt)
    wanted = torchvision.ops.box_convert(boxes, in_fmt, out_fmt)
    torch.testing.assert_close(converted, wanted, rtol=0, atol=0)
    assert converted.data_ptr() != boxes.data_ptr()


def test_nan_boxes_stay_nan_and_are_small():
    boxes = torch.tensor([[math.nan, 0.0, 5.0, 5.0], [0.0, 0.0, 5.0, 5.0]])
    assert ops.clip_boxes_to_image(boxes, (4, 4))[0, 0].isnan()
    assert ops.remove_small_boxes(boxes, 1.0).tolist() == [1]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iou_variants_equal_torchvision(name, dtype):
    a, b = random_boxes(2, 20, dtype=dtype), random_boxes(2, 30, dtype=dtype, seed=1)
    ours, wanted = getattr(ops, name)(a, b), getattr(torchvision.ops, name)(a, b)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0)
    assert getattr(ops, name)(a[0, :0], b[0]).shape == (0, 30)


# Proper, degenerate, inverted, the same twice; then some that are not finite.
CORNER_CASES = [
    [0.0, 0, 4, 4], [1, 1, 5, 5], [3, 3, 3, 3], [0, 2, 9, 2], [5, 5, 2, 2], [0, 4, 4, 0],
    [0, 0, 4, 4], [100, 100, 120, 110],
]  # fmt: skip
NOT_FINITE = [
    [math.nan, 0.0, 1, 1], [0, 0, math.nan, math.nan], [0, 0, math.inf, 1],
    [-math.inf, -math.inf, math.inf, math.inf],
]  # fmt: skip


def corner_cases(dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(CORNER_CASES + (NOT_FINITE if dtype.is_floating_point else [])).to(dtype)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int16, torch.int32, torch.int64])
def test_iou_variants_of_corner_cases_equal_torchvision(name, dtype):
    boxes = corner_cases(dtype)
    ours, wanted = (getattr(module, name)(boxes, boxes) for module in (ops, torchvision.ops))
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("shapes", [((0, 4), (3, 4)), ((3, 4), (0, 4)), ((2, 0, 4), (2, 5, 4))])
def test_iou_variants_of_no_boxes(name, shapes):
    first, second = (torch.zeros(shape) for shape in shapes)
    assert getattr(ops, name)(first, second).shape == (*shapes[0][:-1], shapes[1][-2])


@pytest.mark.parametrize("name", VARIANTS)
def test_iou_variants_differentiate(name):
    a, b = random_boxes(4, dtype=torch.float64), random_boxes(3, dtype=torch.float64, seed=1)
    if name == "complete_box_iou":  # alpha is a constant by definition: compare with torchvision
        a.requires_grad_()
        (grad,) = torch.autograd.grad(ops.complete_box_iou(a, b).sum(), a)
        (wanted,) = torch.autograd.grad(torchvision.ops.complete_box_iou(a, b).sum(), a)
        torch.testing.assert_close(grad, wanted)
        return
    assert torch.autograd.gradcheck(getattr(ops, name), (a.requires_grad_(), b.requires_grad_()))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coding_equals_torchvision(weights, dtype):
    coder = BoxCoder(weights)
    boxes, anchors = random_boxes(50, dtype=dtype), random_boxes(50, dtype=dtype, seed=1)
    deltas = torch.randn(50, 12, dtype=dtype)
    deltas[0, 2] = 50.0  # clipped
    for ours, wanted in [
        (ops.encode_boxes(boxes, anchors, weights), coder.encode_single(boxes, anchors)),
        (ops.decode_boxes(deltas, anchors, weights), coder.decode_single(deltas, anchors)),
    ]:
        torch.testing.assert_close(ours, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_coding_of_corner_cases_equals_torchvision(weights, dtype):
    coder, boxes = BoxCoder(weights), corner_cases(dtype)
    anchors = boxes.flip(0)
    wide = torch.promote_types(dtype, torch.float32)  # which torchvision does not compute in
    deltas = torch.cat([boxes, -boxes], dim=1) / 4
    for ours, wanted in [
        (
            ops.encode_boxes(boxes, anchors, weights),
            coder.encode_single(boxes.to(wide), anchors.to(wide)),
        ),
        (
            ops.decode_boxes(deltas, anchors, weights),
            coder.decode_single(deltas.to(wide), anchors.to(wide)),
        ),
    ]:
        torch.testing.assert_close(ours, wanted, rtol=0, atol=0, equal_nan=True)


def test_coding_of_no_boxes():
    boxes = torch.zeros(0, 4)
    assert ops.encode_boxes(boxes, boxes).shape == (0, 4)
    assert ops.decode_boxes(torch.zeros(0, 12), boxes).shape == (0, 12)
    assert ops.decode_boxes(torch.zeros(3, 0, 4), torch.zeros(3, 0, 4)).shape == (3, 0, 4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(WEIGHTS))
def test_decode_inverts_encode(seed, weights):
    boxes = random_boxes(3, 8, dtype=torch.float64, seed=seed)
    anchors = random_boxes(8, dtype=torch.float64, seed=seed + 1)
    deltas = ops.encode_boxes(boxes, anchors, weights)
    # Sizes grow at most by the clip.
    small = (deltas[..., 2:].abs() / weights[2] < math.log(1000 / 16)).all(-1)
    decoded = ops.decode_boxes(deltas, anchors, weights)
    torch.testing.assert_close(decoded[small], boxes[small])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_deltas_decode_in_float32(dtype):
    anchors = random_boxes(20)
    deltas = torch.randn(20, 4).to(dtype)
    decoded = ops.decode_boxes(deltas, anchors)
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, ops.decode_boxes(deltas.float(), anchors))
    assert ops.encode_boxes(anchors.to(dtype), anchors.to(dtype)).dtype == torch.float32


def test_coding_differentiates():
    boxes, anchors = (
        random_boxes(4, dtype=torch.float64),
        random_boxes(4, dtype=torch.float64, seed=1),
    )
    assert torch.autograd.gradcheck(ops.encode_boxes, (boxes.requires_grad_(), anchors))
    deltas = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.decode_boxes, (deltas, anchors))


def test_elementary_functions_differentiate():
    boxes = random_boxes(5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(ops.clip_boxes_to_image, (boxes, (60, 50)))
    for fmt in ("xyxy", "xywh", "cxcywh"):
        assert torch.autograd.gradcheck(ops.box_area, (boxes, fmt))
        for other in ("xyxy", "xywh", "cxcywh"):
            assert torch.autograd.gradcheck(ops.box_convert, (boxes, fmt, other))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.box_area(torch.zeros(3)), ValueError, r"boxes.*\[3\]"),
        (lambda: ops.box_area([1]), TypeError, "boxes.*list"),
        (lambda: ops.box_area(torch.zeros(1, 4), "xxyy"), ValueError, "fmt.*xxyy"),
        (lambda: ops.box_convert(torch.zeros(1, 4), "xyxy", "r"), ValueError, "out_fmt.*'r'"),
        (lambda: ops.clip_boxes_to_image(torch.zeros(4), (1, 2, 3)), ValueError, r"size.*3"),
        (lambda: ops.remove_small_boxes(torch.zeros(2, 3), 1), ValueError, r"boxes.*\[2, 3\]"),
        (lambda: ops.generalized_box_iou(torch.zeros(4), torch.zeros(1, 4)), ValueError, "boxes1"),
        (lambda: ops.encode_boxes(torch.zeros(1, 4).long(), torch.zeros(1, 4)), TypeError, "boxes"),
        (lambda: ops.encode_boxes(torch.zeros(1, 4), torch.zeros(4, 1)), ValueError, "anchors"),
        (lambda: ops.decode_boxes(torch.zeros(1, 4).int(), torch.zeros(1, 4)), TypeError, "deltas"),
        (lambda: ops.decode_boxes(torch.zeros(1, 5), torch.zeros(1, 4)), ValueError, "deltas"),
        (
            lambda: ops.decode_boxes(torch.zeros(1, 4), torch.zeros(1, 4), (1.0, 1.0)),
            ValueError,
            "weights",
        ),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


SMALL_INTEGERS = [torch.int8, torch.uint8, torch.int16]
INTEGERS = [
    *SMALL_INTEGERS, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64,
]  # fmt: skip


def extreme_integers(dtype: torch.dtype) -> list[list[int]]:
    """Boxes, as exact Python numbers, as large as the dtype holds; also with corners reversed."""
    low, high = torch.iinfo(dtype).min, min(torch.iinfo(dtype).max, 2**61)
    low = max(low, -(2**61))
    return [
        [low, low, high, high], [0, 0, high, high], [high, 0, 0, high], [5, 3, 2, 9], [7, 7, 7, 7],
        [high - 3, high - 5, high, high], [3, 4, 90, 100],
    ]  # fmt: skip


def nearest(number: int, dtype: torch.dtype) -> int:
    info = torch.iinfo(dtype)
    return min(max(number, info.min), info.max, 2**63 - 1)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_areas_of_integers_do_not_wrap(dtype):
    rows = extreme_integers(dtype)
    boxes, wide = torch.tensor(rows).to(dtype), torch.int64
    if dtype in SMALL_INTEGERS:
        wide = torch.int32
    area = ops.box_area(boxes)
    assert area.dtype == wide
    assert area.tolist() == [nearest((c - a) * (d - b), wide) for a, b, c, d in rows]
    assert ops.box_area(boxes, "xywh").tolist() == [nearest(c * d, wide) for _, _, c, d in rows]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_small_boxes_of_integers_are_found(dtype):
    rows = extreme_integers(dtype)
    kept = [i for i, (a, b, c, d) in enumerate(rows) if c - a >= 4 and d - b >= 4]
    assert ops.remove_small_boxes(torch.tensor(rows).to(dtype), 4).tolist() == kept


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_clipped_to_images_larger_than_their_type(dtype):
    rows = extreme_integers(dtype)
    clipped = ops.clip_boxes_to_image(torch.tensor(rows).to(dtype), (1000, 2000))
    assert clipped.dtype == dtype
    limits = [2000, 1000, 2000, 1000]
    wanted = [[min(max(x, 0), limits[i]) for i, x in enumerate(row)] for row in rows]
    assert clipped.tolist() == wanted


@pytest.mark.parametrize("dtype", INTEGERS)
def test_centres_and_sizes_of_integers_do_not_wrap(dtype):
    rows = extreme_integers(dtype)
    boxes = torch.tensor(rows).to(dtype)
    centres = ops.box_convert(boxes, "xyxy", "cxcywh")
    wanted = [[(a + c) / 2, (b + d) / 2, c - a, d - b] for a, b, c, d in rows]
    assert centres.dtype == torch.float32
    torch.testing.assert_close(centres, torch.tensor(wanted), rtol=1e-6, atol=0)
    sizes = ops.box_convert(boxes, "xyxy", "xywh")
    assert sizes.dtype == dtype
    assert sizes.tolist() == [
        [a, b, nearest(c - a, dtype), nearest(d - b, dtype)] for a, b, c, d in rows
    ]
    corners = ops.box_convert(boxes, "xywh", "xyxy")
    assert corners.tolist() == [
        [a, b, nearest(a + c, dtype), nearest(b + d, dtype)] for a, b, c, d in rows
    ]


@pytest.mark.parametrize("name", ["box_iou", *VARIANTS])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_iou_of_integers_does_not_wrap(name, dtype):
    boxes = torch.tensor(extreme_integers(dtype))
    iou = getattr(ops, name)(boxes.to(dtype), boxes.to(dtype))
    wanted = getattr(torchvision.ops, name)(boxes.double(), boxes.double())
    assert iou.dtype == torch.float32
    torch.testing.assert_close(iou, wanted.float(), rtol=1e-5, atol=1e-6, equal_nan=True)
    mixed = getattr(ops, name)(boxes.to(dtype), boxes.float())
    assert mixed.dtype == torch.float32
    assert getattr(ops, name)(boxes.to(dtype), boxes.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_iou_of_integers_given_by_size(dtype):
    """100 + 100 is no int8."""
    boxes = torch.tensor([[100, 100, 100, 100], [100, 100, 50, 100]])
    iou = ops.box_iou(boxes.to(dtype), boxes.to(dtype), "xywh")
    assert iou.tolist() == [[1.0, 0.5], [0.5, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_convert_where_only_a_step_between_overflows(dtype):
    half = 2.0 ** math.floor(math.log2(torch.finfo(dtype).max))  # twice as much is infinite
    for in_fmt, box, out_fmt, wanted in [
        ("xyxy", [half, half, 1.5 * half, half], "cxcywh", [1.25 * half, half, 0.5 * half, 0]),
        ("cxcywh", [1.5 * half, 2, half, 4], "xywh", [half, 0, half, 4]),
        ("xywh", [half, 0, half, 4], "cxcywh", [1.5 * half, 2, half, 4]),
    ]:
        converted = ops.box_convert(torch.tensor([box]).to(dtype), in_fmt, out_fmt)
        assert torch.equal(converted, torch.tensor([wanted]).to(dtype)), (in_fmt, out_fmt)


def test_half_types_convert_tiny_numbers_as_torchvision():
    tiny = torch.arange(64, dtype=torch.int16).view(torch.float16).reshape(-1, 4)  # subnormal
    for formats in (("xyxy", "cxcywh"), ("xywh", "cxcywh"), ("cxcywh", "xyxy")):
        wanted = torchvision.ops.box_convert(tiny, *formats)
        assert torch.equal(ops.box_convert(tiny, *formats), wanted)


FLAT = [[10.0, 10, 40, 10], [10, 10, 10, 40], [10, 10, 40, 10 + 1e-5], [10, 10, 10.0001, 40]]
FLAT += [[0, 0, 30, 1e-30], [0, 0, 1e-30, 30], [40, 10, 10, 10], [10, 40, 10, 10]]


@pytest.mark.parametrize("name", ["box_iou", *VARIANTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_boxes_without_height_or_width_are_finite(name, dtype):
    predicted = torch.tensor(FLAT, dtype=dtype, requires_grad=True)
    target = torch.tensor([[5.0, 5, 35, 25], [50, 50, 60, 90]], dtype=dtype, requires_grad=True)
    value = getattr(ops, name)(predicted, target)
    assert value.isfinite().all()
    for grad in torch.autograd.grad(value.sum(), (predicted, target)):
        assert grad.isfinite().all()
    value = getattr(ops, name)(target, predicted)
    for grad in torch.autograd.grad(value.sum(), (predicted, target)):
        assert grad.isfinite().all()


@pytest.mark.parametrize("box", [[10.0, 10, 40, 10], [10, 10, 10, 40], [10, 10, 40, 11]])
def test_the_aspect_penalty_has_the_derivative_of_the_arctangent(box):
    """(h dw - w dh) / (w^2 + h^2), also at a height of 0."""
    from fastrpn.ops.iou_variants import _angle

    boxes = torch.tensor([box], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(_angle(boxes, torch.float64).sum(), boxes)
    w, h = box[2] - box[0], box[3] - box[1]
    dw, dh = h / (w * w + h * h), -w / (w * w + h * h)
    torch.testing.assert_close(grad, torch.tensor([[-dw, -dh, dw, dh]], dtype=torch.float64))


def test_forward_and_reverse_derivatives_of_complete_iou_agree():
    a, b = random_boxes(3, dtype=torch.float64), random_boxes(2, dtype=torch.float64, seed=1)
    forward, reverse = (
        getattr(torch.func, name)(ops.complete_box_iou)(a, b) for name in ("jacfwd", "jacrev")
    )
    torch.testing.assert_close(forward, reverse)


NAN = math.nan


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b: ops.remove_small_boxes(b, NAN), "min_size.*nan"),
        (lambda b: ops.clip_boxes_to_image(b, (5, NAN)), "size.*nan"),
        (lambda b: ops.encode_boxes(b, b, (1.0, NAN, 1.0, 1.0)), "weights.*nan"),
        (lambda b: ops.decode_boxes(b, b, (NAN, 1.0, 1.0, 1.0)), "weights.*nan"),
        (lambda b: ops.decode_boxes(b, b, clip=NAN), "clip.*nan"),
    ],
)
def test_nan_is_no_number(call, words):
    with pytest.raises(ValueError, match=words):
        call(random_boxes(3))


def test_infinite_numbers_stay_legal():
    boxes = random_boxes(3)
    assert len(ops.remove_small_boxes(boxes, math.inf)) == 0
    assert len(ops.remove_small_boxes(boxes, -math.inf)) == 3
    assert torch.equal(ops.clip_boxes_to_image(boxes.abs(), (math.inf, math.inf)), boxes.abs())
    assert ops.decode_boxes(torch.zeros(3, 4), boxes, clip=math.inf).isfinite().all()
