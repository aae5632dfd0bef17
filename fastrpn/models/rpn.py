"""The region proposal network (Faster R-CNN, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrpn.models.anchors import AnchorGenerator, extents, inside_image
from fastrpn.models.config import ModelConfig
from fastrpn.models.convolution import Conv2d, SampledConv2d
from fastrpn.models.losses import rpn_losses
from fastrpn.models.sampling import sample
from fastrpn.models.structures import GroundTruth, ImageBatch, Proposals, RPNOutput, gather_rows
from fastrpn.ops import decode_boxes, encode_boxes, generate_proposals, match_anchors

__all__ = ["RPNHead", "RegionProposalNetwork", "flatten_maps"]


class RPNHead(nn.Module):
    """A 3x3 convolution, then for each of the n anchors of a position a logit and four deltas.

    Args:
        in_channels: channels of the feature maps (equal on all levels).
        num_anchors: anchors at each position.
        channels: outputs of the 3x3 convolution; ``in_channels`` by default (VGG16: 512).
    """

    def __init__(self, in_channels: int, num_anchors: int, channels: int | None = None) -> None:
        super().__init__()
        channels = channels or in_channels
        self.conv = SampledConv2d(in_channels, channels)
        self.cls_logits = Conv2d(channels, num_anchors, 1)
        self.bbox_pred = Conv2d(channels, num_anchors * 4, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature maps [B, C, H, W] of all levels -> objectness [B, A], deltas [B, A, 4]."""
        objectness, deltas = [], []
        for feature in features:
            hidden = F.relu(self.conv(feature))
            objectness.append(flatten_maps(self.cls_logits(hidden), 1).squeeze(2))
            deltas.append(flatten_maps(self.bbox_pred(hidden), 4))
        return torch.cat(objectness, dim=1), torch.cat(deltas, dim=1)


def flatten_maps(maps: Tensor, width: int) -> Tensor:
    """[B, n * width, H, W] -> [B, H * W * n, width], in the order of the anchors."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, width)


class RegionProposalNetwork(nn.Module):
    """Turns feature maps into proposals and, in training, into the RPN's two losses.

    Args:
        in_channels: channels of the feature maps.
        strides: pixels between neighbouring positions, for each level, the finest first; the last
            ``config.rpn_levels`` are used.
        config: the rules.
    """

    def __init__(self, in_channels: int, strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.anchors = AnchorGenerator.of(config, strides)
        self.head = RPNHead(in_channels, self.anchors.per_position)
        self._config = config

    @property
    def config(self) -> ModelConfig:
        """The rules; the anchors follow them.

        Raises:
            ValueError: another number of anchors at a position or of levels.
        """
        return self._config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        with torch.inference_mode(False):  # whatever the mode now, they are for training, too
            anchors = AnchorGenerator.of(config, self.strides)
        for what, new, old in (
            ("anchors at a position", anchors.per_position, self.anchors.per_position),
            ("RPN levels", len(anchors.strides), len(self.anchors.strides)),
        ):
            if new != old:
                raise ValueError(f"config has {new} {what}, the network is built for {old}")
        self.anchors = anchors.to(self.anchors.cells)
        self._config = config

    def forward(
        self,
        features: Sequence[Tensor],
        batch: ImageBatch,
        ground_truth: GroundTruth | None = None,
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals and losses.

        Args:
            features: the levels' maps [B, C, H, W], the finest first.
            batch: the images they were computed from; only their sizes are used.
            ground_truth: given in training; without it there are no losses.
        """
        output = self.predict(features, batch)
        proposals = self.propose(output, batch)
        if ground_truth is None:
            return proposals, {}
        return proposals, self.losses(output, batch, ground_truth)

    def predict(self, features: Sequence[Tensor], batch: ImageBatch) -> RPNOutput:
        """Objectness and deltas of all anchors."""
        features = self.config.of_rpn(features)
        objectness, deltas = self.head(features)
        grids = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        anchors = self.anchors(grids, (batch.images.shape[-2], batch.images.shape[-1]))
        return RPNOutput(
            objectness,
            deltas,
            extents(anchors, self.config.anchor_convention),
            [rows * columns * self.anchors.per_position for rows, columns in grids],
        )

    def propose(self, output: RPNOutput, batch: ImageBatch, limit: int | None = None) -> Proposals:
        """Decoded, clipped and suppressed anchors; no gradient flows through their coordinates.

        Args:
            limit: at most this many an image, whatever the configuration says.
        """
        config = self.config
        before_nms = (config.rpn_pre_nms_top_n_test, config.rpn_pre_nms_top_n_train)
        after_nms = (config.rpn_post_nms_top_n_test, config.rpn_post_nms_top_n_train)
        phase = 1 if self.training else 0  # an index: older torch cannot compile one that is a bool
        pre_nms_top_n, post_nms_top_n = before_nms[phase], after_nms[phase]
        if limit is not None:
            pre_nms_top_n, post_nms_top_n = max(limit, *before_nms), limit
        min_size = config.rpn_min_size
        objectness, deltas, anchors, anchors_per_level = output
        objectness, deltas = objectness.detach(), deltas.detach()
        if config.rpn_min_size_original:
            objectness, deltas = _without_small(objectness, deltas, anchors, batch, min_size)
            min_size = 0.0
        return Proposals(
            *generate_proposals(
                objectness,
                deltas,
                anchors,
                batch.sizes,
                pre_nms_top_n=pre_nms_top_n,
                post_nms_top_n=post_nms_top_n,
                nms_threshold=config.rpn_nms_threshold,
                min_size=min_size,
                anchors_per_level=anchors_per_level,
            )
        )

    def losses(
        self, output: RPNOutput, batch: ImageBatch, ground_truth: GroundTruth
    ) -> dict[str, Tensor]:
        """Labels the anchors, samples some and compares them with their ground truth."""
        config = self.config
        objectness, deltas, anchors, _ = output
        valid = None
        if not config.rpn_train_cross_boundary:
            valid = inside_image(anchors, batch.sizes)
        matched, _ = match_anchors(
            anchors,
            ground_truth.boxes,
            ground_truth.counts,
            high=config.rpn_positive_iou,
            low=config.rpn_negative_iou,
            allow_low_quality=True,
            valid=valid,
        )
        samples = sample(
            matched >= 0, matched == -1, config.rpn_batch_size, config.rpn_positive_fraction
        )
        of_sample = gather_rows(matched, samples.indices).clamp(min=0)
        targets = encode_boxes(
            gather_rows(ground_truth.boxes, of_sample).flatten(0, 1),
            anchors[samples.indices].flatten(0, 1),
        ).view(*samples.indices.shape, 4)
        normalizers = None
        if config.rpn_normalizer == "paper":
            positions = anchors.shape[0] / self.anchors.per_position
            normalizers = (config.rpn_batch_size, positions)
        objectness_loss, box_loss = rpn_losses(
            gather_rows(objectness, samples.indices),
            gather_rows(deltas, samples.indices),
            targets,
            samples,
            beta=config.rpn_smooth_l1_beta,
            normalizers=normalizers,
            box_weight=config.rpn_box_weight,
        )
        return {"loss_objectness": objectness_loss, "loss_rpn_box_reg": box_loss}


def _without_small(
    objectness: Tensor, deltas: Tensor, anchors: Tensor, batch: ImageBatch, min_size: float
) -> tuple[Tensor, Tensor]:
    """Takes boxes out that are narrower or lower than ``min_size`` pixels of the original images.

    As in py-faster-rcnn before the best are chosen: -inf comes last, and a box of NaNs is dropped.
    All stay if the batch does not know by what its images were resized.
    """
    if batch.scales is None:
        return objectness, deltas
    boxes = decode_boxes(deltas, anchors)
    limit = batch.sizes.flip(1).repeat(1, 2)[:, None]  # (width, height) twice
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    shortest = (boxes[..., 2:] - boxes[..., :2]).amin(dim=2)
    small = shortest < min_size * batch.scales[:, None]
    return (
        objectness.masked_fill(small, -torch.inf),
        deltas.masked_fill(small[:, :, None], torch.nan),
    )
