"""What a run writes down: its settings with their provenance, and a line of JSON an event."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from fastrpn import distributed
from fastrpn._version import __version__
from fastrpn.files import write_atomically
from fastrpn.training.config import TrainConfig

__all__ = ["LossHistory", "NonFiniteLossError", "RunLog", "require_finite"]
__all__ += ["write_config_file"]


class NonFiniteLossError(RuntimeError):
    """Training has diverged; the message names the step and its images.

    Attributes:
        step: the step, from 1.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step

    def with_note(self, note: str) -> NonFiniteLossError:
        """The same error, with more to say."""
        return NonFiniteLossError(f"{self}; {note}", self.step)


def require_finite(step: int, losses: Mapping[str, Tensor], image_ids: list[Any]) -> None:
    """Raises NonFiniteLossError in all processes if a loss is infinite or NaN in one of them; it
    waits for the device. A gradient may be: in float16 it has overflowed, and is left out."""
    checked = torch.stack([value for name, value in losses.items() if name != "grad_norm"])
    if not distributed.any_process(not bool(checked.isfinite().all())):
        return
    values = distributed.mean(torch.stack([*losses.values()])).tolist()
    raise NonFiniteLossError(
        _describe(step, dict(zip(losses, values, strict=True)), image_ids), step
    )


class RunLog:
    """Entries with a "step", in memory and in a file that only the main process writes; a crash
    costs at most the newest lines.

    Args:
        path: of the file, one JSON object a line.
        last_step: entries of later steps are dropped, as the run will take those steps again;
            with 0 the log starts anew.
    """

    def __init__(self, path: Path, last_step: int = 0) -> None:
        self.path = path
        self.entries = [entry for entry in _read(path) if entry["step"] <= last_step]

    def begin(self) -> None:
        """Drops the later entries from the file, too; it is left alone before."""
        distributed.barrier()  # all have read before one writes
        if distributed.is_main():
            write_atomically(self.path, _lines(self.entries).encode())

    def append(self, entries: Iterable[dict[str, Any]]) -> None:
        """Adds entries; they are on the disk when this returns."""
        entries = list(entries)
        self.entries += entries
        if entries and distributed.is_main():
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_lines(entries))
                file.flush()
                os.fsync(file.fileno())


class LossHistory:
    """The losses of every step, left on the device until somebody asks for them.

    Args:
        log: where they end up: step, epoch, lr, the losses (means over all processes), grad_norm.
    """

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self._unread: list[tuple[dict[str, Any], dict[str, Tensor], list[Any]]] = []

    def add(self, entry: dict[str, Any], losses: dict[str, Tensor], names: list[Any]) -> None:
        """Notes a step without waiting for its losses; ``names`` says which images it took."""
        self._unread.append((entry, losses, names))

    def flush(self) -> None:
        """Moves what is unread into the log; the only wait of the training loop.

        Raises:
            NonFiniteLossError: a loss is infinite or NaN.
        """
        if not self._unread:
            return
        values = torch.stack([torch.stack([*losses.values()]) for _, losses, _ in self._unread])
        rows = distributed.mean(values.detach()).tolist()
        entries: list[dict[str, Any]] = []
        for (entry, losses, names), row in zip(self._unread, rows, strict=True):
            numbers = dict(zip(losses, row, strict=True))
            if not all(math.isfinite(v) for k, v in numbers.items() if k != "grad_norm"):
                self.log.append(entries)
                self._unread.clear()
                step = entry["step"]
                raise NonFiniteLossError(_describe(step, numbers, names), step)
            entries.append(entry | numbers)
        self.log.append(entries)
        self._unread.clear()


def _describe(step: int, numbers: dict[str, float], names: list[Any]) -> str:
    names = [name for share in distributed.all_gather(names) for name in share]
    losses = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
    return (
        f"non-finite loss at step {step}, image_id {names}: {losses}; "
        "a lower learning rate or a longer warm-up may help"
    )


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:  # the process was killed while it wrote this line
            break
    return entries


def _lines(entries: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def write_config_file(path: str | Path, config: TrainConfig) -> Path:
    """Writes every setting as YAML, then ``versions`` and ``git``;
    :func:`fastrpn.training.config.read_config_file` takes it back."""
    content = {**config.as_dict(), "versions": _versions(), "git": _git_state()}
    return write_atomically(path, yaml.safe_dump(_plain(content), sort_keys=False).encode())


def _plain(value: Any) -> Any:
    """Lists for tuples, which YAML does not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _versions() -> dict[str, str]:
    """Versions of what decides a run's numbers; torchvision only where it is installed."""
    found = {"fastrpn": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_state() -> dict[str, Any] | None:
    """The commit of the working directory's repository, and whether files differ from it.

    None outside of a repository, before its first commit, or without git.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
