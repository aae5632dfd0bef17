"""fastrpn's operators in standard ONNX ones, for `torch.onnx.export`.

Three rules keep runtimes from finding other boxes:

- NonMaxSuppression only says which boxes stay, never in which order (OpenVINO has another), and has
  no limit over all classes: TopK sorts and limits what it kept. Its lower index wins ties, as ours.
- Image x class, or one level of each image, is NonMaxSuppression's batch: its own classes would all
  share their boxes.
- Attributes that importers give different defaults are always written.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import TensorProto, helper
from onnxscript import opset20

from fastrpn.ops.box_coding import DEFAULT_CLIP

__all__ = ["OPSET", "translations"]

OPSET = 20

op: Any = opset20  # its types are those of numbers, not of the values of a graph
Value = Any  # what flows between operators while a graph is built

_OUT = -1.0  # the score of a box that takes no part; those of others are never negative


def translations(num_classes: int) -> dict[Callable, Callable]:
    """ONNX for our operators in a detector, and for the arithmetic of sizes.

    Args:
        num_classes: the detector's, with the background.
    """

    def nms_padded(
        boxes: Value,
        scores: Value,
        iou_threshold: float,
        max_output: int,
        counts: None = None,
        groups: Value = None,
        score_threshold: float = 0.0,
    ) -> tuple[Value, Value]:
        return _nms_of_classes(
            boxes, scores, num_classes - 1, iou_threshold, max_output, score_threshold
        )

    ops = torch.ops.fastrpn
    return {
        ops.generate_proposals.default: _generate_proposals,
        ops.nms_padded.default: nms_padded,
        ops.roi_align.default: _roi_align,
        ops.roi_pool.default: _roi_pool,
        # As in Python, in double precision: in torch's own, of floats, sizes would be a pixel off.
        operator.truediv: lambda a, b: op.Div(_double(a), _double(b)),
        operator.mul: lambda a, b: op.Mul(_number(a), _number(b)),
        torch.sym_float: _double,
        math.trunc: lambda a: op.Cast(a, to=TensorProto.INT64),
    }


def _ints(*values: int) -> Value:
    return op.Constant(value_ints=list(values))


def _float(value: float) -> Value:
    return op.Constant(value_float=float(value))


def _double(value: Value) -> Value:
    return op.Cast(_number(value), to=TensorProto.DOUBLE)


def _number(value: Value) -> Value:
    """A number of the program's as int64 or double; other values as they are."""
    kinds = {int: TensorProto.INT64, float: TensorProto.DOUBLE}
    if type(value) not in kinds:
        return value
    return op.Constant(value=helper.make_tensor("", kinds[type(value)], [], [value]))


def _generate_proposals(
    objectness: Value,
    deltas: Value,
    anchors: Value,
    image_sizes: Value,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float,
    min_size: float,
    anchors_per_level: Sequence[int | Value],
) -> tuple[Value, Value, Value]:
    sizes = op.Cast(image_sizes, to=TensorProto.FLOAT)
    height_width = op.Unsqueeze(sizes, _ints(1))
    limit = op.Gather(height_width, _ints(1, 0, 1, 0), axis=2)  # [B, 1, 4]
    all_boxes, all_scores = [], []
    first = _ints(0)
    for size in anchors_per_level or [op.Shape(anchors, start=0, end=1)]:
        size = op.Reshape(_ints(size) if isinstance(size, int) else size, _ints(1))
        logits = op.Slice(objectness, first, op.Add(first, size), _ints(1))
        logits, rank = op.TopK(
            logits, op.Min(size, _ints(pre_nms_top_n)), axis=1, largest=1, sorted=1
        )
        row = op.Add(rank, first)
        boxes = _decode(_rows(deltas, row), op.Gather(anchors, row, axis=0))
        boxes = op.Min(op.Max(boxes, _float(0.0)), limit)
        kept = _suppress(boxes, _by_rank(boxes, min_size), nms_threshold, post_nms_top_n)
        all_boxes.append(boxes)
        all_scores.append(op.Where(kept, op.Sigmoid(logits), _float(_OUT)))
        first = op.Add(first, size)
    boxes, scores = op.Concat(*all_boxes, axis=1), op.Concat(*all_scores, axis=1)
    best, row, counts = _best(scores, post_nms_top_n)
    is_padding = op.Less(row, _ints(0))
    boxes = _rows(boxes, op.Max(row, _ints(0)))
    boxes = op.Where(op.Unsqueeze(is_padding, _ints(2)), _float(0.0), boxes)
    return boxes, op.Where(is_padding, _float(0.0), best), counts


def _decode(deltas: Value, anchors: Value) -> Value:
    """`ops.decode_boxes` with weights of 1."""
    size = _sides(anchors)
    middle = op.Add(_columns(anchors, 0, 2), op.Mul(size, _float(0.5)))
    shift, growth = _halves(deltas)
    centre = op.Add(op.Mul(shift, size), middle)
    half = op.Mul(op.Mul(op.Exp(op.Min(growth, _float(DEFAULT_CLIP))), size), _float(0.5))
    return op.Concat(op.Sub(centre, half), op.Add(centre, half), axis=-1)


def _halves(boxes: Value) -> tuple[Value, Value]:
    """[..., 4] -> [..., 2], [..., 2]."""
    return _columns(boxes, 0, 2), _columns(boxes, 2, 4)


def _columns(values: Value, start: int, end: int) -> Value:
    """Of the last dimension."""
    return op.Slice(values, _ints(start), _ints(end), _ints(-1))


def _sides(boxes: Value) -> Value:
    """[..., 4] -> widths and heights [..., 2]."""
    x1y1, x2y2 = _halves(boxes)
    return op.Sub(x2y2, x1y1)


def _by_rank(boxes: Value, min_size: float) -> Value:
    """Boxes [B, k, 4], best first -> scores [B, k]: k for the first, 1 for the last, without ties;
    `_OUT` for a box that is too small."""
    shortest = op.ReduceMin(_sides(boxes), _ints(2), keepdims=0)
    count = op.Squeeze(op.Shape(boxes, start=1, end=2))
    descending = op.Cast(
        op.Range(count, op.Constant(value_int=0), op.Constant(value_int=-1)), to=TensorProto.FLOAT
    )
    return op.Where(op.GreaterOrEqual(shortest, _float(min_size)), descending, _float(_OUT))


def _nms_of_classes(
    boxes: Value,
    scores: Value,
    classes: int,
    iou_threshold: float,
    max_output: int,
    score_threshold: float,
) -> tuple[Value, Value]:
    """`ops.nms_padded` of rows that are regions x classes, the class running fastest."""
    taking_part = op.Where(op.Greater(scores, _float(score_threshold)), scores, _float(_OUT))
    by_class = op.Transpose(op.Reshape(taking_part, _ints(0, -1, classes)), perm=[0, 2, 1])
    shape = op.Shape(by_class)  # B, classes, regions
    rows = op.Concat(_ints(-1), op.Shape(by_class, start=2), axis=0)
    box_by_class = op.Transpose(op.Reshape(boxes, _ints(0, -1, classes, 4)), perm=[0, 2, 1, 3])
    kept = _suppress(
        op.Reshape(box_by_class, op.Concat(rows, _ints(4), axis=0)),
        op.Reshape(by_class, rows),
        iou_threshold,
        max_output,
    )
    kept = op.Reshape(op.Transpose(op.Reshape(kept, shape), perm=[0, 2, 1]), op.Shape(scores))
    _, row, counts = _best(op.Where(kept, scores, _float(_OUT)), max_output)
    return row, counts


def _suppress(boxes: Value, scores: Value, iou_threshold: float, max_output: int) -> Value:
    """Which of boxes [N, k, 4] with scores [N, k] NMS keeps, each of the N alone: bool [N, k]."""
    selected = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, _ints(1)),
        _ints(max_output),
        _float(iou_threshold),
        _float(0.0),
        center_point_box=0,
    )
    place = op.Gather(selected, _ints(0, 2), axis=1)  # without the class, of which there is one
    ones = op.Expand(_float(1.0), op.Shape(selected, start=0, end=1))
    return op.Greater(
        op.ScatterND(op.Expand(_float(0.0), op.Shape(scores)), place, ones), _float(0.0)
    )


def _best(scores: Value, number: int) -> tuple[Value, Value, Value]:
    """The best of scores [B, N]: they and their rows [B, number], and how many there are, [B]; past
    those, rows are -1."""
    padded = op.Pad(scores, _ints(0, 0, 0, number), _float(_OUT))
    best, row = op.TopK(padded, _ints(number), axis=1, largest=1, sorted=1)
    real = op.GreaterOrEqual(best, _float(0.0))
    counts = op.ReduceSum(op.Cast(real, to=TensorProto.INT64), _ints(1), keepdims=0)
    return best, op.Where(real, row, _ints(-1)), counts


def _rows(values: Value, row: Value) -> Value:
    """values [B, N, 4], row [B, k] -> [B, k, 4]."""
    return op.GatherND(values, op.Unsqueeze(row, _ints(2)), batch_dims=1)


def _roi_align(
    inputs: Sequence[Value],
    rois: Value,
    roi_levels: Value | None,
    spatial_scales: Sequence[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Value:
    def pool(level: int, rois: Value) -> Value:
        image = op.Cast(op.Squeeze(_columns(rois, 0, 1), _ints(1)), to=TensorProto.INT64)
        boxes = _columns(rois, 1, 5)
        pooled = op.RoiAlign(
            inputs[level],
            boxes,
            image,
            mode="avg",
            output_height=height,
            output_width=width,
            sampling_ratio=max(sampling_ratio, 0),  # 0: as many as there are cells, as ours
            spatial_scale=spatial_scales[level],
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        )
        if sampling_ratio > 0 or not aligned:
            return pooled
        # A box without area has no samples; OpenVINO's mean of none is NaN.
        has_area = op.Greater(op.ReduceMin(_sides(boxes), _ints(1)), _float(0.0))
        return op.Where(op.Unsqueeze(has_area, _ints(2, 3)), pooled, _float(0.0))

    if roi_levels is None:
        return pool(0, rois)
    # Each level pools its own RoIs, which then return to their places; those of no level are zeros.
    places, pooled = [], []
    for level in range(len(inputs)):
        is_here = op.Equal(roi_levels, op.Cast(level, to=TensorProto.INT32))
        places.append(op.Transpose(op.NonZero(is_here)))
        pooled.append(pool(level, op.GatherND(rois, places[-1])))
    channels = op.Shape(inputs[0], start=1, end=2)
    zeros = op.Expand(_float(0.0), op.Concat(_ints(1), channels, _ints(height, width), axis=0))
    place = op.Concat(*places, axis=0)
    count = op.Squeeze(op.Shape(place, end=1))  # where the zeros are
    rows = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
    back = op.ScatterND(op.Expand(count, op.Shape(rois, end=1)), place, rows)
    return op.Gather(op.Concat(*pooled, zeros, axis=0), back, axis=0)


def _roi_pool(
    input: Value, rois: Value, spatial_scale: float, pooled_height: int, pooled_width: int
) -> Value:
    shape = [pooled_height, pooled_width]
    return op.MaxRoiPool(input, rois, pooled_shape=shape, spatial_scale=spatial_scale)
