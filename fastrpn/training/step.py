"""One step of the optimizer: forward and backward over the parts of a batch, then the update."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrpn import distributed
from fastrpn.training.config import TrainConfig, lr_factor
from fastrpn.training.seed import seed_step

__all__ = ["OptimizerStep", "sgd"]

Batch = tuple[Sequence[Tensor], Sequence[dict]]  # images [3, H, W] and their targets


class OptimizerStep:
    """Updates the weights from the batches of one step.

    The gradient is the mean over the parts and over the processes. It equals that of one batch of
    all their images wherever a loss is a mean over the images: the paper's RPN losses if the
    parts are padded to one size, a loss divided by the number of sampled rows if all parts fill
    their samples. Batch norm sees the images of one part in one process.

    Args:
        objective: module (images, targets) -> losses.
        is_partial: whether the losses may be those of a part of the model.
        optimizer: of its parameters.
        config: the settings.
        device: where the objective is.
        total: steps of the run, for the learning rate.
    """

    def __init__(
        self,
        objective: nn.Module,
        is_partial: bool,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        device: torch.device,
        total: int,
    ) -> None:
        self.objective = distributed.share_gradients(objective, is_partial)
        self.optimizer = optimizer
        self.config = config
        self.device = device
        self.total = total

    def __call__(self, parts: Sequence[Batch], step: int) -> tuple[float, dict[str, Tensor]]:
        """Takes step number ``step`` (from 0).

        Args:
            parts: the batches whose gradients are accumulated, at least one.

        Returns:
            the learning rate, and the losses (means over the parts) with "grad_norm" (before it is
            clipped), scalars that are still on the device.
        """
        rate = self.config.lr * lr_factor(self.config, step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            seed_step(self.config.seed, step, number, distributed.rank())
            last = number == len(parts) - 1
            for name, value in self._accumulate(part, len(parts), last).items():
                losses[name] = losses[name] + value if name in losses else value
        losses["grad_norm"] = self._clip()
        self.optimizer.step()
        return rate, losses

    def _accumulate(self, part: Batch, count: int, last: bool) -> dict[str, Tensor]:
        """Adds one part's share to the gradients; with the last one the processes exchange them."""
        images, targets = part
        # Targets stay on the CPU: the model checks their values there, then moves what it needs.
        images = [image.to(self.device, non_blocking=True) for image in images]
        waits = not last and distributed.size() > 1
        with self.objective.no_sync() if waits else contextlib.nullcontext():
            with self.autocast():
                losses = self.objective(images, targets)
            losses = {name: loss / count for name, loss in losses.items()}
            sum(losses.values()).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def autocast(self) -> torch.autocast:
        """bfloat16 for convolutions and matrix products; boxes and losses stay float32."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        )

    def _clip(self) -> Tensor:
        limit = self.config.clip_grad_norm
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit)


def sgd(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD on what requires a gradient; biases and norms do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
