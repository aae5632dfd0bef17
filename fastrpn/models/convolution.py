"""Two kinds of ``nn.Conv2d`` that leave out work on CPUs; their results are torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Conv2d", "SampledConv2d", "training_layout"]

_FEW = 1 / 8  # of the positions: with fewer than that, the gradient visits them one by one


def training_layout(device: torch.device) -> torch.memory_format:
    """The layout of maps in which convolutions have the fastest gradients.

    On CPUs without AVX-512 oneDNN's gradients of 3x3 convolutions take up to three times as long
    in channels_last, which is the fastest layout everywhere else.
    """
    is_slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512"
    return torch.contiguous_format if is_slow else torch.channels_last


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` that trains on CPUs in the layout of its input, and faster with a stride.

    torch's takes channels_last as soon as the weights have it, whatever the input's is. And in the
    contiguous layout the gradient of a 1x1 convolution with a stride takes oneDNN up to three times
    as long as of one without, on the positions that the stride leaves.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (_needs_gradients_on_cpu(input) and input.is_contiguous()):
            return super()._conv_forward(input, weight, bias)
        weight = _in_layout_of(input, weight)
        if self.kernel_size == (1, 1) and self.stride != (1, 1) and self.padding == (0, 0):
            down, right = self.stride
            return F.conv2d(input[..., ::down, ::right], weight, bias, groups=self.groups)
        return super()._conv_forward(input, weight, bias)


def _needs_gradients_on_cpu(input: Tensor) -> bool:
    """Whether to choose how; a compiler or an export chooses by itself."""
    on_cpu = input.device.type == "cpu"
    return on_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _in_layout_of(input: Tensor, weight: Tensor) -> Tensor:
    """The weight in the contiguous layout if the input has it.

    A copy and not ``contiguous()``: a 1x1 weight is contiguous in either layout, and torch looks at
    the strides.
    """
    if input.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
        return weight.clone(memory_format=torch.contiguous_format)
    return weight


class SampledConv2d(Conv2d):
    """A 3x3 convolution with the same size of output, for gradients that few positions have.

    An RPN's are such: of 240,000 anchors in an image 256 are sampled for the loss. On CPUs the
    backward pass visits their positions alone; other gradients are found as usual.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Under autocast the backward pass would mix two types.
        if not _needs_gradients_on_cpu(input) or torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(input, weight, bias)
        return _Sampled.apply(input, _in_layout_of(input, weight), bias)


class _Sampled(torch.autograd.Function):
    """``F.conv2d(x, weight, bias, padding=1)``; its backward pass looks for zeros."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        grad_bias = grad.sum((0, 2, 3)) if need_bias else None
        positions = (grad != 0).any(1).nonzero()
        if len(positions) <= _FEW * grad[:, 0].numel():
            return *_gradients_at(positions, grad, x, weight), grad_bias
        one, need = (1, 1), (need_x, need_weight, False)
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, one, one, one, False, (0, 0), 1, need
        )
        return grad_x, grad_weight, grad_bias


def _gradients_at(
    positions: Tensor, grad: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight where the output's is 0 but at some positions.

    Args:
        positions: int64 [P, 3], image, row and column.
        grad: [B, K, H, W]. x: [B, C, H, W]. weight: [K, C, 3, 3].
    """
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    _, height, width, channels = padded.shape
    image, row, column = positions.unbind(1)
    corner = (image * height + row) * width + column
    offsets = torch.arange(3)[:, None] * width + torch.arange(3)
    cells = (corner[:, None] + offsets.flatten()).flatten()  # [P * 9], rows of `padded`
    grad = grad[image, :, row, column]  # [P, K]
    patches = padded.view(-1, channels)[cells].view(len(positions), 9 * channels)
    by_patch = weight.permute(0, 2, 3, 1)  # [K, 3, 3, C]
    grad_weight = (grad.t() @ patches).view_as(by_patch).permute(0, 3, 1, 2)
    written = (grad @ by_patch.reshape(len(by_patch), -1)).view(-1, channels)
    grad_padded = torch.zeros_like(padded).view(-1, channels).index_add_(0, cells, written)
    grad_x = grad_padded.view_as(padded)[:, 1:-1, 1:-1]
    return grad_x.permute(0, 3, 1, 2), grad_weight
