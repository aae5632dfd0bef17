"""One batch through everything, so that a broken late stage fails in the first seconds."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.data import Subset

from fastrpn import distributed
from fastrpn.files import UNFINISHED
from fastrpn.models.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from fastrpn.training.trainer import Trainer

__all__ = ["rehearse"]


def rehearse(trainer: Trainer) -> None:
    """Takes the coming step, evaluates, draws and writes a checkpoint; then undoes it all.

    Whatever fails raises as it would in the run. Weights, buffers, optimizer and files are what
    they were before; training draws its random numbers anew in every step.
    """
    with _unchanged(trainer.objective, trainer.optimizer):
        trainer.optimizer_step(next(trainer.batches()), trainer.step)
        few = None
        if trainer.validation is not None:
            count = min(trainer.config.batch_size, len(trainer.validation))
            few = Subset(trainer.validation, range(count))
            few.classes = trainer.validation.classes
            trainer.score(few)
        if not distributed.is_main():
            return
        with tempfile.TemporaryDirectory(dir=trainer.output, prefix=UNFINISHED) as folder:
            if few is not None:
                trainer.draw(few, Path(folder))
            load_checkpoint(save_checkpoint(Path(folder) / "last.pt", trainer.content()))


@contextmanager
def _unchanged(objective: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Restores weights, buffers and the optimizer's state at the end; the copies lie on the CPU."""
    weights = {
        name: value.detach().to("cpu", copy=True) for name, value in objective.state_dict().items()
    }
    state = copy.deepcopy(optimizer.state_dict())
    try:
        yield
    finally:
        objective.load_state_dict(weights)
        optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)
