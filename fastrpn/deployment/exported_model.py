"""Runs an exported detector, whatever its format, as the model that it was exported from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from fastrpn._library import load_torch_operators
from fastrpn.deployment.metadata import Metadata
from fastrpn.deployment.writers import METADATA_FILE
from fastrpn.models.validation import check_images

__all__ = ["ONNX_RUNTIMES", "ExportedModel", "is_exported"]

Run = Callable[[Tensor], Sequence[Tensor]]  # images as the file takes them -> its outputs


def is_exported(path: str | Path) -> bool:
    """Whether a file is one of :func:`~fastrpn.deployment.export`, by its suffix."""
    return Path(path).suffix in (".pt2", ".onnx")


class ExportedModel:
    """A detector of a file: torch program, AOTInductor package or ONNX.

    Args:
        path: a file of :func:`~fastrpn.deployment.export`.
        device: where a torch program runs; a package runs where it was compiled for, ONNX on the
            CPU.
        runtime: what runs ONNX, "onnxruntime" or "openvino".

    Attributes:
        metadata: what the file says of itself.
        device: where it runs.

    Raises:
        ValueError: the file is missing, no exported detector, or cannot run here.
        ImportError: the package that runs it is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | torch.device = "cpu",
        runtime: str = "onnxruntime",
    ) -> None:
        if runtime not in _ONNX_RUNTIMES:
            raise ValueError(f"runtime must be one of {', '.join(_ONNX_RUNTIMES)}, got {runtime!r}")
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"exported model {path}: no such file")
        open_file = _ONNX_RUNTIMES[runtime] if self.path.suffix == ".onnx" else _open_pt2
        try:
            self._run, self.metadata, self.device = open_file(self.path, torch.device(device))
        except ImportError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ValueError(f"exported model {path}: cannot be opened ({reason})") from error

    def __call__(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of images, as :meth:`fastrpn.models.FasterRCNN.forward` gives them.

        Args:
            images: RGB [3, H, W] in 0..1, of sizes that the model was exported for.

        Returns:
            for each image "boxes" [D, 4] in its pixels, "labels" [D], "scores" [D], best first.

        Raises:
            TypeError, ValueError: unsound images, or of another size.
        """
        check_images(images)
        self._check_sizes(images)
        results: list[dict[str, Tensor]] = [{}] * len(images)
        for group in _equal_sizes(images, self.metadata.size.batch or 1):
            for index, found in zip(group, self._detect([images[i] for i in group]), strict=False):
                results[index] = found
        return results

    def _check_sizes(self, images: Sequence[Tensor]) -> None:
        if not self.metadata.transform:
            raise ValueError(f"{self.path} was exported without transform: it takes no plain image")
        for i, image in enumerate(images):
            height, width = image.shape[1:]
            if not self.metadata.size.fits(height, width):
                raise ValueError(
                    f"images[{i}] must be {self.metadata.size} pixels, for which {self.path} was "
                    f"exported, got {height} x {width}"
                )

    def _detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        batch = self.metadata.size.batch
        if batch is None:
            boxes, scores, labels = (output[None] for output in self._run(images[0]))
        else:
            # A batch that is not full is filled with its last image.
            images = images + images[-1:] * (batch - len(images))
            boxes, scores, labels, _ = self._run(torch.stack(images))
        counts = (labels > 0).sum(1).tolist()
        return [
            {"boxes": b[:count], "labels": ls[:count], "scores": s[:count]}
            for b, s, ls, count in zip(boxes, scores, labels, counts, strict=True)
        ]


def _equal_sizes(images: Sequence[Tensor], at_most: int) -> list[list[int]]:
    """Indices of the images in groups of one size, of ``at_most`` each."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(tuple(image.shape), []).append(index)
    return [
        group[start : start + at_most]
        for group in by_size.values()
        for start in range(0, len(group), at_most)
    ]


def _open_pt2(path: Path, device: torch.device) -> tuple[Run, Metadata, torch.device]:
    load_torch_operators()
    try:
        with ZipFile(path) as archive:
            is_compiled = any("/aotinductor/" in name for name in archive.namelist())
    except BadZipFile as error:
        raise ValueError("it is no .pt2 archive") from error
    return _open_aoti(path) if is_compiled else _open_program(path, device)


def _open_program(path: Path, device: torch.device) -> tuple[Run, Metadata, torch.device]:
    extra_files = {METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=extra_files)
    metadata = Metadata.read(json.loads(extra_files[METADATA_FILE] or "{}"))
    # Guards would refuse maps of one row, which the program computes like any others.
    module = program.module(check_guards=False).to(device)
    return lambda images: module(images), metadata, device


def _open_aoti(path: Path) -> tuple[Run, Metadata, torch.device]:
    package = torch._inductor.aoti_load_package(str(path))
    strings = package.get_metadata()
    device = torch.device(strings["AOTI_DEVICE_KEY"])
    return lambda images: package(images), Metadata.read(strings), device


def _open_onnx(path: Path, device: torch.device) -> tuple[Run, Metadata, torch.device]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{path} needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = Metadata.read(session.get_modelmeta().custom_metadata_map)
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> list[Tensor]:
        outputs = session.run(None, {name: images.float().numpy()})
        return [torch.from_numpy(output) for output in outputs]

    return run, metadata, torch.device("cpu")


def _open_openvino(path: Path, device: torch.device) -> tuple[Run, Metadata, torch.device]:
    try:
        import onnx
        import openvino
    except ImportError as error:
        reason = f"{path} needs OpenVINO and onnx: pip install openvino onnx"
        raise ImportError(reason) from error
    strings = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else it may compute in bfloat16
    compiled = openvino.Core().compile_model(path, "CPU", {**exact, **threads})

    def run(images: Tensor) -> list[Tensor]:
        outputs = compiled([images.float().numpy()])
        return [torch.from_numpy(outputs[i].copy()) for i in range(len(compiled.outputs))]

    return run, Metadata.read(strings), torch.device("cpu")


_ONNX_RUNTIMES = {"onnxruntime": _open_onnx, "openvino": _open_openvino}
ONNX_RUNTIMES = tuple(_ONNX_RUNTIMES)
