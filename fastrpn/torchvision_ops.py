"""torchvision's operators where its own compiled library cannot be loaded.

A torch for CPUs beside PyPI's torchvision ends in "operator torchvision::nms does not exist": the
library of that torchvision wants CUDA. With ::

    import fastrpn.torchvision_ops
    import torchvision

the operators are defined with torchvision's schemas, `nms`, `roi_pool`, `roi_align` and their
derivatives run on our kernels, and torchvision works. The others (position-sensitive pooling,
deformable convolution, rotated boxes, quantized tensors) can be imported and raise
NotImplementedError when they are called. Where torchvision's library loads, nothing is changed.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch

from fastrpn._library import load_torch_operators

__all__ = ["is_needed"]

_POOLED = "float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_SHAPE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_DEFORM = (
    "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, "
    "SymInt groups, SymInt offset_groups, bool use_mask"
)
_PS_GRAD = "Tensor grad, Tensor rois, Tensor channel_mapping"
_OURS = (  # csrc/torch/accelerate_torchvision.cpp has their kernels
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_pool(Tensor input, Tensor rois, {_POOLED}) -> (Tensor, Tensor)",
    f"_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, {_POOLED}, {_SHAPE}) -> Tensor",
    f"roi_align(Tensor input, Tensor rois, {_POOLED}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, Tensor rois, {_POOLED}, {_SHAPE}, int sampling_ratio, "
    "bool aligned) -> Tensor",
)
_NOT_OFFERED = (
    f"ps_roi_pool(Tensor input, Tensor rois, {_POOLED}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward({_PS_GRAD}, {_POOLED}, {_SHAPE}) -> Tensor",
    f"ps_roi_align(Tensor input, Tensor rois, {_POOLED}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward({_PS_GRAD}, {_POOLED}, int sampling_ratio, {_SHAPE}) -> Tensor",
    f"deform_conv2d({_DEFORM}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qroi_align(Tensor input, Tensor rois, float input_scale, int input_zero_point, "
    f"float rois_scale, int rois_zero_point, {_POOLED}, int sampling_ratio, bool aligned) "
    "-> Tensor",
)
_libraries: list[torch.library.Library] = []  # what is registered lives as long as these


def is_needed() -> bool:
    """Whether torchvision's operators are ours, because its own library could not be loaded."""
    return bool(_libraries)


def _why_its_own_do_not_load(folder: Path) -> str | None:
    """Loads torchvision's operators, or says in a line why that is impossible."""
    paths = sorted(folder.glob("_C*.so"))
    if not paths:
        return f"{folder} holds no compiled library"
    try:
        torch.ops.load_library(paths[0])
    except OSError as error:
        return str(error.__cause__ or error).splitlines()[0]
    return None


def _define(cause: str) -> None:
    """Registers the operators, and kernels of ours for those that we have."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    _libraries.append(library)
    for schema in (*_OURS, *_NOT_OFFERED, "_cuda_version() -> int"):
        library.define(schema)
    for schema in _NOT_OFFERED:
        name = schema.partition("(")[0]
        for device in ("CPU", "CUDA"):
            library.impl(name, functools.partial(_refuse, name, cause), device)
    library.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")
    load_torch_operators()
    torch.ops.fastrpn.accelerate_torchvision(True)


def _refuse(name: str, cause: str, *_arguments: Any) -> NoReturn:
    raise NotImplementedError(
        f"torchvision::{name}: fastrpn has no kernel for it, and torchvision's own library could "
        f"not be loaded: {cause}"
    )


def _has_ops() -> bool:
    return True  # a function of its own: torch.jit.script compiles it


class _HasOperators:
    """Finds `torchvision.extension` as usual, then lets it say that the operators are there."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torchvision.extension":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                module.__dict__["_has_ops"] = _has_ops

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _provide() -> None:
    loaded = sys.modules.get("torchvision")
    spec = loaded.__spec__ if loaded else importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision: not installed; pip install torchvision")
    folder = Path(spec.origin).parent
    cause = _why_its_own_do_not_load(folder)
    if cause is None:
        return
    if not (folder / "_autograd_registrations.py").exists():
        raise ImportError(
            f"torchvision's own library could not be loaded: {cause}. fastrpn.torchvision_ops "
            "takes its place for torchvision 0.28 and later; this one is older"
        )
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]  # of an import that failed before
    _define(cause)
    sys.meta_path.insert(0, _HasOperators())


_provide()
