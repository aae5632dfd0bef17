"""The five-layer network of Zeiler and Fergus (2013) as Faster R-CNN uses it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastrpn.models.convolution import Conv2d

__all__ = ["ZF"]


class LocalResponseNorm(nn.Module):
    """Local response normalisation within each channel, over 3x3 positions.

    torch's own normalises across channels; the authors' network was trained with this one.
    """

    def __init__(self, alpha: float = 5e-5, beta: float = 0.75) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        energy = F.avg_pool2d(x.square(), kernel_size=3, stride=1, padding=1)
        return x * (1 + self.alpha * energy).pow(-self.beta)


class ZF(nn.Module):
    """conv1 to conv5 of the ZF net: C5 with stride 16.

    Poolings round up, as the authors' framework does: a 600x800 image has a grid of 39x51.

    Args:
        freeze_below: convolutions below this number get no gradient (0 or 1: none, as in the
            authors' code).
    """

    out_channels = 256
    strides = (16,)

    def __init__(self, freeze_below: int = 0) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, 96, 7, stride=2, padding=3)
        self.conv2 = Conv2d(96, 256, 5, stride=2, padding=2)
        self.conv3 = Conv2d(256, 384, 3, padding=1)
        self.conv4 = Conv2d(384, 384, 3, padding=1)
        self.conv5 = Conv2d(384, 256, 3, padding=1)
        self.norm = LocalResponseNorm()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        convs = (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5)
        for number, conv in enumerate(convs, start=1):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.get_parameter("bias"))
            conv.requires_grad_(number >= freeze_below)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 256, h, w], about H / 16 and W / 16."""
        x = self.pool(self.norm(F.relu(self.conv1(images))))
        x = self.pool(self.norm(F.relu(self.conv2(x))))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        return F.relu(self.conv5(x))
