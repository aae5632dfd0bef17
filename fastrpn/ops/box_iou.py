"""IoU of every pair of boxes."""

import torch
from torch import Tensor
from torch._functorch.autograd_function import VmapInfo
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fastrpn.ops._checks import FLOAT_DTYPES, check_same_dtype
from fastrpn.ops._derivatives import needs_derivative, register_autograd
from fastrpn.ops._misuse import explain
from fastrpn.ops._modes import leaf, refuse_scripting
from fastrpn.ops._pairs import check_box_sets, pairwise_iou
from fastrpn.ops.boxes import box_convert, check_format

# The overload itself: finding it through torch.ops at each call would cost half a microsecond.
_box_iou = torch.ops.fastrpn.box_iou.default
_box_iou_values = torch.ops.fastrpn.box_iou_values.default  # has no autograd kernel to go through


@refuse_scripting
def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair of boxes; as `torchvision.ops.box_iou`.

    Two sets of float boxes run through the kernel. Where a derivative is needed, for integers, two
    dtypes and more dimensions, the same formula runs as torch operations, so that every mode of
    differentiation works, any number of times, as does `torch.vmap`.

    Args:
        boxes1: [..., N, 4] boxes in pixels.
        boxes2: [..., M, 4] boxes on the same device.
        fmt: "xyxy", "xywh" or "cxcywh".

    Returns:
        [..., N, M] IoU in the boxes' dtype, for two dtypes the one that torch promotes them to;
        float32 for half types, which are computed in float32, and for integers. A pair whose union
        is empty (0 / 0) gives NaN.

    Raises:
        TypeError: not a tensor, or not numbers.
        ValueError: wrong shape, two devices, or an unknown format.
    """
    if has_torch_function_variadic(boxes1, boxes2):
        return handle_torch_function(box_iou, (boxes1, boxes2), boxes1, boxes2, fmt)
    if fmt == "xyxy" and _kernel_takes(boxes1, boxes2):
        try:
            if torch.compiler.is_compiling() or needs_derivative(boxes1, boxes2):
                return _box_iou(boxes1, boxes2)
            return _box_iou_values(boxes1, boxes2)
        except Exception as error:  # the operator refuses bad input; only then find the words
            explain(error, box_iou, boxes1, boxes2, fmt)
            check_box_sets(boxes1, boxes2)
            raise
    return _by_formula(boxes1, boxes2, fmt)


@leaf
def _by_formula(boxes1: Tensor, boxes2: Tensor, fmt: str) -> Tensor:
    check_box_sets(boxes1, boxes2)
    check_format("fmt", fmt)
    if fmt != "xyxy":
        return box_iou(_corners(boxes1, fmt), _corners(boxes2, fmt))
    return pairwise_iou(boxes1, boxes2)


def _corners(boxes: Tensor, fmt: str) -> Tensor:
    """As xyxy; a corner may be more than a small integer type holds."""
    wide = boxes if boxes.is_floating_point() else boxes.long()
    return box_convert(wide, fmt, "xyxy")


def _kernel_takes(boxes1: object, boxes2: object) -> bool:
    return (
        isinstance(boxes1, Tensor)
        and isinstance(boxes2, Tensor)
        and boxes1.dtype in FLOAT_DTYPES
        and boxes1.dtype == boxes2.dtype
        and boxes1.dim() == 2
        and boxes2.dim() == 2
    )


def _formula(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    check_box_sets(boxes1, boxes2)
    return pairwise_iou(boxes1, boxes2)


def _batched(
    info: VmapInfo, in_dims: tuple[int | None, int | None], boxes1: Tensor, boxes2: Tensor
) -> tuple[Tensor, int]:
    sets = (boxes1, boxes2)
    first = [b if dim is None else b.movedim(dim, 0) for b, dim in zip(sets, in_dims, strict=True)]
    return _formula(*first), 0


register_autograd("box_iou", _formula)
torch.library.register_vmap("fastrpn::box_iou", _batched)


@torch.library.register_fake("fastrpn::box_iou_values")
@torch.library.register_fake("fastrpn::box_iou")
def _(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    check_box_sets(boxes1, boxes2)
    check_same_dtype("boxes2", boxes2, "boxes1", boxes1)
    dtype = torch.promote_types(boxes1.dtype, torch.float32)
    return boxes1.new_empty(boxes1.shape[0], boxes2.shape[0], dtype=dtype)
