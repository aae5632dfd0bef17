"""Detection in large images, tile by tile: objects keep the size that the model was trained for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrpn import ops
from fastrpn.tiling import check_tiling, tile_grid

__all__ = ["TiledDetector", "join_tiles"]

_EDGE = 1.0  # pixels: a box that ends nearer to a tile's edge is taken for cut off there
_COVERED = 0.5  # of its area: a box that was cut off goes if a whole one covers as much of it


class TiledDetector(nn.Module):
    """A detector that looks at overlapping tiles of an image and joins what it finds.

    An object that is smaller than the overlap is whole in some tile. Where a tile cut it off, its
    part goes in favour of the whole; the parts of an object that is whole nowhere stay. An image
    that is no larger than a tile takes one pass, as without tiles.

    Args:
        model: images float [3, H, W] -> for each "boxes" [D, 4] xyxy, "labels" [D], "scores" [D].
        tile: side of a tile, pixels.
        overlap: least share of its side that a tile has in common with the next, 0 to below 1.
        nms_threshold: greatest IoU of two boxes of one class from different tiles.
        batch_size: tiles in one pass.

    Raises:
        ValueError: a tile or a ``batch_size`` below 1, an overlap outside [0, 1).
    """

    def __init__(
        self,
        model: Callable[..., list[dict[str, Tensor]]],
        tile: int,
        overlap: float = 0.2,
        nms_threshold: float = 0.5,
        batch_size: int = 4,
    ) -> None:
        super().__init__()
        check_tiling(tile, overlap)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.tile, self.overlap = tile, overlap
        self.nms_threshold = nms_threshold
        self.batch_size = batch_size

    def forward(self, images: Sequence[Tensor], **options: Any) -> list[dict[str, Tensor]]:
        """Detections of each image, best first, as the model gives them; options are the model's.

        The model's ``detections_per_image`` counts for a tile; an image may have more.
        """
        return [self._detect(image, options) for image in images]

    def _detect(self, image: Tensor, options: dict[str, Any]) -> dict[str, Tensor]:
        tiles = tile_grid(image.shape[1], image.shape[2], self.tile, self.overlap)
        if len(tiles) == 1:
            return self.model([image], **options)[0]
        parts: list[dict[str, Tensor]] = []
        for some in tiles.split(self.batch_size):
            crops = [image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in some.tolist()]
            parts += self.model(crops, **options)
        return join_tiles(parts, tiles, (image.shape[1], image.shape[2]), self.nms_threshold)


def join_tiles(
    parts: Sequence[dict[str, Tensor]],
    tiles: Tensor,
    image_size: tuple[int, int],
    nms_threshold: float,
) -> dict[str, Tensor]:
    """The detections of an image from those of its tiles; see :class:`TiledDetector`.

    Args:
        parts: for each tile "boxes" [D, 4] xyxy in its pixels, "labels" [D] and "scores" [D].
        tiles: int64 [T, 4] xyxy in pixels of the image.
        image_size: (height, width).
        nms_threshold: greatest IoU of two boxes of one class.

    Returns:
        likewise for the image, best first.
    """
    device = parts[0]["boxes"].device
    counts = torch.tensor([len(part["boxes"]) for part in parts])
    of_tile = tiles.repeat_interleave(counts, dim=0).to(device, parts[0]["boxes"].dtype)
    boxes = torch.cat([part["boxes"] for part in parts]) + of_tile[:, :2].repeat(1, 2)
    labels = torch.cat([part["labels"] for part in parts])
    scores = torch.cat([part["scores"] for part in parts])

    height, width = image_size
    limits = boxes.new_tensor([0, 0, width, height])
    at_edge = ((boxes - of_tile).abs() <= _EDGE) & (of_tile != limits)
    cut = at_edge.any(1)
    whole = _nms((~cut).nonzero()[:, 0], boxes, scores, labels, nms_threshold)
    parts_left = cut.nonzero()[:, 0]
    parts_left = parts_left[~_covered(parts_left, whole, boxes, labels)]
    kept = torch.cat([whole, _nms(parts_left, boxes, scores, labels, nms_threshold)])
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}


def _nms(
    rows: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, nms_threshold: float
) -> Tensor:
    return rows[ops.batched_nms(boxes[rows], scores[rows], labels[rows], nms_threshold)]


def _covered(rows: Tensor, whole: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """bool [R]: at least half of the box lies in one of the whole ones of its class."""
    covered = torch.zeros(len(rows), dtype=torch.bool, device=boxes.device)
    others = boxes[whole]
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    for first in range(0, len(rows), 256):  # memory stays bounded
        some = rows[first : first + 256]
        low = torch.maximum(boxes[some, None, :2], others[None, :, :2])
        high = torch.minimum(boxes[some, None, 2:], others[None, :, 2:])
        inside = (high - low).clamp(min=0).prod(2) >= _COVERED * area[some, None]
        same = labels[some, None] == labels[whole][None]
        covered[first : first + 256] = (inside & same).any(1)
    return covered
