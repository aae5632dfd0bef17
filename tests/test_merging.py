"""fastrpn.numpy by intersection over smaller, and merging: as a plain loop, as other libraries."""

import numpy as np
import pytest

from fastrpn import numpy as fnp


def scene(n, seed=0, dtype=np.float32, num_classes=3):
    """Boxes of objects found several times, whole and in part."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60 * n**0.5, (n // 4 + 1, 2)).repeat(4, axis=0)[:n]
    size = rng.uniform(20, 80, (n // 4 + 1, 2)).repeat(4, axis=0)[:n]
    corners += rng.uniform(-4, 4, (n, 2))
    boxes = np.concatenate([corners, corners + size * rng.uniform(0.4, 1.1, (n, 2))], axis=1)
    return boxes.astype(dtype), rng.random(n).astype(dtype), rng.integers(0, num_classes, n)


def overlap(a, b, metric):
    size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = np.prod(np.maximum(size, 0))
    areas = [np.prod(box[2:] - box[:2]) for box in (a, b)]
    below = min(areas) if metric == "ios" else areas[0] + areas[1] - inter
    return inter / below if below > 0 else 0.0


def plainly(boxes, scores, threshold, idxs, metric):
    """What each box joins, box by box."""
    joined, kept = np.arange(len(boxes)), []
    for i in np.argsort(-scores, kind="stable"):
        for j in kept:
            if idxs[i] == idxs[j] and overlap(boxes[i], boxes[j], metric) > threshold:
                joined[i] = j
                break
        else:
            kept.append(i)
    return joined, kept


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["iou", "ios"])
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_a_plain_loop_finds_the_same(dtype, metric, per_class, threshold):
    boxes, scores, classes = scene(150, dtype=dtype)
    scores[::7] = scores[0]  # ties
    idxs = classes if per_class else None
    joined, kept = plainly(boxes, scores, threshold, classes if per_class else 0 * classes, metric)
    assert 5 < len(kept) < len(boxes)
    assert fnp.nmm(boxes, scores, threshold, idxs=idxs, metric=metric).tolist() == joined.tolist()
    if per_class:
        found = fnp.batched_nms(boxes, scores, classes, threshold, metric=metric)
    else:
        found = fnp.nms(boxes, scores, threshold, metric=metric)
    assert found.tolist() == kept and found.dtype == np.int64


@pytest.mark.parametrize("metric", ["iou", "ios"])
def test_odd_boxes_neither_join_nor_take(metric):
    nan, inf = np.nan, np.inf
    odd = [[nan, 0, 9, 9], [0, 0, inf, inf], [5, 5, 5, 5], [-inf, 0, 9, 9], [9, 9, 0, 0]]
    boxes = np.array([*odd, [0, 0, 9, 9], [0, 0, 9, 8]], dtype=np.float32)
    scores = np.array([nan, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], dtype=np.float32)
    assert fnp.nmm(boxes, scores, 0.5, metric=metric).tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert fnp.nms(boxes, scores, 0.5, metric=metric).tolist() == [0, 1, 2, 3, 4, 5]
    assert fnp.nmm(boxes[:0], scores[:0], 0.5, metric=metric).shape == (0,)
    assert fnp.nms(boxes[:0], scores[:0], 0.5, metric=metric).shape == (0,)


def test_many_kept_boxes_are_looked_at_in_parts(monkeypatch):
    boxes, scores, classes = scene(300)
    wanted = fnp.nmm(boxes, scores, 0.3, idxs=classes)
    monkeypatch.setattr("fastrpn._merging._PAIRS", 100)
    assert np.array_equal(fnp.nmm(boxes, scores, 0.3, idxs=classes), wanted)


def test_misuse_is_named():
    boxes, scores, classes = scene(10)
    for call in (fnp.nms, fnp.nmm):
        with pytest.raises(ValueError, match="metric: expected one of .* got 'IOU'"):
            call(boxes, scores, 0.5, metric="IOU")
        with pytest.raises(ValueError, match="threshold: expected a number"):
            call(boxes, scores, float("nan"), metric="ios")
        with pytest.raises(ValueError, match="scores: expected shape"):
            call(boxes, scores[1:], 0.5, metric="ios")
    with pytest.raises(TypeError, match="idxs: expected integers"):
        fnp.nmm(boxes, scores, 0.5, idxs=scores)
    with pytest.raises(ValueError, match="idxs: expected shape"):
        fnp.nmm(boxes, scores, 0.5, idxs=classes[1:])


@pytest.mark.parametrize("metric", ["iou", "ios"])
@pytest.mark.parametrize("per_class", [False, True])
def test_supervision_finds_the_same(metric, per_class):
    supervision = pytest.importorskip("supervision")
    from supervision.detection.utils.iou_and_nms import OverlapMetric, box_non_max_merge

    boxes, scores, classes = scene(600, dtype=np.float64)
    columns = [boxes, scores[:, None], *([classes[:, None]] if per_class else [])]
    predictions = np.concatenate(columns, axis=1)
    measure = OverlapMetric(metric.upper())
    idxs = classes if per_class else np.zeros_like(classes)
    kept = fnp.batched_nms(boxes, scores, idxs, 0.5, metric=metric)
    theirs = supervision.box_non_max_suppression(predictions, 0.5, measure)
    assert np.array_equal(np.sort(kept), np.flatnonzero(theirs))
    joined = fnp.nmm(boxes, scores, 0.5, idxs=idxs, metric=metric)
    for first, *others in box_non_max_merge(predictions, 0.5, measure):
        assert set(np.flatnonzero(joined == first)) == {first, *others}


@pytest.mark.parametrize("metric", ["iou", "ios"])
@pytest.mark.parametrize("per_class", [False, True])
def test_sahi_finds_the_same(metric, per_class):
    combine = pytest.importorskip("sahi.postprocess.combine")
    from sahi.postprocess.backends import set_postprocess_backend

    set_postprocess_backend("numpy")
    boxes, scores, classes = scene(600)
    predictions = np.concatenate([boxes, scores[:, None], classes[:, None]], axis=1)
    predictions = predictions.astype(np.float32)
    if per_class:
        kept = fnp.batched_nms(boxes, scores, classes, 0.5, metric=metric)
        joined = fnp.nmm(boxes, scores, 0.5, idxs=classes, metric=metric)
        suppress, merge = combine.batched_nms, combine.batched_greedy_nmm
    else:
        kept = fnp.nms(boxes, scores, 0.5, metric=metric)
        joined = fnp.nmm(boxes, scores, 0.5, metric=metric)
        suppress, merge = combine.nms, combine.greedy_nmm
    assert suppress(predictions, metric.upper(), 0.5) == kept.tolist()
    groups = merge(predictions, metric.upper(), 0.5)
    assert sorted(groups) == sorted(kept)
    for first, others in groups.items():
        assert set(np.flatnonzero(joined == first)) == {first, *others}
