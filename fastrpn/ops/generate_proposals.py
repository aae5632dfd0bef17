"""The RPN's proposal stage (Ren et al., section 3.3) with fixed shapes and without
synchronisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrpn.ops._checks import (
    check_boxes,
    check_float,
    check_integers,
    check_same_device,
    check_same_dtype,
    check_shape,
)
from fastrpn.ops.box_coding import decode_boxes
from fastrpn.ops.nms import nms_padded


def generate_proposals(
    objectness: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    image_sizes: Tensor,
    *,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float,
    min_size: float,
    anchors_per_level: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turns the RPN head's output into the best proposals of each image.

    In each image and feature level: the `pre_nms_top_n` anchors of highest objectness, decoded,
    clipped to the image, without those narrower or lower than `min_size` or with a NaN; NMS within
    the level. Then the `post_nms_top_n` best of the image, ties by level, then by rank within the
    level (equal objectness ranks by anchor). The results of torchvision's `filter_proposals`. No
    gradient flows back.

    Args:
        objectness: `[B, A]` logits.
        deltas: `[B, A, 4]` of :func:`encode_boxes`; dtype of `objectness`.
        anchors: `[A, 4]` xyxy; dtype of `objectness`, or float32 beside half types.
        image_sizes: `[B, 2]` integers: height and width in pixels before padding.
        nms_threshold: suppress above this IoU.
        min_size: in pixels.
        anchors_per_level: number of anchors of each level in their order, of sum A; all one level
            if None.

    Returns:
        proposals: `[B, post_nms_top_n, 4]` xyxy, float32 (float64 for float64); zeros past
            `counts`.
        scores: `[B, post_nms_top_n]` sigmoids of objectness, descending; zeros past `counts`.
        counts: `[B]` int64.

    Raises:
        TypeError, ValueError: a dtype, shape, device or number that does not fit; the message names
            it.
    """
    levels = (
        [objectness.shape[-1]] if anchors_per_level is None else [int(n) for n in anchors_per_level]
    )
    _check(objectness, deltas, anchors, image_sizes, levels, pre_nms_top_n, post_nms_top_n)

    with torch.no_grad():
        batch = objectness.shape[0]
        rows, level_of, first = [], [], 0
        for level, size in enumerate(levels):
            order = (
                objectness[:, first : first + size]
                .sort(dim=1, descending=True, stable=True)
                .indices
            )
            rows.append(first + order[:, :pre_nms_top_n])
            level_of.append(torch.full_like(rows[-1], level))
            first += size
        row, group = torch.cat(rows, dim=1), torch.cat(level_of, dim=1)

        dtype = torch.promote_types(objectness.dtype, torch.float32)
        scores = objectness.gather(1, row).to(dtype).sigmoid()
        chosen_deltas = deltas.gather(1, row[..., None].expand(-1, -1, 4)).to(dtype)
        boxes = decode_boxes(chosen_deltas, anchors.to(dtype)[row])
        limits = image_sizes.flip(1).repeat(1, 2)[:, None].to(dtype)  # width, height, width, height
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        sides = boxes[..., 2:] - boxes[..., :2]
        keep = (sides >= min_size).all(dim=-1) & (scores >= 0)

        ranked = torch.where(keep, scores, -1.0)
        index, counts = nms_padded(
            boxes, ranked, nms_threshold, post_nms_top_n, groups=group, score_threshold=-0.5
        )
        present = index >= 0
        index = index.clamp(min=0)
        if row.shape[1] == 0:
            return (
                boxes.new_zeros(batch, post_nms_top_n, 4),
                scores.new_zeros(batch, post_nms_top_n),
                counts,
            )
        proposals = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        proposals = torch.where(present[..., None], proposals, 0.0)
        return proposals, torch.where(present, scores.gather(1, index), 0.0), counts


def _check(
    objectness: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    image_sizes: Tensor,
    levels: list[int],
    pre_nms_top_n: int,
    post_nms_top_n: int,
) -> None:
    check_float("objectness", objectness)
    check_float("deltas", deltas)
    check_boxes("anchors", anchors)
    check_integers("image_sizes", image_sizes)
    check_shape("objectness", objectness, ("B", anchors.shape[0]))
    check_shape("deltas", deltas, (*objectness.shape, 4))
    check_shape("image_sizes", image_sizes, (objectness.shape[0], 2))
    check_same_dtype("deltas", deltas, "objectness", objectness)
    half = objectness.dtype in (torch.float16, torch.bfloat16)
    if not (half and anchors.dtype == torch.float32):
        check_same_dtype("anchors", anchors, "objectness", objectness)
    for name, tensor in (("deltas", deltas), ("anchors", anchors), ("image_sizes", image_sizes)):
        check_same_device(name, tensor, "objectness", objectness)
    if any(size < 0 for size in levels) or sum(levels) != anchors.shape[0]:
        raise ValueError(
            f"anchors_per_level: expected sizes of sum {anchors.shape[0]}, got {levels}"
        )
    for name, number in (("pre_nms_top_n", pre_nms_top_n), ("post_nms_top_n", post_nms_top_n)):
        if number <= 0:
            raise ValueError(f"{name}: expected a positive number, got {number}")
