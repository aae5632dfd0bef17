"""Anchor shapes by k-means under the IoU (Redmon and Farhadi, YOLO9000, 2017, section 2)."""

from __future__ import annotations

import numpy as np

__all__ = ["kmeans_anchors", "shape_iou"]

_MAX_ITERATIONS = 300


def kmeans_anchors(sizes: np.ndarray, k: int, *, seed: int = 0, restarts: int = 10) -> np.ndarray:
    """Clusters box shapes; the distance of two shapes is 1 - IoU of the boxes on one centre.

    k-means++ chooses the first centres (Arthur and Vassilvitskii, 2007). A cluster's new centre is
    the mean of its widths and heights, which need not raise the mean IoU; so the centres with the
    best mean IoU among all iterations and restarts are kept. Equal arguments, equal anchors.

    Args:
        sizes: [G, 2] (width, height) of the boxes, positive.
        k: number of anchors, at most the number of distinct shapes.

    Returns:
        float64 [k, 2] (width, height), by area.

    Raises:
        ValueError: wrong shape, sizes that are not positive and finite, or k out of range.
    """
    sizes = np.asarray(sizes, np.float64)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or len(sizes) == 0:
        raise ValueError(f"sizes must be [G, 2] with G > 0, got {list(sizes.shape)}")
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError("sizes must be positive and finite")
    distinct = len(np.unique(sizes, axis=0))
    if not 1 <= k <= distinct:
        raise ValueError(f"k must be from 1 to the {distinct} distinct shapes, got {k}")
    generator = np.random.default_rng(seed)
    runs = (_run(sizes, _plus_plus(sizes, k, generator)) for _ in range(restarts))
    _, centres = max(runs, key=lambda run: run[0])
    return centres[np.argsort(centres.prod(axis=1), kind="stable")]


def shape_iou(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of boxes [G, 2] and anchors [K, 2] (width, height) on one centre -> [G, K]."""
    inter = np.minimum(sizes[:, :1], anchors[:, 0]) * np.minimum(sizes[:, 1:], anchors[:, 1])
    return inter / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - inter)


def _plus_plus(sizes: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """Each next centre is a shape, drawn by its squared distance from the nearest centre."""
    chosen = [int(generator.integers(len(sizes)))]
    for _ in range(k - 1):
        distance = (1 - shape_iou(sizes, sizes[chosen])).min(axis=1) ** 2
        distance[distance < 1e-24] = 0  # rounding must not choose a shape twice
        chosen.append(int(generator.choice(len(sizes), p=distance / distance.sum())))
    return sizes[chosen]


def _run(sizes: np.ndarray, centres: np.ndarray) -> tuple[float, np.ndarray]:
    """Iterates to a fixed point; the best mean IoU on the way and its centres."""
    best = (-1.0, centres)
    nearest: np.ndarray | None = None
    for _ in range(_MAX_ITERATIONS):
        iou = shape_iou(sizes, centres)
        best = max(best, (float(iou.max(axis=1).mean()), centres), key=lambda run: run[0])
        previous, nearest = nearest, iou.argmax(axis=1)
        if previous is not None and (nearest == previous).all():
            break
        counts = np.bincount(nearest, minlength=len(centres))[:, None]
        sums = np.stack(
            [np.bincount(nearest, sizes[:, d], minlength=len(centres)) for d in (0, 1)], axis=1
        )
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres)
    return best
