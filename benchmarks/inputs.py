"""Boxes and scores for the NMS benchmarks: what a detector hands to NMS, and the extremes."""

import torch
from torch import Tensor

from benchmarks.scenes import anchor_grid
from fastrpn.ops import box_iou

STRIDE = 16
ANCHOR_SIZES = (128, 256, 512)  # each in three shapes


def rpn_boxes(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The `n` best anchors of an image, pulled towards objects; scores follow the overlap.

    The image is 800 x 1000, or as large as `n` anchors need; one object for each 200 x 200 pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = 800.0, 1000.0
    while int(height) // STRIDE * (int(width) // STRIDE) * 9 < n:
        height, width = 1.3 * height, 1.3 * width
    rows, columns = int(height) // STRIDE, int(width) // STRIDE
    anchors = anchor_grid(rows, columns, STRIDE, ANCHOR_SIZES, "paper")

    objects = max(8, round(height * width / 200**2))
    sides = torch.exp(5.1 + 0.5 * torch.randn(objects, 2, generator=generator))
    centre = torch.rand(objects, 2, generator=generator) * torch.tensor([width, height])
    gt = torch.cat([centre - sides / 2, centre + sides / 2], dim=1)
    best = [box_iou(part, gt).max(dim=1) for part in anchors.split(50_000)]
    overlap, nearest = (torch.cat(parts) for parts in zip(*best, strict=True))

    pull = (0.9 * overlap + 0.05 * torch.rand(len(anchors), generator=generator))[:, None]
    noise = 0.05 * torch.randn(len(anchors), 4, generator=generator)
    noise = noise * (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
    boxes = anchors + pull * (gt[nearest] - anchors) + (1 - pull) * noise
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    scores = torch.sigmoid(8 * (overlap - 0.5) + torch.randn(len(anchors), generator=generator))

    best = scores.topk(n).indices[torch.randperm(n, generator=generator)]
    return boxes[best], scores[best]


def dense_boxes(n: int, seed: int = 0, extent: float = 20_000) -> tuple[Tensor, Tensor]:
    """Small boxes, sides log-normal around 40 pixels, all over a large image."""
    generator = torch.Generator().manual_seed(seed)
    sides = 40 * torch.exp(0.3 * torch.randn(n, 2, generator=generator))
    centre = extent * torch.rand(n, 2, generator=generator)
    scores = torch.rand(n, generator=generator)
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=1), scores


def sparse_boxes(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes of 40 pixels, hardly any of which meet."""
    return dense_boxes(n, seed, extent=400.0 * n**0.5)


def clustered_boxes(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A hundred variations of each of n / 100 boxes."""
    generator = torch.Generator().manual_seed(seed)
    boxes, _ = dense_boxes(max(n // 100, 1), seed, extent=40.0 * n**0.5)
    copies = torch.randint(0, len(boxes), (n,), generator=generator)
    boxes = boxes[copies] + 8 * torch.randn(n, 4, generator=generator)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)  # lsnms refuses an empty box
    return boxes, torch.rand(n, generator=generator)


def copies_of_one_box(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same box `n` times."""
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor([[10.0, 20, 110, 220]]).repeat(n, 1), torch.rand(n, generator=generator)
