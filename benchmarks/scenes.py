"""Anchors, objects and head outputs like those of a trained detector, for the benchmarks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrpn import ops
from fastrpn.models import AnchorGenerator

# (height, width, stride, anchor sizes) of each level
C5_LEVEL = [(38, 50, 16, [128, 256, 512])]
FPN_LEVELS = [
    (200, 272, 4, [32]),
    (100, 136, 8, [64]),
    (50, 68, 16, [128]),
    (25, 34, 32, [256]),
    (13, 17, 64, [512]),
]


def anchor_grid(
    height: int, width: int, stride: int, sizes: Sequence[int], convention: str = "torchvision"
) -> Tensor:
    """`[height * width * sizes * 3, 4]`: each size at aspect ratios 1:2, 1:1 and 2:1."""
    shapes = [(s * r**-0.5, s * r**0.5) for s in sizes for r in (0.5, 1.0, 2.0)]
    return AnchorGenerator((), (), [stride], convention, [shapes])([(height, width)])


def random_objects(count: int, extent: float, seed: int) -> Tensor:
    """`[count, 4]` boxes with log-uniform sides of 12 to 150 pixels."""
    generator = torch.Generator().manual_seed(seed)
    centre = extent * torch.rand(count, 2, generator=generator)
    sides = torch.exp(2.5 + 2.5 * torch.rand(count, 2, generator=generator))
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=1)


def head_outputs(anchors: Tensor, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Objectness `[B, A]` that follows the overlap with objects; deltas that pull towards them."""
    generator = torch.Generator().manual_seed(seed)
    overlap, nearest = ops.box_iou(anchors, random_objects(20, 800, seed)).max(dim=1)
    deltas = ops.encode_boxes(random_objects(20, 800, seed)[nearest], anchors).clamp(-1, 1)
    noise = torch.randn(batch, len(anchors), 5, generator=generator)
    objectness = 12 * overlap - 8 + noise[..., 0]
    return objectness, deltas * overlap[:, None] + 0.15 * noise[..., 1:]
