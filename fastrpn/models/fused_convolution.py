"""A convolution for inference on a CPU with all that follows it: norm, addition, activation.

Two libraries inside torch compute it. oneDNN takes any convolution, in channels_last, with weights
that were brought into its own order once, and adds and activates while results are in registers.
NNPACK takes 3x3 convolutions with Winograd's algorithm, which needs a fifth of the multiplications
and is more than twice as fast on many CPUs; it takes and gives the contiguous layout.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ACTIVATIONS", "AFTER_ADDITION", "Activation", "FusedConv2d", "can_fuse_on"]
__all__ += ["find_activation"]

_MIN_CHANNELS = 128  # with fewer, Winograd's transforms cost as much as they save
_MIN_SIDE = 13  # tiles are of 6x6 outputs: of smaller maps too much is padding
_MIN_AREA = 800  # of an image's map, over which the weights' own transform is spread


class Activation(NamedTuple):
    """A function of single elements, and its name in oneDNN."""

    apply: Callable[[Tensor], Tensor]  # may overwrite
    name: str = "none"
    scalars: tuple[float, ...] = ()


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Identity: Activation(lambda x: x),
    nn.ReLU: Activation(torch.relu_, "relu"),
    nn.ReLU6: Activation(lambda x: x.clamp_(0, 6), "hardtanh", (0.0, 6.0)),
    nn.Hardswish: Activation(lambda x: F.hardswish(x, inplace=True), "hardswish"),
    nn.SiLU: Activation(lambda x: F.silu(x, inplace=True), "swish"),
}
AFTER_ADDITION = ("none", "relu")  # what oneDNN applies to a sum
_NONE = ACTIVATIONS[nn.Identity]


def find_activation(module: nn.Module) -> Activation | None:
    """The activation that a module is, if it is a known one."""
    return ACTIVATIONS.get(type(module))


def can_fuse_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is oneDNN and, for bfloat16, a CPU with the instructions that it needs."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class FusedConv2d(nn.Module):
    """``activation(conv(x) * scale + shift + shortcut)`` without gradients.

    Args:
        conv: its weights are copied; padding is by zeros.
        scale, shift: of each output channel, [K]; None: 1 and 0.
        activation: of the sum.
        dtype: of the weights and the results, float32 or bfloat16.
    """

    weight: Tensor
    bias: Tensor | None

    @torch.no_grad()
    def __init__(
        self,
        conv: nn.Conv2d,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        activation: Activation = _NONE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        weight, bias = conv.weight, conv.bias
        if scale is not None:
            weight = weight * scale[:, None, None, None]
            bias = shift if bias is None or shift is None else bias * scale + shift
        self.register_buffer("weight", weight.detach().to(dtype).contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        self.activation = activation
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        self.padding = _padding(conv)
        channels = min(conv.in_channels, conv.out_channels)
        self._suits_winograd = (
            (conv.kernel_size, conv.stride, conv.dilation) == ((3, 3), (1, 1), (1, 1))
            and (self.padding, conv.groups, dtype) == ((1, 1), 1, torch.float32)
            and channels >= _MIN_CHANNELS
        )
        self._packed: tuple[torch.Size, Tensor | None] = torch.Size(), None

    def forward(self, x: Tensor, shortcut: Tensor | None = None, overwrite: bool = False) -> Tensor:
        """[B, C, H, W] in any layout -> [B, K, h, w] in channels_last or contiguous.

        Args:
            shortcut: is added before the activation; of the result's shape, or broadcast to it.
            overwrite: whether the result may take the memory of ``shortcut``.
        """
        x = x.to(self.weight.dtype)
        if shortcut is not None and shortcut.shape != self._shape_of(x):
            return self.activation.apply(self._convolve(x, _NONE) + shortcut)
        if self._suits_winograd and _is_large(*x.shape[2:]) and winograd_pays():
            y = winograd(contiguous(x), self.weight, self.bias)
            return self.activation.apply(y if shortcut is None else y.add_(contiguous(shortcut)))
        if shortcut is None:
            return self._convolve(x, self.activation)
        return self._add(x, shortcut, overwrite)

    def _convolve(self, x: Tensor, activation: Activation) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(
            *(x, self._weight_for(x), self.bias, self.padding, self.stride, self.dilation),
            *(self.groups, activation.name, activation.scalars, ""),
        )

    def _add(self, x: Tensor, shortcut: Tensor, overwrite: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        given, shortcut = shortcut, shortcut.to(x.dtype)
        shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        if not overwrite and shortcut is given:
            shortcut = shortcut.clone()
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            *(shortcut, x, self._weight_for(x), self.bias, self.padding, self.stride),
            *(self.dilation, self.groups, "add", 1.0),
            *("relu" if self.activation.name == "relu" else None, (), ""),
        )

    def _weight_for(self, x: Tensor) -> Tensor:
        """In oneDNN's order for the last input's size: that for another can be 20 times as slow."""
        shape, packed = self._packed
        if shape != x.shape or packed is None:
            weight = self.weight.contiguous(memory_format=torch.channels_last).to_mkldnn()
            reorder = cast(Any, torch._C._nn).mkldnn_reorder_conv2d_weight
            packed = reorder(weight, self.padding, self.stride, self.dilation, self.groups, x.shape)
            self._packed = x.shape, packed
        return packed

    def _shape_of(self, x: Tensor) -> tuple[int, ...]:
        sides = (
            (x.shape[2 + i] + 2 * self.padding[i] - self.dilation[i] * (size - 1) - 1)
            // self.stride[i]
            + 1
            for i, size in enumerate(self.weight.shape[2:])
        )
        return (x.shape[0], self.weight.shape[0], *sides)


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    """As numbers. Raises ValueError for such that differs between the sides of a map."""
    if conv.padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros', got {conv.padding_mode!r}")
    if not isinstance(conv.padding, str):
        return conv.padding[0], conv.padding[1]
    if conv.padding == "valid":
        return 0, 0
    totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if any(total % 2 for total in totals):
        raise ValueError("padding must be the same on all sides")
    return totals[0] // 2, totals[1] // 2


def _is_large(height: int, width: int) -> bool:
    return min(height, width) >= _MIN_SIDE and height * width >= _MIN_AREA


def contiguous(x: Tensor) -> Tensor:
    """[B, C, H, W] in the contiguous layout; from channels_last four times as fast as torch's."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for to, image in zip(y, x, strict=True):
        to.flatten(1).copy_(image.permute(1, 2, 0).flatten(0, 1).t())
    return y


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)`` of contiguous float32 tensors by NNPACK."""
    return torch._nnpack_spatial_convolution(x, weight, bias, (1, 1), (1, 1))


def winograd_pays() -> bool:
    """Whether NNPACK is there and clearly faster than oneDNN, with the threads there are."""
    return _winograd_pays(torch.get_num_threads())


@lru_cache
@torch.inference_mode()
def _winograd_pays(threads: int) -> bool:
    """It depends on how wide the CPU's vectors really are, so that both are timed: 0.1 seconds."""
    if not torch._nnpack_available():
        return False
    x, weight = torch.rand(1, 128, 64, 64), torch.rand(128, 128, 3, 3)
    conv = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    other = FusedConv2d(conv)
    candidates = (lambda: winograd(x, weight, None), lambda: other._convolve(x, _NONE))
    try:
        seconds = [min(_time(run) for run in (candidate,) * 3) for candidate in candidates]
    except RuntimeError:  # a CPU that NNPACK was not built for
        return False
    return seconds[0] < 0.8 * seconds[1]


def _time(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
