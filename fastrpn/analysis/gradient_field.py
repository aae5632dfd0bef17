"""The receptive fields of feature maps, measured: the pixels that get a gradient.

The check on :mod:`fastrpn.analysis.receptive_field`. A copy of the network is made monotonous, so
that no path from a pixel to a position can be dead or cancel out: every weight is positive, batch
norm is the identity, max pooling is an average over its window (a maximum passes its gradient to
one pixel only). Then a position is backpropagated, in double precision, and the pixels whose
gradient is not zero are its field.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastrpn.analysis.receptive_field import FieldAxis, ReceptiveField
from fastrpn.models.structures import list_of_maps

__all__ = ["gradient_field"]

Size = int | tuple[int, int]

_LONGEST = 4096  # pixels; a network that sees further is not measured


def gradient_field(
    backbone: nn.Module,
    head: nn.Module | None = None,
    *,
    level: int = 0,
    strip: int = 32,
    period: int = 1,
) -> ReceptiveField:
    """Receptive field, stride and offset of a feature map, by gradient.

    Each axis is measured on a strip of an image, long enough that the field of the middle position
    ends before the strip does.

    Args:
        backbone: [1, 3, H, W] -> a feature map or a dict, list or tuple of them.
        head: applied to the map before it is judged, for example ``model.rpn.head.conv``.
        level: which of the backbone's maps.
        strip: pixels of the strip's short side; the network must accept it.
        period: neighbouring positions to measure; the hull counts. Behind upsampling this is the
            product of its factors, since as many neighbours see the same from different places.

    Raises:
        ValueError: the field does not end within 4,096 pixels or is empty, or a max pooling is
            dilated.
    """
    backbone, head = _monotonous(backbone), _monotonous(head or nn.Identity())

    def run(image: Tensor) -> Tensor:
        with _AverageInsteadOfMax():
            return head(list_of_maps(backbone(image))[level])

    return ReceptiveField(*(_measure(run, dim, strip, period) for dim in (2, 3)))


def _measure(run: Callable[[Tensor], Tensor], dim: int, strip: int, period: int) -> FieldAxis:
    """The field along one dimension of the image, on ever longer strips until it fits."""
    length = 256
    while length <= _LONGEST:
        shape = [1, 3, strip, strip]
        shape[dim] = length
        image = torch.ones(shape, dtype=torch.float64, requires_grad=True)
        others = [d for d in range(4) if d != dim]
        profile = run(image).sum(others)  # one value a position
        with torch.no_grad():  # a grid may have more positions than length / stride: poolings pad
            positions_of_twice = run(torch.cat([image, image], dim)).shape[dim]
        stride, middle = length / (positions_of_twice - len(profile)), len(profile) // 2
        starts, stops = [], []
        for position in range(middle, middle + period):
            (gradient,) = torch.autograd.grad(profile[position], image, retain_graph=True)
            pixels = gradient.abs().amax(others).nonzero()
            if len(pixels) == 0:
                raise ValueError("the receptive field is empty: a position depends on no pixel")
            starts.append(pixels[0].item() - position * stride)
            stops.append(pixels[-1].item() + 1 - position * stride)
        first, last = min(starts) + middle * stride, max(stops) + (middle + period - 1) * stride
        if first > 0 and last < length:
            return FieldAxis(stride, min(starts), max(stops))
        length *= 2
    raise ValueError(f"the receptive field does not end within {_LONGEST} pixels")


def _monotonous(module: nn.Module) -> nn.Module:
    """A copy in double precision whose outputs grow with every pixel they depend on."""
    module = copy.deepcopy(module).eval().double().requires_grad_(False)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith(("bias", "running_mean")):
            tensor.zero_()
        elif tensor.dim() == 4:  # a convolution: the mean of its window
            tensor.fill_(1 / tensor[0].numel())
        elif tensor.is_floating_point():
            tensor.fill_(1)
    return module


class _AverageInsteadOfMax(TorchFunctionMode):
    """Runs every max pooling as the average over the same windows."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.max_pool2d, torch.max_pool2d):
            return _average_pool(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _average_pool(
    image: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    **_: object,
) -> Tensor:
    if dilation not in (1, (1, 1)):
        raise ValueError(f"cannot measure through a max pooling of dilation {dilation}")
    return F.avg_pool2d(image, kernel_size, stride, padding, ceil_mode)
