"""Backbones: any module with ``out_channels`` and ``strides`` can be one."""

from fastrpn.models.backbones.tiny import TINY_CONFIG, Tiny, TinyHead
from fastrpn.models.backbones.vgg import VGG16

__all__ = ["TINY_CONFIG", "VGG16", "Tiny", "TinyHead"]
