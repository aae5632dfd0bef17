"""VGG16's thirteen convolutions (Simonyan and Zisserman, 2014), the paper's backbone."""

from __future__ import annotations

from torch import Tensor, nn

from fastrpn.models.convolution import Conv2d

__all__ = ["VGG16"]

_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # (convolutions, channels)


class VGG16(nn.Module):
    """conv1_1 to conv5_3 without the last pooling: C5 with stride 16.

    Parameters are named ``features.N.*`` as in torchvision, so its ImageNet weights load.

    Args:
        freeze_below: blocks below this number get no gradient (3: conv1 and conv2, as in the
            paper; 0 or 1: none).
    """

    out_channels = 512
    strides = (16,)
    classifier = "torchvision:vgg16"  # whose weights fit
    last_layers = ("classifier.",)  # of that alone

    def __init__(self, freeze_below: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for block, (depth, channels) in enumerate(_BLOCKS, start=1):
            for _ in range(depth):
                conv = Conv2d(in_channels, channels, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.get_parameter("bias"))
                conv.requires_grad_(block >= freeze_below)
                layers += [conv, nn.ReLU(inplace=True)]
                in_channels = channels
            if block < len(_BLOCKS):
                layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 512, H // 16, W // 16]."""
        return self.features(images)
