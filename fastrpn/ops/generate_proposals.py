"""The RPN's proposal stage (Ren et al., section 3.3) with fixed shapes and without
synchronisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrpn.ops._checks import (
    check_boxes,
    check_float,
    check_integers,
    check_not_nan,
    check_same_device,
    check_same_dtype,
    check_shape,
    number_of,
)
from fastrpn.ops._derivatives import call, register_no_derivative
from fastrpn.ops._modes import leaf
from fastrpn.ops._vmap import register_loop

_generate_proposals = torch.ops.fastrpn.generate_proposals.default


@leaf
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
    level (equal objectness ranks by anchor). The results of torchvision's `filter_proposals`. The
    arguments are detached: no derivative passes, in reverse or forward mode.

    Args:
        objectness: `[B, A]` logits, float16 to float64.
        deltas: `[B, A, 4]` of :func:`encode_boxes`; dtype of `objectness`.
        anchors: `[A, 4]` xyxy in pixels; dtype of `objectness`, or float32 beside half types.
        image_sizes: `[B, 2]` integers: height and width in pixels before padding.
        pre_nms_top_n: anchors of each level that are decoded, at most.
        post_nms_top_n: proposals of an image, at most: K.
        nms_threshold: suppress above this IoU.
        min_size: in pixels, compared in the dtype of the proposals.
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
    _check(objectness, deltas, anchors, image_sizes, pre_nms_top_n, post_nms_top_n)
    nms_threshold, min_size = number_of(nms_threshold), number_of(min_size)
    check_not_nan("nms_threshold", nms_threshold)
    check_not_nan("min_size", min_size)
    levels = None if anchors_per_level is None else list(anchors_per_level)
    if levels is not None and (any(n < 0 for n in levels) or sum(levels) != anchors.shape[0]):
        raise ValueError(
            f"anchors_per_level: expected sizes of sum {anchors.shape[0]}, got {levels}"
        )
    return call(
        _generate_proposals,
        objectness.detach(),
        deltas.detach(),
        anchors.detach(),
        image_sizes.long(),
        pre_nms_top_n,
        post_nms_top_n,
        nms_threshold,
        min_size,
        levels or [],  # without sizes the operator takes all anchors for one level
    )


@torch.library.register_fake("fastrpn::generate_proposals")
def _(
    objectness: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    image_sizes: Tensor,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float,
    min_size: float,
    anchors_per_level: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    batch, dtype = objectness.shape[0], torch.promote_types(objectness.dtype, torch.float32)
    return (
        objectness.new_empty((batch, post_nms_top_n, 4), dtype=dtype),
        objectness.new_empty((batch, post_nms_top_n), dtype=dtype),
        objectness.new_empty(batch, dtype=torch.int64),
    )


def _check(
    objectness: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    image_sizes: Tensor,
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
    for name, number in (("pre_nms_top_n", pre_nms_top_n), ("post_nms_top_n", post_nms_top_n)):
        if number <= 0:
            raise ValueError(f"{name}: expected a positive number, got {number}")


register_no_derivative("generate_proposals")
register_loop("generate_proposals")
