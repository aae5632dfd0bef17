"""The progress bar of a training run."""

from __future__ import annotations

import time
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

__all__ = ["TrainingProgress"]

_SHORT = {"objectness": "rpn", "rpn_box_reg": "box", "classifier": "class", "box_reg": "box"}


class TrainingProgress:
    """Shows step, losses, learning rate, speed and the time that is left; a context manager."""

    def __init__(self, total: int, step: int, batch_size: int, enabled: bool) -> None:
        self.batch_size = batch_size
        self._since = (step, time.perf_counter())
        self._bar = Progress(
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[text]}"),
            disable=not enabled,
        )
        self._task = self._bar.add_task("training", total=total, completed=step, text="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, step: int, entry: dict[str, Any]) -> None:
        """Shows the newest entry of the history."""
        last_step, last_time = self._since
        now = time.perf_counter()
        speed = (step - last_step) * self.batch_size / max(now - last_time, 1e-9)
        self._since = (step, now)
        losses = {k.removeprefix("loss_"): v for k, v in entry.items() if k.startswith("loss_")}
        parts = " ".join(f"{_SHORT.get(name, name)} {value:.2f}" for name, value in losses.items())
        text = f"loss {sum(losses.values()):.2f} ({parts}) lr {entry['lr']:.4f}"
        self._bar.update(self._task, completed=step, text=f"{text}  {speed:.0f} img/s")

    def print_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        """Writes a line above the bar."""
        numbers = "  ".join(
            f"{name} {metrics[name]:.3f}" for name in ("AP", "AP50") if metrics[name] is not None
        )
        if not self._bar.disable:
            self._bar.console.print(f"step {step}: {numbers}")
