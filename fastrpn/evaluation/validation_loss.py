"""The training's losses on images that it does not train on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastrpn import distributed
from fastrpn.data import LabelledImages, Part, build_loader

__all__ = ["validation_losses"]

_SEED = 0  # of the samples of anchors and regions: the same at each evaluation


@torch.no_grad()
def validation_losses(
    model: nn.Module, dataset: LabelledImages, *, batch_size: int = 4, workers: int = 0
) -> dict[str, float]:
    """Means over the images of the losses that training minimises.

    The model is in training mode meanwhile, but for norms and dropout, which are as in evaluation.
    Nothing of it changes, nor does torch's state of random numbers; equal models give equal losses.

    Args:
        model: images, targets -> {name: loss}: a detector or a training's objective.
        dataset: `ds[i] -> (image, target)`, with at least one image.
        batch_size: images a call, in one process; the losses of a call are a mean over its images.
        workers: processes that read images; 0 reads in this one.

    Returns:
        "loss", the sum, and the parts by the names that the model gives them. Under torchrun each
        process takes its share of the images and all get the numbers.
    """
    device = next(model.parameters()).device
    rank, size = distributed.rank(), distributed.size()
    share = Part(dataset, range(rank, len(dataset), size))
    loader = build_loader(share, batch_size, shuffle=False, seed=_SEED, workers=workers)
    was = [module.training for module in model.modules()]
    total: dict[str, float] = {}
    count = 0
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            _as_in_training(model)
            for number, (images, targets) in enumerate(loader):
                torch.manual_seed(_SEED + number * size + rank)
                losses = model([image.to(device) for image in images], targets)
                for name, loss in losses.items():
                    total[name] = total.get(name, 0.0) + float(loss) * len(images)
                count += len(images)
    finally:
        for module, training in zip(model.modules(), was, strict=True):
            module.training = training
    shares = distributed.all_gather((total, count))
    names = dict.fromkeys(name for part, _ in shares for name in part)
    images_seen = sum(images for _, images in shares)
    means = {n: sum(part.get(n, 0.0) for part, _ in shares) / images_seen for n in names}
    return {"loss": sum(means.values()), **means}


def _as_in_training(model: nn.Module) -> None:
    model.train()
    for module in model.modules():
        is_norm: Any = isinstance(module, nn.modules.batchnorm._NormBase)
        if is_norm or isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
