"""Faster R-CNN models."""

from fastrpn.models.anchors import AnchorGenerator
from fastrpn.models.config import PRESETS, ModelConfig
from fastrpn.models.faster_rcnn import FasterRCNN, faster_rcnn

__all__ = ["PRESETS", "AnchorGenerator", "FasterRCNN", "ModelConfig", "faster_rcnn"]
