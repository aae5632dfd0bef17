"""Faster R-CNN, assembled; torchvision's call convention and names of losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fastrpn.models.config import ModelConfig
from fastrpn.models.convolution import training_layout
from fastrpn.models.roi_head import RoIHead
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

__all__ = ["FasterRCNN"]

_BUILT_IN = (  # rules that a network cannot change
    *("roi_size", "box_dropout", "freeze_below", "backbone_norm"),
    *("fpn_strides", "fpn_channels", "box_init"),
)


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
        self.transform = ImageTransform(config)
        self.backbone = backbone
        channels = cast("int | Sequence[int]", backbone.out_channels)
        coarsest = channels if isinstance(channels, int) else channels[-1]
        strides = cast("Sequence[int]", backbone.strides)
        self.rpn = RegionProposalNetwork(coarsest, strides, config)
        self.roi_head = RoIHead(box_head, num_classes, strides, config)
        self._config = config
        self.to(memory_format=torch.channels_last)

    @property
    def config(self) -> ModelConfig:
        """The rules; others act from the next call on: ``model.config = model.config.override()``.

        Raises:
            ValueError: a change of what the network is built of, such as anchors at a position.
        """
        return self._config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        for name in _BUILT_IN:
            if getattr(config, name) != getattr(self._config, name):
                raise ValueError(
                    f"{name} {getattr(self._config, name)!r} is built into the network, "
                    f"got {getattr(config, name)!r}"
                )
        try:
            self._share(config)
        except ValueError:
            self._share(self._config)
            raise
        self._config = config

    def _share(self, config: ModelConfig) -> None:
        for part in (self.transform, self.rpn, self.roi_head):
            part.config = config

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
        proposals: Sequence[Tensor] | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: RGB [3, H, W] in 0..1, of any sizes.
            targets: in training, for each image "boxes" float [G, 4] (xyxy pixels), "labels" int64
                [G] in 1..num_classes-1 and optionally "ignore" bool [G]. They may stay on the CPU,
                where their values are checked, with a model on a GPU; on a GPU they are not read.
            proposals: for each image boxes float [K, 4] (xyxy pixels) to classify instead of the
                RPN's, which then does not run: Fast R-CNN alone.
            score_threshold: in evaluation, detections have a greater score; None: the
                configuration's ``box_score_threshold``.

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
        detections = self.detect(batch, self._given(proposals, images, batch), score_threshold)
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
        if targets is None:
            raise ValueError("targets must be given in training mode, got None")
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

    def detect(
        self,
        batch: ImageBatch,
        proposals: Proposals | None = None,
        score_threshold: float | None = None,
    ) -> Detections:
        """Detections of a padded batch, padded; boxes in pixels of the batch's images."""
        features = self.features(batch.images)
        if proposals is None:
            proposals, _ = self.rpn(features, batch)
        detections, _ = self.roi_head(
            features, proposals, batch.sizes, score_threshold=score_threshold
        )
        return detections

    def propose(self, batch: ImageBatch, limit: int | None = None) -> Proposals:
        """The RPN's proposals in a padded batch; boxes in pixels of the batch's images.

        Args:
            limit: at most this many an image, whatever the configuration says.
        """
        return self.rpn.propose(self.predict_rpn(batch), batch, limit)

    def predict_rpn(self, batch: ImageBatch) -> RPNOutput:
        """What the RPN says of every anchor of a padded batch."""
        return self.rpn.predict(self.features(batch.images), batch)

    def features(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps as a list, one for each level."""
        return list_of_maps(self.backbone(images))
