"""Feature pyramids (Lin et al., Feature Pyramid Networks, 2017) on any backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fastrpn.models.convolution import Conv2d

__all__ = ["BackboneWithFPN", "FeaturePyramid"]


class FeaturePyramid(nn.Module):
    """Top-down pathway with lateral connections, and a coarsest level by subsampling.

    Args:
        in_channels: channels of each map, finest first.
        out_channels: channels of every output.
        extra_level: whether there is the coarsest level.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int = 256, extra_level: bool = True
    ) -> None:
        super().__init__()
        self.extra_level = extra_level
        self.inner_blocks = nn.ModuleList(Conv2d(c, out_channels, 1) for c in in_channels)
        self.layer_blocks = nn.ModuleList(
            Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels
        )
        for conv in (*self.inner_blocks, *self.layer_blocks):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> OrderedDict[str, Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first -> "0", "1", ... of the same sizes, "pool"."""
        top_down = None
        outputs = []
        for feature, inner, layer in zip(
            reversed(features),
            reversed(self.inner_blocks),
            reversed(self.layer_blocks),
            strict=True,
        ):
            lateral = inner(feature)
            top_down = lateral if top_down is None else self.add_enlarged(lateral, top_down)
            outputs.append(layer(top_down))
        outputs.reverse()
        levels = OrderedDict((str(i), output) for i, output in enumerate(outputs))
        if self.extra_level:
            levels["pool"] = F.max_pool2d(outputs[-1], kernel_size=1, stride=2)
        return levels

    @staticmethod
    def add_enlarged(fine: Tensor, coarse: Tensor) -> Tensor:
        """Adds to a map the nearest of a coarser one, in place."""
        return fine.add_(F.interpolate(coarse, size=fine.shape[-2:]))


class BackboneWithFPN(nn.Module):
    """A feature pyramid on a network that returns several maps.

    Args:
        body: module [B, 3, H, W] -> a sequence or ordered dict of maps, finest first: a
            :class:`~fastrpn.models.backbones.resnet.ResNet`, timm's ``features_only`` models,
            torchvision's ``create_feature_extractor``, ...
        in_channels: channels of its maps.
        strides: pixels between neighbouring positions of its maps.
        out_channels: channels of every level of the pyramid.
        extra_level: add a level of twice the last stride, by subsampling.

    Attributes:
        out_channels, strides: of the levels.
    """

    def __init__(
        self,
        body: nn.Module,
        in_channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int = 256,
        extra_level: bool = True,
    ) -> None:
        super().__init__()
        if len(in_channels) != len(strides):
            raise ValueError(f"in_channels {in_channels} and strides {strides} differ in length")
        self.body = body
        self.fpn = FeaturePyramid(in_channels, out_channels, extra_level)
        self.out_channels = out_channels
        self.strides = (*strides, 2 * strides[-1]) if extra_level else tuple(strides)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """[B, 3, H, W] -> maps [B, out_channels, H / stride, W / stride], finest first."""
        features = self.body(images)
        return self.fpn(list(features.values() if isinstance(features, Mapping) else features))
