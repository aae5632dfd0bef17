"""Seeding: every random number of a run follows from its seed and the place where it is drawn."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["seed_everything", "seed_step"]


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, part: int = 0, rank: int = 0) -> None:
    """Seeds torch for one forward pass of a training step: sampling and dropout.

    So there is no state of a generator that a checkpoint could lose, and nothing that happens
    between two steps (an evaluation, a picture) changes the second one. Order and augmentation of
    the data follow from (seed, epoch, index) in the same way.
    """
    high, low = np.random.SeedSequence([seed, step, part, rank]).generate_state(2)
    torch.manual_seed((int(high) << 31) ^ int(low))
