"""Makes torchvision's own operators run our kernels, for every caller, and undoes it.

While torchvision is accelerated, `torchvision::nms`, `roi_pool`, `roi_align` and the backwards of
the latter two are computed by our CPU and CUDA kernels, whoever calls them: eager, scripted or
compiled code, or a model from another library. Autograd formulas and shape functions stay
torchvision's.

`torchvision.ops.box_iou` and `batched_nms` are composed of torch operations, so for those two the
Python attributes are replaced. That serves eager code that looks them up when it calls; a name that
was bound before, with `from torchvision.ops import box_iou`, stays as it was. Derivatives, rotated
boxes, tracing, scripting and `torch.compile` get torchvision's functions. So does `batched_nms` of
few boxes, where torchvision moves classes apart by an offset and rounds: results stay identical.

torchvision's deterministic mode (`torch.use_deterministic_algorithms`) does not reach a kernel on
CUDA: there `roi_align` runs as Python and the backward of `roi_pool` refuses.
"""

import functools
import warnings
from collections.abc import Callable
from types import ModuleType

import torch
from torch import _C, Tensor

from fastrpn.ops._checks import FLOAT_DTYPES
from fastrpn.ops._derivatives import needs_derivative
from fastrpn.ops.box_iou import box_iou as our_box_iou
from fastrpn.ops.nms import batched_nms as our_batched_nms

# Up to this many coordinates, by whether the boxes are on the CPU, torchvision uses its offsets.
_COORDINATE_TRICK = {True: 4000, False: 100_000}

_originals: dict[str, Callable] = {}  # what the attributes were; empty while not accelerated


class Acceleration:
    """What :func:`accelerate_torchvision` returns; leaving its `with` block undoes the call."""

    def __init__(self, was_on: bool) -> None:
        self._was_on = was_on

    def __enter__(self) -> "Acceleration":
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._was_on:
            restore_torchvision()


def accelerate_torchvision() -> Acceleration:
    """Puts our kernels behind torchvision's operators until :func:`restore_torchvision`.

    Calling it again changes nothing. As a context manager it restores what was before::

        with fastrpn.accelerate_torchvision():
            detections = model(images)

    Returns:
        A context manager; ignored, the acceleration lasts until it is undone.

    Raises:
        ImportError: torchvision is not installed.
    """
    was_on = bool(_originals)
    if not was_on:
        modules = _modules()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered")
            torch.ops.fastrpn.accelerate_torchvision(True)
        for name, replace in (("box_iou", _fast_box_iou), ("batched_nms", _fast_batched_nms)):
            original = getattr(modules[0], name)
            _originals[name] = original
            _set(modules, name, replace(original))
    return Acceleration(was_on)


def restore_torchvision() -> None:
    """Gives torchvision its own kernels and functions back; without effect if it has them."""
    if not _originals:
        return
    torch.ops.fastrpn.accelerate_torchvision(False)
    if not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU"):
        torch.ops.fastrpn.accelerate_torchvision(True)  # there are no others: see torchvision_ops
    for name, original in _originals.items():
        _set(_modules(), name, original)
    _originals.clear()


def _modules() -> tuple[ModuleType, ...]:
    """Where callers look the Python functions up."""
    import torchvision

    return torchvision.ops.boxes, torchvision.ops


def _set(modules: tuple[ModuleType, ...], name: str, function: Callable) -> None:
    for module in modules:
        setattr(module, name, function)


def _is_eager(*tensors: Tensor) -> bool:
    """Plain float tensors of one dtype and device, no derivative needed, nobody tracing."""
    first = tensors[0]
    return (
        not (_C._is_tracing() or torch.compiler.is_compiling())
        and all(
            type(tensor) is Tensor
            and tensor.dtype == first.dtype
            and tensor.device == first.device
            and tensor.dtype in FLOAT_DTYPES
            for tensor in tensors
        )
        and not needs_derivative(*tensors)
    )


def _is_boxes(boxes: Tensor) -> bool:
    return boxes.dim() == 2 and boxes.shape[1] == 4


def _fast_box_iou(original: Callable) -> Callable:
    @functools.wraps(original)
    def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
        if (
            fmt == "xyxy"
            and _is_eager(boxes1, boxes2)
            and boxes1.dtype in (torch.float32, torch.float64)  # torchvision rounds half types
            and _is_boxes(boxes1)
            and _is_boxes(boxes2)
        ):
            return our_box_iou(boxes1, boxes2)
        return original(boxes1, boxes2) if fmt == "xyxy" else original(boxes1, boxes2, fmt)

    return _scripted_as(original, box_iou)


def _fast_batched_nms(original: Callable) -> Callable:
    @functools.wraps(original)
    def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
        if (
            _is_eager(boxes, scores)
            and _is_boxes(boxes)
            and boxes.numel() > _COORDINATE_TRICK[boxes.device.type == "cpu"]
            and type(idxs) is Tensor
            and idxs.device == boxes.device
            and scores.shape == idxs.shape == boxes.shape[:1]
            and iou_threshold == iou_threshold  # ours refuses NaN
        ):
            kept = our_batched_nms(boxes, scores, idxs, iou_threshold).sort().values
            # torchvision's own last line: its sort is not stable, and decides the order of ties.
            return kept[scores[kept].sort(descending=True)[1]]
        return original(boxes, scores, idxs, iou_threshold)

    return _scripted_as(original, batched_nms)


def _scripted_as(original: Callable, replacement: Callable) -> Callable:
    """The replacement, which torch.jit.script compiles as if it were the original."""
    replacement.__dict__["__prepare_scriptable__"] = lambda: original
    return replacement
