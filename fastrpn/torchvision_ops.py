"""torchvision's detection operators where its own library cannot load.

PyPI's torchvision beside another build of torch (a CPU one, a later one) fails with "operator
torchvision::nms does not exist". With this import before it, ``import torchvision`` works, and its
``nms``, ``roi_align`` and ``roi_pool`` run on our kernels, derivatives included::

    import fastrpn.torchvision_ops
    import torchvision

Where torchvision's library loads, the import changes nothing. Its other operators (``ps_roi_*``,
``deform_conv2d``, rotated boxes) are declared and have no kernel: calling one is an error.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrpn._library import load_torch_operators

__all__ = ["provided"]

_ROI = "Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_SIZE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_PADS = "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w"
_DEFORM = f"SymInt stride_h, SymInt stride_w, {_PADS}, SymInt groups, SymInt offset_groups"
_DEFORMED = "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias"
_POOLED = "Tensor rois, Tensor channel_mapping, float spatial_scale"
_BINS = "SymInt pooled_height, SymInt pooled_width"

_SCHEMAS = (  # of torchvision
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align(Tensor input, {_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, {_ROI}, {_SIZE}, int sampling_ratio, bool aligned)"
    " -> Tensor",
    f"roi_pool(Tensor input, {_ROI}) -> (Tensor, Tensor)",
    "_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, "
    f"{_BINS}, {_SIZE}) -> Tensor",
    f"ps_roi_align(Tensor input, {_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward(Tensor grad, {_POOLED}, {_BINS}, int sampling_ratio, {_SIZE})"
    " -> Tensor",
    f"ps_roi_pool(Tensor input, {_ROI}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward(Tensor grad, {_POOLED}, {_BINS}, {_SIZE}) -> Tensor",
    f"deform_conv2d({_DEFORMED}, {_DEFORM}, bool use_mask) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DEFORMED}, {_DEFORM}, bool use_mask)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qroi_align(Tensor input, Tensor rois, float input_scale, int input_zero_point, "
    f"float rois_scale, int rois_zero_point, float spatial_scale, {_BINS}, "
    "int sampling_ratio, bool aligned) -> Tensor",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    "_cuda_version() -> int",
)

_library: torch.library.Library | None = None  # keeps the declarations alive


def provided() -> bool:
    """Whether torchvision's operators are ours, because its own library cannot load."""
    return _library is not None


def _provide() -> None:
    global _library
    if "torchvision" in sys.modules:
        return  # it was imported before, so its library loads
    found = find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        raise ImportError("torchvision is not installed: pip install --no-deps torchvision")
    if _loads(Path(found.submodule_search_locations[0])):
        return
    load_torch_operators()
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)
    _library.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")
    torch.ops.fastrpn.accelerate_torchvision(True)
    _derive()
    importlib.import_module("torchvision")
    for name, module in list(sys.modules.items()):  # its Python functions ask before they call
        if name.startswith("torchvision.") and hasattr(module, "_has_ops"):
            module.__dict__["_has_ops"] = _yes


def _yes() -> bool:
    return True


def _loads(folder: Path) -> bool:
    for library in folder.glob("_C*.so"):
        try:
            torch.ops.load_library(library)
        except (OSError, RuntimeError):
            continue
        return hasattr(torch.ops.torchvision, "nms")
    return False


def _derive() -> None:
    """Derivatives and shapes, which torchvision's library would have brought."""

    def align_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
        images, rois, *ctx.numbers = inputs
        ctx.save_for_backward(rois)
        ctx.size = images.shape

    def align_backward(ctx: Any, grad: Tensor) -> tuple:
        scale, height, width, *sampling = ctx.numbers
        operator = torch.ops.torchvision._roi_align_backward
        (rois,) = ctx.saved_tensors
        found = operator(grad, rois, scale, height, width, *ctx.size, *sampling)
        return found, None, None, None, None, None, None

    def pool_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        images, rois, *ctx.numbers = inputs
        ctx.save_for_backward(rois, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.size = images.shape

    def pool_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple:
        operator = torch.ops.torchvision._roi_pool_backward
        found = operator(grad, *ctx.saved_tensors, *ctx.numbers, *ctx.size)
        return found, None, None, None, None

    register = torch.library.register_autograd
    register("torchvision::roi_align", align_backward, setup_context=align_setup, lib=_library)
    register("torchvision::roi_pool", pool_backward, setup_context=pool_setup, lib=_library)

    def pooled(images: Tensor, rois: Tensor, _: float, height: int, width: int) -> Tensor:
        return images.new_empty((rois.shape[0], images.shape[1], height, width))

    def align(images: Tensor, *arguments: Any) -> Tensor:
        return pooled(images, *arguments[:4])

    def pool(images: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        values = pooled(images, *arguments)
        return values, torch.empty_like(values, dtype=torch.int32)

    def align_gradient(grad: Tensor, *arguments: Any) -> Tensor:
        return grad.new_empty(arguments[4:8])

    def pool_gradient(grad: Tensor, *arguments: Any) -> Tensor:
        return grad.new_empty(arguments[5:9])

    shapes = {
        "roi_align": align,
        "roi_pool": pool,
        "_roi_align_backward": align_gradient,
        "_roi_pool_backward": pool_gradient,
    }
    for name, shape in shapes.items():
        torch.library.register_fake(f"torchvision::{name}", shape, lib=_library)


_provide()
