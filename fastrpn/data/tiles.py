"""A data set of large images as one of their tiles: what training and evaluation see at once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from fastrpn.data.dataset import AnnotatedImages
from fastrpn.tiling import boxes_in_tile, check_tiling, tile_grid

__all__ = ["Tiles"]

_DECODED = 4  # images that a process keeps: neighbouring tiles are often asked for together


class Tiles(torch.utils.data.Dataset[tuple[Tensor, dict[str, Any]]]):
    """The tiles of all images of a data set, in order; each is a sample of its own.

    An object belongs to each tile that has at least half of it, clipped to it. The tiles of an
    image overlap, see :func:`fastrpn.tiling.tile_grid`.

    Args:
        dataset: the images.
        tile: side of a tile, pixels.
        overlap: least share of its side that a tile has in common with the next, 0 to below 1.

    Attributes:
        classes: of the data set.
        tiles: int64 [T, 5]: index of the image, then xyxy in its pixels.

    Raises:
        ValueError: a tile below one pixel, an overlap outside [0, 1).
    """

    def __init__(self, dataset: AnnotatedImages, tile: int, overlap: float = 0.2) -> None:
        check_tiling(tile, overlap)
        self.dataset = dataset
        self.classes = dataset.classes
        grids = [
            torch.nn.functional.pad(tile_grid(height, width, tile, overlap), (1, 0), value=index)
            for index, (height, width) in enumerate(dataset.sizes)
        ]
        self.tiles = torch.cat(grids) if grids else torch.zeros(0, 5, dtype=torch.int64)
        self._decoded: OrderedDict[int, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every tile."""
        return [(y2 - y1, x2 - x1) for _, x1, y1, x2, y2 in self.tiles.tolist()]

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        image, x1, y1, x2, y2 = self.tiles[index].tolist()
        return self._image(image)[:, y1:y2, x1:x2].clone(), self.target(index)

    def target(self, index: int) -> dict[str, Any]:
        """The target of a tile without reading its image; its "image_id" is the tile's index."""
        target = self.dataset.target(int(self.tiles[index, 0]))
        boxes, kept = boxes_in_tile(target["boxes"], self.tiles[index, 1:])
        found = {name: target[name][kept] for name in ("labels", "ignore")}
        return {"boxes": boxes, **found, "image_id": index}

    def _image(self, index: int) -> Tensor:
        if index not in self._decoded:
            self._decoded[index] = self.dataset[index][0]
            if len(self._decoded) > _DECODED:
                self._decoded.popitem(last=False)
        return self._decoded[index]
