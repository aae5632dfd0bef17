"""Boxes and scores made to find differences between kernels that should agree to the last bit."""

import torch

INF, NAN = float("inf"), float("nan")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random_boxes(n: int, generator: torch.Generator) -> torch.Tensor:
    """[n, 4] float64 boxes, crowded, many at whole pixels: many equal IoUs."""
    corners = torch.rand(n, 2, generator=generator).double() * 30
    boxes = torch.cat([corners, corners + torch.rand(n, 2, generator=generator).double() * 20], 1)
    return torch.where(torch.rand(n, 1, generator=generator) < 0.5, boxes.round(), boxes)


def fractions(n: int, generator: torch.Generator) -> torch.Tensor:
    """[n, 4] boxes of height 1 from 0 to a whole number up to 20: IoUs are a / b exactly."""
    boxes = torch.zeros(n, 4, dtype=torch.float64)
    boxes[:, 2] = torch.randint(1, 21, (n,), generator=generator)
    boxes[:, 3] = 1
    return boxes


def strange_boxes(n: int, generator: torch.Generator) -> torch.Tensor:
    """[n, 4] boxes of NaN, infinities, zeros of both signs, denormals, huge and plain numbers."""
    values = [0.0, -0.0, 1.0, 3.0, 5.0, 1e-44, 1e-40, 6e-8, 1e19, -1e19, 3e38, -3e38]
    values += [INF, -INF, NAN]
    chosen = torch.randint(0, len(values), (n, 4), generator=generator)
    boxes = torch.tensor(values, dtype=torch.float64)[chosen]
    plain = random_boxes(n, generator)
    return torch.where(torch.rand(n, 1, generator=generator) < 0.6, boxes, plain)


def duplicates(n: int, generator: torch.Generator) -> torch.Tensor:
    """[n, 4]: each of a few boxes many times, some with their corners reversed."""
    few = random_boxes(max(n // 6, 1), generator)
    boxes = few[torch.randint(0, len(few), (n,), generator=generator)]
    return torch.where(torch.rand(n, 1, generator=generator) < 0.2, boxes.flip(1), boxes)


SCENES = {scene.__name__: scene for scene in (random_boxes, fractions, strange_boxes, duplicates)}


def tied_scores(n: int, generator: torch.Generator) -> torch.Tensor:
    """[n] scores in tenths, so many are equal, with NaN, infinities and zeros of both signs."""
    scores = torch.randint(-1, 11, (n,), generator=generator).double() / 10
    strange = torch.tensor([NAN, INF, -INF, -0.0, 0.0], dtype=torch.float64)
    chosen = strange[torch.randint(0, 5, (n,), generator=generator)]
    return torch.where(torch.rand(n, generator=generator) < 0.1, chosen, scores)
