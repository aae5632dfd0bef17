"""Faster R-CNN, assembled; torchvision's call convention and names of losses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastrpn.models import backbones
from fastrpn.models.config import PRESETS, ModelConfig
from fastrpn.models.convolution import training_layout
from fastrpn.models.roi_head import BoxHead, RoIHead
from fastrpn.models.rpn import RegionProposalNetwork
from fastrpn.models.structures import (
    Detections,
    GroundTruth,
    ImageBatch,
    Proposals,
    RPNOutput,
    list_of_maps,
)
from fastrpn.models.transform import ImageTransform, to_lists
from fastrpn.models.validation import check_images, check_proposals, check_targets

__all__ = ["FasterRCNN", "build_model", "faster_rcnn"]


class FasterRCNN(nn.Module):
    """The two-stage detector.

    Args:
        backbone: module [B, 3, H, W] -> a feature map [B, C, h, w], or an ordered dict or a list
            of them, the finest first, with attributes ``strides`` (one for each map) and
            ``out_channels`` (C, one number or one for each map).
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
        self,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: RGB [3, H, W] in 0..1, of any sizes.
            targets: in training, for each image "boxes" float [G, 4] (xyxy pixels), "labels" int64
                [G] in 1..num_classes-1 and optionally "ignore" bool [G].
            proposals: for each image boxes float [K, 4] (xyxy pixels) to classify instead of the
                RPN's, which then does not run: Fast R-CNN alone.

        Returns:
            training: "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg" (the
            last two alone with ``proposals``);
            evaluation: for each image "boxes" [D, 4] in its pixels, "labels" [D], "scores" [D],
            best first.

        Raises:
            TypeError, ValueError: unsound images, targets or proposals; the message names the
                entry.
        """
        if self.training:
            batch, ground_truth = self.prepare_training(images, targets)
            return self.losses(batch, ground_truth, self._given(proposals, images, batch))
        batch = self.prepare(images)
        detections = self.detect(batch, self._given(proposals, images, batch))
        return to_lists(detections, images, batch)

    def prepare(self, images: Sequence[Tensor]) -> ImageBatch:
        """Checked images, RGB [3, H, W] in 0..1, as a batch: normalised, resized and padded."""
        check_images(images)
        return self.transform(images, self.memory_format)

    def prepare_training(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None
    ) -> tuple[ImageBatch, GroundTruth]:
        """Checked images and targets, see :meth:`forward`, as a batch and its ground truth."""
        check_images(images)
        check_targets(targets, images, self.num_classes)
        batch = self.transform(images, self.memory_format)
        return batch, self.transform.ground_truth(targets, images, batch)

    def _given(
        self, proposals: Sequence[Tensor] | None, images: Sequence[Tensor], batch: ImageBatch
    ) -> Proposals | None:
        if proposals is None:
            return None
        check_proposals(proposals, images)
        return self.transform.proposals(proposals, images, batch)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of the maps.

        It is the weights', which ``model.to(memory_format=...)`` sets and which is channels_last in
        a new model. Weights in channels_last train in what is fast on the device,
        see :func:`~fastrpn.models.convolution.training_layout`.
        """
        weight = self.rpn.head.conv.weight
        if weight.is_contiguous():
            return torch.contiguous_format
        return training_layout(weight.device) if self.training else torch.channels_last

    def losses(
        self, batch: ImageBatch, ground_truth: GroundTruth, proposals: Proposals | None = None
    ) -> dict[str, Tensor]:
        """Losses of a padded batch; all shapes follow from the arguments' shapes."""
        features = self.features(batch.images)
        rpn_losses: dict[str, Tensor] = {}
        if proposals is None:
            proposals, rpn_losses = self.rpn(features, batch, ground_truth)
        _, box_losses = self.roi_head(features, proposals, batch.sizes, ground_truth)
        return {**rpn_losses, **box_losses}

    def detect(self, batch: ImageBatch, proposals: Proposals | None = None) -> Detections:
        """Detections of a padded batch, padded; boxes in pixels of the batch's images."""
        features = self.features(batch.images)
        if proposals is None:
            proposals, _ = self.rpn(features, batch)
        detections, _ = self.roi_head(features, proposals, batch.sizes)
        return detections

    def propose(self, batch: ImageBatch) -> Proposals:
        """The RPN's proposals in a padded batch; boxes in pixels of the batch's images."""
        return self.rpn.propose(self.predict_rpn(batch), batch)

    def predict_rpn(self, batch: ImageBatch) -> RPNOutput:
        """What the RPN says of every anchor of a padded batch."""
        return self.rpn.predict(self.features(batch.images), batch)

    def features(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps as a list, one for each level."""
        return list_of_maps(self.backbone(images))


def faster_rcnn(name: str, num_classes: int, preset: str | None = None, **overrides: Any):
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
    _check_name(name)
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    default = _BUILDERS[name][1] if preset is None else PRESETS[preset]
    config = default.override(**overrides)
    for option in _UNUSED.get(name, ()):
        if getattr(config, option) != getattr(default, option):
            raise ValueError(f"{option}: {name} has no use for it, got {getattr(config, option)!r}")
    return build_model(name, num_classes, config)


def build_model(name: str, num_classes: int, config: ModelConfig) -> FasterRCNN:
    """The network of that name with all its rules given, as a checkpoint holds them."""
    _check_name(name)
    return _BUILDERS[name][0](num_classes, config)


def _check_name(name: str) -> None:
    if name not in _BUILDERS:
        raise ValueError(f"name must be one of {', '.join(_BUILDERS)}, got {name!r}")


def _vgg16(num_classes: int, config: ModelConfig) -> FasterRCNN:
    backbone = backbones.VGG16(config.freeze_below)
    head = BoxHead(backbone.out_channels * config.roi_size**2, 4096, config.box_dropout)
    return FasterRCNN(backbone, head, num_classes, config)


def _zf(num_classes: int, config: ModelConfig) -> FasterRCNN:
    backbone = backbones.ZF(config.freeze_below)
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


# The authors' ZF net pools 6x6 bins and trains all its layers; detectron2's C4 model is the
# pattern of the other one.
_ZF_CONFIG = PRESETS["paper"].override(roi_size=6, freeze_below=0)
_C4_CONFIG = PRESETS["torchvision"].override(
    anchor_sizes=((32.0, 64.0, 128.0, 256.0, 512.0),),
    rpn_pre_nms_top_n_train=12000,
    rpn_pre_nms_top_n_test=6000,
    roi_levels=None,
    roi_size=14,
    roi_aligned=True,
)

_BUILDERS = {
    "vgg16": (_vgg16, PRESETS["paper"]),
    "zf": (_zf, _ZF_CONFIG),
    "resnet50_c4": (partial(_resnet_c4, 50), _C4_CONFIG),
    "resnet18_fpn": (partial(_resnet_fpn, 18), PRESETS["torchvision"]),
    "resnet50_fpn": (partial(_resnet_fpn, 50), PRESETS["torchvision"]),
    "resnet101_fpn": (partial(_resnet_fpn, 101), PRESETS["torchvision"]),
    "tiny": (_tiny, backbones.TINY_CONFIG),
}

# Options without an effect: whoever gives another value than the default's is told.
_UNUSED = {
    "vgg16": ("backbone_norm",),
    "zf": ("backbone_norm",),
    "resnet50_c4": ("box_dropout",),
    "tiny": ("backbone_norm", "box_dropout", "freeze_below"),
}
