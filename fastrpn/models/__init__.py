"""Faster R-CNN models."""

from fastrpn.models.anchors import AnchorGenerator
from fastrpn.models.backbones import BackboneWithFPN
from fastrpn.models.config import PRESETS, ModelConfig
from fastrpn.models.faster_rcnn import FasterRCNN, faster_rcnn
from fastrpn.models.roi_head import BoxHead
from fastrpn.models.weights import load_imagenet, load_torchvision, load_weights

__all__ = [
    "PRESETS",
    "AnchorGenerator",
    "BackboneWithFPN",
    "BoxHead",
    "FasterRCNN",
    "ModelConfig",
    "faster_rcnn",
    "load_imagenet",
    "load_torchvision",
    "load_weights",
]
