"""nms, batched_nms, nms_padded and soft_nms against the oracles."""

import math

import torch
import torchvision
from torch import Tensor

from fastrpn import ops
from fastrpn.ops import reference

from .boxes import random_boxes, random_scores, random_threshold
from .trial import Trial

# Above this many boxes torchvision's kernel is the oracle, which the short one takes too long for.
FEW = 130


def scene(trial: Trial, *batch: int, n: int | None = None) -> tuple[Tensor, Tensor]:
    """Boxes `[*batch, n, 4]` and scores `[*batch, n]` of one dtype."""
    n, dtype = trial.size() if n is None else n, trial.float_dtype()
    return random_boxes(trial, *batch, n).to(dtype), random_scores(trial, *batch, n).to(dtype)


def labels(trial: Trial, *shape: int) -> Tensor:
    """int64 classes: few or many, near 0 or at the ends of the type."""
    classes = trial.randint(0, trial.choose(1, 2, 5, 1000), *shape)
    return classes * trial.choose(1, -1, 2**33, -(2**40)) + trial.choose(0, 0, 2**62, -(2**63))


def nms(trial: Trial) -> None:
    boxes, scores = scene(trial)
    threshold = random_threshold(trial)
    if len(boxes) > FEW:
        wide = torch.promote_types(boxes.dtype, torch.float32)
        wanted = torchvision.ops.nms(boxes.to(wide), scores.to(wide), threshold)
    else:
        wanted = reference.nms(boxes, scores, threshold)
    trial.expect(wanted, lambda *tensors: ops.nms(*tensors, threshold), boxes, scores)


def batched_nms(trial: Trial) -> None:
    boxes, scores = scene(trial, n=trial.size(largest=FEW))
    idxs, threshold = labels(trial, len(boxes)), random_threshold(trial)
    how = trial.random.randrange(6)
    if how == 0:
        idxs = (idxs % 100).to(trial.choose(torch.int32, torch.uint8, torch.int16))
    elif how == 1:
        idxs = (idxs % 100).to(trial.choose(torch.float32, torch.float64))
    elif how == 2:
        idxs = idxs % 2 == 0
    wanted = reference.batched_nms(boxes, scores, idxs, threshold)
    trial.expect(wanted, lambda *tensors: ops.batched_nms(*tensors, threshold), boxes, scores, idxs)


def padded_arguments(trial: Trial, batch: int, n: int) -> tuple[dict, dict]:
    """Tensors (or None) and numbers that nms_padded takes beside boxes and scores."""
    tensors = {"counts": None, "groups": None}
    if trial.chance(0.5):
        tensors["counts"] = trial.randint(0, n + 2, batch)  # one more than there are is all
    if trial.chance(0.5):
        tensors["groups"] = labels(trial, batch, n)
    numbers = {
        "iou_threshold": random_threshold(trial),
        "max_output": trial.choose(0, 1, 2, n // 2, n, n + 3),
        "score_threshold": trial.choose(None, 0.0, 0.1, 1 / 3, trial.random.random(), -math.inf),
    }
    return tensors, numbers


def nms_padded(trial: Trial) -> None:
    batch = trial.choose(0, 1, 1, 2, 3)
    boxes, scores = scene(trial, batch, n=trial.size(largest=FEW))
    tensors, numbers = padded_arguments(trial, *scores.shape)
    wanted = reference.nms_padded(boxes, scores, **tensors, **numbers)

    def call(boxes, scores, counts, groups):
        return ops.nms_padded(boxes, scores, counts=counts, groups=groups, **numbers)

    trial.expect(wanted, call, boxes, scores, *tensors.values())


def soft_options(trial: Trial) -> dict:
    return {
        "method": trial.choose("linear", "gaussian"),
        "sigma": trial.choose(0.5, 0.1, 1.0, 3.0, 1 / 3),
        "iou_threshold": random_threshold(trial),
        "score_threshold": trial.choose(0.0, 0.001, 0.05, 0.1, 0.3, 1 / 3, 0.5),
    }


def soft_nms(trial: Trial) -> None:
    boxes, scores = scene(trial, n=trial.size(largest=FEW))
    options = soft_options(trial)

    def call(boxes, scores):
        return ops.soft_nms(boxes, scores, **options)

    if options["method"] == "linear":  # no function of the library's own: equal bits
        trial.expect(reference.soft_nms(boxes, scores, **options), call, boxes, scores)
        return

    def follows(got, _):
        return gaussian_selection(got, boxes, scores, options["sigma"], options["score_threshold"])

    trial.expect(None, call, boxes, scores, same=follows)


def gaussian_selection(
    got: tuple[Tensor, Tensor], boxes: Tensor, scores: Tensor, sigma: float, score_threshold: float
) -> str:
    """What is wrong with a selection whose exp() may differ in the last places; "" if nothing.

    Each step is followed with the weights of the definition: the box chosen must be the best up to
    rounding. Below exp(-88) a float32 is 0, so an error of the exponent of one place is one of 88.
    """
    iou = reference.box_iou(boxes, boxes)
    alive = scores.to(iou.dtype)
    weight = torch.where(iou > 0, torch.exp(-(iou**2) / sigma), 1.0)
    eps, tiny = torch.finfo(iou.dtype).eps, torch.finfo(iou.dtype).tiny
    rounding, least = 0.0, tiny  # of the scores that are handed out
    if scores.dtype != iou.dtype:
        rounding = torch.finfo(scores.dtype).eps
        least = rounding * torch.finfo(scores.dtype).tiny

    def survives(score: Tensor) -> Tensor:  # in the scores' own type, as torch compares
        return score.to(scores.dtype) > score_threshold

    slack = 0.0
    for step, (index, score) in enumerate(zip(*(part.tolist() for part in got), strict=True)):
        slack += 200 * eps
        left = torch.where(survives(alive * (1 + slack)), alive, -math.inf)
        best, mine = left.max().item(), left[index].item()
        if mine == -math.inf or mine < best - slack * abs(best) - tiny:
            return f"step {step} selects {index} of score {mine}, the best is {best}"
        if score != mine and abs(score - mine) > (slack + rounding) * abs(mine) + least:
            return f"step {step}: score {score} of {index}, wanted {mine}"
        alive = alive * weight[index]
        alive[index] = -math.inf
    left = alive[survives(alive * (1 - slack - 200 * eps) - tiny)]
    return (
        f"{len(left)} boxes were not selected, the best of score {left.max()}" if len(left) else ""
    )
