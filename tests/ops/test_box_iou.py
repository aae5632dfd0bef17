"""box_iou: the oracle's and torchvision's numbers, bit by bit."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrpn import ops
from fastrpn.ops import reference

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [
    (1, 1),
    (1, 5),
    (5, 1),
    (7, 3),
    (9, 8),
    (33, 17),
    (3, 4097),
    (4097, 3),
    (40, 5000),
    (300, 20),
]


def random_boxes(*shape: int, dtype=torch.float32, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    centre = 100 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    size = torch.exp(2 * torch.randn(*shape, 2, generator=generator, dtype=torch.float64))
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1).to(dtype)


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Same dtype and numbers, NaN equal to NaN."""
    return (
        a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a != a) & (b != b)).all())
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_equals_the_oracle(n, m, dtype):
    a, b = random_boxes(n, dtype=dtype), random_boxes(m, dtype=dtype, seed=1)
    assert equal(ops.box_iou(a, b), reference.box_iou(a, b))


PAIRS_OF_DTYPES = [
    (torch.float32, torch.float64),
    (torch.float64, torch.int64),
    (torch.float16, torch.float32),
]


@pytest.mark.parametrize("dtypes", PAIRS_OF_DTYPES)
@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou", "complete_box_iou"])
def test_two_dtypes_are_promoted_as_in_torchvision(name, dtypes):
    a, b = random_boxes(20, dtype=dtypes[0]), random_boxes(30, dtype=dtypes[1], seed=1)
    expected = getattr(torchvision.ops, name)(a, b)
    actual = getattr(ops, name)(a, b)
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fmt", ["xyxy", "xywh", "cxcywh"])
def test_equals_torchvision(dtype, fmt):
    a, b = random_boxes(50, dtype=dtype), random_boxes(60, dtype=dtype, seed=1)
    expected = torchvision.ops.box_iou(a, b)
    assert equal(ops.box_iou(a, b), expected)
    a, b = (ops.box_convert(boxes, "xyxy", fmt) for boxes in (a, b))
    expected = torchvision.ops.box_iou(a, b, fmt)
    torch.testing.assert_close(ops.box_iou(a, b, fmt), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_give_float32_as_torchvision(dtype):
    a, b = random_boxes(50, dtype=dtype), random_boxes(60, dtype=dtype, seed=1)
    expected = torchvision.ops.box_iou(a, b)  # rounds the sides to the half type
    assert expected.dtype == torch.float32
    torch.testing.assert_close(
        ops.box_iou(a, b),
        expected,
        rtol=4 * torch.finfo(dtype).eps,
        atol=4 * torch.finfo(dtype).eps,
        equal_nan=True,
    )


def test_integers_and_leading_dimensions_equal_torchvision():
    a, b = random_boxes(2, 5), random_boxes(2, 7, seed=1)
    assert equal(ops.box_iou(a, b), torchvision.ops.box_iou(a, b))
    a, b = a[0].round().long(), b[0].round().long()
    assert equal(ops.box_iou(a, b), torchvision.ops.box_iou(a, b))


@pytest.mark.parametrize("shapes", [((0, 4), (3, 4)), ((3, 4), (0, 4)), ((0, 4), (0, 4))])
def test_empty(shapes):
    a, b = torch.zeros(shapes[0]), torch.zeros(shapes[1])
    assert ops.box_iou(a, b).shape == (shapes[0][0], shapes[1][0])


def test_degenerate_and_not_finite_boxes_equal_torchvision():
    values = [-math.inf, -1.0, -0.0, 0.0, 1e-30, 1.0, 3e38, math.inf, math.nan]
    boxes = torch.tensor(
        [[a, b, c, d] for a in values for b in values for c in values for d in values]
    )
    assert equal(
        ops.box_iou(boxes[:2000], boxes[::7]), torchvision.ops.box_iou(boxes[:2000], boxes[::7])
    )
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert ops.box_iou(point, point).isnan().all()


def test_non_contiguous():
    a, b = random_boxes(40), random_boxes(30, seed=1)
    assert equal(ops.box_iou(a.t().contiguous().t(), b[::2]), reference.box_iou(a, b[::2]))


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)
box_lists = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(box_lists, box_lists)
def test_any_floats_equal_the_oracle_and_the_transpose(a, b):
    a, b = torch.tensor(a), torch.tensor(b)
    iou = ops.box_iou(a, b)
    assert equal(iou, reference.box_iou(a, b))
    assert equal(iou.t(), ops.box_iou(b, a))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_proper_boxes_have_an_iou_between_0_and_1_and_1_with_themselves(seed):
    boxes = random_boxes(30, dtype=torch.float64, seed=seed)
    iou = ops.box_iou(boxes, boxes)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert (iou.diagonal() == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_simd_levels_do_not_matter(dtype, simd_level, num_threads):
    for n, m in [*SIZES, (700, 500), (100, 5000)]:
        a, b = random_boxes(n, dtype=dtype), random_boxes(m, dtype=dtype, seed=1)
        assert equal(ops.box_iou(a, b), reference.box_iou(a, b))


def test_gradient():
    a, b = random_boxes(6, dtype=torch.float64), random_boxes(5, dtype=torch.float64, seed=1)
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(ops.box_iou, (a, b))
    grads = torch.autograd.grad(ops.box_iou(a, b).sum(), (a, b))
    expected = torch.autograd.grad(torchvision.ops.box_iou(a, b).sum(), (a, b))
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted)


def test_the_raw_operator_does_not_drop_a_gradient_silently():
    a = random_boxes(3, dtype=torch.float64)
    b = a + torch.tensor([1.0, -2.0, 3.0, -1.0])
    a.requires_grad_()
    assert torch.autograd.gradcheck(torch.ops.fastrpn.box_iou, (a, b), check_forward_ad=True)
    (grad,) = torch.autograd.grad(torch.ops.fastrpn.box_iou(a, b).sum(), a)
    torch.testing.assert_close(grad, torch.autograd.grad(ops.box_iou(a, b).sum(), a)[0])
    assert grad.abs().sum() > 0


def test_opcheck_and_compile():
    wide = torch.tensor([0.0, 0.0, 8.0, 8.0])  # opcheck takes NaN for a difference
    for dtype in DTYPES:
        a, b = (random_boxes(4) + wide).to(dtype), (random_boxes(3) + wide).to(dtype)
        torch.library.opcheck(torch.ops.fastrpn.box_iou.default, (a, b))
    compiled = torch.compile(ops.box_iou, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (3, 4, 9):
        a = random_boxes(n)
        assert equal(compiled(a, a), ops.box_iou(a, a))


@pytest.mark.parametrize(
    ("boxes1", "boxes2", "error", "words"),
    [
        ([[0, 0, 1, 1]], torch.zeros(1, 4), TypeError, "boxes1.*list"),
        (torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool), TypeError, "boxes2.*bool"),
        (torch.zeros(1, 5), torch.zeros(1, 4), ValueError, r"boxes1.*\[1, 5\]"),
        (torch.zeros(1, 4), torch.zeros(4), ValueError, r"boxes2.*\[4\]"),
        (torch.zeros(1, 4), torch.zeros(1, 4, device="meta"), ValueError, "boxes2.*meta"),
    ],
)
def test_bad_input(boxes1, boxes2, error, words):
    with pytest.raises(error, match=words):
        ops.box_iou(boxes1, boxes2)


def test_unknown_format():
    with pytest.raises(ValueError, match="xywhr"):
        ops.box_iou(torch.zeros(1, 4), torch.zeros(1, 4), "xywhr")
