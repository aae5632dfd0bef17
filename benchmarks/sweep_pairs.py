"""How many pairs NMS on CUDA tests: `python -m benchmarks.sweep_pairs`.

Counts, on the CPU, what the kernels of csrc/ops/nms would do for the scenes of the benchmarks: in
the sweeps, the pairs of open later boxes and boxes that a chunk kept, the tests of a block's span
of x that take their place, and the pairs that those leave; with groups, all pairs that chunks and
sweeps would test, and those that segments test instead.
"""

import torch
from torch import Tensor

from benchmarks.inputs import dense_boxes, rpn_boxes
from fastrpn import ops

CHUNK, BLOCK, ORDERED, TILE = 4096, 256, 4 * 4096, 64  # as in ops/nms/workspace_cuda.h


def count(
    boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None
) -> tuple[int, int, int, int]:
    """(pairs within chunks; in sweeps: all pairs, tests of spans, pairs left) of one image."""
    place = scores.sort(descending=True, stable=True).indices
    n = len(boxes)
    boxes = boxes[place]
    groups = torch.zeros(n, dtype=torch.long) if groups is None else groups[place]
    kept = torch.zeros(n, dtype=torch.bool)
    kept[ops.batched_nms(boxes, torch.arange(n, 0.0, -1.0), groups, threshold)] = True
    order = (boxes[:, 0] + boxes[:, 2]).argsort(descending=True)
    if n <= ORDERED:
        order = torch.arange(n)
    is_open = torch.ones(n, dtype=torch.bool)
    in_chunks = all_pairs = spans = left = 0
    for begin in range(0, n, CHUNK):
        end = begin + CHUNK
        in_chunks += int(torch.nonzero(is_open[begin:end]).sum())
        by = torch.nonzero(kept[begin:end]).squeeze(1) + begin
        is_open[:end] = False
        for block in order.split(BLOCK):
            mine = block[is_open[block]]
            if len(mine) == 0:
                continue
            low, high = boxes[mine, 0].min(), boxes[mine, 2].max()
            near = by[(boxes[by, 0] < high) & (low < boxes[by, 2])]
            all_pairs += len(mine) * len(by)
            spans += len(by)
            left += len(mine) * len(near)
            hit = ops.box_iou(boxes[mine], boxes[near]) > threshold
            hit &= groups[mine][:, None] == groups[near]
            is_open[mine[hit.any(1)]] = False
    return in_chunks, all_pairs, spans, left


def count_in_segments(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor) -> int:
    """Pairs that the blocks of small groups test, at most; not those of two groups of a block."""
    tests = 0
    for group in groups.unique():
        mine = torch.nonzero(groups == group).squeeze(1)
        place = mine[scores[mine].sort(descending=True, stable=True).indices]
        kept = torch.zeros(len(place), dtype=torch.long)
        kept[ops.nms(boxes[place], torch.arange(len(place), 0.0, -1.0), threshold)] = 1
        for first in range(0, len(place), TILE):
            size = min(TILE, len(place) - first)
            tests += size * int(kept[:first].sum()) + size * (size - 1) // 2
    return tests


def main() -> None:
    scenes = {
        "12,000 RPN-like @0.7": (*rpn_boxes(12_000), 0.7),
        "20,000 dense @0.5": (*dense_boxes(20_000, extent=800), 0.5),
        "100,000 dense @0.5": (*dense_boxes(100_000, extent=2000), 0.5),
    }
    for name, scene in scenes.items():
        _, all_pairs, spans, left = count(*scene)
        share = 100 * (spans + left) / all_pairs
        print(f"{name}: {all_pairs:,} pairs; {spans:,} spans + {left:,} pairs ({share:.1f} %)")
    for n in (20_000, 80_000):
        scene = (*dense_boxes(n, extent=800 * (n / 20_000) ** 0.5), 0.5, torch.arange(n) % 80)
        in_chunks, _, spans, left = count(*scene)
        in_segments = count_in_segments(*scene)
        print(
            f"{n:,} x 80 classes @0.5: {in_chunks:,} pairs in chunks, {spans:,} spans and "
            f"{left:,} pairs in sweeps; {in_segments:,} pairs in segments"
        )


if __name__ == "__main__":
    main()
