"""The box parameterisation of R-CNN (Girshick et al. 2014, appendix C; Ren et al., equation 2).

With centres `(x, y)` and sizes `(w, h)` of a box and of its anchor (subscript a)::

    tx = (x - xa) / wa    ty = (y - ya) / ha    tw = log(w / wa)    th = log(h / ha)

each times a weight. Plain torch, differentiable; half precision is computed and returned in
float32, since bfloat16 coordinates near 1000 are 4 to 8 pixels apart.
"""

import math

import torch
from torch import Tensor

from fastrpn.ops._checks import check_float, check_not_nan, check_same_device, check_shape
from fastrpn.ops._modes import leaf
from fastrpn.ops.boxes import upcast

# A regressor's exp may enlarge an anchor of stride 16 to 1000 pixels, not to infinity.
DEFAULT_CLIP = math.log(1000.0 / 16)

Weights = tuple[float, float, float, float]


@leaf
def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Expresses boxes relative to their anchors: the regression targets.

    Args:
        boxes: `[..., 4]` xyxy in pixels, float16 to float64.
        anchors: `[..., 4]` xyxy in pixels, of a shape that broadcasts with `boxes`.
        weights: of `(tx, ty, tw, th)`.

    Returns:
        `[..., 4]` deltas, at least float32. A box without area has a delta of minus infinity or
        NaN: mask such rows with `torch.where`, not with a product.

    Raises:
        TypeError: not floating point.
        ValueError: last dimension not 4, shapes that do not broadcast, two devices, not four
            weights, or a NaN among them.
    """
    check_float("boxes", boxes)
    check_float("anchors", anchors)
    check_shape("boxes", boxes, (..., 4))
    check_shape("anchors", anchors, (..., 4))
    _check_pair("boxes", boxes, anchors)
    _check_weights(weights)
    x, y, w, h = _centre_and_size(upcast(boxes))
    xa, ya, wa, ha = _centre_and_size(upcast(anchors))
    wx, wy, ww, wh = weights
    return torch.stack(
        (
            wx * (x - xa) / wa,
            wy * (y - ya) / ha,
            ww * torch.log(w / wa),
            wh * torch.log(h / ha),
        ),
        dim=-1,
    )


@leaf
def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Weights = (1.0, 1.0, 1.0, 1.0),
    clip: float = DEFAULT_CLIP,
) -> Tensor:
    """Applies deltas to anchors: the inverse of :func:`encode_boxes`.

    Args:
        deltas: `[..., 4 * K]` float16 to float64: K for each anchor (one for each class, say).
        anchors: `[..., 4]` xyxy in pixels, of a shape whose leading dimensions broadcast with
            those of `deltas`.
        weights: those of the encoding.
        clip: upper limit of `tw` and `th`.

    Returns:
        `[..., 4 * K]` xyxy in pixels, float32 (float64 if the deltas are).

    Raises:
        TypeError: not floating point.
        ValueError: a last dimension that does not fit, leading dimensions that do not broadcast,
            two devices, not four weights, or a NaN among them or as `clip`.
    """
    check_float("deltas", deltas)
    check_float("anchors", anchors)
    if deltas.dim() == 0 or deltas.shape[-1] == 0 or deltas.shape[-1] % 4 != 0:
        raise ValueError(f"deltas: expected shape [..., 4 * K], got {list(deltas.shape)}")
    check_shape("anchors", anchors, (..., 4))
    _check_pair("deltas", deltas, anchors)
    _check_weights(weights)
    check_not_nan("clip", clip)
    deltas = upcast(deltas)
    x, y, w, h = (part[..., None] for part in _centre_and_size(anchors.to(deltas.dtype)))
    wx, wy, ww, wh = weights
    centre_x = deltas[..., 0::4] / wx * w + x
    centre_y = deltas[..., 1::4] / wy * h + y
    half_w = 0.5 * (torch.exp((deltas[..., 2::4] / ww).clamp(max=clip)) * w)
    half_h = 0.5 * (torch.exp((deltas[..., 3::4] / wh).clamp(max=clip)) * h)
    corners = (centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h)
    return torch.stack(corners, dim=-1).flatten(-2)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def _check_pair(name: str, boxes: Tensor, anchors: Tensor) -> None:
    check_same_device("anchors", anchors, name, boxes)
    sizes = zip(reversed(boxes.shape[:-1]), reversed(anchors.shape[:-1]), strict=False)
    if not all(size == other or size == 1 or other == 1 for size, other in sizes):
        raise ValueError(
            f"anchors: expected a shape that broadcasts with {name}, {list(boxes.shape)}, "
            f"got {list(anchors.shape)}"
        )


def _check_weights(weights: Weights) -> None:
    if len(weights) != 4:
        raise ValueError(f"weights: expected four numbers, got {weights}")
    for weight in weights:
        check_not_nan("weights", weight)
