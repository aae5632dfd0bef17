"""match_anchors and generate_proposals against the oracles."""

import math

import torch
from torch import Tensor

from fastrpn import ops
from fastrpn.ops import reference

from .boxes import random_boxes, random_threshold
from .trial import Trial, compare


def matching(trial: Trial) -> tuple[list[Tensor | None], dict]:
    """Anchors, ground truth, counts and `valid`, and the numbers beside them."""
    batch, num_anchors, num_gt = trial.choose(0, 1, 1, 2, 3), trial.size(300), trial.size(65)
    shape = trial.choose((num_anchors,), (batch, num_anchors))
    dtype = trial.float_dtype()
    anchors = random_boxes(trial, *shape).to(dtype)
    gt_boxes = random_boxes(trial, batch, num_gt).to(dtype)
    if trial.chance(0.2) and num_gt and num_anchors:  # an IoU of 1, and ties of many anchors
        gt_boxes[:] = anchors.reshape(-1, 4)[:1] if anchors.numel() else gt_boxes
    counts = trial.randint(0, num_gt + 1, batch)
    valid = trial.choose(None, (num_anchors,), (batch, num_anchors))
    if valid is not None:
        valid = trial.rand(*valid) < trial.choose(0.0, 0.8)
    low, high = sorted(min(max(random_threshold(trial), 0.0), 1.0) for _ in range(2))
    numbers = {"high": high or 0.7, "low": low, "allow_low_quality": trial.chance(0.5)}
    return [anchors, gt_boxes, counts, valid], numbers


def match_anchors(trial: Trial) -> None:
    tensors, numbers = matching(trial)
    wanted = reference.match_anchors(*tensors[:3], valid=tensors[3], **numbers)

    def call(anchors, gt_boxes, counts, valid):
        return ops.match_anchors(anchors, gt_boxes, counts, valid=valid, **numbers)

    trial.expect(wanted, call, *tensors)


def proposing(trial: Trial) -> tuple[list[Tensor], dict]:
    """Objectness, deltas, anchors and image sizes, and the numbers beside them."""
    batch, levels = trial.choose(0, 1, 1, 2), trial.choose(1, 1, 2, 3)
    sizes = [trial.size(largest=200) for _ in range(levels)]
    dtype, total = trial.float_dtype(), sum(sizes)
    anchor_dtype = torch.float32 if dtype.itemsize == 2 and trial.chance(0.5) else dtype
    # Halves and quarters up to 8: equal ones tie, others are far apart after the sigmoid.
    objectness = (trial.randn(batch, total) * 3).clamp(-8, 8) * 4
    objectness = objectness.round() / 4
    deltas = 0.4 * trial.randn(batch, total, 4)
    if trial.chance(0.4):  # exp(0) is 1 in every library: equal bits of boxes
        deltas[..., 2:] = 0
    anchors = random_boxes(trial, total, odd=False)
    odd = torch.tensor([math.nan, math.inf, -math.inf, 1e38, -1e38, 1e-40], dtype=torch.float64)
    for tensor in (objectness, deltas, anchors):
        if trial.chance(0.15):
            bad = trial.rand(*tensor.shape) < 0.05
            tensor[bad] = odd[trial.randint(0, len(odd), int(bad.sum()))]
    image_sizes = trial.randint(0, trial.choose(3, 200), batch, 2)
    numbers = {
        "pre_nms_top_n": trial.choose(1, 2, 7, 60, 1000),
        "post_nms_top_n": trial.choose(1, 3, 10, 100),
        "nms_threshold": random_threshold(trial),
        "min_size": trial.choose(0.0, 1e-3, 1.0, 4.0, 16.0, -1.0),
        "anchors_per_level": None if levels == 1 and trial.chance(0.5) else sizes,
    }
    tensors = [objectness.to(dtype), deltas.to(dtype), anchors.to(anchor_dtype), image_sizes]
    return tensors, numbers


def generate_proposals(trial: Trial) -> None:
    tensors, numbers = proposing(trial)
    wanted = reference.generate_proposals(*tensors, **numbers)
    same = same_proposals(trial, tensors, numbers, reference.generate_proposals)
    trial.expect(wanted, lambda *t: ops.generate_proposals(*t, **numbers), *tensors, same=same)


def same_proposals(trial: Trial, tensors: list[Tensor], numbers: dict, oracle):
    """The proposals are those wanted up to the last places of an exp().

    Such an error may carry an IoU or a side across its threshold. Whether it can here, the oracle
    says: if it decides otherwise with thresholds moved by as much, either way is right. Without a
    change of size, exp(0) is exact and nothing is left open.
    """
    exact = not tensors[1][..., 2:].any()
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    eps = torch.finfo(dtype).eps

    def close(got: Tensor, wanted: Tensor) -> Tensor:
        if not got.is_floating_point():
            return got == wanted
        # Coordinates are sums of numbers up to the anchor's, of sides up to 62 times as large.
        finite = tensors[2][tensors[2].isfinite()].double()
        scale = min(finite.abs().max().item() if len(finite) else 0.0, 1e6)
        return torch.isclose(got, wanted, rtol=8 * eps, atol=8 * eps * (1 + 62 * scale))

    def same(got, wanted) -> str:
        what = compare(got, wanted, close)
        return "" if what and not exact and _is_undecided() else what

    def _is_undecided() -> bool:
        shifts = [(1 - 64 * eps, 1 + 64 * eps), (1 + 64 * eps, 1 - 64 * eps)]
        outcomes = []
        for iou_shift, size_shift in shifts:
            moved = numbers | {
                "nms_threshold": numbers["nms_threshold"] * iou_shift,
                "min_size": numbers["min_size"] * size_shift,
            }
            outcomes.append(oracle(*tensors, **moved))
        undecided = bool(compare(outcomes[0], outcomes[1], close))
        trial.undecided += undecided
        return undecided

    return same
