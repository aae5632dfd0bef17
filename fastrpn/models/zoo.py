"""The networks by their names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from torch import nn

from fastrpn.models import backbones
from fastrpn.models.config import C4, PAPER, PRESETS, TINY, TORCHVISION, ZF_PAPER, ModelConfig
from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.roi_head import BoxHead

__all__ = ["build_model", "faster_rcnn", "finetuning_options"]


def faster_rcnn(
    name: str, num_classes: int, preset: str | None = None, **overrides: Any
) -> FasterRCNN:
    """Builds a Faster R-CNN with random weights.

    Args:
        name: ``"vgg16"`` (the paper's: stride 16, nine anchors, RoIPool 7x7, fc6 and fc7), ``"zf"``
            (the paper's smaller net), ``"resnet50_c4"`` (stride 16, stage 5 as the box head),
            ``"resnet18_fpn"``, ``"resnet50_fpn"`` (torchvision's model), ``"resnet101_fpn"``,
            ``"tiny"`` (for CPUs and small images), or a network of another library with a feature
            pyramid: ``"timm:resnet18"``, ``"torchvision:mobilenet_v3_large"``. Images are then
            normalised as that network's weights were trained.
        num_classes: classes with the background, which is class 0.
        preset: ``"paper"``, ``"py-faster-rcnn"`` or ``"torchvision"`` rules instead of the model's.
        **overrides: fields of :class:`~fastrpn.models.config.ModelConfig`. Other ``fpn_strides``
            bring anchors of eight times the strides, unless these are given.

    Raises:
        ImportError: the network's library is not installed.
        ValueError: an unknown name, preset or option, or an option that the network has no use for.
    """
    network = _network(name)
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    default = network.config if preset is None else PRESETS[preset].override(**network.input)
    if "fpn_strides" in overrides:
        overrides = {**_rules_of_levels(default, overrides["fpn_strides"]), **overrides}
    config = default.override(**overrides)
    for option in network.unused:
        if getattr(config, option) != getattr(default, option):
            raise ValueError(f"{option}: {name} has no use for it, got {getattr(config, option)!r}")
    return network.build(num_classes, config)


def finetuning_options(name: str) -> dict[str, Any]:
    """Rules by which torchvision trains a detector whose backbone begins with weights, as far as
    the network has a use for them: norms are fixed, and the last three stages are trained."""
    options = {"backbone_norm": "frozen", "freeze_below": 3}
    return {k: value for k, value in options.items() if k not in _network(name).unused}


def build_model(name: str, num_classes: int, config: ModelConfig) -> FasterRCNN:
    """The network of that name with all its rules given, as a checkpoint holds them."""
    return _network(name).build(num_classes, config)


def _network(name: str) -> _Network:
    library, colon, inner = name.partition(":")
    if colon and library in _LIBRARIES:
        build, read_input = _LIBRARIES[library]
        given = read_input(inner)
        return _Network(
            partial(_library_fpn, build, inner), TORCHVISION.override(**given), (), given
        )
    if name not in _NETWORKS:
        known = [*_NETWORKS, *(f"{library}:NAME" for library in _LIBRARIES)]
        near = difflib.get_close_matches(name, _NETWORKS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}{hint}")
    return _NETWORKS[name]


def _rules_of_levels(default: ModelConfig, strides: Sequence[int]) -> dict[str, Any]:
    """Anchors for each level of a pyramid; regions are not pooled from a subsampled level."""
    strides = default.override(fpn_strides=strides).fpn_strides  # checked
    levels = tuple((8.0 * stride,) for stride in strides)
    return {"anchor_sizes": levels, "roi_levels": len(_of_maps(strides))}


def _of_maps(strides: Sequence[int]) -> Sequence[int]:
    """The strides of a pyramid's levels without the one that is subsampled: no network has 64."""
    return [stride for stride in strides if stride <= 32]


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
    return _with_pyramid(body, num_classes, config)


def _library_fpn(
    build: Callable[..., nn.Module], name: str, num_classes: int, config: ModelConfig
) -> FasterRCNN:
    maps = _of_maps(config.fpn_strides)
    body = build(name, maps, config.backbone_norm, config.freeze_below)
    return _with_pyramid(body, num_classes, config)


def _with_pyramid(body: nn.Module, num_classes: int, config: ModelConfig) -> FasterRCNN:
    channels = cast("Sequence[int]", body.channels)
    maps = _of_maps(config.fpn_strides)
    has_extra = len(maps) < len(config.fpn_strides)
    backbone = backbones.BackboneWithFPN(body, channels, maps, config.fpn_channels, has_extra)
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
    input: dict[str, Any] = {}  # options that no preset changes: what the weights were trained on


_NO_FPN = ("fpn_strides", "fpn_channels")
_NETWORKS = {
    "vgg16": _Network(partial(_one_map, backbones.VGG16), PAPER, ("backbone_norm", *_NO_FPN)),
    "zf": _Network(partial(_one_map, backbones.ZF), ZF_PAPER, ("backbone_norm", *_NO_FPN)),
    "resnet50_c4": _Network(partial(_resnet_c4, 50), C4, ("box_dropout", *_NO_FPN)),
    "resnet18_fpn": _Network(partial(_resnet_fpn, 18), TORCHVISION, ("fpn_strides",)),
    "resnet50_fpn": _Network(partial(_resnet_fpn, 50), TORCHVISION, ("fpn_strides",)),
    "resnet101_fpn": _Network(partial(_resnet_fpn, 101), TORCHVISION, ("fpn_strides",)),
    "tiny": _Network(_tiny, TINY, ("backbone_norm", "box_dropout", "freeze_below", *_NO_FPN)),
}
_LIBRARIES: dict[str, tuple[Callable[..., nn.Module], Callable[[str], dict[str, Any]]]] = {
    "timm": (backbones.timm_network, backbones.timm_input),
    "torchvision": (backbones.TorchvisionNetwork, backbones.torchvision_input),
}
