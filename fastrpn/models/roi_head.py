"""The detection head on the proposed regions (Fast R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrpn import ops
from fastrpn.models.config import ModelConfig
from fastrpn.models.losses import box_head_losses
from fastrpn.models.pooling import RegionPooler
from fastrpn.models.sampling import sample
from fastrpn.models.soft_suppression import soft_suppression
from fastrpn.models.structures import Detections, GroundTruth, Proposals, gather_rows, row_mask

__all__ = ["BoxHead", "BoxPredictor", "RoIHead"]


class BoxHead(nn.Module):
    """fc6 and fc7: two fully connected layers on the pooled features, each with dropout.

    Args:
        in_features: channels * roi_size^2.
        width: outputs of each layer (VGG16: 4096).
        dropout: probability of dropping an output in training.
    """

    def __init__(self, in_features: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc6 = nn.Linear(in_features, width)
        self.fc7 = nn.Linear(width, width)
        self.dropout = dropout
        self.out_features = width

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, C, size, size] -> [N, width]."""
        hidden = pooled.flatten(1)
        for layer in (self.fc6, self.fc7):
            hidden = F.dropout(F.relu(layer(hidden)), self.dropout, self.training)
        return hidden


class BoxPredictor(nn.Module):
    """Class logits and one box for each class.

    Args:
        init: ``"gaussian"``: 0.01 and 0.001, as in Fast R-CNN; ``"uniform"``: as ``nn.Linear``
            starts, +-1 / sqrt(in_features), which torchvision leaves as it is.
    """

    def __init__(self, in_features: int, num_classes: int, init: str = "gaussian") -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_features, num_classes)
        self.bbox_pred = nn.Linear(in_features, num_classes * 4)
        if init == "uniform":
            return
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[N, features] -> logits [N, C], deltas [N, C * 4]."""
        return self.cls_score(hidden), self.bbox_pred(hidden)


class RoIHead(nn.Module):
    """Pools the features of each region, classifies it and refines its box.

    Args:
        box_head: module [N, C, size, size] -> [N, out_features].
        num_classes: classes with the background, which is class 0.
        strides: pixels between neighbouring positions, for each level, the finest first; the first
            ``config.roi_levels`` are used.
        config: the rules.

    Attributes:
        box_std: in what units the loss measures the errors of each class's boxes, [C, 4], when a
            training takes them from the data; None: 1, see ``config.box_weights``.
    """

    box_std: Tensor | None

    def __init__(
        self, box_head: nn.Module, num_classes: int, strides: Sequence[int], config: ModelConfig
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pooler = RegionPooler(strides)
        self.config = config
        self.box_head = box_head
        self.box_predictor = BoxPredictor(
            cast(int, box_head.out_features), num_classes, config.box_init
        )
        self.register_buffer("box_std", None, persistent=False)

    @property
    def config(self) -> ModelConfig:
        """The rules. Raises ValueError for such that cannot pool from the levels."""
        return self._config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        self.pooler.check(config)
        self._config = config

    def forward(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        image_sizes: Tensor,
        ground_truth: GroundTruth | None = None,
        score_threshold: float | None = None,
    ) -> tuple[Detections | None, dict[str, Tensor]]:
        """Losses in training (with ground truth), detections otherwise.

        Args:
            features: the levels' maps [B, C, H, W], the finest first.
            proposals: boxes [B, K, 4] and counts [B].
            image_sizes: int64 [B, 2], (height, width).
            score_threshold: detections have a greater score; None: the configuration's.
        """
        if ground_truth is not None:
            return None, self.losses(features, proposals, ground_truth)
        proposals = _without_padding(proposals)
        logits, deltas = self.predict(features, proposals.boxes)
        return self.detect(logits, deltas, proposals, image_sizes, score_threshold), {}

    def predict(self, features: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [B, S, 4] -> logits [B, S, C], deltas [B, S, C, 4]."""
        batch, slots = boxes.shape[:2]
        image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)
        image = image[:, None, None].expand(batch, slots, 1)
        rois = torch.cat([image, boxes], dim=2).flatten(0, 1)
        logits, deltas = self.box_predictor(self.box_head(self.pooler(features, rois, self.config)))
        return logits.view(batch, slots, -1), deltas.view(batch, slots, self.num_classes, 4)

    def losses(
        self, features: Sequence[Tensor], proposals: Proposals, ground_truth: GroundTruth
    ) -> dict[str, Tensor]:
        """Labels the proposals, samples some and compares them with their ground truth."""
        config = self.config
        boxes = proposals.boxes
        valid = row_mask(proposals.counts, boxes.shape[1])
        if config.box_append_gt:
            boxes = torch.cat([boxes, ground_truth.boxes], dim=1)
            real = row_mask(ground_truth.counts, ground_truth.boxes.shape[1])
            valid = torch.cat([valid, real], dim=1)
        matched, iou = ops.match_anchors(
            boxes,
            ground_truth.boxes,
            ground_truth.counts,
            high=config.box_positive_iou,
            low=config.box_positive_iou,
            allow_low_quality=False,
            valid=valid,
        )
        low, high = config.box_negative_iou
        negative = (matched == -1) & (iou >= low) & (iou < high)
        samples = sample(
            matched >= 0, negative, config.box_batch_size, config.box_positive_fraction
        )
        boxes = gather_rows(boxes, samples.indices)
        of_sample = gather_rows(matched, samples.indices).clamp(min=0)
        labels = gather_rows(ground_truth.labels, of_sample)
        labels = torch.where(samples.positive, labels, 0)
        targets = ops.encode_boxes(
            gather_rows(ground_truth.boxes, of_sample).flatten(0, 1),
            boxes.flatten(0, 1),
            config.box_weights,
        ).view_as(boxes)
        logits, deltas = self.predict(features, boxes)
        loss_classifier, loss_box = box_head_losses(
            logits,
            deltas,
            labels,
            targets,
            samples.weights,
            beta=config.box_smooth_l1_beta,
            std=self.box_std,
        )
        return {"loss_classifier": loss_classifier, "loss_box_reg": loss_box}

    def detect(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Proposals,
        image_sizes: Tensor,
        score_threshold: float | None = None,
    ) -> Detections:
        """Decodes the boxes of every class and suppresses overlapping ones class by class.

        Args:
            logits: [B, K, C]. deltas: [B, K, C, 4].
        """
        config = self.config
        if score_threshold is None:
            score_threshold = config.box_score_threshold
        batch, count, classes = logits.shape
        scores = logits.float().softmax(-1)[:, :, 1:]
        boxes = self._decode(deltas.float()[:, :, 1:], proposals.boxes, image_sizes)
        real = row_mask(proposals.counts, count)[:, :, None]
        width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
        scores = torch.where(real & (width >= 1e-2) & (height >= 1e-2), scores, 0.0)
        labels = torch.arange(1, classes, device=logits.device).expand(batch, count, -1)

        boxes, scores, labels = boxes.flatten(1, 2), scores.flatten(1), labels.flatten(1)
        if config.box_nms != "hard":
            return soft_suppression(boxes, scores, labels, config, score_threshold)
        kept, counts = ops.nms_padded(
            boxes,
            scores,
            config.box_nms_threshold,
            config.detections_per_image,
            groups=labels,
            score_threshold=score_threshold,
        )
        kept = kept.clamp(min=0)
        return Detections(
            gather_rows(boxes, kept), gather_rows(scores, kept), gather_rows(labels, kept), counts
        )

    def _decode(self, deltas: Tensor, boxes: Tensor, image_sizes: Tensor) -> Tensor:
        """deltas [B, K, C - 1, 4] of boxes [B, K, 4] -> clipped boxes [B, K, C - 1, 4]."""
        boxes = boxes[:, :, None].expand_as(deltas)
        decoded = ops.decode_boxes(
            deltas.reshape(-1, 4), boxes.reshape(-1, 4), self.config.box_weights
        ).view_as(deltas)
        limit = image_sizes.flip(1).repeat(1, 2)[:, None, None]  # (width, height) twice
        return torch.minimum(decoded.clamp(min=0), limit)


def _without_padding(proposals: Proposals) -> Proposals:
    """Without the slots that no image fills; on the CPU alone, where it costs nothing to know."""
    if proposals.counts.device.type != "cpu" or torch.compiler.is_compiling():
        return proposals
    slots = max(1, int(proposals.counts.max()))
    return Proposals(proposals.boxes[:, :slots], proposals.scores[:, :slots], proposals.counts)
