"""Checkpoints: written whole or not at all, and never loaded into another model."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fastrpn import distributed
from fastrpn.files import UNFINISHED, replacing
from fastrpn.models.config import ModelConfig
from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.torchvision_detectors import network_of
from fastrpn.models.torchvision_model import torchvision_model
from fastrpn.models.weight_files import (
    WeightFile,
    read_torch_file,
    read_weights,
    unwrap,
    write_safetensors,
)
from fastrpn.models.zoo import build_model

__all__ = ["DamagedCheckpointError", "clear_folder", "describe_model", "load_checkpoint"]
__all__ += [
    "export_weights",
    "load_model",
    "load_newest",
    "require_same_images",
    "require_same_model",
]
__all__ += ["save_checkpoint", "save_weights"]

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"  # the files of a run
PICTURES = "pictures"  # the folder beside them
OWN_MODEL = "own"  # the name of a model that was handed to `Trainer`

_FORMAT = "fastrpn checkpoint 1"


class DamagedCheckpointError(ValueError):
    """A checkpoint that is cut off, or of which a byte has changed since it was written."""


def save_checkpoint(
    path: str | Path, content: dict[str, Any], previous: str | Path | None = None
) -> Path:
    """Writes a checkpoint as :func:`fastrpn.files.replacing` does: whole or not at all.

    Args:
        path: of the file.
        content: what :func:`load_checkpoint` gives back.
        previous: keeps the file that `path` was, should the disk damage the new one.

    Raises:
        OSError: it cannot be written; the message names the file, the old one is what it was.
    """
    path = Path(path)
    try:
        with replacing(path) as temporary:
            with temporary.open("wb") as file:
                _write({"format": _FORMAT, **content}, file)
            if previous is not None and path.exists():
                _keep(path, Path(previous))
    except OSError as error:
        reason = f"checkpoint cannot be written: {error.strerror}"
        raise OSError(error.errno, reason, str(path)) from error
    return path


def _write(content: dict[str, Any], file: BinaryIO) -> None:
    """As `torch.save`, whose own error hides that of the file: a full disk."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        while error.__context__ is not None and not isinstance(error, OSError):
            error = error.__context__  # type: ignore[assignment]
        raise error


def _keep(path: Path, previous: Path) -> None:
    """Gives the file a second name, in place of what had that name; `path` stays throughout."""
    second = path.with_name(f"{UNFINISHED}{previous.name}")
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except OSError:  # a file system without links
        shutil.copyfile(path, second)
    os.replace(second, previous)
    second.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def clear_folder(folder: str | Path, is_new_run: bool) -> None:
    """Deletes what a process that was killed in the middle of writing has left in a run's folder.

    Args:
        folder: where no other process is writing.
        is_new_run: delete a former run's checkpoints, too: should the new run be killed before its
            first one, `resume` would continue the former.
    """
    folder = Path(folder)
    for place in (folder, folder / PICTURES):
        for path in place.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if is_new_run:
        for name in (LAST, PREVIOUS, BEST):
            (folder / name).unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU; runs no code from it.

    Raises:
        DamagedCheckpointError: the file is cut off, a checksum of it does not hold, or it never was
            a checkpoint of any kind.
        ValueError: the file is missing or is no checkpoint of fastrpn.
    """
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"checkpoint {path}: not a checkpoint of fastrpn")
    return content


def _read(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        return read_torch_file(path)
    except Exception as error:
        raise DamagedCheckpointError(f"checkpoint {path}: cannot be read ({error})") from error


def load_newest(folder: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be read, and its path; None if there is none.

    Where last.pt is damaged that is the one before, previous.pt, which is said in a line.

    Raises:
        DamagedCheckpointError: there are checkpoints, and all are damaged.
        ValueError: a file is no checkpoint of fastrpn.
    """
    found = [path for name in (LAST, PREVIOUS) if (path := Path(folder) / name).exists()]
    for path in found:
        try:
            return path, load_checkpoint(path)
        except DamagedCheckpointError as error:
            if path == found[-1]:
                raise
            if distributed.is_main():
                print(f"{error}; going on from {found[-1].name}", file=sys.stderr)
    return None


def describe_model(name: str, model: FasterRCNN, classes: list[str]) -> dict[str, Any]:
    """What is needed to build the model again."""
    return {"name": name, "classes": list(classes), "config": dataclasses.asdict(model.config)}


def require_same_model(path: str | Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError if a checkpoint's model is not the one it is to continue."""
    if saved["name"] != wanted["name"]:
        raise ValueError(
            f"checkpoint {path} holds a {saved['name']!r} model, not {wanted['name']!r}"
        )
    if len(saved["classes"]) != len(wanted["classes"]):
        raise ValueError(
            f"checkpoint {path} has {len(saved['classes'])} classes with the background, "
            f"not {len(wanted['classes'])}"
        )
    if saved["classes"] != wanted["classes"]:
        raise ValueError(
            f"checkpoint {path} has the classes {', '.join(saved['classes'][1:])}, "
            f"not {', '.join(wanted['classes'][1:])}"
        )
    rules = {**dataclasses.asdict(ModelConfig()), **saved["config"]}  # an older one has fewer
    for option, value in wanted["config"].items():
        if rules[option] != value and option != "box_init":  # of the start, which is over
            raise ValueError(
                f"checkpoint {path} has model option {option}={rules[option]!r}, not {value!r}"
            )


def require_same_images(path: str | Path, saved: int | None, wanted: int) -> None:
    """Raises ValueError if a checkpoint was trained on another number of images."""
    if saved not in (None, wanted):
        raise ValueError(
            f"resume: {path} was trained on {saved} images, the data set has {wanted}; "
            "--allow-changes goes on with them"
        )


def load_model(
    path: str | Path, device: str | torch.device = "cpu", num_classes: int | None = None
) -> tuple[FasterRCNN, list[str]]:
    """Builds the model of a checkpoint, in evaluation mode; without a network.

    Args:
        path: a checkpoint of :func:`fastrpn.training.train`, weights that :func:`save_weights` has
            written, or a ``fasterrcnn_resnet50_fpn`` of torchvision (a state dict, or a checkpoint
            of its reference scripts). That one has no names: with 91 classes it gets COCO's.
        device: where the model is to be.
        num_classes: if given, the number of classes (with the background) it must have.

    Returns:
        the model and the names of its classes, "__background__" first.

    Raises:
        ValueError: the file is unusable, or has another number of classes.
    """
    weights, described = _model_file(path)
    if described is None:
        model, classes = torchvision_model(path, weights)
    else:
        classes = described["classes"]
        if described["name"] == OWN_MODEL:
            raise ValueError(
                f"checkpoint {path} holds a network of your own: build it and "
                "load_weights(model, path)"
            )
        config = ModelConfig().override(**described["config"])
        model = build_model(described["name"], len(classes), config)
        model.load_state_dict(weights)
    if num_classes is not None and num_classes != len(classes):
        raise ValueError(
            f"checkpoint {path} has {len(classes)} classes with the background, not {num_classes}"
        )
    return model.to(device).eval(), classes


def save_weights(path: str | Path, model: FasterRCNN, name: str, classes: list[str]) -> Path:
    """Writes weights alone, as safetensors, with what is needed to build their model.

    Args:
        path: of the file, ``.safetensors``.
        name: of the network, see :func:`fastrpn.models.faster_rcnn`.
        classes: names, "__background__" first.

    Raises:
        ValueError: another ending, or another number of classes than the model's.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"output {path}: must end with .safetensors")
    if len(classes) != model.num_classes:
        raise ValueError(
            f"classes must be {model.num_classes} names with the background, got {len(classes)}"
        )
    return write_safetensors(path, model.state_dict(), describe_model(name, model, classes))


def export_weights(checkpoint: str | Path, output: str | Path) -> Path:
    """The weights of a checkpoint as :func:`save_weights` writes them: for others, who need
    neither the state of the optimizer nor trust in a pickle."""
    weights, described = _model_file(checkpoint)
    if described is None:
        model, classes = torchvision_model(checkpoint, weights)
        return save_weights(output, model, network_of(weights), classes)
    if Path(output).suffix != ".safetensors":
        raise ValueError(f"output {output}: must end with .safetensors")
    return write_safetensors(output, weights, described)


def _model_file(path: str | Path) -> WeightFile:
    """Weights and, if fastrpn wrote them, the description of their model."""
    if Path(path).suffix == ".safetensors":
        return read_weights(path)
    return unwrap(_read(path), f"checkpoint {path}: not a checkpoint of fastrpn")
