"""Box operators on NumPy arrays, without importing torch.

The kernels are those of `fastrpn.ops` and the results the same. Arrays are read in place (one that
is not C-contiguous is copied first), each call runs on one thread, and the GIL is released
meanwhile, so that several Python threads may work at once.
"""

import numpy as np

from fastrpn._library import core
from fastrpn._merging import descending, join_by_ios, join_by_iou

__all__ = ["batched_nms", "box_iou", "nmm", "nms", "soft_nms"]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_METRICS = ("iou", "ios")


def box_iou(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes.

    Args:
        boxes1: `[N, 4]` xyxy in pixels, float32 or float64.
        boxes2: `[M, 4]` of the same dtype.

    Returns:
        `[N, M]` of that dtype. A pair whose union is empty (0 / 0) gives NaN.

    Raises:
        TypeError: not an array, not float32 or float64, or two dtypes.
        ValueError: wrong shape.
    """
    boxes1 = _floats("boxes1", boxes1, ("N", 4))
    boxes2 = _floats("boxes2", boxes2, ("M", 4), boxes1.dtype)
    return core().box_iou(boxes1, boxes2)


def nms(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, *, metric: str = "iou"
) -> np.ndarray:
    """Greedy non-maximum suppression; see :func:`fastrpn.ops.nms`.

    Args:
        boxes: `[N, 4]` xyxy in pixels, float32 or float64.
        scores: `[N]` of the same dtype.
        iou_threshold: suppress above it.
        metric: "iou", or "ios" for the intersection over the smaller area, which finds a part of an
            object inside the whole; that one is computed by NumPy.

    Returns:
        `[K]` int64 indices of the kept boxes, by descending score.

    Raises:
        TypeError: not an array, not float32 or float64, or two dtypes.
        ValueError: wrong shape, a NaN threshold, or an unknown metric.
    """
    return _nms(boxes, scores, None, iou_threshold, metric)


def batched_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    idxs: np.ndarray,
    iou_threshold: float,
    *,
    metric: str = "iou",
) -> np.ndarray:
    """NMS of each class for itself; see :func:`fastrpn.ops.batched_nms`.

    Args:
        boxes: `[N, 4]` xyxy in pixels, float32 or float64.
        scores: `[N]` of the same dtype.
        idxs: `[N]` integers: the class of each box.
        iou_threshold: suppress above it.
        metric: "iou" or "ios", as for :func:`nms`.

    Returns:
        `[K]` int64 indices of the kept boxes of all classes, by descending score.

    Raises:
        TypeError: not an array, not float32 or float64, two dtypes, or classes not integers.
        ValueError: wrong shape, a NaN threshold, or an unknown metric.
    """
    return _nms(boxes, scores, _classes(idxs), iou_threshold, metric)


def nmm(
    boxes: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    *,
    idxs: np.ndarray | None = None,
    metric: str = "iou",
) -> np.ndarray:
    """Greedy non-maximum merging: which kept box each box joins.

    The kept boxes are those of :func:`nms`, or of :func:`batched_nms`. What is done with a group
    (a union, a mean by score) is up to the caller::

        joined = nmm(boxes, scores, 0.5)
        kept, group = np.unique(joined, return_inverse=True)
        union = boxes[kept]
        np.minimum.at(union[:, :2], group, boxes[:, :2])
        np.maximum.at(union[:, 2:], group, boxes[:, 2:])

    Args:
        boxes: `[N, 4]` xyxy in pixels, float32 or float64.
        scores: `[N]` of the same dtype.
        threshold: a box joins the kept box of the highest score that it overlaps more.
        idxs: `[N]` integers: classes, of which each is merged for itself; None takes all together.
        metric: "iou" or "ios", as for :func:`nms`.

    Returns:
        `[N]` int64: index of the box that each box joins, its own if it is kept.

    Raises:
        TypeError: not an array, not float32 or float64, two dtypes, or classes not integers.
        ValueError: wrong shape, a NaN threshold, or an unknown metric.
    """
    idxs = None if idxs is None else _classes(idxs)
    boxes, scores, idxs = _checked(boxes, scores, idxs, threshold, metric)
    if metric == "ios":
        return join_by_ios(boxes, scores, idxs, threshold)
    return join_by_iou(boxes, idxs, _nms(boxes, scores, idxs, threshold, metric), threshold)


def soft_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    method: str = "linear",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
) -> tuple[np.ndarray, np.ndarray]:
    """Lowers the scores of overlapping boxes instead of dropping them; see `fastrpn.ops.soft_nms`.

    Args:
        boxes: `[N, 4]` xyxy in pixels, float32 or float64.
        scores: `[N]` of the same dtype; those that are not positive take no part.
        method: "linear" or "gaussian".
        sigma: width of the gaussian.
        iou_threshold: of the linear method.
        score_threshold: a box without `score > score_threshold` is dropped; at least 0. Compared as
            in NumPy: a Python number in the dtype of `scores`, a NumPy scalar in the wider of the
            two.

    Returns:
        indices: `[K]` int64 in order of selection.
        scores: `[K]` the scores the boxes were selected with, descending.

    Raises:
        TypeError: not an array, not float32 or float64, or two dtypes.
        ValueError: wrong shape, an unknown method, `sigma` not positive, a NaN threshold, or a
            negative `score_threshold`.
    """
    boxes = _floats("boxes", boxes, ("N", 4))
    scores = _floats("scores", scores, (len(boxes),), boxes.dtype)
    if method not in ("linear", "gaussian"):
        raise ValueError(f"method: expected 'linear' or 'gaussian', got {method!r}")
    if not sigma > 0:
        raise ValueError(f"sigma: expected a positive number, got {sigma}")
    _check_not_nan("iou_threshold", iou_threshold)
    if not score_threshold >= 0:
        raise ValueError(f"score_threshold: expected a number >= 0, got {score_threshold}")
    if isinstance(score_threshold, np.generic):
        score_threshold = _round_down(score_threshold, scores.dtype)
    indices, decayed, count = core().soft_nms(
        boxes, scores, method == "gaussian", sigma, iou_threshold, score_threshold
    )
    return indices[:count].copy(), decayed[:count].copy()


def _classes(idxs: object) -> np.ndarray:
    classes = _array("idxs", idxs, ("N",))
    if classes.dtype.kind not in "iu":
        raise TypeError(f"idxs: expected integers, got {classes.dtype}")
    return classes


def _checked(
    boxes: np.ndarray, scores: np.ndarray, idxs: np.ndarray | None, threshold: float, metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Boxes, scores and classes, contiguous, with shapes and dtypes that fit."""
    boxes = _floats("boxes", boxes, ("N", 4))
    scores = _floats("scores", scores, (len(boxes),), boxes.dtype)
    _check_not_nan("iou_threshold", threshold)
    if metric not in _METRICS:
        raise ValueError(f"metric: expected one of {_METRICS}, got {metric!r}")
    if idxs is not None:
        idxs = np.ascontiguousarray(_array("idxs", idxs, (len(boxes),)), dtype=np.int64)
    return boxes, scores, idxs


def _nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    idxs: np.ndarray | None,
    iou_threshold: float,
    metric: str,
) -> np.ndarray:
    boxes, scores, idxs = _checked(boxes, scores, idxs, iou_threshold, metric)
    if metric == "ios":
        joined = join_by_ios(boxes, scores, idxs, iou_threshold)
        order = descending(scores)
        return order[joined[order] == order]
    indices, count = core().nms(boxes, scores, idxs, iou_threshold)
    return indices[:count].copy()


def _check_not_nan(name: str, value: float) -> None:
    if value != value:
        raise ValueError(f"{name}: expected a number, got {value}")


def _round_down(threshold: np.generic, dtype: np.dtype) -> float:
    """The largest number of `dtype` that is not greater: numbers of `dtype` exceed both or
    neither."""
    rounded = dtype.type(threshold)
    return float(np.nextafter(rounded, dtype.type(-np.inf)) if rounded > threshold else rounded)


def _array(name: str, value: object, shape: tuple[int | str, ...]) -> np.ndarray:
    """The array, if its shape matches; a letter stands for any size."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}")
    matches = value.ndim == len(shape) and all(
        isinstance(want, str) or size == want for size, want in zip(value.shape, shape, strict=True)
    )
    if not matches:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(value.shape)}")
    return value


def _floats(
    name: str, value: object, shape: tuple[int | str, ...], dtype: np.dtype | None = None
) -> np.ndarray:
    """The array, contiguous, if it has this shape and dtype; None allows both float types."""
    array = _array(name, value, shape)
    allowed = _FLOATS if dtype is None else (dtype,)
    if array.dtype not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise TypeError(f"{name}: expected {wanted}, got {array.dtype}")
    return np.ascontiguousarray(array)
