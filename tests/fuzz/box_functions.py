"""IoUs, areas, formats, clipping and the coding of boxes against the oracles."""

import math

import torch
import torchvision
from torch import Tensor

from fastrpn import ops
from fastrpn.ops import reference

from .boxes import random_boxes
from .trial import Trial, within

FORMATS = ("xyxy", "xywh", "cxcywh")
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def numbers(trial: Trial, *shape: int) -> Tensor:
    """Boxes of a float or, sometimes, an integer type."""
    if trial.chance(0.2):
        boxes = trial.randint(0, 12, *shape, 4)
        boxes[..., 2:] += boxes[..., :2]
        return boxes.to(trial.choose(*INTEGERS))
    return random_boxes(trial, *shape).to(trial.float_dtype())


def box_iou(trial: Trial) -> None:
    n, m, dtype = trial.size(), trial.size(largest=300), trial.float_dtype()
    if trial.chance(0.5):
        n, m = m, n
    sets = (random_boxes(trial, n).to(dtype), random_boxes(trial, m).to(dtype))
    trial.expect(reference.box_iou(*sets), ops.box_iou, *sets)


def pair_of_sets(trial: Trial) -> tuple[Tensor, Tensor]:
    """Two sets of boxes with sides of at least a tenth of the coordinates: no sum cancels."""
    leading = trial.choose((), (), (2,))
    size = (trial.size(largest=40) for _ in range(2))
    sets = []
    for count in size:
        corner, side = 10 * trial.rand(*leading, count, 2), 1 + 9 * trial.rand(*leading, count, 2)
        boxes = torch.cat([corner, corner + side], dim=-1)
        if trial.chance(0.3):
            boxes = boxes.round()
            boxes[..., 2:] += 1
        dtype = trial.choose(torch.float32, torch.float64, torch.float16, torch.bfloat16, "int")
        if dtype == "int":
            boxes, dtype = boxes.round(), trial.choose(*INTEGERS)
            boxes[..., 2:] += 1
        sets.append(boxes.to(dtype))
    return tuple(sets)


def _variant(trial: Trial, ours, torchvisions) -> None:
    """A plain formula: the float64 result of torchvision's, up to the rounding of a few sums.

    Each set computes in its own type (at least float32) until the two meet.
    """
    sets = pair_of_sets(trial)
    is_wide = [boxes.dtype == torch.float64 for boxes in sets]
    dtype = torch.float64 if any(is_wide) else torch.float32
    wanted = torchvisions(*(boxes.double() for boxes in sets)).to(dtype)
    tolerance = 100 * torch.finfo(torch.float64 if all(is_wide) else torch.float32).eps
    trial.expect(wanted, ours, *sets, same=within(tolerance, tolerance))


def generalized_box_iou(trial: Trial) -> None:
    _variant(trial, ops.generalized_box_iou, torchvision.ops.generalized_box_iou)


def distance_box_iou(trial: Trial) -> None:
    _variant(trial, ops.distance_box_iou, torchvision.ops.distance_box_iou)


def complete_box_iou(trial: Trial) -> None:
    _variant(trial, ops.complete_box_iou, torchvision.ops.complete_box_iou)


def box_area(trial: Trial) -> None:
    boxes, fmt = numbers(trial, *trial.choose((trial.size(),), (2, 3), ())), trial.choose(*FORMATS)
    # Wide enough for every product of these numbers.
    wide = (
        boxes.double() if boxes.dtype != torch.float32 and boxes.dtype != torch.float64 else boxes
    )
    sides = wide[..., 2:] - wide[..., :2] if fmt == "xyxy" else wide[..., 2:]
    wanted = sides[..., 0] * sides[..., 1]
    if boxes.dtype in (torch.float16, torch.bfloat16):  # the subtraction rounds to float32, too
        wide = boxes.float()
        sides = wide[..., 2:] - wide[..., :2] if fmt == "xyxy" else wide[..., 2:]
        wanted = sides[..., 0] * sides[..., 1]

    def same_numbers(got, wanted):
        equal = (got.double() == wanted.double()) | got.isnan() & wanted.isnan()
        return "" if got.shape == wanted.shape and equal.all() else "areas differ"

    trial.expect(wanted, lambda boxes: ops.box_area(boxes, fmt), boxes, same=same_numbers)


def box_convert(trial: Trial) -> None:
    boxes = random_boxes(trial, trial.size(), odd=False).to(trial.float_dtype())
    source, target = trial.choose(*FORMATS), trial.choose(*FORMATS)
    exact = torchvision.ops.box_convert(boxes.double(), source, target)
    # Sums of two numbers of one type, one rounding each, and as many as two of them in a row.
    scale = boxes.double().abs().amax().item() if boxes.numel() else 0.0
    eps = torch.finfo(boxes.dtype).eps
    same = within(2 * eps, 4 * eps * scale)
    trial.expect(
        exact.to(boxes.dtype),
        lambda boxes: ops.box_convert(boxes, source, target),
        boxes,
        same=same,
    )


def clip_boxes_to_image(trial: Trial) -> None:
    boxes = numbers(trial, *trial.choose((trial.size(),), (2, trial.size(largest=9)), ()))
    size = (trial.random.randrange(0, 120), trial.random.randrange(0, 120))
    wanted = torchvision.ops.clip_boxes_to_image(boxes, size)
    trial.expect(wanted, lambda boxes: ops.clip_boxes_to_image(boxes, size), boxes)


def remove_small_boxes(trial: Trial) -> None:
    boxes = numbers(trial, trial.size())
    least = trial.choose(0, 1, 1e-3, 2.0, 0.1, trial.random.random() * 20)
    wanted = torchvision.ops.remove_small_boxes(boxes, least)
    trial.expect(wanted, lambda boxes: ops.remove_small_boxes(boxes, least), boxes)


def encode_boxes(trial: Trial) -> None:
    boxes, anchors, weights = _coding(trial)
    wide = [part.double() for part in (boxes, anchors)]
    (x, y, w, h), (xa, ya, wa, ha) = (_centre_and_size(part) for part in wide)
    exact = ((x - xa) / wa, (y - ya) / ha, (w / wa).log(), (h / ha).log())
    wanted = torch.stack(exact, dim=-1) * torch.tensor(weights, dtype=torch.float64)
    _expect_coded(trial, wanted, ops.encode_boxes, boxes, anchors, weights)


def decode_boxes(trial: Trial) -> None:
    boxes, anchors, weights = _coding(trial)
    deltas = (trial.randn(*boxes.shape) * trial.choose(0.3, 3)).to(boxes.dtype)
    xa, ya, wa, ha = _centre_and_size(anchors.double())
    tx, ty, tw, th = (deltas.double() / torch.tensor(weights, dtype=torch.float64)).unbind(-1)
    clip = math.log(1000 / 16)
    x, y = tx * wa + xa, ty * ha + ya
    w, h = tw.clamp(max=clip).exp() * wa, th.clamp(max=clip).exp() * ha
    wanted = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=-1)
    _expect_coded(trial, wanted, ops.decode_boxes, deltas, anchors, weights)


def _coding(trial: Trial) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """Boxes and anchors of positive sides, in one type, and weights."""
    dtype, n = trial.float_dtype(), trial.size()
    parts = []
    for _ in range(2):
        corner, side = trial.randint(0, 40, n, 2), trial.randint(1, 40, n, 2)
        parts.append(torch.cat([corner, corner + side], dim=1).to(dtype))
    return *parts, trial.choose((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0))


def _expect_coded(trial: Trial, wanted: Tensor, function, boxes, anchors, weights) -> None:
    dtype = torch.promote_types(boxes.dtype, torch.float32)
    eps = torch.finfo(dtype).eps
    # Corners up to 80; a decoded side reaches 40 * 62, of which the exp has some eps * 4 of error.
    same = within(16 * eps, 16 * eps * 80)
    trial.expect(
        wanted.to(dtype), lambda boxes, anchors: function(boxes, anchors, weights), boxes, anchors,
        same=same,
    )  # fmt: skip


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, ...]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
