"""Soft-NMS (Bodla et al., 2017): overlapping boxes lose score instead of being dropped."""

import torch
from torch import Tensor

from fastrpn.ops._checks import check_boxes_and_scores, check_not_nan, number_of
from fastrpn.ops._derivatives import call, register_no_derivative
from fastrpn.ops._modes import leaf
from fastrpn.ops._vmap import register_loop

_soft_nms = torch.ops.fastrpn.soft_nms.default


@leaf
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: str = "linear",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """Selects boxes by descending score; each lowers the scores of those that overlap it.

    Algorithm 1 of the paper: selecting a box multiplies every score not yet selected by a weight,
    `1 - iou` where the IoU is greater than `iou_threshold` (linear), or `exp(-iou**2 / sigma)`
    (gaussian). A box without `score > score_threshold` is dropped; as in torch, the comparison is
    one in the dtype of `scores`. Equal scores: the lower index first. Half types compute in float32
    and round a score where it is compared or returned. The
    arguments are detached: no derivative passes, in reverse or forward mode.

    Args:
        boxes: `[N, 4]` xyxy in pixels, float16 to float64.
        scores: `[N]`, dtype and device of `boxes`; those that are not positive take no part.
        method: "linear" or "gaussian".
        sigma: width of the gaussian.
        iou_threshold: of the linear method; IoUs are compared with it as doubles, as in `nms`.
        score_threshold: at least 0.

    Returns:
        indices: `[K]` int64 in order of selection.
        scores: `[K]` the scores the boxes were selected with, descending.

    Raises:
        TypeError: not a tensor, not floats, or two dtypes.
        ValueError: wrong shape, two devices, an unknown method, `sigma` not positive, a NaN
            threshold, or a negative `score_threshold`.
    """
    check_boxes_and_scores(boxes, scores)
    if method not in ("linear", "gaussian"):
        raise ValueError(f"method: expected 'linear' or 'gaussian', got {method!r}")
    sigma, iou_threshold = number_of(sigma), number_of(iou_threshold)
    score_threshold = number_of(score_threshold)
    if not sigma > 0:
        raise ValueError(f"sigma: expected a positive number, got {sigma}")
    check_not_nan("iou_threshold", iou_threshold)
    if not score_threshold >= 0:
        raise ValueError(f"score_threshold: expected a number >= 0, got {score_threshold}")
    return call(
        _soft_nms, boxes.detach(), scores.detach(), method, sigma, iou_threshold, score_threshold
    )


@torch.library.register_fake("fastrpn::soft_nms")
def _(
    boxes: Tensor,
    scores: Tensor,
    method: str,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(size, dtype=torch.int64), scores.new_empty(size)


register_no_derivative("soft_nms")
register_loop("soft_nms", instead="use nms_padded")
