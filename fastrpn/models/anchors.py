"""Anchors: the reference boxes of the RPN (Faster R-CNN, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrpn.models.config import ModelConfig

__all__ = ["AnchorGenerator", "cell_anchors", "extents", "inside_image", "shape_anchors"]


class AnchorGenerator(nn.Module):
    """Places the same anchors at every position of every feature level.

    Args:
        sizes: for each level, the anchors' sizes in pixels (square roots of their areas).
        ratios: height / width of the anchors, shared by the levels.
        strides: for each level, the pixels between neighbouring positions.
        convention: where and how anchors are rounded, see :func:`cell_anchors`.
        shapes: for each level, the anchors' (width, height) in pixels, instead of sizes and ratios;
            such anchors are not rounded.

    Anchors are ordered by level, row, column, ratio, size, as in torchvision and py-faster-rcnn.
    """

    cells: Tensor  # float32 [L, n, 4], the anchors of each level at row 0, column 0

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        strides: Sequence[int],
        convention: str = "paper",
        shapes: Sequence[Sequence[tuple[float, float]]] | None = None,
    ) -> None:
        super().__init__()
        name, levels = ("sizes", sizes) if shapes is None else ("shapes", shapes)
        if len(levels) != len(strides):
            raise ValueError(f"{name} has {len(levels)} levels but strides has {len(strides)}")
        if any(len(level) != len(levels[0]) for level in levels):
            raise ValueError(f"every level needs the same number of {name}, got {levels}")
        self.strides = tuple(strides)
        self.convention = convention
        if shapes is None:
            cells = [cell_anchors(sizes[i], ratios, s, convention) for i, s in enumerate(strides)]
        else:
            cells = [shape_anchors(shapes[i], s, convention) for i, s in enumerate(strides)]
        self.per_position = len(cells[0])
        self.register_buffer("cells", torch.stack(cells), persistent=False)
        self._cache: dict[tuple, Tensor] = {}

    @classmethod
    def of(cls, config: ModelConfig, strides: Sequence[int]) -> AnchorGenerator:
        """The anchors of a model whose maps, the finest first, have these strides."""
        return cls(
            config.anchor_sizes,
            config.anchor_ratios,
            config.of_rpn(strides),
            config.anchor_convention,
            config.anchor_shapes,
        )

    def forward(
        self, grid_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Anchors of all levels.

        Args:
            grid_sizes: (rows, columns) of each level's feature map.
            image_size: (height, width) of the padded batch. With the torchvision convention the
                strides follow from it, as there: a grid of 13 rows on 800 pixels has a stride of
                61, where the level's nominal one is 64.

        Returns:
            float32 [A, 4], xyxy pixels; A is the sum over levels of rows * columns * n.
        """
        if len(grid_sizes) != len(self.strides):
            raise ValueError(
                f"grid_sizes has {len(grid_sizes)} levels, the generator {len(self.strides)}"
            )
        steps = [(stride, stride) for stride in self.strides]
        if self.convention == "torchvision" and image_size is not None:
            height, width = image_size
            steps = [(height // rows, width // columns) for rows, columns in grid_sizes]
        if torch.compiler.is_compiling():  # a traced tensor must not outlive its trace
            return self._place(grid_sizes, steps)
        key = (tuple(grid_sizes), tuple(steps), self.cells.device)
        if key not in self._cache:
            if len(self._cache) > 64:  # images of ever new sizes must not fill the memory
                self._cache.clear()
            self._cache[key] = self._place(grid_sizes, steps)
        return self._cache[key]

    def _place(
        self, grid_sizes: Sequence[tuple[int, int]], steps: Sequence[tuple[int, int]]
    ) -> Tensor:
        levels = []
        for (rows, columns), (down, right), cell in zip(grid_sizes, steps, self.cells, strict=True):
            y = torch.arange(rows, device=cell.device, dtype=cell.dtype) * down
            x = torch.arange(columns, device=cell.device, dtype=cell.dtype) * right
            y, x = torch.meshgrid(y, x, indexing="ij")
            shifts = torch.stack([x, y, x, y], dim=-1)
            levels.append((shifts[:, :, None] + cell).reshape(-1, 4))
        return torch.cat(levels)


def cell_anchors(
    sizes: Sequence[float], ratios: Sequence[float], stride: int, convention: str
) -> Tensor:
    """The anchors of the position at row 0, column 0.

    ``"paper"`` keeps exact areas and centres the anchors on the cell, ``"torchvision"`` centres
    them on the cell's corner and rounds, ``"py-faster-rcnn"`` enumerates ratios, then scales, of
    the stride x stride box with that code's rounding; its corners are inclusive pixel indices,
    so that the first of its nine anchors is (-84, -40, 99, 55).

    Returns:
        float32 [len(ratios) * len(sizes), 4], the size running fastest.
    """
    if convention == "py-faster-rcnn":
        return _py_faster_rcnn_anchors(sizes, ratios, stride)
    root = torch.tensor(ratios, dtype=torch.float64)[:, None].sqrt()
    size = torch.tensor(sizes, dtype=torch.float64)
    half_width, half_height = (size / root).flatten() / 2, (size * root).flatten() / 2
    corners = torch.stack([-half_width, -half_height, half_width, half_height], dim=1)
    if convention == "torchvision":
        return corners.float().round()
    if convention == "paper":
        return (corners + stride / 2).float()
    raise ValueError(f"unknown anchor convention {convention!r}")


def shape_anchors(shapes: Sequence[tuple[float, float]], stride: int, convention: str) -> Tensor:
    """Anchors of any (width, height) for row 0, column 0, centred as :func:`cell_anchors` does.

    Returns:
        float32 [len(shapes), 4]; nothing is rounded.
    """
    centre = {"paper": stride / 2, "torchvision": 0.0, "py-faster-rcnn": (stride - 1) / 2}
    if convention not in centre:
        raise ValueError(f"unknown anchor convention {convention!r}")
    last = 1 if convention == "py-faster-rcnn" else 0  # its corners are pixels, both inside
    half = (torch.tensor(shapes, dtype=torch.float64).view(-1, 2) - last) / 2
    return (torch.cat([-half, half], dim=1) + centre[convention]).float()


def _py_faster_rcnn_anchors(sizes: Sequence[float], ratios: Sequence[float], stride: int) -> Tensor:
    centre = (stride - 1) / 2
    anchors = []
    for ratio in ratios:
        width = round((stride * stride / ratio) ** 0.5)
        height = round(width * ratio)
        for size in sizes:
            half_width = (width * size / stride - 1) / 2
            half_height = (height * size / stride - 1) / 2
            anchors.append(
                [centre - half_width, centre - half_height]
                + [centre + half_width, centre + half_height]
            )
    return torch.tensor(anchors, dtype=torch.float32)


def extents(anchors: Tensor, convention: str) -> Tensor:
    """What anchors [..., 4] cover, xyxy.

    py-faster-rcnn's corners are pixels that both belong to the anchor: it ends one pixel further.
    With that, widths, overlaps and "inside the image" are those of its "+1" and "x2 < width".
    """
    if convention != "py-faster-rcnn":
        return anchors
    return torch.cat([anchors[..., :2], anchors[..., 2:] + 1], dim=-1)


def inside_image(anchors: Tensor, image_sizes: Tensor) -> Tensor:
    """Which anchors lie inside each image; the paper trains the RPN on those alone.

    Args:
        anchors: [A, 4] xyxy pixels.
        image_sizes: [B, 2] (height, width).

    Returns:
        bool [B, A].
    """
    height, width = image_sizes[:, :1], image_sizes[:, 1:]
    x1, y1, x2, y2 = anchors.unbind(1)
    return (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)
