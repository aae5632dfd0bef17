"""The exponential moving average of a training's weights (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Averages parameters and the statistics of norms; counters are the newest.

    Args:
        model: averaged from its present weights on.
        decay: share of the old average that stays at each step. Early it is smaller,
            (1 + step) / (10 + step), so that the random start is soon forgotten.

    Attributes:
        weights: the average, a state dict.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after a step (1, 2, ...); what follows from the step has no state
        that a checkpoint could lose."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name].copy_(value)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Goes on from an average that a checkpoint holds."""
        for name, value in self.weights.items():
            value.copy_(weights[name])

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Within it the model has the average; then its own weights again, bit for bit."""
        own = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)
