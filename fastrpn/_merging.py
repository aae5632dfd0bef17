"""Which box each box joins in greedy suppression, by either measure of overlap; in NumPy."""

from __future__ import annotations

import numpy as np

from fastrpn._library import core

__all__ = ["descending", "join_by_ios", "join_by_iou"]

_PAIRS = 1 << 22  # whose overlap is held at a time
_BLOCK = 32  # boxes that are compared with all of lower score at a time


def descending(scores: np.ndarray) -> np.ndarray:
    """The stable order by descending score, NaN first, as torch sorts.

    Args:
        scores: `[N]`.
    """
    return len(scores) - 1 - np.argsort(scores[::-1], kind="stable")[::-1]


def join_by_iou(
    boxes: np.ndarray, idxs: np.ndarray | None, kept: np.ndarray, threshold: float
) -> np.ndarray:
    """The kept box that each box joins, after suppression by IoU.

    Args:
        boxes: `[N, 4]` xyxy.
        idxs: `[N]` classes, or None.
        kept: `[K]` by descending score.
        threshold: that decided.

    Returns:
        `[N]` int64, as :func:`join_by_ios`.
    """
    joined = np.arange(len(boxes), dtype=np.int64)
    suppressed = np.setdiff1d(joined, kept)
    step = max(1, _PAIRS // max(1, len(kept)))
    for start in range(0, len(suppressed), step):
        some = suppressed[start : start + step]
        suppresses = core().box_iou(boxes[some], boxes[kept]) > np.float64(threshold)
        if idxs is not None:
            suppresses &= idxs[some, None] == idxs[kept]
        joined[some] = kept[suppresses.argmax(axis=1)]  # the first: kept is by descending score
    return joined


def join_by_ios(
    boxes: np.ndarray, scores: np.ndarray, idxs: np.ndarray | None, threshold: float
) -> np.ndarray:
    """Greedy suppression by intersection over the smaller area, each class for itself.

    Memory grows with N alone, work with N times the number of kept boxes.

    Args:
        boxes: `[N, 4]` xyxy.
        scores: `[N]`.
        idxs: `[N]` classes, or None.
        threshold: a box joins a kept one above it.

    Returns:
        `[N]` int64: the kept box that each box joins, itself if it is kept.
    """
    order = descending(scores)
    joined = np.arange(len(boxes), dtype=np.int64)
    if idxs is None:
        _join_class(boxes, order, threshold, joined)
    else:
        for label in np.unique(idxs):
            _join_class(boxes, order[idxs[order] == label], threshold, joined)
    return joined


def _join_class(boxes: np.ndarray, rest: np.ndarray, threshold: float, joined: np.ndarray) -> None:
    """Writes into `joined` for the boxes `rest`, which come by descending score."""
    while len(rest):
        block = rest[:_BLOCK]
        overlap = _ios(boxes[block], boxes[rest]) > np.float64(threshold)
        taken = np.zeros(len(block), dtype=bool)
        kept = []
        for i in range(len(block)):
            if not taken[i]:
                kept.append(i)
                taken |= overlap[i, : len(block)]
        overlap = overlap[kept]
        joins = overlap.any(axis=0)
        joins[kept] = False
        first = overlap.argmax(axis=0)
        joined[rest[joins]] = block[kept][first[joins]]
        joins[: len(block)] = True
        rest = rest[~joins]


def _ios(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """`[N, M]` intersections over the smaller area; NaN for 0 / 0 and for boxes without end."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes1.T)[:, :, None]
    u1, v1, u2, v2 = np.ascontiguousarray(boxes2.T)
    with np.errstate(all="ignore"):
        width = np.minimum(x2, u2) - np.maximum(x1, u1)
        height = np.minimum(y2, v2) - np.maximum(y1, v1)
        overlap = np.maximum(width, 0, out=width)
        overlap *= np.maximum(height, 0, out=height)
        overlap /= np.minimum(_areas(boxes1)[:, None], _areas(boxes2))
    return overlap


def _areas(boxes: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.where(np.isfinite(areas), areas, np.nan)
