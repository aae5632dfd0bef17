"""What stopping early gains, by input: `python -m benchmarks.padded_inputs [--output FOLDER]`.

nms_padded stops at the last box that is wanted, so its gain over all of our own nms depends on the
rank of that box in the order of scores, not on its number. Writes padded_inputs.json.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import inputs
from benchmarks.environment import environment
from benchmarks.scenes import C5_LEVEL, FPN_LEVELS, anchor_grid
from benchmarks.tables import table
from benchmarks.timing import measure
from fastrpn import ops

BOXES = 12_000
THRESHOLD = 0.7
WANTED = (300, 1_000, 2_000)
Scene = tuple[Tensor, Tensor, Tensor | None]  # boxes, scores, groups


def untrained_rpn(levels: list[tuple], n: int) -> Scene:
    """The `n` best anchors where boxes and scores are noise; a level is a group."""
    generator = torch.Generator().manual_seed(0)
    grids = [anchor_grid(*level) for level in levels]
    anchors = torch.cat(grids)
    level = torch.cat([torch.full((len(grid),), i) for i, grid in enumerate(grids)])
    sides = (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
    boxes = anchors + 0.05 * sides * torch.randn(anchors.shape, generator=generator)
    scores, best = torch.rand(len(anchors), generator=generator).topk(n)
    return boxes[best], scores, level[best] if len(levels) > 1 else None


def one_group(make: Callable, n: int) -> Scene:
    return *make(n), None


SCENES: dict[str, Callable[[int], Scene]] = {
    "RPN-like, one level": partial(one_group, inputs.rpn_boxes),
    "noisy anchors of an untrained RPN, one level": partial(untrained_rpn, C5_LEVEL),
    "a hundred variations of each object": partial(one_group, inputs.clustered_boxes),
    "dense small boxes": partial(one_group, inputs.dense_boxes),
    "noisy anchors of an untrained RPN, five levels": partial(untrained_rpn, FPN_LEVELS),
}


def row_of(name: str, seconds: float) -> dict[str, object]:
    """Kept boxes, the rank of the last one wanted, and the gain for each number wanted."""
    boxes, scores, groups = SCENES[name](BOXES)
    whole = (
        partial(ops.nms, boxes, scores, THRESHOLD)
        if groups is None
        else partial(ops.batched_nms, boxes, scores, groups, THRESHOLD)
    )
    kept = whole()
    last = kept[min(WANTED[-1], len(kept)) - 1]
    batch = boxes[None], scores[None], THRESHOLD
    batched_groups = None if groups is None else groups[None]
    gains = {}
    for wanted in WANTED:
        row = measure(
            "nms_padded",
            f"{name}, first {wanted:,}",
            wanted,
            {
                "fastrpn": lambda k=wanted: ops.nms_padded(*batch, k, groups=batched_groups)[0][0],
                "fastrpn nms": whole,
            },
            equal=lambda ours, all_kept, k=wanted: torch.equal(ours[ours >= 0], all_kept[:k]),
            seconds=seconds,
        )
        gains[wanted] = row.speedup(over="fastrpn nms")
    rank = int((scores >= scores[last]).sum())
    return {"scene": name, "kept": len(kept), "rank of the last": rank, "gains": gains}


def cells(row: dict[str, object]) -> list[str]:
    """A line of the table."""
    gains = (f"{gain:.1f}×" for gain in row["gains"].values())
    return [row["scene"], f"{row['kept']:,}", f"{row['rank of the last']:,}", *gains]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each gain")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/latest"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)

    rows = [row_of(name, options.seconds) for name in SCENES]
    header = ["boxes", "kept", f"rank of no. {WANTED[-1]:,}", *(f"{k:,}" for k in WANTED)]
    print(table(header, map(cells, rows), padded=True))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "padded_inputs.json"
    path.write_text(json.dumps(environment() | {"boxes": BOXES, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
