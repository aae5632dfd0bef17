"""Faster R-CNN, assembled; torchvision's call convention and names of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrpn.models import backbones
from fastrpn.models.config import PRESETS, ModelConfig
from fastrpn.models.roi_head import BoxHead, RoIHead
from fastrpn.models.rpn import RegionProposalNetwork
from fastrpn.models.structures import Detections, GroundTruth, ImageBatch
from fastrpn.models.transform import ImageTransform, to_lists
from fastrpn.models.validation import check_images, check_targets

__all__ = ["FasterRCNN", "faster_rcnn"]


class FasterRCNN(nn.Module):
    """The two-stage detector.

    Args:
        backbone: module [B, 3, H, W] -> a feature map [B, C, h, w] or an ordered dict of them, the
            finest first, with attributes ``strides`` (one for each map) and ``out_channels`` (C,
            one number or one for each map).
        box_head: module [N, C, roi_size, roi_size] -> [N, F] with attribute ``out_features`` (F).
        num_classes: classes with the background, which is class 0.
        config: the rules.
    """

    def __init__(
        self, backbone: nn.Module, box_head: nn.Module, num_classes: int, config: ModelConfig
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes counts the background: at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.config = config
        self.transform = ImageTransform(config)
        self.backbone = backbone
        channels = backbone.out_channels
        coarsest = channels if isinstance(channels, int) else channels[-1]
        self.rpn = RegionProposalNetwork(coarsest, backbone.strides, config)
        self.roi_head = RoIHead(box_head, num_classes, backbone.strides, config)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: RGB [3, H, W] in 0..1, of any sizes.
            targets: in training, for each image "boxes" float [G, 4] (xyxy pixels), "labels" int64
                [G] in 1..num_classes-1 and optionally "ignore" bool [G].

        Returns:
            training: "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg";
            evaluation: for each image "boxes" [D, 4] in its pixels, "labels" [D], "scores" [D],
            best first.

        Raises:
            TypeError, ValueError: unsound images or targets; the message names the entry.
        """
        check_images(images)
        if self.training:
            check_targets(targets, images, self.num_classes)
        batch = self.transform(images)
        if not self.training:
            return to_lists(self.detect(batch), images, batch)
        return self.losses(batch, self.transform.ground_truth(targets, images, batch))

    def losses(self, batch: ImageBatch, ground_truth: GroundTruth) -> dict[str, Tensor]:
        """Losses of a padded batch; all shapes follow from the arguments' shapes."""
        features = self.features(batch.images)
        proposals, rpn_losses = self.rpn(features, batch.sizes, ground_truth)
        _, box_losses = self.roi_head(features, proposals, batch.sizes, ground_truth)
        return {**rpn_losses, **box_losses}

    def detect(self, batch: ImageBatch) -> Detections:
        """Detections of a padded batch, padded; boxes in pixels of the batch's images."""
        features = self.features(batch.images)
        proposals, _ = self.rpn(features, batch.sizes)
        detections, _ = self.roi_head(features, proposals, batch.sizes)
        return detections

    def features(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps as a list, one for each level."""
        features = self.backbone(images)
        return list(features.values()) if isinstance(features, Mapping) else [features]


def faster_rcnn(name: str, num_classes: int, preset: str | None = None, **overrides: Any):
    """Builds a Faster R-CNN with random weights.

    Args:
        name: ``"vgg16"`` (the paper's: stride 16, nine anchors, RoIPool 7x7, fc6 and fc7) or
            ``"tiny"`` (for CPUs and small images).
        num_classes: classes with the background, which is class 0.
        preset: ``"paper"``, ``"py-faster-rcnn"`` or ``"torchvision"`` rules instead of the model's.
        **overrides: fields of :class:`~fastrpn.models.config.ModelConfig`.

    Raises:
        ValueError: an unknown name, preset or option.
    """
    if name not in _BUILDERS:
        raise ValueError(f"name must be one of {', '.join(_BUILDERS)}, got {name!r}")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    build, default = _BUILDERS[name]
    config = (default if preset is None else PRESETS[preset]).override(**overrides)
    return build(num_classes, config)


def _vgg16(num_classes: int, config: ModelConfig) -> FasterRCNN:
    backbone = backbones.VGG16(config.freeze_below)
    head = BoxHead(backbone.out_channels * config.roi_size**2, 4096, config.box_dropout)
    return FasterRCNN(backbone, head, num_classes, config)


def _tiny(num_classes: int, config: ModelConfig) -> FasterRCNN:
    backbone = backbones.Tiny()
    head = backbones.TinyHead(backbone.out_channels[0], config.roi_size)
    return FasterRCNN(backbone, head, num_classes, config)


_BUILDERS = {"vgg16": (_vgg16, PRESETS["paper"]), "tiny": (_tiny, backbones.TINY_CONFIG)}
