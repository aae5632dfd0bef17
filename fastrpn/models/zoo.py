"""The networks by their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from fastrpn.models import backbones
from fastrpn.models.config import C4, PAPER, PRESETS, TINY, TORCHVISION, ZF_PAPER, ModelConfig
from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.roi_head import BoxHead

__all__ = ["build_model", "faster_rcnn"]


def faster_rcnn(
    name: str, num_classes: int, preset: str | None = None, **overrides: Any
) -> FasterRCNN:
    """Builds a Faster R-CNN with random weights.

    Args:
        name: ``"vgg16"`` (the paper's: stride 16, nine anchors, RoIPool 7x7, fc6 and fc7), ``"zf"``
            (the paper's smaller net), ``"resnet50_c4"`` (stride 16, stage 5 as the box head),
            ``"resnet18_fpn"``, ``"resnet50_fpn"`` (torchvision's model), ``"resnet101_fpn"`` or
            ``"tiny"`` (for CPUs and small images).
        num_classes: classes with the background, which is class 0.
        preset: ``"paper"``, ``"py-faster-rcnn"`` or ``"torchvision"`` rules instead of the model's.
        **overrides: fields of :class:`~fastrpn.models.config.ModelConfig`.

    Raises:
        ValueError: an unknown name, preset or option, or an option that the network has no use for.
    """
    network = _network(name)
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    default = network.config if preset is None else PRESETS[preset]
    config = default.override(**overrides)
    for option in network.unused:
        if getattr(config, option) != getattr(default, option):
            raise ValueError(f"{option}: {name} has no use for it, got {getattr(config, option)!r}")
    return network.build(num_classes, config)


def build_model(name: str, num_classes: int, config: ModelConfig) -> FasterRCNN:
    """The network of that name with all its rules given, as a checkpoint holds them."""
    return _network(name).build(num_classes, config)


def _network(name: str) -> _Network:
    if name not in _NETWORKS:
        raise ValueError(f"name must be one of {', '.join(_NETWORKS)}, got {name!r}")
    return _NETWORKS[name]


def _one_map(
    network: type[backbones.VGG16] | type[backbones.ZF], num_classes: int, config: ModelConfig
) -> FasterRCNN:
    backbone = network(config.freeze_below)
    head = BoxHead(backbone.out_channels * config.roi_size**2, 4096, config.box_dropout)
    return FasterRCNN(backbone, head, num_classes, config)


def _resnet_c4(depth: int, num_classes: int, config: ModelConfig) -> FasterRCNN:
    backbone = backbones.ResNetC4(depth, config.backbone_norm, config.freeze_below)
    head = backbones.ResNetC5Head(depth, config.backbone_norm, config.freeze_below)
    return FasterRCNN(backbone, head, num_classes, config)


def _resnet_fpn(depth: int, num_classes: int, config: ModelConfig) -> FasterRCNN:
    body = backbones.ResNet(depth, config.backbone_norm, config.freeze_below)
    backbone = backbones.BackboneWithFPN(body, body.channels, body.strides)
    head = BoxHead(backbone.out_channels * config.roi_size**2, 1024, config.box_dropout)
    return FasterRCNN(backbone, head, num_classes, config)


def _tiny(num_classes: int, config: ModelConfig) -> FasterRCNN:
    backbone = backbones.Tiny()
    head = backbones.TinyHead(backbone.out_channels[0], config.roi_size)
    return FasterRCNN(backbone, head, num_classes, config)


class _Network(NamedTuple):
    build: Callable[[int, ModelConfig], FasterRCNN]  # from the number of classes and the rules
    config: ModelConfig
    unused: tuple[str, ...] = ()  # options without an effect: who gives another value is told


_NETWORKS = {
    "vgg16": _Network(partial(_one_map, backbones.VGG16), PAPER, ("backbone_norm",)),
    "zf": _Network(partial(_one_map, backbones.ZF), ZF_PAPER, ("backbone_norm",)),
    "resnet50_c4": _Network(partial(_resnet_c4, 50), C4, ("box_dropout",)),
    "resnet18_fpn": _Network(partial(_resnet_fpn, 18), TORCHVISION),
    "resnet50_fpn": _Network(partial(_resnet_fpn, 50), TORCHVISION),
    "resnet101_fpn": _Network(partial(_resnet_fpn, 101), TORCHVISION),
    "tiny": _Network(_tiny, TINY, ("backbone_norm", "box_dropout", "freeze_below")),
}
