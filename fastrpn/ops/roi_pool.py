"""RoI max pooling (Girshick, Fast R-CNN, section 2.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrpn.ops import _rois


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
        [K, C, height, width] in the dtype and layout of `input`. Differentiable once, with respect
        to `input`; the gradient is summed in the order of the boxes, so it is deterministic.

    Raises:
        TypeError: not float tensors, or dtypes that do not fit.
        ValueError: wrong shapes, two devices, a size or scale that is not positive; on the CPU
            also a batch index out of range.
    """
    height, width = _rois.as_pair(output_size)
    _rois.check_spatial_scale(spatial_scale)
    rois = _rois.as_rois(boxes, input)
    if _rois.needs_gradient(input):
        return torch.ops.fastrpn.roi_pool_argmax(input, rois, spatial_scale, height, width)[0]
    return torch.ops.fastrpn.roi_pool(input, rois, spatial_scale, height, width)


class RoIPool(nn.Module):
    """`roi_pool` with fixed parameters; as `torchvision.ops.RoIPool`."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """See `roi_pool`."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

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


def _keep_argmax(ctx, inputs, output) -> None:
    input, rois, ctx.spatial_scale, _, _ = inputs
    ctx.input_shape = input.shape
    ctx.save_for_backward(rois, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else a backward makes as many zeros as there are argmaxes


def _backward_of_argmax(ctx, grad: Tensor | None, _grad_argmax: None):
    if grad is None:
        return None, None, None, None, None
    rois, argmax = ctx.saved_tensors
    grad_input = torch.ops.fastrpn.roi_pool_backward(
        grad, rois, argmax, ctx.spatial_scale, *ctx.input_shape
    )
    return grad_input, None, None, None, None


def _keep_input(ctx, inputs, output) -> None:
    input, rois, *ctx.parameters = inputs
    ctx.save_for_backward(input, rois)


def _backward_by_pooling_again(ctx, grad: Tensor):
    """For callers of the raw operator, which keeps no argmax."""
    input, rois = ctx.saved_tensors
    argmax = torch.ops.fastrpn.roi_pool_argmax(input.detach(), rois, *ctx.parameters)[1]
    grad_input = torch.ops.fastrpn.roi_pool_backward(
        grad, rois, argmax, ctx.parameters[0], *input.shape
    )
    return grad_input, None, None, None, None


def _refuse(ctx, *grads):
    raise RuntimeError("roi_pool: differentiable once; its backward has no derivative")


torch.library.register_autograd(
    "fastrpn::roi_pool_argmax", _backward_of_argmax, setup_context=_keep_argmax
)
torch.library.register_autograd(
    "fastrpn::roi_pool", _backward_by_pooling_again, setup_context=_keep_input
)
torch.library.register_autograd("fastrpn::roi_pool_backward", _refuse)
