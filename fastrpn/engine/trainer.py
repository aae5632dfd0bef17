"""The training loop: steps, checkpoints, history. By default it trains all parts of the detector
at once (approximate joint training, section 3.2 of the paper)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastrpn.data import ProposalSet, WithProposals, augmentation, build_loader, open_dataset
from fastrpn.engine.checkpoint import (
    describe_model,
    load_checkpoint,
    require_same_model,
    save_checkpoint,
)
from fastrpn.engine.config import TrainConfig, lr_factor
from fastrpn.engine.evaluate import evaluate
from fastrpn.engine.objectives import FastRCNNObjective
from fastrpn.engine.progress import TrainingProgress
from fastrpn.engine.seed import random_state, seed_everything, set_random_state
from fastrpn.models import FasterRCNN, faster_rcnn

__all__ = ["NonFiniteLossError", "TrainResult", "Trainer", "train"]


class NonFiniteLossError(RuntimeError):
    """Training has diverged; the message names the step and its images."""


@dataclass
class TrainResult:
    """What a run leaves behind."""

    checkpoint: Path  # the last one
    history: list[dict[str, Any]]  # one entry a step: step, epoch, lr, the losses, grad_norm
    metrics: dict[str, Any] | None  # of the last evaluation, see `evaluate`
    model: nn.Module


def train(config: TrainConfig) -> TrainResult:
    """Trains on annotated images; writes ``last.pt``, ``best.pt`` and ``history.jsonl``.

    Equal configurations on equal data give equal weights, bit for bit on the CPU, whether or not
    the run was interrupted and resumed.

    Raises:
        BadDataError: a file of the data set is unusable.
        ValueError: the checkpoint to resume from belongs to another model.
        NonFiniteLossError: a loss became infinite or NaN.
    """
    from fastrpn.engine.alternating import train_alternating  # which imports this module

    dataset = open_dataset(config.data, config.train_set, config.classes, config.on_bad_data)
    validation = None
    if config.val_set is not None:
        validation = open_dataset(config.data, config.val_set, dataset.classes, config.on_bad_data)
    if config.proposals is not None:
        dataset = WithProposals(dataset, ProposalSet.load(config.proposals))
        if config.val_proposals is None:
            validation = None
        if validation is not None:
            validation = WithProposals(validation, ProposalSet.load(config.val_proposals))
        return Trainer(config, dataset, validation, FastRCNNObjective).run()
    if config.schedule == "alternating":
        return train_alternating(config, dataset, validation)
    return Trainer(config, dataset, validation).run()


class Trainer:
    """Trains on any data set; see :func:`train`.

    Args:
        config: the settings; ``data``, the image sets and ``classes`` are not used.
        dataset: ``ds[i] -> (image [3, H, W], target)`` with ``classes``, "__background__" first.
        validation: likewise, or None.
        objective: called with the new model, gives the module (images, targets) -> losses that is
            minimised, by default the model itself. It may load weights and let parts of the model
            rest, see :mod:`fastrpn.engine.objectives`.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        validation: Dataset | None = None,
        objective: Callable[[FasterRCNN], nn.Module] | None = None,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.validation = validation
        self.output = Path(config.output)
        self.output.mkdir(parents=True, exist_ok=True)
        seed_everything(config.seed)
        self.device = torch.device(config.device)
        self.model = faster_rcnn(
            config.model, len(dataset.classes), config.preset, **config.model_options
        )
        self.objective = objective(self.model) if objective else self.model
        self.objective.to(self.device)
        self.optimizer = _sgd(self.model, config)
        self.model.transform.resizes_training_images = not config.short_sides
        self.loader = build_loader(
            dataset,
            config.batch_size,
            shuffle=True,
            seed=config.seed,
            workers=config.workers,
            transform=augmentation(
                config.flip, config.color_jitter, config.short_sides, self.model.config.max_size
            ),
            drop_last=len(dataset) >= config.batch_size,
            sizes=getattr(dataset, "sizes", None) if config.group_by_shape else None,
            pin_memory=self.device.type == "cuda",
        )
        self.total = config.steps or config.epochs * len(self.loader)
        self.step = 0
        self.best = -math.inf
        self.history: list[dict[str, Any]] = []
        self._unread: list[tuple[dict[str, Any], Tensor, list[Any]]] = []
        if config.resume and self.last_checkpoint.exists():
            self._restore()
        else:
            self.history_file.unlink(missing_ok=True)

    @property
    def last_checkpoint(self) -> Path:
        return self.output / "last.pt"

    @property
    def history_file(self) -> Path:
        return self.output / "history.jsonl"

    def run(self) -> TrainResult:
        """Trains from the current step to the last."""
        config = self.config
        metrics = None
        self.objective.train()
        with TrainingProgress(
            self.total, self.step, config.batch_size, config.progress
        ) as progress:
            for images, targets in self._batches():
                self._train_step(images, targets)
                end_of_epoch = self.step % len(self.loader) == 0
                last = self.step == self.total
                if last or self.step % config.log_every == 0:
                    self._read_losses()
                    progress.update(self.step, self.history[-1])
                if self.validation is not None and (last or self._evaluates_now(end_of_epoch)):
                    metrics = self._evaluate(progress)
                every = config.checkpoint_every
                if last or (self.step % every == 0 if every else end_of_epoch):
                    self._save()
        return TrainResult(self.last_checkpoint, self.history, metrics, self.model)

    def _batches(self) -> Iterator[tuple[list[Tensor], list[dict]]]:
        while self.step < self.total:
            epoch, done = divmod(self.step, len(self.loader))
            self.loader.set_epoch(epoch, skip_batches=done)
            for batch in self.loader:
                yield batch
                if self.step == self.total:
                    return

    def _train_step(self, images: list[Tensor], targets: list[dict]) -> None:
        config = self.config
        lr = config.lr * lr_factor(config, self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        names = [target.get("image_id") for target in targets]
        images = [image.to(self.device, non_blocking=True) for image in images]
        targets = [
            {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in target.items()}
            for target in targets
        ]
        losses = self.objective(images, targets)
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        limit = math.inf if config.clip_grad_norm is None else config.clip_grad_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        epoch = self.step // len(self.loader)
        self.step += 1
        entry = {"step": self.step, "epoch": epoch, "lr": lr, "time": time.time()}
        entry.update(dict.fromkeys([*losses, "grad_norm"]))
        values = torch.stack([*losses.values(), norm]).detach()
        self._unread.append((entry, values, names))

    def _read_losses(self) -> None:
        """Moves losses from the device into the history; the only wait of the training loop."""
        with self.history_file.open("a", encoding="utf-8") as file:
            for entry, values, names in self._unread:
                keys = [key for key, value in entry.items() if value is None]
                entry.update(zip(keys, values.tolist(), strict=True))
                if not all(math.isfinite(entry[key]) for key in keys if key != "grad_norm"):
                    losses = ", ".join(f"{key} {entry[key]:g}" for key in keys)
                    raise NonFiniteLossError(
                        f"non-finite loss at step {entry['step']}, image_id {names}: {losses}; "
                        "a lower learning rate or a longer warm-up may help"
                    )
                self.history.append(entry)
                file.write(json.dumps(entry) + "\n")
        self._unread.clear()

    def _evaluates_now(self, end_of_epoch: bool) -> bool:
        every = self.config.eval_every
        return bool(every) and end_of_epoch and (self.step // len(self.loader)) % every == 0

    def _evaluate(self, progress: TrainingProgress) -> dict[str, Any]:
        metrics = evaluate(
            self.model, self.validation, batch_size=self.config.batch_size, progress=False
        )
        self.objective.train()  # evaluation puts the whole model back into training mode
        progress.print_metrics(self.step, metrics)
        if (metrics["AP"] or 0.0) > self.best:
            self.best = metrics["AP"] or 0.0
            save_checkpoint(self.output / "best.pt", self._content())
        return metrics

    def _content(self) -> dict[str, Any]:
        return {
            "model": describe_model(self.config.model, self.model, self.dataset.classes),
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "total": self.total,
            "best": self.best,
            "random": random_state(),
            "config": self.config.as_dict(),
        }

    def _save(self) -> None:
        self._read_losses()  # a checkpoint of a diverged model must not replace a good one
        save_checkpoint(self.last_checkpoint, self._content())

    def _restore(self) -> None:
        path = self.last_checkpoint
        content = load_checkpoint(path)
        wanted = describe_model(self.config.model, self.model, self.dataset.classes)
        require_same_model(path, content["model"], wanted)
        self.model.load_state_dict(content["weights"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.best = content["step"], content["best"]
        set_random_state(content["random"])
        if self.history_file.exists():
            lines = self.history_file.read_text(encoding="utf-8").splitlines()
            entries = [json.loads(line) for line in lines if line.endswith("}")]
            self.history = [entry for entry in entries if entry["step"] <= self.step]
        text = "".join(json.dumps(entry) + "\n" for entry in self.history)
        self.history_file.write_text(text, encoding="utf-8")


def _sgd(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
