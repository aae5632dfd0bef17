"""RoIAlign (He et al., Mask R-CNN, section 3)."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fastrpn.ops import _rois
from fastrpn.ops._derivatives import SingleLevel, call, register_autograd
from fastrpn.ops._modes import leaf, refuse
from fastrpn.ops._vmap import register_loop

_roi_align = torch.ops.fastrpn.roi_align.default
_roi_align_backward = torch.ops.fastrpn.roi_align_backward.default


@leaf
def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Mean of bilinear samples in each bin of each box; as `torchvision.ops.roi_align`.

    Nothing is rounded: a bin has real borders and `sampling_ratio` x `sampling_ratio` samples on
    a regular grid. A sample more than a cell outside the map counts as 0, whatever the
    features (torchvision's is NaN if the map's first cell is). A box with a NaN or infinite
    coordinate gives zeros.

    Args:
        input: [N, C, H, W] features; float16, bfloat16, float32 or float64, NCHW-contiguous or
            channels last.
        boxes: [K, 5] batch index and xyxy in pixels, or a list of N tensors [L_i, 4]; the dtype
            of `input`, or float32 beside a half type.
        output_size: bins as (height, width), or one int for both.
        spatial_scale: cells per pixel, e.g. 1 / 16.
        sampling_ratio: samples of a bin in each direction; 0 or less takes as many as the bin has
            cells, rounded up.
        aligned: shift boxes by half a cell, so that a cell's value sits in its middle; without,
            boxes are at least one cell wide.

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
    _rois.check_sampling_ratio(sampling_ratio)
    rois = _rois.as_rois(boxes, input)
    return call(
        _roi_align, [input], rois, None, [spatial_scale], height, width, sampling_ratio, aligned
    )


class RoIAlign(nn.Module):
    """`roi_align` with fixed parameters; as `torchvision.ops.RoIAlign`."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """See `roi_align`."""
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )

    def __prepare_scriptable__(self) -> NoReturn:
        refuse("roi_align")

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


@torch.library.register_fake("fastrpn::roi_align")
def _(
    inputs: list[Tensor],
    rois: Tensor,
    roi_levels: Tensor | None,
    spatial_scales: list[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    first = inputs[0]
    shape = (rois.shape[0], first.shape[1], height, width)
    return _rois.new_empty(first, shape, first.dtype, _rois.is_channels_last(first))


@torch.library.register_fake("fastrpn::roi_align_backward")
def _(
    grad: Tensor,
    rois: Tensor,
    roi_levels: Tensor | None,
    spatial_scales: list[float],
    sampling_ratio: int,
    aligned: bool,
    batch: int,
    heights: list[int],
    widths: list[int],
    channels_last: bool,
) -> list[Tensor]:
    return [
        _rois.new_empty(grad, (batch, grad.shape[1], height, width), grad.dtype, channels_last)
        for height, width in zip(heights, widths, strict=True)
    ]


class _Differentiable(SingleLevel):
    """Linear in the features for fixed RoIs: the tangent is the tangents' own RoIAlign."""

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable,
        rois: Tensor,
        roi_levels: Tensor | None,
        parameters: tuple,
        *features: Tensor,
    ) -> Tensor:
        ctx.parameters, ctx.shapes = parameters, [level.shape for level in features]
        ctx.channels_last = _rois.is_channels_last(features[0])
        ctx.save_for_backward(rois, roi_levels)
        ctx.save_for_forward(rois, roi_levels)
        return compute(_roi_align, list(features), rois, roi_levels, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scales, _, _, sampling_ratio, aligned = ctx.parameters
        batch = ctx.shapes[0][0]
        heights, widths = ([shape[dim] for shape in ctx.shapes] for dim in (2, 3))
        sizes = (batch, heights, widths, ctx.channels_last)
        grads = _roi_align_backward(
            grad, *ctx.saved_tensors, scales, sampling_ratio, aligned, *sizes
        )
        return None, None, None, None, *grads

    @staticmethod
    def jvp(
        ctx: Any, _compute: None, _rois: None, _levels: None, _parameters: None, *tangents: Tensor
    ) -> Tensor:
        return _roi_align(list(tangents), *ctx.saved_tensors, *ctx.parameters)


class _DifferentiableBackward(SingleLevel):
    """Linear in the gradient, too; not differentiable a second time in reverse mode."""

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable,
        grad: Tensor,
        rois: Tensor,
        roi_levels: Tensor | None,
        *parameters: Any,
    ) -> tuple[Tensor, ...]:
        ctx.parameters = parameters
        ctx.save_for_forward(rois, roi_levels)
        return tuple(compute(_roi_align_backward, grad, rois, roi_levels, *parameters))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError("roi_align: differentiable once; its backward has no derivative")

    @staticmethod
    def jvp(ctx: Any, _compute: None, tangent: Tensor, *_: None) -> tuple[Tensor, ...]:
        return tuple(_roi_align_backward(tangent, *ctx.saved_tensors, *ctx.parameters))


register_autograd(
    "roi_align",
    lambda inputs, rois, roi_levels, *parameters: _Differentiable.of(
        rois, roi_levels, parameters, *inputs
    ),
)
register_autograd("roi_align_backward", lambda *args: list(_DifferentiableBackward.of(*args)))
register_loop("roi_align")
register_loop("roi_align_backward")
