"""What a training minimises: the losses of some parts of a detector while the others rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from fastrpn.data import WithProposals
from fastrpn.models import FasterRCNN
from fastrpn.training.box_errors import box_target_std
from fastrpn.training.config import TrainConfig

__all__ = ["FastRCNNObjective", "RPNObjective", "fast_rcnn_objective", "rpn_objective"]

Build = Callable[[FasterRCNN], nn.Module]  # what `Trainer` calls with its new model


class _PartialObjective(nn.Module):
    """Trains some parts of a model; the others get no gradient and, as they stay in evaluation
    mode, keep the statistics of their batch norms too.

    Args:
        model: the detector; parameters of the resting parts no longer require a gradient.
        train_backbone: False lets the backbone rest.
    """

    part: str  # that is trained: an attribute of the model

    def __init__(self, model: FasterRCNN, train_backbone: bool = True) -> None:
        super().__init__()
        self.model = model
        trained = [self.part, "backbone"] if train_backbone else [self.part]
        self._resting = [part for name, part in model.named_children() if name not in trained]
        for part in self._resting:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        for part in self._resting:
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
        box_std: [C, 4], see :func:`fastrpn.training.box_errors.box_target_std`. The mean that
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
