"""What a training is made of: model, data, optimizer, seeds."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastrpn import distributed
from fastrpn.data import Loader, Samples, augmentation, build_loader
from fastrpn.models import FasterRCNN, faster_rcnn
from fastrpn.models.zoo import finetuning_options
from fastrpn.training.config import TrainConfig

__all__ = ["Batch", "new_model", "new_optimizer", "seed_everything", "seed_step"]
__all__ += ["training_loader", "unchanged"]

Batch = tuple[Sequence[Tensor], Sequence[dict[str, Any]]]  # images [3, H, W] and their targets


def new_model(config: TrainConfig, num_classes: int) -> FasterRCNN:
    """The network that the settings name, with random weights; warns if some of them are frozen."""
    options = config.model_options
    if config.preset == "torchvision" and config.weights is not None:
        options = {**finetuning_options(config.model), **options}
    model = faster_rcnn(config.model, num_classes, config.preset, **options)
    has_frozen = any(not parameter.requires_grad for parameter in model.backbone.parameters())
    if has_frozen and config.weights is None and distributed.is_main():
        warnings.warn(
            f"freeze_below={model.config.freeze_below}: the first layers of {config.model} will "
            "stay as random as they are; give --weights FILE, or --model-options freeze_below=0",
            stacklevel=3,
        )
    return model


def training_loader(
    config: TrainConfig, dataset: Samples, model: FasterRCNN, device: torch.device
) -> Loader:
    """Shuffled, augmented batches of this process; the model no longer resizes what the loader
    does.

    Raises:
        ValueError: the batches cannot be shared by the processes, or ``short_sides`` takes away
            the pixels that ``rpn_min_size_original`` counts.
    """
    if config.short_sides and model.config.rpn_min_size_original:
        raise ValueError(
            f"short_sides: the loader resizes to {config.short_sides}, so that the model does "
            "not know the images' own pixels, which rpn_min_size_original counts"
        )
    model.transform.resizes_training_images = not config.short_sides
    processes = distributed.size()
    is_full = len(dataset) >= config.batch_size
    if processes > 1 and (config.batch_size % processes or not is_full):
        raise ValueError(
            f"batch_size must be a multiple of the {processes} processes and at most the "
            f"{len(dataset)} images, got {config.batch_size}"
        )
    return build_loader(
        dataset,
        config.batch_size,
        shuffle=True,
        seed=config.seed,
        workers=config.workers,
        transform=augmentation(
            config.flip,
            config.color_jitter,
            config.short_sides,
            model.config.max_size,
            config.crop,
            config.quarter_turns,
        ),
        drop_last=is_full,
        sizes=getattr(dataset, "sizes", None) if config.group_by_shape else None,
        pin_memory=device.type == "cuda",
        shard=(distributed.rank(), processes),
        on_bad_image="replace" if config.on_bad_data == "skip" else "stop",
    )


def new_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """What moves the weights that require a gradient; biases and norms do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


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


@contextmanager
def unchanged(
    objective: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Iterator[None]:
    """Restores weights, buffers and the optimizer's and the scaler's state at the end; the copies
    lie on the CPU."""
    weights = {
        name: value.detach().to("cpu", copy=True) for name, value in objective.state_dict().items()
    }
    state, scale = copy.deepcopy(optimizer.state_dict()), scaler.state_dict()
    try:
        yield
    finally:
        objective.load_state_dict(weights)
        optimizer.load_state_dict(state)
        if scale:
            scaler.load_state_dict(scale)
        optimizer.zero_grad(set_to_none=True)
