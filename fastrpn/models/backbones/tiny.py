"""A small residual network for CPUs, tests and the demo."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastrpn.models.config import ModelConfig

__all__ = ["TINY_CONFIG", "Tiny"]

TINY_CONFIG = ModelConfig(
    min_size=192,
    max_size=256,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.25, 0.25, 0.25),
    anchor_sizes=((24.0, 48.0, 96.0),),
    rpn_train_cross_boundary=True,
    rpn_smooth_l1_beta=1 / 9,
    rpn_normalizer="sampled",
    rpn_box_weight=1.0,
    rpn_pre_nms_top_n_train=600,
    rpn_pre_nms_top_n_test=600,
    rpn_post_nms_top_n_train=200,
    rpn_post_nms_top_n_test=100,
    rpn_min_size=2.0,
    box_batch_size=64,
    box_negative_iou=(0.0, 0.5),
    box_smooth_l1_beta=1 / 9,
    box_dropout=0.0,
    box_nms_threshold=0.4,
)


class _ConvNorm(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(out_channels))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(channels, channels)
        self.conv2 = _ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class Tiny(nn.Module):
    """Three halvings and two residual blocks: stride 8, 96 channels."""

    out_channels = 96
    strides = (8,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _ConvNorm(3, 24, stride=2),
            nn.ReLU(inplace=True),
            _ConvNorm(24, 48, stride=2),
            nn.ReLU(inplace=True),
            _ConvNorm(48, 96, stride=2),
            nn.ReLU(inplace=True),
            _Residual(96),
            _Residual(96),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 96, H / 8, W / 8]."""
        return self.layers(images)
