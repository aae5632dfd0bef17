"""What the CUDA kernels must do at the sizes of the benchmarks: `python -m benchmarks.cuda_floors`.

Counts, on the CPU, the bytes that no kernel can avoid (every input and output once, float32) and
the operations of ours: cells or taps read for RoI pooling, gradients read by the blocks of a
backward and added by its warps, IoUs for soft_nms and match_anchors.
"""

from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.cuda_roi_cases import features_and_rois
from benchmarks.inputs import rpn_boxes
from benchmarks.scenes import FPN_LEVELS, anchor_grid
from benchmarks.tables import table
from fastrpn import ops

POOLED, SAMPLES = 7, 2  # as in cuda_roi_cases.py
# As in cuda/gradient_tile.h: cells of a warp and of a block, and how many blocks there should be.
WARP_TILE, BLOCK_TILES, BLOCKS, BLOCK_CHANNELS = (4, 4), [(8, 16), (8, 8), (4, 8)], 1024, 32
MAPS = [((1, 512, 38, 50), 1 / 16), ((1, 256, 200, 272), 1 / 4)]
ROIS = 2000


class Axis(NamedTuple):
    """What the bins of K RoIs read along one axis."""

    begin: Tensor  # [K, 7]: cells [begin, end)
    end: Tensor
    cells: Tensor  # [K, 7]: how many of these
    distinct: Tensor  # [K]: how many all bins of a RoI read, each counted once


def pool_bins(low: Tensor, high: Tensor, size: int) -> Axis:
    """roi_pool; low, high: in cells."""
    start = low.round()
    extent = (high.round() - start + 1).clamp(min=1)[:, None] / POOLED
    i = torch.arange(POOLED)
    borders = (i * extent).floor(), ((i + 1) * extent).ceil()
    begin, end = ((start[:, None] + x).clamp(0, size) for x in borders)
    return Axis(begin, end, end - begin, end[:, -1] - begin[:, 0])


def align_bins(low: Tensor, high: Tensor, size: int) -> Axis:
    """roi_align (aligned), two samples a bin."""
    extent = (high - low)[:, None, None] / POOLED
    i, sample = torch.arange(POOLED)[:, None], (torch.arange(SAMPLES) + 0.5) / SAMPLES
    at = low[:, None, None] - 0.5 + (i + sample) * extent
    cell = at.clamp(0, size - 1).floor()
    begin, end = cell[..., 0], (cell[..., 1] + 2).clamp(max=size)
    all_cells = torch.cat([cell, (cell + 1).clamp(max=size - 1)], dim=2).flatten(1).sort().values
    distinct = 1 + (all_cells.diff() > 0).sum(1)
    return Axis(begin, end, torch.minimum(end - begin, torch.tensor(2.0 * SAMPLES)), distinct)


Tile = tuple[int, int]  # rows and columns of cells


def block_tile(channels: int, height: int, width: int) -> Tile:
    """The largest of which there are blocks enough."""
    for rows, columns in BLOCK_TILES:
        blocks = ceil(height / rows) * ceil(width / columns) * ceil(channels / BLOCK_CHANNELS)
        if blocks >= BLOCKS:
            break
    return rows, columns


def visits(y: Axis, x: Axis, tile: Tile) -> Tensor:
    """How often tiles meet bins."""

    def tiles(begin: Tensor, end: Tensor, size: int) -> Tensor:
        reached = ((end - 1) / size).floor() - (begin / size).floor() + 1
        return torch.where(end > begin, reached, 0).sum(1)

    return (tiles(y.begin, y.end, tile[0]) * tiles(x.begin, x.end, tile[1])).sum()


def roi_rows() -> list[list[str]]:
    rows = []
    for shape, scale in MAPS:
        _, channels, height, width = shape
        rois = features_and_rois((1, 1, height, width), ROIS, scale)[1] * scale
        name = f"{ROIS:,} RoIs, {channels}×{height}×{width}"
        map_bytes, output_bytes = 4 * height * width * channels, 4 * ROIS * POOLED**2 * channels
        sides = [(rois[:, 2], rois[:, 4], height), (rois[:, 1], rois[:, 3], width)]
        spans = {
            "roi_pool": [pool_bins(*side) for side in sides],
            "roi_align": [align_bins(*side) for side in sides],
        }
        for op, (y, x) in spans.items():
            read = channels * (y.cells.sum(1) * x.cells.sum(1)).sum()
            once = channels * (y.distinct * x.distinct).sum()
            tile = block_tile(channels, height, width)
            loads, adds = (channels * visits(y, x, of) for of in (tile, WARP_TILE))
            argmax = output_bytes if op == "roi_pool" else 0
            reads = f"{read / 1e6:,.0f} M cells, {once / 1e6:,.0f} M of them a RoI's first"
            rows.append([f"`{op}` forward, {name}", map_bytes + output_bytes, reads])
            gradients = f"{loads / 1e6:,.0f} M gradients read, {adds / 1e6:,.0f} M added"
            total = map_bytes + output_bytes + argmax
            rows.append([f"`{op}` backward, {name}", total, gradients])
    return rows


def box_rows() -> list[list[str]]:
    anchors, images, gts = sum(len(anchor_grid(*level)) for level in FPN_LEVELS), 8, 32
    total = 16 * anchors + images * (16 * gts + 12 * anchors)
    ious = f"{images * anchors * gts / 1e6:,.0f} M IoUs"
    rows = [[f"`match_anchors`, {anchors:,} × {gts}, {images} images", total, ious]]
    for n in (1000, 10_000):
        boxes, scores = rpn_boxes(n)
        kept = len(ops.soft_nms(boxes, scores, score_threshold=0.05)[0])
        work = f"{kept:,} rounds, {kept * n / 1e6:,.1f} M IoUs at most"
        rows.append([f"`soft_nms`, {n:,} RPN-like", 20 * n + 12 * kept, work])
    return rows


if __name__ == "__main__":
    rows = [*roi_rows(), *box_rows()]
    cells = ((work, f"{size / 1e6:,.3g} MB", operations) for work, size, operations in rows)
    print(table(["work", "bytes at least", "operations"], cells))
