"""Faster R-CNN models."""

from fastrpn.models.anchors import AnchorGenerator
from fastrpn.models.backbones import BackboneWithFPN
from fastrpn.models.checkpoint import export_weights, load_model, save_weights
from fastrpn.models.config import PRESETS, ModelConfig
from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.roi_head import BoxHead
from fastrpn.models.weights import load_imagenet, load_torchvision, load_weights
from fastrpn.models.zoo import faster_rcnn

__all__ = [
    "PRESETS",
    "AnchorGenerator",
    "BackboneWithFPN",
    "BoxHead",
    "FasterRCNN",
    "ModelConfig",
    "export_weights",
    "faster_rcnn",
    "load_imagenet",
    "load_model",
    "load_torchvision",
    "load_weights",
    "save_weights",
]
