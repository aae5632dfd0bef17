"""Boxes, scores and thresholds that stress one aspect of an operator at a time."""

import math

import torch
from torch import Tensor

from .trial import Trial

# Numbers that stand alone in a box otherwise plain.
ODD = (math.nan, math.inf, -math.inf, 1e38, -1e38, 3.4e38, 5e-324, 1e-40, -1e-40, 1e-45, -0.0, 0.0)


def random_boxes(trial: Trial, *shape: int, odd: bool = True) -> Tensor:
    """`[*shape, 4]` float64 xyxy; with `odd` some are not finite, huge, tiny or inside out."""
    kinds = [_plain, _plain, _integers, _integers, _fractions, _copies, _jitter]
    if odd:
        kinds += [_odd_numbers, _reversed, _scaled]
    return trial.random.choice(kinds)(trial, shape)


def _plain(trial: Trial, shape: tuple[int, ...]) -> Tensor:
    """Centres in a square, so that many overlap, and sides of all sizes."""
    extent = 10 ** trial.random.uniform(0.7, 2.5)
    centre = extent * trial.rand(*shape, 2)
    half = torch.exp(1.5 * trial.randn(*shape, 2)) * extent / 16
    return torch.cat([centre - half, centre + half], dim=-1)


def _integers(trial: Trial, shape: tuple[int, ...]) -> Tensor:
    """On a small grid: equal areas, touching sides, IoUs of 1/2, 1/3, ..., sides of 0."""
    corner = trial.randint(-2, trial.choose(3, 8), *shape, 2)
    side = trial.randint(trial.choose(0, 1, 1), trial.choose(3, 10), *shape, 2)
    return torch.cat([corner, corner + side], dim=-1).double()


def _fractions(trial: Trial, shape: tuple[int, ...]) -> Tensor:
    """Boxes of one corner and whole widths: every IoU is k/n of whole numbers."""
    boxes = torch.zeros(*shape, 4, dtype=torch.float64)
    boxes[..., 2] = trial.randint(1, trial.choose(4, 12, 40), *shape)
    boxes[..., 3] = trial.choose(1.0, 3.0, 7.0)
    return boxes * trial.choose(1, 1, 0.1, 1e-3)


def _copies(trial: Trial, shape: tuple[int, ...]) -> Tensor:
    """Few different boxes, or one."""
    boxes = _plain(trial, shape)
    if math.prod(shape) == 0:
        return boxes
    flat = boxes.view(-1, 4)
    different = trial.choose(1, 1, 2, max(len(flat) // 4, 1))
    return flat[trial.randint(0, min(different, len(flat)), len(flat))].view(boxes.shape)


def _jitter(trial: Trial, shape: tuple[int, ...]) -> Tensor:
    return _copies(trial, shape) + trial.randn(*shape, 4) * trial.choose(1e-6, 0.01, 1.0)


def _odd_numbers(trial: Trial, shape: tuple[int, ...]) -> Tensor:
    boxes = trial.random.choice((_plain, _integers))(trial, shape)
    numbers = torch.tensor(ODD, dtype=torch.float64)
    chosen = numbers[trial.randint(0, len(ODD), *shape, 4)]
    return torch.where(trial.rand(*shape, 4) < trial.choose(0.03, 0.3), chosen, boxes)


def _reversed(trial: Trial, shape: tuple[int, ...]) -> Tensor:
    boxes = trial.random.choice((_plain, _integers))(trial, shape)
    flip = trial.rand(*shape, 1) < 0.4
    return torch.where(flip, boxes[..., trial.choose([2, 1, 0, 3], [2, 3, 0, 1])], boxes)


def _scaled(trial: Trial, shape: tuple[int, ...]) -> Tensor:
    """So large or small that areas overflow or vanish, or far from 0, or very thin."""
    boxes = _plain(trial, shape)
    how = trial.random.randrange(4)
    if how == 0:
        return boxes * trial.choose(1e15, 1e18, 1e36)
    if how == 1:
        return boxes * trial.choose(1e-15, 1e-21, 1e-38, 1e-42)
    if how == 2:
        return boxes + trial.choose(1e4, 1e6, 3e7)
    return boxes * torch.tensor([1000, 1e-3, 1000, 1e-3], dtype=torch.float64)


def random_scores(trial: Trial, *shape: int) -> Tensor:
    """Float64 scores: many ties, some not finite, some denormal."""
    scores = trial.randn(*shape)
    how = trial.random.randrange(5)
    if how == 0:
        scores = (scores * 3).round() / 3  # 0.0 and -0.0 among them
    elif how == 1:
        numbers = torch.tensor(ODD, dtype=torch.float64)
        chosen = numbers[trial.randint(0, len(ODD), *shape)]
        scores = torch.where(trial.rand(*shape) < 0.3, chosen, scores)
    elif how == 2:
        scores = trial.rand(*shape).mul(10).round() / 10
    elif how == 3:
        scores = scores.sigmoid()
    return scores


def random_threshold(trial: Trial) -> float:
    """An IoU threshold; often one that pairs of boxes hit exactly, or its neighbour."""
    how = trial.random.randrange(4)
    if how == 0:
        return trial.choose(0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1e-7, -0.1, 1.5, -0.0)
    if how == 1:
        return trial.random.random()
    whole = trial.random.randrange(1, 21)
    fraction = trial.random.randrange(1, whole + 1) / whole
    if how == 2:
        return fraction
    rounded = torch.tensor(fraction).item() if trial.chance(0.5) else fraction
    return math.nextafter(rounded, trial.choose(-1.0, 2.0))
