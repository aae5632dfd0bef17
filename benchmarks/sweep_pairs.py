"""How many pairs NMS on CUDA tests in its sweeps: `python -m benchmarks.sweep_pairs`.

Counts, on the CPU, what csrc/ops/nms/sweep_cuda.h would do for the scenes of the benchmarks: the
pairs of open later boxes and boxes that a chunk kept, the tests of a block's region that take their
place, and the pairs that those leave.
"""

import torch
from torch import Tensor

from benchmarks.inputs import dense_boxes, rpn_boxes
from fastrpn import ops

CHUNK, BLOCK, ORDERED = 4096, 256, 4 * 4096  # as in ops/nms/workspace_cuda.h


def count(boxes: Tensor, scores: Tensor, threshold: float) -> tuple[int, int, int]:
    """(all pairs, tests of regions, pairs left) of one image and one group."""
    place = scores.sort(descending=True, stable=True).indices
    boxes = boxes[place]
    n = len(boxes)
    kept = torch.zeros(n, dtype=torch.bool)
    kept[ops.nms(boxes, torch.arange(n, 0.0, -1.0), threshold)] = True
    order = (boxes[:, 0] + boxes[:, 2]).argsort(descending=True)
    if n <= ORDERED:
        order = torch.arange(n)
    is_open = torch.ones(n, dtype=torch.bool)
    all_pairs = regions = left = 0
    for end in range(CHUNK, n, CHUNK):
        by = boxes[end - CHUNK : end][kept[end - CHUNK : end]]
        is_open[:end] = False
        for block in order.split(BLOCK):
            mine = boxes[block[is_open[block]]]
            if len(mine) == 0:
                continue
            low, high = mine[:, :2].amin(0), mine[:, 2:].amax(0)
            near = by[((by[:, :2] < high) & (low < by[:, 2:])).all(1)]
            all_pairs += len(mine) * len(by)
            regions += len(by)
            left += len(mine) * len(near)
            hit = (ops.box_iou(mine, near) > threshold).any(1)
            is_open[block[is_open[block]][hit]] = False
    return all_pairs, regions, left


def main() -> None:
    scenes = {
        "12,000 RPN-like @0.7": (*rpn_boxes(12_000), 0.7),
        "20,000 dense @0.5": (*dense_boxes(20_000, extent=800), 0.5),
        "100,000 dense @0.5": (*dense_boxes(100_000, extent=2000), 0.5),
    }
    for name, scene in scenes.items():
        all_pairs, regions, left = count(*scene)
        share = 100 * (regions + left) / all_pairs
        print(f"{name}: {all_pairs:,} pairs; {regions:,} regions + {left:,} pairs ({share:.1f} %)")


if __name__ == "__main__":
    main()
