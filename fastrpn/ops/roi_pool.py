"""RoI max pooling (Girshick, Fast R-CNN, section 2.1)."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fastrpn.ops import _rois
from fastrpn.ops._derivatives import SingleLevel, call, register_autograd
from fastrpn.ops._modes import leaf, refuse
from fastrpn.ops._vmap import register_loop

_roi_pool = torch.ops.fastrpn.roi_pool.default
_roi_pool_argmax = torch.ops.fastrpn.roi_pool_argmax.default
_roi_pool_backward = torch.ops.fastrpn.roi_pool_backward.default


@leaf
def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Maximum of the features in each bin of each box; as `torchvision.ops.roi_pool`.

    A box is rounded to whole cells and is at least one cell wide; bins start at the floor and end
    at the ceiling of their borders, so that neighbours may share cells. A bin outside the map
    gives 0; NaN loses against any number, and a bin of NaNs only gives the lowest finite number.
    A box with a NaN or infinite coordinate gives zeros.

    Args:
        input: [N, C, H, W] features; float16, bfloat16, float32 or float64, NCHW-contiguous or
            channels last.
        boxes: [K, 5] batch index and xyxy in pixels, or a list of N tensors [L_i, 4]; the dtype
            of `input`, or float32 beside a half type.
        output_size: bins as (height, width), or one int for both.
        spatial_scale: cells per pixel, e.g. 1 / 16.

    Returns:
        [K, C, height, width] in the dtype and layout of `input`. Differentiable once in
        reverse mode and any number of times in forward mode, with respect to `input`; the boxes
        are constants, as in torchvision. The gradient is summed in the order of the boxes, so it
        is deterministic.

    Raises:
        TypeError: not float tensors, or dtypes that do not fit.
        ValueError: wrong shapes, two devices, a size or scale that is not positive; on the CPU
            also a batch index out of range.
    """
    height, width = _rois.as_pair(output_size)
    spatial_scale = _rois.scale_of(spatial_scale)
    rois = _rois.as_rois(boxes, input)
    return call(_roi_pool, input, rois, spatial_scale, height, width)


class RoIPool(nn.Module):
    """`roi_pool` with fixed parameters; as `torchvision.ops.RoIPool`."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """See `roi_pool`."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def __prepare_scriptable__(self) -> NoReturn:
        refuse("roi_pool")

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


@torch.library.register_fake("fastrpn::roi_pool")
def _(input: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int) -> Tensor:
    shape = (rois.shape[0], input.shape[1], height, width)
    return _rois.new_empty(input, shape, input.dtype, _rois.is_channels_last(input))


@torch.library.register_fake("fastrpn::roi_pool_argmax")
def _(
    input: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int
) -> tuple[Tensor, Tensor]:
    shape = (rois.shape[0], input.shape[1], height, width)
    channels_last = _rois.is_channels_last(input)
    return (
        _rois.new_empty(input, shape, input.dtype, channels_last),
        _rois.new_empty(input, shape, torch.int32, channels_last),
    )


@torch.library.register_fake("fastrpn::roi_pool_backward")
def _(
    grad: Tensor,
    rois: Tensor,
    argmax: Tensor,
    spatial_scale: float,
    batch: int,
    channels: int,
    height: int,
    width: int,
) -> Tensor:
    shape = (batch, channels, height, width)
    return _rois.new_empty(grad, shape, grad.dtype, _rois.is_channels_last(argmax))


class _Differentiable(SingleLevel):
    """Output and argmax; the winners stay the winners, so gradient and tangent follow them."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable, input: Tensor, rois: Tensor, *parameters: Any
    ) -> tuple[Tensor, Tensor]:
        output, argmax = compute(_roi_pool_argmax, input, rois, *parameters)
        ctx.spatial_scale, ctx.input_shape = parameters[0], input.shape
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)
        ctx.mark_non_differentiable(argmax)
        ctx.set_materialize_grads(False)  # else a backward makes as many zeros as argmaxes
        return output, argmax

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _grad_argmax: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        grad = _roi_pool_backward(grad, *ctx.saved_tensors, ctx.spatial_scale, *ctx.input_shape)
        return None, grad, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, _compute: None, tangent: Tensor | None, *_: None) -> tuple[Tensor, None]:
        rois, argmax = ctx.saved_tensors
        if tangent is None:
            return argmax.new_zeros(argmax.shape, dtype=rois.dtype), None
        return _at_winners(tangent, rois, argmax), None


def _at_winners(tangent: Tensor, rois: Tensor, argmax: Tensor) -> Tensor:
    """The tangent [N, C, H, W] at each bin's winner, [K, C, height, width]; 0 where none won."""
    _, channels, height, width = tangent.shape
    won = argmax >= 0
    image = rois[:, 0, None, None, None].nan_to_num().long()
    plane = image * channels + torch.arange(channels, device=rois.device)[:, None, None]
    index = torch.where(won, plane * (height * width) + argmax, 0)
    return torch.where(won, tangent.reshape(-1)[index], 0)


class _DifferentiableBackward(SingleLevel):
    """Linear in the gradient; not differentiable a second time in reverse mode."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable, grad: Tensor, rois: Tensor, argmax: Tensor, *parameters: Any
    ) -> Tensor:
        ctx.parameters = parameters
        ctx.save_for_forward(rois, argmax)
        return compute(_roi_pool_backward, grad, rois, argmax, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> NoReturn:
        raise RuntimeError("roi_pool: differentiable once; its backward has no derivative")

    @staticmethod
    def jvp(ctx: Any, _compute: None, tangent: Tensor, *_: None) -> Tensor:
        return _roi_pool_backward(tangent, *ctx.saved_tensors, *ctx.parameters)


register_autograd("roi_pool", lambda *args: _roi_pool_argmax(*args)[0])
register_autograd("roi_pool_argmax", _Differentiable.of)
register_autograd("roi_pool_backward", _DifferentiableBackward.of)
for _name in ("roi_pool", "roi_pool_argmax", "roi_pool_backward"):
    register_loop(_name)
