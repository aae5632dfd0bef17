"""The two multi-task losses: equation 1 of the Faster R-CNN paper, and Fast R-CNN's.

Rows are sampled slots (B images, S slots, C classes with the background as class 0); a weight
of 0 marks an empty slot.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastrpn.models.sampling import Samples

__all__ = ["box_head_losses", "rpn_losses"]


def rpn_losses(
    objectness: Tensor,
    deltas: Tensor,
    targets: Tensor,
    samples: Samples,
    *,
    beta: float,
    normalizers: tuple[float, float] | None = None,
    box_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Classification and regression loss of the RPN.

    One logit with a sigmoid stands for the paper's two with a softmax; the two are equivalent.

    Args:
        objectness: [B, S] logits.
        deltas, targets: [B, S, 4]; targets count only where a sample is positive.
        samples: what the slots hold.
        beta: where smooth L1 turns from quadratic to linear (1 / sigma^2).
        normalizers: (N_cls, N_reg) of equation 1 for one image; None divides both by the number
            of sampled anchors.
        box_weight: lambda of equation 1.

    Returns:
        two scalars, float32.
    """
    objectness, deltas = objectness.float(), deltas.float()
    by_class: Tensor | float
    by_box: Tensor | float
    if normalizers is None:
        by_class = by_box = samples.weights.sum().clamp(min=1)
    else:
        by_class, by_box = (n * objectness.shape[0] for n in normalizers)
    cross_entropy = F.binary_cross_entropy_with_logits(
        objectness, samples.positive.float(), weight=samples.weights, reduction="sum"
    )
    regression = _regression(deltas, targets, samples.positive, beta)
    return cross_entropy / by_class, box_weight * regression / by_box


def box_head_losses(
    logits: Tensor,
    deltas: Tensor,
    labels: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    beta: float,
    std: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Classification and regression loss of the detection head.

    Args:
        logits: [B, S, C].
        deltas: [B, S, C, 4], one box for each class; only that of the true class is trained.
        labels: int64 [B, S], 0 for the background.
        targets: [B, S, 4]; they count only where the label is not the background.
        weights: float [B, S].
        beta: where smooth L1 turns from quadratic to linear.
        std: [C, 4], the unit of each class's errors; None: 1.

    Returns:
        two scalars, float32, both divided by the number of sampled regions.
    """
    logits, deltas = logits.float(), deltas.float()
    count = weights.sum().clamp(min=1)
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    of_label = labels[:, :, None, None].expand(-1, -1, 1, 4)
    deltas = deltas.gather(2, of_label).squeeze(2)
    if std is not None:
        deltas, targets = deltas / std[labels], targets / std[labels]
    positive = (labels > 0) & (weights > 0)
    regression = _regression(deltas, targets, positive, beta)
    return (cross_entropy * weights.flatten()).sum() / count, regression / count


def _regression(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    # The target of a slot without an object may be infinite or NaN: replace it, as NaN * 0 is NaN.
    mask = positive[..., None]
    targets = torch.where(mask, targets, 0.0)
    deltas = torch.where(mask, deltas, 0.0)
    return F.smooth_l1_loss(deltas, targets, beta=beta, reduction="sum")
