"""Random sampling of positive and negative rows with fixed shapes.

Which rows are drawn depends on values, how many slots there are does not: nothing here waits for
the device, and everything can be compiled, exported and captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Samples", "sample"]


class Samples(NamedTuple):
    """S slots for each image; positives come first, then negatives, then empty slots."""

    indices: Tensor  # [B, S] int64, rows of the sampled tensor (0 in empty slots)
    positive: Tensor  # [B, S] bool
    weights: Tensor  # [B, S] float32, 1 for a sampled row and 0 for an empty slot


def sample(positive: Tensor, negative: Tensor, size: int, positive_fraction: float) -> Samples:
    """Draws up to ``size`` rows of each image, at most ``positive_fraction`` of them positive.

    Negatives fill the places that positives leave (section 3.1.3 of the paper). The draw uses
    torch's default generator of the device.

    Args:
        positive, negative: bool [B, N], disjoint.
        size: slots for each image.
        positive_fraction: the greatest share of positives.

    Returns:
        :class:`Samples` with S = min(size, N).
    """
    rows = positive.shape[1]
    max_positive = min(int(size * positive_fraction), rows)
    size = min(size, rows)
    keys = torch.rand(positive.shape, device=positive.device)
    # Rows outside the set get key -1 and are never among the first `count` of the top-k.
    positive_rows = torch.where(positive, keys, -1.0).topk(max(max_positive, 1)).indices
    negative_rows = torch.where(negative, keys, -1.0).topk(size).indices
    num_positive = positive.sum(1, keepdim=True).clamp(max=max_positive)
    num_negative = torch.minimum(negative.sum(1, keepdim=True), size - num_positive)

    slot = torch.arange(size, device=positive.device).expand(positive.shape[0], size)
    is_positive = slot < num_positive
    filled = slot < num_positive + num_negative
    from_positive = positive_rows.gather(1, slot.clamp(max=positive_rows.shape[1] - 1))
    from_negative = negative_rows.gather(1, (slot - num_positive).clamp(min=0))
    indices = torch.where(is_positive, from_positive, from_negative)
    return Samples(torch.where(filled, indices, 0), is_positive, filled.float())
