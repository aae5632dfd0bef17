"""Checkpoints: written whole or not at all, and never loaded into another model."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch

from fastrpn.files import UNFINISHED, replacing
from fastrpn.models.config import ModelConfig
from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.zoo import build_model

__all__ = ["describe_model", "load_checkpoint", "load_model", "require_same_model"]
__all__ += ["clear_folder", "save_checkpoint"]

OWN_MODEL = "own"  # the name of a model that was handed to `Trainer`

_FORMAT = "fastrpn checkpoint 1"


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> Path:
    """Writes a checkpoint as :func:`fastrpn.files.replacing` does: whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": _FORMAT, **content}, file)
    return Path(path)


def clear_folder(folder: str | Path, is_new_run: bool) -> None:
    """Deletes what a process that was killed in the middle of writing has left in a run's folder.

    Args:
        folder: where no other process is writing.
        is_new_run: delete a former run's checkpoints, too: should the new run be killed before its
            first one, `resume` would continue the former.
    """
    folder = Path(folder)
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if is_new_run:
        for name in ("last.pt", "best.pt"):
            (folder / name).unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU; runs no code from it.

    Raises:
        ValueError: the file is missing or is no checkpoint of fastrpn.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {path}: cannot be read ({error})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"checkpoint {path}: not a checkpoint of fastrpn")
    return content


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
    for option, value in wanted["config"].items():
        if saved["config"].get(option) != value:
            raise ValueError(
                f"checkpoint {path} has model option {option}="
                f"{saved['config'].get(option)!r}, not {value!r}"
            )


def load_model(
    path: str | Path, device: str | torch.device = "cpu", num_classes: int | None = None
) -> tuple[FasterRCNN, list[str]]:
    """Builds the model of a checkpoint, in evaluation mode.

    Args:
        path: a checkpoint of :func:`fastrpn.training.train`.
        device: where the model is to be.
        num_classes: if given, the number of classes (with the background) it must have.

    Returns:
        the model and the names of its classes, "__background__" first.

    Raises:
        ValueError: the file is unusable, or has another number of classes.
    """
    content = load_checkpoint(path)
    described = content["model"]
    classes = described["classes"]
    if num_classes is not None and num_classes != len(classes):
        raise ValueError(
            f"checkpoint {path} has {len(classes)} classes with the background, not {num_classes}"
        )
    if described["name"] == OWN_MODEL:
        raise ValueError(
            f"checkpoint {path} holds a network of your own: build it and load_weights(model, path)"
        )
    config = ModelConfig().override(**described["config"])
    model = build_model(described["name"], len(classes), config)
    model.load_state_dict(content["weights"])
    return model.to(device).eval(), classes
