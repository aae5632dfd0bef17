"""Every mode of differentiation gives the true derivative, or an error in words; never a zero."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torchvision
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from fastrpn import accelerate_torchvision, ops

RAW = torch.ops.fastrpn
GENERATOR = torch.Generator().manual_seed(0)
BOXES = torch.tensor(
    [[1.0, 2, 9, 8], [3, 1.5, 11, 7], [0.5, 4, 6, 12.25]], dtype=torch.float64
)  # all overlap, and no corners coincide
OTHERS = BOXES[:2] + torch.tensor([0.77, -0.53, 1.21, 0.27], dtype=torch.float64)
FEATURES = torch.rand(2, 2, 5, 6, generator=GENERATOR, dtype=torch.float64)
ROIS = torch.tensor([[0.0, 0.3, 0.2, 3.6, 3.1], [1, 1.2, 0.4, 4.4, 3.8]], dtype=torch.float64)
LEVELS = torch.tensor([0, 1], dtype=torch.int32)

# Functions of one float64 tensor.
BOX_FUNCTIONS = {
    "box_area": ops.box_area,
    "box_convert": lambda x: ops.box_convert(x, "xyxy", "cxcywh"),
    "clip_boxes_to_image": lambda x: ops.clip_boxes_to_image(x, (10, 10)),
    "box_iou, first": lambda x: ops.box_iou(x, OTHERS),
    "box_iou, second": lambda x: ops.box_iou(OTHERS, x),
    "box_iou, both": lambda x: ops.box_iou(x, x + 0.125),
    "box_iou, xywh": lambda x: ops.box_iou(x, OTHERS, "xywh"),
    "box_iou, raw": lambda x: RAW.box_iou(x, OTHERS),
    "generalized_box_iou": lambda x: ops.generalized_box_iou(x, OTHERS),
    "distance_box_iou": lambda x: ops.distance_box_iou(x, OTHERS),
    "encode_boxes, boxes": lambda x: ops.encode_boxes(x, BOXES.flip(0)),
    "encode_boxes, anchors": lambda x: ops.encode_boxes(BOXES.flip(0), x),
    "decode_boxes, deltas": lambda x: ops.decode_boxes(x * 0.1, BOXES),
    "decode_boxes, anchors": lambda x: ops.decode_boxes(BOXES * 0.1, x),
}
ROI_FUNCTIONS = {
    "roi_align": lambda x: ops.roi_align(x, ROIS, 2, 1.0, 2, True),
    "roi_align, adaptive": lambda x: ops.roi_align(x, ROIS, (1, 2)),
    "roi_align, raw": lambda x: RAW.roi_align([x], ROIS, None, [1.0], 2, 2, 2, False),
    "multiscale_roi_align": lambda x: ops.multiscale_roi_align(
        [x, x[:, :, ::2, ::2]], ROIS, LEVELS, 2, [1.0, 0.5], 2
    ),
    "roi_pool": lambda x: ops.roi_pool(x, ROIS, 2),
    "roi_pool, empty bins": lambda x: ops.roi_pool(x, ROIS + torch.tensor([0.0, 4, 3, 4, 3]), 2),
    "roi_pool, raw": lambda x: RAW.roi_pool(x, ROIS, 1.0, 2, 2),
    "roi_pool_argmax, raw": lambda x: RAW.roi_pool_argmax(x, ROIS, 1.0, 2, 2)[0],
}
CASES = [
    *[pytest.param(f, BOXES, id=name) for name, f in BOX_FUNCTIONS.items()],
    *[pytest.param(f, FEATURES, id=name) for name, f in ROI_FUNCTIONS.items()],
]
ROI_CASES = CASES[len(BOX_FUNCTIONS) :]


def difference(function, x, direction, step=1e-6):
    """The directional derivative by a central difference."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def direction_of(x):
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("function", "x"), CASES)
def test_forward_mode_is_true(function, x):
    direction = direction_of(x)
    wanted = difference(function, x, direction)
    value, tangent = jvp(function, (x,), (direction,))
    assert torch.equal(value, function(x)) or value.dim() == 2  # the IoU's formula may round
    assert wanted.abs().sum() > 0
    assert_close(tangent, wanted)
    with torch.no_grad(), forward_ad.dual_level():
        dual = function(forward_ad.make_dual(x, direction))
        assert_close(forward_ad.unpack_dual(dual).tangent, wanted)


@pytest.mark.parametrize(("function", "x"), CASES)
def test_reverse_forward_and_batched_modes_agree(function, x):
    jacobian = jacrev(function)(x)
    assert_close(jacfwd(function)(x), jacobian)
    assert_close(torch.autograd.functional.jacobian(function, x), jacobian)
    assert_close(vmap(jacrev(function))(x[None])[0], jacobian)
    direction = direction_of(x)
    contracted = torch.tensordot(jacobian, direction, dims=x.dim())
    assert_close(contracted, difference(function, x, direction))
    _, pull = vjp(function, x)
    assert_close(pull(torch.ones_like(contracted))[0], jacobian.flatten(0, -x.dim() - 1).sum(0))


def squares(function):
    return lambda x: function(x).square().sum()


@pytest.mark.parametrize(("function", "x"), CASES)
def test_second_derivatives_with_a_forward_mode_are_true(function, x):
    loss, direction = squares(function), direction_of(x)
    wanted = difference(grad(loss), x, direction, 1e-5)
    assert wanted.abs().sum() > 0
    assert_close(jvp(grad(loss), (x,), (direction,))[1], wanted)
    assert_close(grad(lambda x: jvp(loss, (x,), (direction,))[1])(x), wanted)
    twice = jvp(lambda x: jvp(loss, (x,), (direction,))[1], (x,), (direction,))[1]
    assert_close(twice, (wanted * direction).sum())
    if x is BOXES:
        assert_close(torch.tensordot(hessian(loss)(x), direction, dims=2), wanted)


@pytest.mark.parametrize(("function", "x"), CASES)
def test_double_backward_is_true_or_refused(function, x):
    leaf, direction = x.clone().requires_grad_(), direction_of(x)
    (first,) = torch.autograd.grad(squares(function)(leaf), leaf, create_graph=True)
    if x is FEATURES:
        with pytest.raises(RuntimeError, match="differentiable once"):
            torch.autograd.grad((first * direction).sum(), leaf)
        with pytest.raises(RuntimeError, match="differentiable once"):
            grad(lambda x: (grad(squares(function))(x) * direction).sum())(x)
    else:
        (second,) = torch.autograd.grad((first * direction).sum(), leaf)
        assert_close(second, difference(grad(squares(function)), x, direction, 1e-5))


@pytest.mark.parametrize(("function", "x"), ROI_CASES)
def test_modes_that_record_nothing(function, x):
    leaf = x.clone().requires_grad_()
    with torch.no_grad():
        assert not function(leaf).requires_grad
        assert torch.equal(grad(squares(function))(x), grad(squares(function))(leaf.detach()))
    with torch.inference_mode():
        assert torch.equal(function(leaf), function(x))
    assert torch.equal(grad(lambda x: function(x).detach().sum())(x), torch.zeros_like(x))

    def loss(x):
        with torch.no_grad():
            constant = function(x)
        return (constant * function(x)).sum()

    assert_close(grad(loss)(x), grad(squares(function))(x) / 2)


def test_a_complete_iou_agrees_in_both_modes():
    """The weight of its penalty is a constant, for tangents as for gradients."""
    assert_close(
        jacfwd(ops.complete_box_iou)(BOXES, OTHERS), jacrev(ops.complete_box_iou)(BOXES, OTHERS)
    )


def test_rois_are_constants_in_every_mode():
    for function in (ops.roi_align, ops.roi_pool):
        pooled = lambda rois: function(FEATURES, rois, 2)  # noqa: E731, B023
        assert not pooled(ROIS.clone().requires_grad_()).requires_grad or (
            torch.autograd.grad(
                pooled(leaf := ROIS.clone().requires_grad_()).sum(), leaf, allow_unused=True
            )[0]
            is None
        )
        assert jacrev(pooled)(ROIS).abs().sum() == 0
        assert jacfwd(pooled)(ROIS).abs().sum() == 0


# Operators without a derivative: what they do with floats, and the index of a float among outputs.
SCORES = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
COUNTS = torch.tensor([2])
SIZES = torch.tensor([[12, 12]])
RAW_CONSTANTS = {
    "soft_nms": (lambda x: RAW.soft_nms(BOXES, x, "linear", 0.5, 0.3, 0.01)[1], SCORES),
    "match_anchors": (
        lambda x: RAW.match_anchors(x, OTHERS[None], COUNTS, 0.7, 0.3, True, None)[1],
        BOXES,
    ),
    "generate_proposals": (
        lambda x: RAW.generate_proposals(x, BOXES[None] * 0, BOXES, SIZES, 3, 3, 0.7, 0.0, [3])[1],
        SCORES[None],
    ),
}


@pytest.mark.parametrize("name", RAW_CONSTANTS)
def test_raw_operators_without_a_derivative_refuse_one(name):
    function, x = RAW_CONSTANTS[name]
    words = f"{name} has no gradient; detach its arguments"
    with pytest.raises(NotImplementedError, match=words):
        jvp(function, (x,), (x,))
    with pytest.raises(NotImplementedError, match=words), forward_ad.dual_level():
        function(forward_ad.make_dual(x, x))
    with pytest.raises(NotImplementedError, match=words):
        grad(lambda x: function(x).sum())(x)
    with pytest.raises(NotImplementedError, match=words):
        function(x.clone().requires_grad_()).sum().backward()
    with forward_ad.dual_level():  # a level, but nothing to differentiate
        assert torch.equal(function(x), function(x.clone()))


CONSTANTS = {
    "soft_nms": (lambda x: ops.soft_nms(BOXES, x)[1], SCORES),
    "match_anchors": (
        lambda x: ops.match_anchors(x, OTHERS[None], COUNTS, high=0.7, low=0.3)[1],
        BOXES,
    ),
    "generate_proposals": (
        lambda x: ops.generate_proposals(
            x, BOXES[None] * 0, BOXES, SIZES,
            pre_nms_top_n=3, post_nms_top_n=3, nms_threshold=0.7, min_size=0.0,
        )[1],
        SCORES[None],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTANTS)
def test_functions_that_detach_do_so_in_every_mode(name):
    function, x = CONSTANTS[name]
    assert not function(x.clone().requires_grad_()).requires_grad
    assert jacrev(function)(x).abs().sum() == 0
    assert jacfwd(function)(x).abs().sum() == 0
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(function(forward_ad.make_dual(x, x))).tangent is None


def test_what_nms_keeps_can_be_differentiated():
    def kept_sum(boxes):
        kept = ops.nms(boxes, SCORES, 0.5)
        slots, _ = ops.nms_padded(boxes[None], SCORES[None], 0.5, 3)
        return (boxes[kept] ** 2).sum() + (boxes[slots[0, :1]] ** 3).sum()

    wanted = difference(kept_sum, BOXES, direction_of(BOXES))
    assert_close(jvp(kept_sum, (BOXES,), (direction_of(BOXES),))[1], wanted)
    assert_close((grad(kept_sum)(BOXES) * direction_of(BOXES)).sum(), wanted)


def test_vmap_in_each_argument_equals_a_loop():
    boxes, features = torch.stack([BOXES, BOXES.flip(0) + 1]), torch.stack([FEATURES, FEATURES + 1])
    rois, scores = torch.stack([ROIS, ROIS + 0.25]), torch.stack([SCORES, SCORES.flip(0)])
    groups = torch.tensor([[0, 0, 1], [0, 1, 1]])
    for function, arguments in (
        (ops.box_iou, (boxes, boxes + 0.5)),
        (RAW.box_iou, (boxes, boxes + 0.5)),
        (lambda x, r: ops.roi_align(x, r, 2), (features, rois)),
        (lambda x, r: ops.roi_pool(x, r, 2), (features, rois)),
        (lambda x, r: RAW.roi_pool_argmax(x, r, 1.0, 2, 2), (features, rois)),
        (lambda x, r: ops.multiscale_roi_align([x, x], r, LEVELS, 2, [1, 0.5]), (features, rois)),
        (
            lambda b, s, g: ops.nms_padded(b[None], s[None], 0.3, 2, groups=g[None]),
            (boxes, scores, groups),
        ),
        (lambda b, s, g: ops.batched_nms(b, s, g, 0.99), (boxes, scores, groups)),
        (lambda b, g: ops.match_anchors(b, g[None], COUNTS, high=0.7, low=0.3), (boxes, boxes + 1)),
        (lambda b, s: ops.soft_nms(b, s, score_threshold=0.0), (boxes, scores)),
    ):
        for batched in range(1, 2 ** len(arguments)):
            dims = tuple(0 if batched >> i & 1 else None for i in range(len(arguments)))
            pick = lambda i: [a if d is None else a[i] for a, d in zip(fixed, dims, strict=True)]  # noqa
            fixed = [a[0] if d is None else a for a, d in zip(arguments, dims, strict=True)]
            result = vmap(function, dims)(*fixed)
            looped = [function(*pick(i)) for i in range(2)]
            if isinstance(result, torch.Tensor):
                result, looped = (result,), [(element,) for element in looped]
            for part, wanted in zip(result, zip(*looped, strict=True), strict=True):
                assert_close(part, torch.stack(wanted))


def test_vmap_of_results_of_several_shapes_names_the_way_out():
    boxes, scores = torch.stack([BOXES, BOXES * 0 + BOXES[0]]), torch.stack([SCORES, SCORES])
    with pytest.raises(ValueError, match="use nms_padded"):
        vmap(lambda b, s: ops.nms(b, s, 0.9))(boxes, scores)


class Tagged(torch.Tensor):
    """A subclass that changes nothing."""


@pytest.mark.parametrize(("function", "x"), CASES)
def test_tensor_subclasses(function, x):
    leaf = x.clone().as_subclass(Tagged).requires_grad_()
    output = function(leaf)
    assert isinstance(output, Tagged)
    (gradient,) = torch.autograd.grad(output.square().sum(), leaf)
    assert_close(gradient.as_subclass(torch.Tensor), grad(squares(function))(x))


def test_modules_and_functional_call():
    module = ops.RoIAlign(2, 1.0, 2)
    wanted = grad(squares(ROI_FUNCTIONS["roi_align, adaptive"]))(FEATURES)
    assert wanted.abs().sum() > 0
    for module in (ops.RoIAlign(2, 1.0, 2), ops.RoIPool(2, 1.0)):
        call = lambda x: functional_call(module, {}, (x, ROIS))  # noqa: B023, E731
        assert_close(
            jvp(call, (FEATURES,), (direction_of(FEATURES),))[1],
            difference(call, FEATURES, direction_of(FEATURES)),
        )


@pytest.mark.parametrize("boxes", [BOXES, BOXES.float()])
def test_torchvisions_box_iou_keeps_its_derivatives_while_accelerated(boxes):
    others, direction = OTHERS.to(boxes.dtype), direction_of(boxes)
    function = lambda x: torchvision.ops.box_iou(x, others)  # noqa: E731
    wanted = jvp(function, (boxes,), (direction,))[1], jacrev(function)(boxes)
    assert wanted[0].abs().sum() > 0
    with accelerate_torchvision():
        torch.testing.assert_close(jvp(function, (boxes,), (direction,))[1], wanted[0])
        torch.testing.assert_close(jacrev(function)(boxes), wanted[1])
        torch.testing.assert_close(jacfwd(function)(boxes), wanted[1])
        torch.testing.assert_close(vmap(function)(boxes[None])[0], function(boxes))
        with forward_ad.dual_level():
            dual = function(forward_ad.make_dual(boxes, direction))
            torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, wanted[0])


def test_compiled_transforms():
    def tangents(x, boxes):
        pooled = jvp(lambda x: ops.roi_align(x, ROIS, 2).sin(), (x,), (x,))[1]
        return pooled.sum() + jvp(lambda b: ops.box_iou(b, OTHERS), (boxes,), (boxes,))[1].sum()

    def gradient(x):
        return grad(squares(ROI_FUNCTIONS["roi_pool"]))(x)

    for function, arguments in ((tangents, (FEATURES, BOXES)), (gradient, (FEATURES,))):
        compiled = torch.compile(function, backend="aot_eager")
        assert_close(compiled(*arguments), function(*arguments))
