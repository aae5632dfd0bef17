"""Backbones: any module with ``out_channels`` and ``strides`` can be one."""

from fastrpn.models.backbones.fpn import BackboneWithFPN, FeaturePyramid
from fastrpn.models.backbones.resnet import FrozenBatchNorm2d, ResNet, ResNetC4, ResNetC5Head
from fastrpn.models.backbones.timm_network import timm_input, timm_network
from fastrpn.models.backbones.tiny import Tiny, TinyHead
from fastrpn.models.backbones.torchvision_network import TorchvisionNetwork, torchvision_input
from fastrpn.models.backbones.vgg import VGG16
from fastrpn.models.backbones.zf import ZF

__all__ = [
    "VGG16",
    "ZF",
    "BackboneWithFPN",
    "FeaturePyramid",
    "FrozenBatchNorm2d",
    "ResNet",
    "ResNetC4",
    "ResNetC5Head",
    "Tiny",
    "TinyHead",
    "TorchvisionNetwork",
    "timm_input",
    "timm_network",
    "torchvision_input",
]
