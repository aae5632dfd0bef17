"""What a training run shows: losses, speed, memory and the time that is left."""

from __future__ import annotations

import datetime
import math
import resource
import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fastrpn.data import Loader

__all__ = ["TrainingProgress", "peak_memory"]

_SHORT = {"objectness": "rpn", "rpn_box_reg": "rpn box", "classifier": "class", "box_reg": "box"}
_LINE_EVERY = 10.0  # seconds between lines where there is no terminal


class TrainingProgress:
    """A bar on a terminal, lines elsewhere; a context manager.

    Args:
        total: steps of the run.
        step: steps that were taken before.
        images_per_step: in all processes.
        device: whose memory to show.
        loader: of the training data.
        enabled: whether to show anything.
    """

    def __init__(
        self,
        total: int,
        step: int,
        images_per_step: int,
        device: torch.device,
        loader: Loader,
        enabled: bool,
    ) -> None:
        self.total = total
        self.images_per_step = images_per_step
        self.device = device
        self.loader = loader
        self._steps, self._seconds = 0, 0.0  # of training alone
        self._restart(step)
        self._last_line = -math.inf
        self._enabled = enabled
        self._console = Console()
        self._bar = Progress(
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=total, completed=step, text="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, step: int, entry: dict[str, Any]) -> dict[str, float]:
        """Shows the newest entry of the history.

        Returns:
            since the last update "images_per_second" and "data_wait", the share of the time that
            training waited for the loader; and "memory_gib", the peak.
        """
        last_step, last_time, last_waited = self._since
        steps, seconds = step - last_step, max(time.perf_counter() - last_time, 1e-9)
        wait = (self.loader.waited - last_waited) / seconds
        self._restart(step)
        self._steps, self._seconds = self._steps + steps, self._seconds + seconds
        speed = steps * self.images_per_step / seconds
        memory = peak_memory(self.device) / 2**30
        left = (self.total - step) * self._seconds / self._steps
        self._show(
            step,
            f"left {datetime.timedelta(seconds=round(left))}  {_describe(entry)}  "
            f"{speed:.3g} img/s  data {wait:.0%}  {memory:.1f} GiB",
        )
        return {"images_per_second": speed, "data_wait": wait, "memory_gib": memory}

    def print_metrics(self, step: int, metrics: dict[str, float | None]) -> None:
        """Writes a line above the bar; leaves the time of the evaluation out of the speed."""
        self._restart(step)
        known = {name: value for name, value in metrics.items() if value is not None}
        self._print(f"step {step}: " + "  ".join(f"{n} {value:.3f}" for n, value in known.items()))

    def say(self, text: str) -> None:
        """Writes a line above the bar."""
        self._print(text)

    def _restart(self, step: int) -> None:
        self._since = (step, time.perf_counter(), self.loader.waited)

    def _print(self, text: str) -> None:
        if self._enabled:
            self._console.print(text, highlight=False, soft_wrap=True)

    def _show(self, step: int, text: str) -> None:
        self._bar.update(self._task, completed=step, text=text)
        now = time.perf_counter()
        is_due = step == self.total or now - self._last_line >= _LINE_EVERY
        if is_due and not self._console.is_terminal:
            self._last_line = now
            self._print(f"step {step}/{self.total}  {text}")


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, else the most that the process has had in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _describe(entry: dict[str, Any]) -> str:
    losses = {k.removeprefix("loss_"): v for k, v in entry.items() if k.startswith("loss_")}
    parts = " ".join(f"{_SHORT.get(name, name)} {value:.2f}" for name, value in losses.items())
    overflow = "" if math.isfinite(entry["grad_norm"]) else "  gradient overflowed, step left out"
    return f"loss {sum(losses.values()):.2f} ({parts}) lr {entry['lr']:.4f}{overflow}"
