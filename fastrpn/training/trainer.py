"""The training loop: steps, evaluations, checkpoints. By default it trains all parts of the
detector at once (approximate joint training, section 3.2 of the paper)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from fastrpn import distributed
from fastrpn.data import Loader, augmentation, build_loader
from fastrpn.evaluation.evaluate import evaluate
from fastrpn.evaluation.report import summary
from fastrpn.images import write_image
from fastrpn.models import FasterRCNN, faster_rcnn, load_weights
from fastrpn.models.checkpoint import (
    OWN_MODEL,
    clear_folder,
    describe_model,
    load_checkpoint,
    require_same_model,
    save_checkpoint,
)
from fastrpn.training.board import Board
from fastrpn.training.config import TrainConfig
from fastrpn.training.config_file import write_config_file
from fastrpn.training.history import LossHistory, NonFiniteLossError, RunLog
from fastrpn.training.pictures import draw_evaluation
from fastrpn.training.progress import TrainingProgress
from fastrpn.training.rehearsal import rehearse
from fastrpn.training.seed import seed_everything
from fastrpn.training.step import Batch, OptimizerStep, sgd

__all__ = ["NonFiniteLossError", "TrainResult", "Trainer"]


@dataclass
class TrainResult:
    """What a run leaves behind."""

    checkpoint: Path  # the last one
    history: list[dict[str, Any]]  # one entry a step: step, epoch, lr, the losses, grad_norm
    metrics: dict[str, Any] | None  # of the last evaluation, see `evaluate`
    model: nn.Module


class Trainer:
    """Trains on any data set; see :func:`fastrpn.training.train`.

    Args:
        config: the settings; ``data``, the image sets and ``classes`` are not used.
        dataset: ``ds[i] -> (image [3, H, W], target)`` with ``classes``, "__background__" first;
            :class:`fastrpn.data.FromTorchvision` makes one of a data set of torchvision's kind.
        validation: likewise, or None.
        objective: called with the new model, gives the module (images, targets) -> losses that is
            minimised, by default the model itself. It may load weights and let parts of the model
            rest, see :mod:`fastrpn.training.objectives`.
        model: trained instead of the one that ``config`` names; its checkpoints load into such a
            model by :func:`fastrpn.models.load_weights`.

    Raises:
        ValueError: a model of another number of classes than the data set's, a device that cannot
            be used, the batches cannot be shared by the processes, or are too many to accumulate.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        validation: Dataset | None = None,
        objective: Callable[[FasterRCNN], nn.Module] | None = None,
        model: FasterRCNN | None = None,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.validation = validation
        self.output = Path(config.output)
        self.output.mkdir(parents=True, exist_ok=True)
        seed_everything(config.seed)
        self.device = distributed.local_device(config.device)
        self.name = config.model if model is None else OWN_MODEL
        self.model = _new_model(config, len(dataset.classes)) if model is None else model
        if self.model.num_classes != len(dataset.classes):
            raise ValueError(
                f"model has {self.model.num_classes} classes with the background, "
                f"the data set {len(dataset.classes)}"
            )
        if config.weights is not None:
            load_weights(self.model, config.weights)
        self.objective = objective(self.model) if objective else self.model
        self.objective.to(self.device)
        self.optimizer = sgd(self.model, config)
        if config.short_sides and self.model.config.rpn_min_size_original:
            raise ValueError(
                f"short_sides: the loader resizes to {config.short_sides}, so that the model does "
                "not know the images' own pixels, which rpn_min_size_original counts"
            )
        self.model.transform.resizes_training_images = not config.short_sides
        self.loader = self._build_loader()
        self.steps_per_epoch = len(self.loader) // config.accumulate
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"accumulate must be at most the {len(self.loader)} batches of an epoch, "
                f"got {config.accumulate}"
            )
        self.total = config.steps or config.epochs * self.steps_per_epoch
        self.step = 0
        self.best = -math.inf
        self.metrics: dict[str, Any] | None = None
        if config.resume and self.last_checkpoint.exists():
            self._restore()
        self.history = RunLog(self.output / "history.jsonl", self.step)
        self.evaluations = RunLog(self.output / "evaluations.jsonl", self.step)
        self.losses = LossHistory(self.history)
        is_partial = self.objective is not self.model
        self.optimizer_step = OptimizerStep(
            self.objective, is_partial, self.optimizer, config, self.device, self.total
        )

    @property
    def last_checkpoint(self) -> Path:
        return self.output / "last.pt"

    def run(self) -> TrainResult:
        """Trains from the current step to the last."""
        config = self.config
        is_main = distributed.is_main()
        self.objective.train()
        if config.rehearsal and self.step < self.total:
            rehearse(self)
        if is_main:
            clear_folder(self.output, is_new_run=self.step == 0)
            write_config_file(self.output / "config.yaml", config)
        self.history.begin()
        self.evaluations.begin()
        images_per_step = config.batch_size * config.accumulate
        with (
            Board(self.output / "tensorboard", self.step, config.tensorboard and is_main) as board,
            TrainingProgress(
                self.total,
                self.step,
                images_per_step,
                self.device,
                self.loader,
                config.progress and is_main,
            ) as progress,
        ):
            for parts in self.batches():
                self._take_step(parts)
                if self._is_due(config.log_every):
                    self.losses.flush()
                    newest = self.history.entries[-1]
                    speed = progress.update(self.step, newest)
                    board.scalars("train", newest | speed, self.step)
                if self._is_due(config.eval_every * self.steps_per_epoch):
                    self._evaluate(board, progress)
                if self._is_due(config.checkpoint_every or self.steps_per_epoch):
                    self._save()
        distributed.same_buffers(self.model)
        return TrainResult(self.last_checkpoint, self.history.entries, self.metrics, self.model)

    def batches(self) -> Iterator[list[Batch]]:
        """For each step from the current one, the batches to accumulate."""
        config = self.config
        while self.step < self.total:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            self.loader.set_epoch(epoch, skip_batches=done * config.accumulate)
            batches = iter(self.loader)
            for _ in range(done, min(self.steps_per_epoch, done + self.total - self.step)):
                yield list(islice(batches, config.accumulate))

    def score(self, dataset: Dataset) -> dict[str, Any]:
        """What `evaluate` says of the model as it is now, in float32; all processes take part."""
        distributed.same_buffers(self.model)
        batch_size = self.config.batch_size // distributed.size()
        metrics = evaluate(
            self.model, dataset, batch_size=batch_size, workers=self.config.workers, progress=False
        )
        self.objective.train()  # evaluation puts the whole model back into training mode
        return metrics

    def draw(self, dataset: Dataset, folder: Path, board: Board | None = None) -> None:
        """Writes pictures of detections and proposals, if any are wanted."""
        if self.config.pictures == 0:
            return
        for name, image in draw_evaluation(self.model, dataset, self.config.pictures).items():
            write_image(folder / f"{name}-{self.step:06d}.jpg", image)
            if board is not None:
                board.picture(name, image, self.step)
        self.objective.train()

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "model": describe_model(self.name, self.model, self.dataset.classes),
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "total": self.total,
            "best": self.best,
            "metrics": self.metrics,
            "config": self.config.as_dict(),
        }

    def _build_loader(self) -> Loader:
        config, processes = self.config, distributed.size()
        is_full = len(self.dataset) >= config.batch_size
        if processes > 1 and (config.batch_size % processes or not is_full):
            raise ValueError(
                f"batch_size must be a multiple of the {processes} processes and at most the "
                f"{len(self.dataset)} images, got {config.batch_size}"
            )
        return build_loader(
            self.dataset,
            config.batch_size,
            shuffle=True,
            seed=config.seed,
            workers=config.workers,
            transform=augmentation(
                config.flip, config.color_jitter, config.short_sides, self.model.config.max_size
            ),
            drop_last=is_full,
            sizes=getattr(self.dataset, "sizes", None) if config.group_by_shape else None,
            pin_memory=self.device.type == "cuda",
            shard=(distributed.rank(), processes),
        )

    def _take_step(self, parts: list[Batch]) -> None:
        rate, losses = self.optimizer_step(parts, self.step)
        names = [target.get("image_id") for _, targets in parts for target in targets]
        epoch = self.step // self.steps_per_epoch
        self.step += 1
        self.losses.add({"step": self.step, "epoch": epoch, "lr": rate}, losses, names)

    def _is_due(self, every: int) -> bool:
        """Whether to do now what is done every so many steps, and at the end; 0: then alone."""
        return self.step == self.total or (every > 0 and self.step % every == 0)

    def _evaluate(self, board: Board, progress: TrainingProgress) -> None:
        if self.validation is None:
            return
        self.losses.flush()
        self.metrics = self.score(self.validation)
        numbers = summary(self.metrics)
        self.evaluations.append([{"step": self.step, **numbers}])
        board.scalars("val", numbers, self.step)
        better = (self.metrics["AP"] or 0.0) > self.best
        self.best = max(self.best, self.metrics["AP"] or 0.0)
        if distributed.is_main():
            self.draw(self.validation, self.output / "pictures", board)
            if better:
                save_checkpoint(self.output / "best.pt", self.content())
        progress.print_metrics(self.step, numbers)

    def _save(self) -> None:
        self.losses.flush()  # a checkpoint of a diverged model must not replace a good one
        if distributed.is_main():
            save_checkpoint(self.last_checkpoint, self.content())

    def _restore(self) -> None:
        content = load_checkpoint(self.last_checkpoint)
        wanted = describe_model(self.name, self.model, self.dataset.classes)
        require_same_model(self.last_checkpoint, content["model"], wanted)
        self.model.load_state_dict(content["weights"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.best = content["step"], content["best"]
        self.metrics = content.get("metrics")


def _new_model(config: TrainConfig, num_classes: int) -> FasterRCNN:
    model = faster_rcnn(config.model, num_classes, config.preset, **config.model_options)
    rests = any(not parameter.requires_grad for parameter in model.backbone.parameters())
    if rests and config.weights is None and distributed.is_main():
        warnings.warn(
            f"freeze_below={model.config.freeze_below}: the first layers of {config.model} will "
            "stay as random as they are; give --weights FILE, or --model-options freeze_below=0",
            stacklevel=3,
        )
    return model
