"""Large images in overlapping tiles: where they lie, and what of a box is in one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["boxes_in_tile", "check_tiling", "tile_grid"]

VISIBLE = 0.5  # of its area: an object of which less is in a tile is not one of the tile's


def check_tiling(tile: int, overlap: float) -> None:
    """Raises ValueError unless a tile has a side in pixels and an overlap a fraction below 1."""
    if tile < 1:
        raise ValueError(f"tile must be at least 1 pixel, got {tile}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must lie in [0, 1), got {overlap}")


def tile_grid(height: int, width: int, tile: int, overlap: float = 0.2) -> Tensor:
    """The tiles of an image: as few as cover it with that overlap, evenly spread.

    Args:
        height, width: of the image, pixels.
        tile: side of a tile, pixels; a side of the image that is shorter is taken whole.
        overlap: least share of its side that a tile has in common with the next, 0 to below 1.

    Returns:
        int64 [N, 4] xyxy in pixels, by rows; all of one size. One tile if the image is no larger.

    Raises:
        ValueError: a tile below one pixel, an overlap outside [0, 1).
    """
    check_tiling(tile, overlap)
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    corners = torch.stack([x, y], dim=-1).reshape(-1, 2)
    size = torch.tensor([min(tile, width), min(tile, height)])
    return torch.cat([corners, corners + size], dim=1)


def _starts(length: int, tile: int, overlap: float) -> Tensor:
    room = max(0, length - tile)
    step = max(1, math.floor(tile * (1 - overlap)))
    count = math.ceil(room / step) + 1
    return torch.tensor([round(i * room / max(1, count - 1)) for i in range(count)])


def boxes_in_tile(boxes: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
    """What of an image's boxes is in a tile.

    Args:
        boxes: float [N, 4] xyxy, pixels of the image.
        tile: [4] xyxy likewise.

    Returns:
        the clipped boxes [K, 4] in pixels of the tile, and which boxes they are, bool [N]: those of
        which at least half is inside.
    """
    x1, y1, x2, y2 = (float(side) for side in tile)
    low, high = boxes.new_tensor([x1, y1, x1, y1]), boxes.new_tensor([x2, y2, x2, y2])
    clipped = torch.maximum(torch.minimum(boxes, high), low)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    inside = (clipped[:, 2:] - clipped[:, :2]).prod(1)
    kept = (inside > 0) & (inside >= VISIBLE * area)
    return clipped[kept] - low, kept
