"""3x3 convolutions with 2.25 times fewer multiplications, for CPUs without AVX-512.

With AVX-512 oneDNN's direct convolutions are faster (for 256 channels 1.5 times and more); then
they are used, and only a gradient that few positions have is found in another way.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016: F(2x2, 3x3). Each 4x4 tile
of the input, in steps of two, becomes 16 numbers; for each of these the channels are mixed by a
matrix product; 16 numbers give a 2x2 tile of the output. The factors are 1 and 1/2, and sums are
nine times shorter, so the result is nearer to the exact one than the direct convolution's.

Shapes: x [B, H, W, C] -> y [B, H, W, K]; the weights [K, C, 3, 3] become [16, K, C]; T tiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["conv2d"]

_FEWEST_CHANNELS = 128  # with fewer, the transforms cost more than the products save
_FEWEST_POSITIONS = 1024  # with fewer, transforming the weights costs more
_FEW = 1 / 8  # of the positions: with fewer than that, the gradient visits them one by one
_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
_STRIP = 2**21  # floats of a strip of transformed tiles: it should stay in the cache


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0
) -> Tensor:
    """``F.conv2d``, faster in float32 on CPUs for maps in the channels_last layout."""
    if not _suits(x, weight):
        return F.conv2d(x, weight, bias, stride, padding)
    large = weight.shape[2:] == (3, 3) and min(weight.shape[:2]) >= _FEWEST_CHANNELS
    large = large and stride == padding == 1 and x.numel() >= _FEWEST_POSITIONS * x.shape[1]
    if _AVX512:
        if large and torch.is_grad_enabled():
            return _Direct.apply(x, weight, bias)
        return F.conv2d(x, weight, bias, stride, padding)
    if weight.shape[2:] == (1, 1):  # with a stride, oneDNN's gradient takes three times as long
        x = x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, bias, 1, padding)
    if large:
        return _Winograd.apply(x, weight, bias)
    if min(weight.shape[:2]) >= 64 and torch.is_grad_enabled():
        # oneDNN takes three times as long for the gradient in this layout.
        y = F.conv2d(x.contiguous(), weight.contiguous(), bias, stride, padding)
        return y.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, bias, stride, padding)


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.shape[1] == weight.shape[1]
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _Direct(torch.autograd.Function):
    """``F.conv2d(x, weight, bias, 1, 1)``, but for the gradient where few positions have one."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, 1, 1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        grad_bias = grad.sum((0, 2, 3)) if need_bias else None
        positions = _positions(grad)
        if positions is not None:
            return *_few_positions(grad.permute(0, 2, 3, 1), positions, x, weight), grad_bias
        one, need = (1, 1), (need_x, need_weight, False)
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, one, one, one, False, (0, 0), 1, need
        )
        return grad_x, grad_weight, grad_bias


class _Winograd(torch.autograd.Function):
    """Every step of the backward pass is the transpose of one of the forward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        batch, _, height, width = x.shape
        outputs = weight.shape[0]
        rows, columns = (height + 1) // 2, (width + 1) // 2
        products, padded = _transform_weight(weight).transpose(1, 2), _pad(x)
        size = (batch, outputs, height, width)
        y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
        for strip in _strips(rows, batch * columns * max(weight.shape[:2])):
            mixed = torch.bmm(_to_tiles(padded, strip).flatten(0, 1).flatten(1, -2), products)
            mixed = mixed.view(4, 4, batch, len(strip), columns, outputs)
            for i, row in enumerate(_shrink(mixed)):
                for j, values in enumerate(_shrink(row)):
                    part = y.permute(0, 2, 3, 1)[:, 2 * strip.start + i : 2 * strip.stop : 2, j::2]
                    part.copy_(values[:, : part.shape[1], : part.shape[2]])
        return y if bias is None else y.add_(bias[:, None, None])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        batch, channels, height, width = x.shape
        need_x, need_weight, need_bias = ctx.needs_input_grad
        grad_bias = grad.sum((0, 2, 3)) if need_bias else None
        positions = _positions(grad)
        grad = grad.permute(0, 2, 3, 1)
        if positions is not None:
            return *_few_positions(grad, positions, x, weight), grad_bias
        rows, columns = (height + 1) // 2, (width + 1) // 2
        grad = F.pad(grad, (0, 0, 0, width % 2, 0, height % 2)).contiguous()
        tiles = grad.view(batch, rows, 2, columns, 2, -1)
        if need_weight:
            padded = _pad(x)
            grad_products = x.new_zeros(16, weight.shape[0], channels)
        if need_x:
            products = _transform_weight(weight)
            grad_padded = x.new_zeros(batch, 2 * rows + 2, 2 * columns + 2, channels)
        for strip in _strips(rows, batch * columns * max(weight.shape[:2])):
            mixed = _grow(tiles[:, strip.start : strip.stop]).flatten(0, 1).flatten(1, -2)
            if need_weight:
                read = _to_tiles(padded, strip).flatten(0, 1).flatten(1, -2)
                grad_products.baddbmm_(mixed.transpose(1, 2), read)
            if need_x:
                written = torch.bmm(mixed, products).view(4, 4, batch, -1, columns, channels)
                _add_tiles(grad_padded, strip, written)
        grad_x = grad_weight = None
        if need_x:
            grad_x = grad_padded[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2)
        if need_weight:
            grad_weight = _transform_weight_back(grad_products)
        return grad_x, grad_weight, grad_bias


def _positions(grad: Tensor) -> Tensor | None:
    """Image, row and column, int64 [P, 3], where [B, K, H, W] is not 0; None if not few."""
    positions = (grad != 0).any(1).nonzero()
    return positions if len(positions) <= _FEW * grad[:, 0].numel() else None


def _few_positions(
    grad: Tensor, positions: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients where few positions have one: in an RPN, those of the sampled anchors.

    Args:
        grad: [B, H, W, K]. positions: int64 [P, 3], image, row and column.
    """
    padded = _pad(x)
    height, width, channels = padded.shape[1:]
    image, row, column = positions.unbind(1)
    corner = (image * height + row) * width + column
    offsets = torch.arange(3)[:, None] * width + torch.arange(3)
    cells = (corner[:, None] + offsets.flatten()).flatten()  # [P * 9], rows of `padded`
    grad = grad[image, row, column]
    patches = padded.view(-1, channels)[cells].view(len(positions), 9 * channels)
    by_patch = weight.permute(0, 2, 3, 1)  # [K, 3, 3, C]
    grad_weight = (grad.t() @ patches).view_as(by_patch).permute(0, 3, 1, 2)
    written = (grad @ by_patch.reshape(len(by_patch), -1)).view(-1, channels)
    grad_padded = torch.zeros_like(padded).view(-1, channels).index_add_(0, cells, written)
    grad_x = grad_padded.view_as(padded)[:, 1 : x.shape[2] + 1, 1 : x.shape[3] + 1]
    return grad_x.permute(0, 3, 1, 2), grad_weight


def _strips(rows: int, floats_a_row: int) -> Iterator[range]:
    """Rows of tiles to work on together."""
    step = max(1, _STRIP // (16 * floats_a_row))
    return (range(start, min(start + step, rows)) for start in range(0, rows, step))


def _pad(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H', W', C] with a border of zeros, and even H' and W'."""
    height, width = x.shape[2:]
    border = (0, 0, 1, 1 + width % 2, 1, 1 + height % 2)
    return F.pad(x.permute(0, 2, 3, 1), border)


def _to_tiles(padded: Tensor, strip: range) -> Tensor:
    """The transformed tiles of a strip: [4, 4, B, rows, columns, C]."""
    batch, _, width, channels = padded.shape
    columns = width // 2 - 1
    lines = [padded[:, 2 * strip.start + i :][:, : 2 * len(strip) : 2] for i in range(4)]
    rows = padded.new_empty(4, batch, len(strip), width, channels)
    _mix(lines, rows)
    tiles = padded.new_empty(4, 4, batch, len(strip), columns, channels)
    _mix([rows[:, :, :, i : i + 2 * columns : 2] for i in range(4)], tiles.transpose(0, 1))
    return tiles


def _mix(values: list[Tensor], out: Tensor) -> None:
    torch.sub(values[0], values[2], out=out[0])
    torch.add(values[1], values[2], out=out[1])
    torch.sub(values[2], values[1], out=out[2])
    torch.sub(values[1], values[3], out=out[3])


def _shrink(values: Tensor) -> tuple[Tensor, Tensor]:
    """[4, ...] -> two outputs; overwrites nothing."""
    return (values[1] + values[2]).add_(values[0]), (values[1] - values[2]).sub_(values[3])


def _grow(tiles: Tensor) -> Tensor:
    """The transpose of both calls of `_shrink`: [B, R, 2, Q, 2, K] -> [4, 4, B, R, Q, K]."""
    rows = _expand(tiles[:, :, 0], tiles[:, :, 1])  # [4, B, R, Q, 2, K]
    return _expand(rows[..., 0, :], rows[..., 1, :]).transpose(0, 1)


def _expand(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first, first + second, first - second, -second])


def _add_tiles(padded: Tensor, strip: range, tiles: Tensor) -> None:
    """The transpose of `_to_tiles`."""
    columns = tiles.shape[4]
    rows = tiles.new_zeros(4, tiles.shape[2], len(strip), *padded.shape[2:])
    for i, values in enumerate(_unmix(tiles.transpose(0, 1))):
        rows[:, :, :, i : i + 2 * columns : 2] += values
    for i, values in enumerate(_unmix(rows)):
        padded[:, 2 * strip.start + i :][:, : 2 * len(strip) : 2] += values


def _unmix(values: Tensor) -> tuple[Tensor, ...]:
    first, second, third, last = values
    return first, (second - third).add_(last), (second + third).sub_(first), -last


def _transform_weight(weight: Tensor) -> Tensor:
    """[K, C, 3, 3] -> [16, K, C]."""
    rows = _interpolate(weight.permute(2, 3, 0, 1))
    return _interpolate(rows.transpose(0, 1)).transpose(0, 1).flatten(0, 1)


def _interpolate(values: Tensor) -> Tensor:
    first, second, third = values
    ends, middle = (first + third) * 0.5, second * 0.5
    return torch.stack([first, ends + middle, ends - middle, third])


def _transform_weight_back(grad: Tensor) -> Tensor:
    """The transpose of `_transform_weight`."""
    rows = _gather(grad.view(4, 4, *grad.shape[1:]))
    weight = _gather(rows.transpose(0, 1)).transpose(0, 1)
    return weight.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


def _gather(values: Tensor) -> Tensor:
    first, second, third, last = values
    ends, middle = (second + third) * 0.5, (second - third) * 0.5
    return torch.stack([first + ends, middle, ends + last])
