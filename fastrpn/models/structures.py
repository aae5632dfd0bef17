"""Batched, padded data: what flows between the parts of the model.

Shapes: B images, G ground-truth boxes (the batch's maximum, at least 1), K proposals,
D detections. Rows from ``counts`` on are padding. Boxes are xyxy float32 in pixels of the
resized image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Detections", "GroundTruth", "ImageBatch", "Proposals", "RPNOutput"]
__all__ += ["gather_rows", "list_of_maps", "row_mask"]


class ImageBatch(NamedTuple):
    """Images padded at the right and bottom to one size."""

    images: Tensor  # [B, 3, H, W]
    sizes: Tensor  # [B, 2] int64, (height, width) of each image without its padding
    scales: Tensor | None = None  # [B] float32, by what factor each was resized; None: not known


class GroundTruth(NamedTuple):
    """The objects of a batch; boxes to ignore are already left out."""

    boxes: Tensor  # [B, G, 4]
    labels: Tensor  # [B, G] int64
    counts: Tensor  # [B] int64


class RPNOutput(NamedTuple):
    """What the RPN says of its A anchors, which come level by level."""

    objectness: Tensor  # [B, A] logits
    deltas: Tensor  # [B, A, 4]
    anchors: Tensor  # [A, 4]
    anchors_per_level: list[int]  # their sum is A


class Proposals(NamedTuple):
    """Regions that may hold an object, best first."""

    boxes: Tensor  # [B, K, 4]
    scores: Tensor  # [B, K] float32
    counts: Tensor  # [B] int64


class Detections(NamedTuple):
    """Classified objects, best first."""

    boxes: Tensor  # [B, D, 4]
    scores: Tensor  # [B, D] float32
    labels: Tensor  # [B, D] int64
    counts: Tensor  # [B] int64


def list_of_maps(features: Tensor | Mapping[str, Tensor] | list | tuple) -> list[Tensor]:
    """A backbone's maps as a list, whichever of its ways of returning them it takes."""
    if isinstance(features, Tensor):
        return [features]
    return list(features.values() if isinstance(features, Mapping) else features)


def row_mask(counts: Tensor, rows: int) -> Tensor:
    """Which of ``rows`` padded rows are real: counts [B] -> bool [B, rows]."""
    return torch.arange(rows, device=counts.device) < counts[:, None]


def gather_rows(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of each image: values [B, N, ...], indices int64 [B, S] -> [B, S, ...]."""
    shape = indices.shape + (1,) * (values.dim() - 2)
    return values.gather(1, indices.view(shape).expand(*indices.shape, *values.shape[2:]))
