"""What a training minimises: the losses of some parts of a detector while the others are frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fastrpn.data import WithProposals
from fastrpn.models import FasterRCNN
from fastrpn.ops import box_iou, encode_boxes
from fastrpn.training.config import TrainConfig

__all__ = ["FastRCNNObjective", "RPNObjective", "box_target_std"]
__all__ += ["fast_rcnn_objective", "rpn_objective"]

Build = Callable[[FasterRCNN], nn.Module]  # what `Trainer` calls with its new model


class _PartialObjective(nn.Module):
    """Trains some parts of a model; the others get no gradient and, as they stay in evaluation
    mode, keep the statistics of their batch norms too.

    Args:
        model: the detector; parameters of the frozen parts no longer require a gradient.
        train_backbone: False freezes the backbone.
    """

    part: str  # that is trained: an attribute of the model

    def __init__(self, model: FasterRCNN, train_backbone: bool = True) -> None:
        super().__init__()
        self.model = model
        trained = [self.part, "backbone"] if train_backbone else [self.part]
        self._frozen = [part for name, part in model.named_children() if name not in trained]
        for part in self._frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> _PartialObjective:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self


class RPNObjective(_PartialObjective):
    """The RPN's two losses (equation 1 of the paper)."""

    part = "rpn"

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Images and targets as for the model -> "loss_objectness", "loss_rpn_box_reg"."""
        model = self.model
        batch, ground_truth = model.prepare_training(images, targets)
        return model.rpn.losses(model.predict_rpn(batch), batch, ground_truth)


class FastRCNNObjective(_PartialObjective):
    """Fast R-CNN's two losses on proposals that come with the targets.

    Args:
        box_std: [C, 4], see :func:`box_target_std`. The mean that
            py-faster-rcnn subtracts from predictions and targets alike leaves their error alone.
    """

    part = "roi_head"

    def __init__(
        self, model: FasterRCNN, train_backbone: bool = True, box_std: Tensor | None = None
    ) -> None:
        super().__init__(model, train_backbone)
        model.roi_head.box_std = box_std

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Targets also hold "proposals" float [K, 4] -> "loss_classifier", "loss_box_reg"."""
        return self.model(images, targets, [target["proposals"] for target in targets])


def rpn_objective(start: Mapping[str, Tensor] | None = None) -> Build:
    """Trains backbone and RPN of a new model, or with weights to start from the RPN alone."""

    def build(model: FasterRCNN) -> nn.Module:
        if start is not None:
            model.load_state_dict(start)
        return RPNObjective(model, train_backbone=start is None)

    return build


def fast_rcnn_objective(
    config: TrainConfig, dataset: WithProposals, start: Mapping[str, Tensor] | None = None
) -> Build:
    """Trains backbone and detection head of a new model on the data set's proposals, or with
    weights to start from the head alone."""

    def build(model: FasterRCNN) -> nn.Module:
        if start is not None:
            model.load_state_dict(start)
        std = None
        if config.box_error_by_class:
            std = box_target_std(dataset, model.config.box_weights)
        return FastRCNNObjective(model, train_backbone=start is None, box_std=std)

    return build


def box_target_std(
    dataset: WithProposals, weights: tuple[float, float, float, float], positive_iou: float = 0.5
) -> Tensor:
    """Standard deviations of the targets of all proposals that meet an object, by class, as
    py-faster-rcnn's alternating training takes them from the data.

    Args:
        dataset: targets with "boxes", "labels", "ignore" and "proposals"; no image is read.
        weights: of :func:`fastrpn.ops.encode_boxes`.
        positive_iou: a proposal is trained towards its best object from this IoU on; objects are
            proposals, too.

    Returns:
        float32 [C, 4], for (tx, ty, tw, th); 1 where a class has fewer than two targets or they
        do not differ.
    """
    count = torch.zeros(len(dataset.classes), 1, dtype=torch.float64)
    total, squares = (torch.zeros(len(count), 4, dtype=torch.float64) for _ in range(2))
    for index in range(len(dataset)):
        target = dataset.target(index)
        objects = target["boxes"][~target["ignore"]]
        labels = target["labels"][~target["ignore"]]
        if len(objects) == 0:
            continue
        boxes = torch.cat([target["proposals"], objects])
        iou, best = box_iou(boxes, objects).max(dim=1)
        met = iou >= positive_iou
        deltas = encode_boxes(objects[best[met]], boxes[met], weights).double()
        label = labels[best[met]]
        count.index_add_(0, label, torch.ones(len(label), 1, dtype=torch.float64))
        total.index_add_(0, label, deltas)
        squares.index_add_(0, label, deltas.square())
    count = count.clamp(min=1)
    variance = squares / count - (total / count).square()
    return torch.where(variance > 1e-12, variance.clamp(min=0).sqrt(), 1.0).float()
