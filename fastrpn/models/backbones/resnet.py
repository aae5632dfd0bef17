"""Residual networks (He et al., 2015) with torchvision's parameter names, so its weights load.

Stages are numbered as in the paper: conv1 is stage 1 and ``layer1`` to ``layer4`` are the stages 2
to 5, whose outputs are called C2 to C5 (strides 4 to 32).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrpn.models.convolution import Conv2d

__all__ = ["FrozenBatchNorm2d", "ResNet", "ResNetC4", "ResNetC5Head"]

Norm = Callable[[int], nn.Module]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation by fixed statistics; the buffers have the names of nn.BatchNorm2d's."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = norm_as_scale(self)
        return x * scale[:, None, None] + shift[:, None, None]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # of an nn.BatchNorm2d
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def norm_as_scale(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a norm of fixed statistics multiplies by and adds, [C]; a batch norm, in evaluation."""
    fixed: Any = norm  # all such norms have the same names
    scale = (fixed.running_var + fixed.eps).rsqrt()
    if fixed.weight is not None:
        scale = fixed.weight * scale
    if fixed.bias is None:
        return scale, -fixed.running_mean * scale
    return scale, fixed.bias - fixed.running_mean * scale


def conv_norm(x: Tensor, conv: Conv2d, norm: nn.Module) -> Tensor:
    """``norm(conv(x))``; one convolution where the norm's statistics are fixed.

    Scaling the few weights instead of the large maps saves a pass over memory and, in training, a
    map to remember. It rounds otherwise, so that a batch norm in the layout of torchvision's
    models, which is for those who compare digits, is left as it is. A tracer sees both modules.
    """
    if isinstance(cast(object, x), torch.fx.Proxy):
        return norm(conv(x))
    if not isinstance(norm, FrozenBatchNorm2d) and (norm.training or x.is_contiguous()):
        return norm(conv(x))
    scale, shift = norm_as_scale(norm)
    weight = conv.weight * scale[:, None, None, None]
    return conv._conv_forward(x, weight, shift)


def _conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> Conv2d:
    conv = Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class _Block(nn.Module):
    """What both kinds of block share: the shortcut, projected where the shape changes."""

    expansion: int

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                _conv(in_channels, out_channels, 1, stride), norm(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else conv_norm(x, *self.downsample)
        return F.relu_(self.residual(x).add_(shortcut))

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class BasicBlock(_Block):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__(in_channels, channels, stride, norm)
        self.conv1, self.bn1 = _conv(in_channels, channels, 3, stride), norm(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3), norm(channels)

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu_(conv_norm(x, self.conv1, self.bn1))
        return conv_norm(x, self.conv2, self.bn2)


class Bottleneck(_Block):
    """1x1, 3x3 (with the stride, as in torchvision) and 1x1 convolution (ResNet-50 and -101)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__(in_channels, channels, stride, norm)
        out_channels = channels * self.expansion
        self.conv1, self.bn1 = _conv(in_channels, channels, 1), norm(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3, stride), norm(channels)
        self.conv3, self.bn3 = _conv(channels, out_channels, 1), norm(out_channels)

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu_(conv_norm(x, self.conv1, self.bn1))
        x = F.relu_(conv_norm(x, self.conv2, self.bn2))
        return conv_norm(x, self.conv3, self.bn3)


_ARCHITECTURES = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


def _layer(depth: int, stage: int, norm: str, freeze_below: int) -> nn.Sequential:
    """``layer{stage - 1}`` of the network, frozen if ``stage`` lies below ``freeze_below``."""
    block, depths = _ARCHITECTURES[depth]
    channels = 64 * 2 ** (stage - 2)
    in_channels = 64 if stage == 2 else channels // 2 * block.expansion
    make_norm = _norm(norm, frozen=stage < freeze_below)
    blocks = []
    for i in range(depths[stage - 2]):
        stride = 2 if i == 0 and stage > 2 else 1
        blocks.append(block(in_channels, channels, stride, make_norm))
        in_channels = channels * block.expansion
    return nn.Sequential(*blocks).requires_grad_(stage >= freeze_below)


def _norm(norm: str, frozen: bool) -> Norm:
    if norm not in ("batch", "frozen"):
        raise ValueError(f"norm must be 'batch' or 'frozen', got {norm!r}")
    frozen = frozen or norm == "frozen"
    return FrozenBatchNorm2d if frozen else partial(nn.BatchNorm2d, eps=1e-5)


class ResNet(nn.Module):
    """The convolutional stages of a ResNet.

    Args:
        depth: 18, 34, 50 or 101.
        norm: ``"batch"``, or ``"frozen"`` for fixed statistics (fine-tuning with few images a
            batch).
        freeze_below: stages below this number get no gradient and a frozen norm (3: conv1 and
            ``layer1``; 0 or 1: none).
        last_stage: 2 to 5.

    Attributes:
        channels, strides: of each output, C2 to C``last_stage``.
        classifier, last_layers: whose weights fit; how names begin that the classifier alone has.
    """

    def __init__(
        self, depth: int, norm: str = "batch", freeze_below: int = 0, last_stage: int = 5
    ) -> None:
        super().__init__()
        if depth not in _ARCHITECTURES:
            raise ValueError(f"depth must be one of {list(_ARCHITECTURES)}, got {depth}")
        if last_stage not in range(2, 6):
            raise ValueError(f"last_stage must lie in 2..5, got {last_stage}")
        self.conv1 = _conv(3, 64, 7, stride=2).requires_grad_(freeze_below <= 1)
        self.bn1 = _norm(norm, frozen=freeze_below > 1)(64)
        stages = range(2, last_stage + 1)
        for stage in stages:
            self.add_module(f"layer{stage - 1}", _layer(depth, stage, norm, freeze_below))
        expansion = _ARCHITECTURES[depth][0].expansion
        self.classifier = f"torchvision:resnet{depth}"
        self.last_layers = ("fc.",) if last_stage == 5 else ("fc.", "layer4.")
        self.channels = tuple(64 * 2 ** (stage - 2) * expansion for stage in stages)
        self.strides = tuple(2**stage for stage in stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> the maps C2, C3, ... with strides 4, 8, ..."""
        x = F.relu_(conv_norm(images, self.conv1, self.bn1))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        outputs = []
        for i in range(len(self.strides)):
            x = self.get_submodule(f"layer{i + 1}")(x)
            outputs.append(x)
        return outputs


class ResNetC4(nn.Module):
    """A ResNet up to stage 4, as a backbone with one map of stride 16; see :class:`ResNet`."""

    strides = (16,)

    def __init__(self, depth: int, norm: str = "batch", freeze_below: int = 0) -> None:
        super().__init__()
        self.body = ResNet(depth, norm, freeze_below, last_stage=4)
        self.out_channels = self.body.channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, out_channels, H / 16, W / 16]."""
        return self.body(images)[-1]


class ResNetC5Head(nn.Module):
    """Stage 5 on the pooled regions, averaged over the positions: the box head of C4 models."""

    def __init__(self, depth: int, norm: str = "batch", freeze_below: int = 0) -> None:
        super().__init__()
        self.layer4 = _layer(depth, 5, norm, freeze_below)
        self.out_features = 512 * _ARCHITECTURES[depth][0].expansion

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, C, size, size] -> [N, out_features]."""
        return self.layer4(pooled).mean(dim=(2, 3))
