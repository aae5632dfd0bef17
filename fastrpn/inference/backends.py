"""What computes a predictor's detections: the model, a faster copy of it, or another runtime."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastrpn._version import __version__
from fastrpn.deployment import ExportedModel, export
from fastrpn.models import FasterRCNN
from fastrpn.models.fused import fused
from fastrpn.models.fused_convolution import can_fuse_on

__all__ = ["BACKENDS", "FusedDetector", "choose_backend", "open_backend"]

Detect = Callable[[Sequence[Tensor]], list[dict[str, Tensor]]]

_FORMATS = {"compiled": "aoti", "onnxruntime": "onnx", "openvino": "onnx"}  # what is exported
BACKENDS = ("auto", "eager", "fused", *_FORMATS)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_backend(model: FasterRCNN, backend: str, precision: str) -> str:
    """The backend that "auto" stands for: "fused" on a CPU, else "eager"; others as they are.

    Args:
        backend: one of BACKENDS.

    Raises:
        ValueError: a backend that cannot run the model in that precision.
    """
    device = next(model.parameters()).device
    is_float32 = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    dtype = _DTYPES.get(precision)
    can_fuse = dtype is not None and is_float32 and can_fuse_on(device, dtype)
    if backend == "auto":
        return "fused" if can_fuse else "eager"
    if backend == "fused" and not can_fuse:
        raise ValueError(
            "backend fused runs float32 models on a CPU with oneDNN, in fp32, or in bf16 where the "
            f"CPU has it; the model is on {device}, the precision {precision}"
        )
    if backend in _FORMATS and (precision != "fp32" or device.type != "cpu"):
        raise ValueError(f"backend {backend} runs on a CPU in fp32, got {device} and {precision}")
    return backend


def open_backend(
    model: FasterRCNN,
    backend: str,
    precision: str,
    score_threshold: float | None,
    classes: Sequence[str],
) -> Detect | None:
    """What detects as ``model(images, score_threshold=score_threshold)`` does; None: "eager".

    An exported model is kept in the cache, see :func:`cached_export`, so that it is made once.

    Raises:
        ValueError: see :func:`choose_backend`, or the model cannot be exported.
        ImportError: the runtime is not installed.
    """
    backend = choose_backend(model, backend, precision)
    if backend == "fused":
        return FusedDetector(model, _DTYPES[precision], score_threshold)
    if backend == "eager":
        return None
    path = cached_export(model, _FORMATS[backend], score_threshold, classes)
    runtime = backend if backend == "openvino" else "onnxruntime"
    return ExportedModel(path, runtime=runtime)


class FusedDetector:
    """Detects with a fused copy of a model, see :func:`fastrpn.models.fused.fused`.

    The copy follows the model: it is made again when weights have changed since.
    """

    def __init__(
        self, model: FasterRCNN, dtype: torch.dtype, score_threshold: float | None = None
    ) -> None:
        self.model, self.dtype, self.score_threshold = model, dtype, score_threshold
        self._made_of = _state(model)
        self._copy = fused(model, dtype)

    def __call__(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        state = _state(self.model)
        if state != self._made_of:
            self._copy, self._made_of = fused(self.model, self.dtype), state
        if self._copy.config is not self.model.config:
            self._copy.config = self.model.config
        found = self._copy(images, score_threshold=self.score_threshold)
        assert isinstance(found, list)  # it is in evaluation mode
        return found


def _state(model: FasterRCNN) -> list[tuple[int, int]]:
    """What changes with the weights: where each is, and how often it was written."""
    tensors = [*model.parameters(), *model.buffers()]
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def cached_export(
    model: FasterRCNN, format: str, score_threshold: float | None, classes: Sequence[str]
) -> Path:
    """An exported model, made unless it is there, in ``$FASTRPN_CACHE`` or ``~/.cache/fastrpn``.

    Its name has a digest of the weights, the rules and the versions, so that it is never stale.
    """
    config = model.config
    if score_threshold is not None:
        config = config.override(box_score_threshold=max(0.0, score_threshold))
    settings = (format, config, list(classes), __version__, torch.__version__)
    digest = hashlib.sha256(repr((*settings, torch.backends.cpu.get_cpu_capability())).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    folder = Path(os.environ.get("FASTRPN_CACHE") or Path.home() / ".cache" / "fastrpn")
    path = folder / f"{digest.hexdigest()[:20]}.{'onnx' if format == 'onnx' else 'pt2'}"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        other = copy.deepcopy(model).eval()
        other.config = config
        export(other, path, format=format, classes=list(classes)[1:])
    return path
