"""A small network for CPUs, tests and the demo."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastrpn.models.convolution import Conv2d

__all__ = ["Tiny", "TinyHead"]


def _conv_norm(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    conv = Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class Tiny(nn.Module):
    """Two maps: a fine one for the regions (stride 4), a coarse one for the RPN (stride 8).

    RoIPool rounds to whole cells, which costs small objects their shape unless the cells are fine.
    The RPN is better off, and cheaper, on the coarse map with its wide receptive field.
    """

    out_channels = (48, 96)
    strides = (4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(3, 24, 2), nn.ReLU(), _conv_norm(24, 48, 2), nn.ReLU())
        self.down = _conv_norm(48, 96, 2)
        self.residual = nn.Sequential(_conv_norm(96, 96), nn.ReLU(), _conv_norm(96, 96))
        self.coarse = _conv_norm(96, 96)
        self.fine = _conv_norm(48, 48)
        self.context = nn.Sequential(Conv2d(96, 48, 1, bias=False), nn.BatchNorm2d(48))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> {"fine": [B, 48, H / 4, W / 4], "coarse": [B, 96, H / 8, W / 8]}."""
        stem = self.stem(images)
        x = F.relu(self.down(stem))
        coarse = F.relu(self.coarse(F.relu(x + self.residual(x))))
        context = F.interpolate(self.context(coarse), scale_factor=2.0)
        return {"fine": F.relu(self.fine(stem) + context), "coarse": coarse}


class TinyHead(nn.Module):
    """Two convolutions and a fully connected layer on 7x7 regions.

    Batch norm keeps the features small; without it, a rate at which a short training gets anywhere
    is too high for the last layers.
    """

    out_features = 192

    def __init__(self, in_channels: int, roi_size: int) -> None:
        super().__init__()
        cells = (roi_size + 1) // 2
        self.convs = nn.Sequential(
            _conv_norm(in_channels, 96, 2), nn.ReLU(), _conv_norm(96, 96), nn.ReLU()
        )
        self.fc = nn.Linear(96 * cells**2, self.out_features, bias=False)
        self.norm = nn.BatchNorm1d(self.out_features)

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, C, roi_size, roi_size] -> [N, 192]."""
        return F.relu(self.norm(self.fc(self.convs(pooled).flatten(1))))
