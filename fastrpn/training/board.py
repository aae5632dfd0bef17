"""TensorBoard: scalars and pictures, where it is wanted and installed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Board"]


class Board:
    """Writes events to a folder; does nothing unless it is enabled. A context manager.

    Args:
        folder: for the event files.
        step: events of later steps, from a run that was killed, are hidden.
        enabled: whether to write; without the package ``tensorboard`` there is a warning instead.
    """

    def __init__(self, folder: Path, step: int, enabled: bool) -> None:
        self._writer = None
        if not enabled:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            warnings.warn(
                f"no TensorBoard events: {error}; pip install 'fastrpn[tensorboard]'", stacklevel=2
            )
            return
        self._writer = SummaryWriter(folder, purge_step=step + 1)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def scalars(self, group: str, values: Mapping[str, Any], step: int) -> None:
        """Adds ``group/name`` for each value that is a number."""
        if self._writer is None:
            return
        for name, value in values.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Adds a picture, uint8 [H, W, 3] RGB."""
        if self._writer is not None:
            self._writer.add_image(name, image, step, dataformats="HWC")
            self._writer.flush()
