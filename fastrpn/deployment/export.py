"""A trained detector as a file that other programs run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn
from torch.export import ExportedProgram

from fastrpn._extras import require
from fastrpn.deployment.int8 import quantize
from fastrpn.deployment.metadata import Metadata
from fastrpn.deployment.program import DetectionProgram, InputSize, trace
from fastrpn.deployment.writers import write_aoti, write_onnx, write_torch
from fastrpn.files import replacing
from fastrpn.models.checkpoint import load_model
from fastrpn.models.classes import name_classes
from fastrpn.models.faster_rcnn import FasterRCNN

__all__ = ["FORMATS", "export"]

_WRITERS: dict[str, Callable[[ExportedProgram, Path, Metadata], None]] = {
    "torch": write_torch,
    "aoti": write_aoti,
    "onnx": write_onnx,
}
FORMATS = tuple(_WRITERS)
SUFFIXES = {"torch": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}


def export(
    model: FasterRCNN | str | Path,
    path: str | Path,
    *,
    format: str,
    height: int | None = None,
    width: int | None = None,
    batch: int | None = None,
    transform: bool = True,
    classes: Sequence[str] | None = None,
    int8: Iterable[Tensor] | None = None,
) -> Path:
    """Writes a detector to a file that runs without its Python code.

    The exported model takes float32 RGB images [3, H, W] in 0..1 and returns ``boxes`` [D, 4]
    (xyxy, pixels of the input), ``scores`` [D] and ``labels`` int64 [D], best first, D being the
    model's ``detections_per_image``; behind the last detection all three are 0. With ``batch`` it
    takes [B, 3, H, W], the three have B in front, and ``counts`` int64 [B] says how many are
    detections.

    Args:
        model: a detector, or the file of a training. Detections are those of evaluation mode, with
            the thresholds that it has now.
        path: the file: ".pt2" for "torch" and "aoti", ".onnx" for "onnx".
        format: "torch" (a `torch.export` program, which runs where torch and fastrpn's operator
            library are), "aoti" (compiled by AOTInductor for this kind of machine, for Python and
            C++), "onnx" (standard operators of opset 20: onnxruntime, OpenVINO, ...).
        height, width: of the images, in pixels; any if None.
        batch: images in one pass, all of one size.
        transform: whether normalising, resizing and padding are part of it; if not, it takes what
            ``model.prepare`` makes of images, and boxes are in pixels of that.
        classes: names of a model's classes, without the background; a file of a training has them.
        int8: images to calibrate with, RGB [3, H, W] in 0..1, about a hundred: layers then compute
            in 8 bits, see :func:`fastrpn.deployment.int8.quantize`. Format "onnx" alone.

    Returns:
        the path.

    Raises:
        TypeError: ``model`` is none.
        ValueError: an unknown format, another suffix, a size below 1, a size without transform that
            is no multiple of ``size_divisible``, a free size for a network with timm's "same"
            padding, ``int8`` without images or for another format, a model that cannot be exported,
            such as one with soft-NMS.
        ImportError: a package that the format needs is not installed.

    Example::

        export("last.pt", "detector.onnx", format="onnx")
        detect = fastrpn.Predictor("detector.onnx")
    """
    path = Path(path)
    if format not in _WRITERS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"path of format {format} must end in {SUFFIXES[format]}, got {path}")
    size = InputSize(height, width, batch)
    for name, value in size._asdict().items():
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if not isinstance(model, FasterRCNN | str | Path):
        raise TypeError(f"model must be a FasterRCNN or a path, got {type(model).__name__}")
    if int8 is not None and (format != "onnx" or not transform):
        raise ValueError(f"int8 takes format onnx with its transform, got {format}, {transform=}")
    if format == "onnx":
        runtime = [] if int8 is None else ["onnxruntime"]  # whose tool quantizes
        require("export", "onnx", "onnxscript", *runtime)
    if isinstance(model, FasterRCNN):
        names = name_classes(model.num_classes, classes)
    elif classes is None:
        model, names = load_model(model)
    else:
        raise ValueError(f"classes: the checkpoint {model} has its own, got {classes!r}")
    if model.config.box_nms != "hard":
        raise ValueError(
            f'box_nms must be "hard" to export, got "{model.config.box_nms}": '
            "how many steps soft-NMS takes depends on the boxes"
        )
    if None in (height, width) and any(map(_pads_by_size, model.modules())):
        raise ValueError(
            "height and width must be given: the network pads maps by their sizes (timm's 'same' "
            "padding), through which torch does not follow free ones in reasonable time"
        )
    step = model.config.size_divisible
    for name, value in (("height", height), ("width", width)):
        if not transform and value is not None and value % step:
            raise ValueError(f"{name} without transform must be a multiple of {step}, got {value}")
    with _evaluating(model), replacing(path) as temporary:
        program = DetectionProgram(model, transform)
        try:
            _WRITERS[format](trace(program, size), temporary, Metadata.of(program, names, size))
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"the model cannot be exported as {format}: {reason}") from error
        if int8 is not None:
            quantize(temporary, int8, size)
    return path


def _pads_by_size(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__.startswith("timm.layers") and kind.__name__.endswith("Same")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
