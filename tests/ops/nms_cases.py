"""Boxes and scores that stress one aspect of NMS at a time."""

import math

import torch
from hypothesis import strategies as st

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
THRESHOLDS = [-0.1, 0.0, 1e-7, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 0.99, 1.0, 1.5, math.nan]


def random_boxes(n: int, generator: torch.Generator, kind: str) -> torch.Tensor:
    """`[n, 4]` float64 boxes that stress one aspect of the comparison."""

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    extent = 10 ** (1 + 2 * rand(1))
    centre = rand(n, 2) * extent
    size = torch.exp(2 * rand(n, 2) + rand(1) * 3)
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    if kind == "integers":  # IoUs that equal 1/2, 1/3, ... exactly
        boxes = (boxes / 8).round()
    elif kind == "duplicates":
        boxes = boxes[torch.randint(0, max(n // 4, 1), (n,), generator=generator)] if n else boxes
    elif kind == "jitter":  # many near-copies of a few boxes
        boxes = boxes[torch.randint(0, max(n // 8, 1), (n,), generator=generator)] if n else boxes
        boxes = boxes + rand(n, 4) * size.mean() * 0.2
    elif kind == "huge":
        boxes = boxes * 1e16
    elif kind == "tiny":
        boxes = boxes * 1e-21
    elif kind == "far":  # coordinates so large that a box is a few units in the last place wide
        boxes = boxes + 1e6
    elif kind == "negative sides":
        flip = rand(n) < 0.3
        boxes[flip] = boxes[flip][:, [2, 1, 0, 3]]
    elif kind == "not finite":
        bad = rand(n, 4)
        boxes[bad < 0.02] = math.nan
        boxes[(bad > 0.02) & (bad < 0.04)] = math.inf
        boxes[(bad > 0.04) & (bad < 0.06)] = -math.inf
    elif kind == "slender":
        boxes[:, 2] = boxes[:, 0] + size[:, 0] * 1000 * rand(n)
    return boxes


KINDS = [
    "plain", "integers", "duplicates", "jitter", "huge", "tiny", "far", "negative sides",
    "not finite", "slender",
]  # fmt: skip


def random_scores(n: int, generator: torch.Generator, kind: str) -> torch.Tensor:
    scores = torch.randn(n, generator=generator, dtype=torch.float64)
    if kind == "ties":
        scores = (scores * 3).round() / 3  # includes 0.0 and -0.0
    elif kind == "not finite":
        bad = torch.rand(n, generator=generator)
        scores[bad < 0.1] = math.nan
        scores[(bad > 0.1) & (bad < 0.15)] = math.inf
        scores[(bad > 0.15) & (bad < 0.2)] = -math.inf
    return scores


def random_case(seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    generator = torch.Generator().manual_seed(seed)

    def choose(options):
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    n = choose([1, 2, 7, 8, 9, 31, 33, 64, 100, 257, 600, 1100])
    dtype = choose([torch.float32, torch.float32, torch.float64])
    boxes = random_boxes(n, generator, choose(KINDS)).to(dtype)
    scores = random_scores(n, generator, choose(["plain", "ties", "not finite"])).to(dtype)
    return boxes, scores, choose(THRESHOLDS)


numbers = st.floats(width=32) | st.integers(-3, 3).map(float)
any_boxes = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=20)
