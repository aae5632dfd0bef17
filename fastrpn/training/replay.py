"""The batch of a step whose losses were not finite, kept so that the step can be taken again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastrpn import distributed
from fastrpn.files import replacing
from fastrpn.models import FasterRCNN
from fastrpn.models.checkpoint import OWN_MODEL, load_newest
from fastrpn.models.config import ModelConfig
from fastrpn.models.precision import autocast
from fastrpn.models.zoo import build_model
from fastrpn.training.config import TrainConfig
from fastrpn.training.setup import Batch, seed_step

__all__ = ["replay", "save_replay"]


def save_replay(
    folder: Path,
    described: dict[str, Any],
    model: FasterRCNN,
    parts: Sequence[Batch],
    step: int,
    config: TrainConfig,
    is_exact: bool,
) -> Path:
    """Writes ``nonfinite-step-<step>.pt`` for :func:`replay`.

    Args:
        folder: of the run.
        described: see :func:`fastrpn.models.checkpoint.describe_model`.
        model: as it is now.
        parts: the batches of the step, of this process.
        step: the step, from 1.
        config: of the run.
        is_exact: whether the model's weights are those that the step began with.
    """
    rank = distributed.rank()
    of_rank = f"-rank-{rank}" if distributed.size() > 1 else ""
    path = folder / f"nonfinite-step-{step:06d}{of_rank}.pt"
    content = {
        "model": described,
        "weights": model.state_dict() if is_exact else None,
        "resizes": model.transform.resizes_training_images,
        "box_std": model.roi_head.box_std,
        "parts": [([*images], [*targets]) for images, targets in parts],
        "step": step,
        "seed": config.seed,
        "rank": rank,
        "precision": config.precision,
    }
    with replacing(path) as temporary:
        torch.save(content, temporary)
    return path


def replay(path: str | Path, model: FasterRCNN | None = None) -> dict[str, Tensor]:
    """Takes a step again whose losses were not finite: a training writes its batch to
    ``nonfinite-step-<step>.pt`` in its folder.

    On a CPU the file holds the weights before the step, so that the losses come out as they were.
    On a GPU the step is found some steps later, and the weights are those of the newest checkpoint
    in the file's folder: what is wrong with the batch shows, what was wrong with the weights not.

    Args:
        path: of the file.
        model: the network, if it was one of your own that was handed to ``Trainer``.

    Returns:
        the losses (means over the batches of the step) and "grad_norm", scalars.

    Raises:
        ValueError: a model of your own is missing, or there is no checkpoint to take weights from.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    described = content["model"]
    if model is None:
        if described["name"] == OWN_MODEL:
            raise ValueError(f"{path} is of a network of your own: replay(path, model)")
        config = ModelConfig().override(**described["config"])
        model = build_model(described["name"], len(described["classes"]), config)
    weights = content["weights"]
    if weights is None:
        newest = load_newest(Path(path).parent)
        if newest is None:
            raise ValueError(f"{path} holds no weights, and there is no checkpoint beside it")
        weights = newest[1]["weights"]
    model.load_state_dict(weights)
    model.train()
    model.transform.resizes_training_images = content["resizes"]
    model.roi_head.box_std = content["box_std"]
    return _losses(model, content)


def _losses(model: FasterRCNN, content: dict[str, Any]) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = {}
    for number, (images, targets) in enumerate(content["parts"]):
        seed_step(content["seed"], content["step"] - 1, number, content["rank"])
        given = [target["proposals"] for target in targets if "proposals" in target]
        with autocast(torch.device("cpu"), content["precision"]):
            shares = model(images, targets, given or None)
        shares = {name: loss / len(content["parts"]) for name, loss in shares.items()}
        sum(shares.values()).backward()
        for name, loss in shares.items():
            losses[name] = losses.get(name, 0) + loss.detach()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    losses["grad_norm"] = nn.utils.get_total_norm(found)
    return losses
