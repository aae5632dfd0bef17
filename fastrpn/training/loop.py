"""The training loop, from top to bottom: start, steps, evaluations, checkpoints.

By default all parts of the detector are trained at once (approximate joint training, section 3.2
of the paper); an objective trains some of them, see :mod:`fastrpn.training.objectives`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastrpn import distributed
from fastrpn.data import LabelledImages, Part
from fastrpn.evaluation.evaluate import evaluate
from fastrpn.evaluation.report import draw_evaluation, summary
from fastrpn.evaluation.validation_loss import validation_losses
from fastrpn.files import UNFINISHED
from fastrpn.images import write_image
from fastrpn.models import FasterRCNN, load_weights
from fastrpn.models.checkpoint import (
    BEST,
    LAST,
    OWN_MODEL,
    PICTURES,
    PREVIOUS,
    clear_folder,
    describe_model,
    load_checkpoint,
    load_newest,
    require_same_images,
    require_same_model,
    save_checkpoint,
)
from fastrpn.models.precision import autocast
from fastrpn.training.averaging import WeightAverage
from fastrpn.training.config import TrainConfig, lr_factor
from fastrpn.training.log import (
    LossHistory,
    NonFiniteLossError,
    RunLog,
    require_finite,
    write_config_file,
)
from fastrpn.training.loggers import Loggers, require_loggers
from fastrpn.training.progress import TrainingProgress
from fastrpn.training.replay import save_replay
from fastrpn.training.setup import (
    Batch,
    new_model,
    new_optimizer,
    seed_everything,
    seed_step,
    training_loader,
    unchanged,
)
from fastrpn.training.stopping import Interrupted, StopSignals

__all__ = ["TrainResult", "Trainer"]


@dataclass
class TrainResult:
    """What a run leaves behind."""

    checkpoint: Path  # the last one
    history: list[dict[str, Any]]  # one entry a step: step, epoch, lr, the losses, grad_norm
    metrics: dict[str, Any] | None  # of the last evaluation, see `evaluate`
    model: FasterRCNN


class Trainer:
    """Trains on any data set; see :func:`fastrpn.training.train`.

    Args:
        config: the settings; ``data``, the image sets and ``classes`` are not used.
        dataset: ``ds[i] -> (image [3, H, W], target)`` with ``classes``, "__background__" first;
            :class:`fastrpn.data.FromTorchvision` makes one of a data set of torchvision's kind.
        validation: likewise, or None.
        objective: called with the new model, gives the module (images, targets) -> losses that is
            minimised, by default the model itself. It may load weights and freeze parts of the
            model, see :mod:`fastrpn.training.objectives`.
        model: trained instead of the one that ``config`` names; its checkpoints load into such a
            model by :func:`fastrpn.models.load_weights`.

    Raises:
        ValueError: no output folder, a model of another number of classes than the data set's, a
            device that cannot be used, the batches cannot be shared by the processes, or are too
            many to accumulate.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: LabelledImages,
        validation: LabelledImages | None = None,
        objective: Callable[[FasterRCNN], nn.Module] | None = None,
        model: FasterRCNN | None = None,
    ) -> None:
        if not config.output:
            raise ValueError("output is missing: the run needs a folder")
        config.require_output()
        require_loggers(config.loggers)
        self.config = config
        self.dataset = dataset
        self.validation = validation
        self.output = Path(config.output)
        self.output.mkdir(parents=True, exist_ok=True)
        seed_everything(config.seed)
        self.device = distributed.local_device(config.device)
        self.name = config.model if model is None else OWN_MODEL
        self.model = new_model(config, len(dataset.classes)) if model is None else model
        if self.model.num_classes != len(dataset.classes):
            raise ValueError(
                f"model has {self.model.num_classes} classes with the background, "
                f"the data set {len(dataset.classes)}"
            )
        if config.weights is not None:
            load_weights(self.model, config.weights)
        self.objective = objective(self.model) if objective else self.model
        self.objective.to(self.device)
        self.optimizer = new_optimizer(self.model, config)
        self.average = WeightAverage(self.model, config.ema) if config.ema else None
        # Keeps small gradients from rounding to 0 in float16; finds the ones that overflow.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.loader = training_loader(config, dataset, self.model, self.device)
        self.steps_per_epoch = len(self.loader) // config.accumulate
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"accumulate must be at most the {len(self.loader)} batches of an epoch, "
                f"got {config.accumulate}"
            )
        self.total = config.steps or config.epochs * self.steps_per_epoch
        self.step = 0  # that have been taken
        self.best = -math.inf
        self.metrics: dict[str, Any] | None = None
        if config.resume:
            self._restore()
        self.history = RunLog(self.output / "history.jsonl", self.step)
        self.evaluations = RunLog(self.output / "evaluations.jsonl", self.step)
        self.losses = LossHistory(self.history)
        is_partial = self.objective is not self.model
        self.network = distributed.share_gradients(self.objective, is_partial)

    @property
    def last_checkpoint(self) -> Path:
        return self.output / LAST

    def run(self) -> TrainResult:
        """Trains from the current step to the last."""
        config, is_main = self.config, distributed.is_main()
        self.objective.train()
        if config.rehearsal and self.step < self.total:
            self.rehearse()
        if is_main:
            clear_folder(self.output, is_new_run=self.step == 0)
            write_config_file(self.output / "config.yaml", config)
        self.history.begin()
        self.evaluations.begin()
        names = config.loggers if is_main else ()
        loggers = Loggers(names, self.output, self.step, config.as_dict())
        shown = TrainingProgress(
            self.total,
            self.step,
            config.batch_size * config.accumulate,
            self.device,
            self.loader,
            config.progress and is_main,
        )
        with loggers as board, shown as progress, StopSignals() as stop:
            try:
                self._evaluate_if_due(stop, board, progress)  # if it was stopped while it evaluated
                for parts in stop.waiting_for(self.batches()):
                    self._take_step(parts)
                    if self._is_due(config.log_every):
                        self.losses.flush()
                        newest = self.history.entries[-1]
                        speed = progress.update(self.step, newest)
                        board.scalars("train", newest | speed, self.step)
                    self._evaluate_if_due(stop, board, progress)
                    if self._is_due(config.checkpoint_every or self.steps_per_epoch):
                        self._save()
                    if self.step < self.total:
                        stop.check()
            except NonFiniteLossError as error:
                raise self._with_replay(error) from None
            except Interrupted:
                self._save()
                progress.say(
                    f"stopped by {stop.name} after step {self.step} of {self.total}: "
                    f"{self.last_checkpoint}; --resume goes on"
                )
                stop.leave()
        if self.average is not None:  # what was evaluated, and what a checkpoint gives
            self.model.load_state_dict(self.average.weights)
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

    def _take_step(self, parts: Sequence[Batch]) -> None:
        """Updates the weights once and notes the losses."""
        rate, losses = self.update(parts)
        epoch = self.step // self.steps_per_epoch
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step)
        entry = {"step": self.step, "epoch": epoch, "lr": rate}
        if self.scaler.is_enabled():
            entry["grad_scale"] = self.scaler.get_scale()  # it falls at a step that is left out
        self.losses.add(entry, losses, image_ids(parts))

    def update(self, parts: Sequence[Batch]) -> tuple[float, dict[str, Tensor]]:
        """One update of the weights.

        The gradient is the mean over the parts and over the processes. It equals that of one batch
        of all their images wherever a loss is a mean over the images: the paper's RPN losses if the
        parts are padded to one size, a loss divided by the number of sampled rows if all parts fill
        their samples. Batch norm sees the images of one part in one process.

        Args:
            parts: the batches whose gradients are accumulated, at least one.

        Returns:
            the learning rate, and the losses (means over the parts) with "grad_norm" (before it is
            clipped), scalars that are still on the device.
        """
        config = self.config
        rate = config.lr * lr_factor(config, self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.gradients(parts)
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = math.inf if config.clip_grad_norm is None else config.clip_grad_norm
        losses["grad_norm"] = nn.utils.clip_grad_norm_(parameters, limit)
        if self.device.type == "cpu":  # on a GPU that would be a wait; there the history finds it
            require_finite(self.step + 1, losses, image_ids(parts))
        self.scaler.step(self.optimizer)  # not if a gradient has overflowed
        self.scaler.update()
        return rate, losses

    def gradients(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Losses of the coming step (means over the parts); the parameters get their gradients."""
        config = self.config
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            seed_step(config.seed, self.step, number, distributed.rank())
            # Targets stay on the CPU: there the model checks them, then it moves what it needs.
            images = [image.to(self.device, non_blocking=True) for image in part[0]]
            is_last = number == len(parts) - 1  # with it the processes exchange their gradients
            with distributed.exchange_gradients(self.network, is_last):
                # Convolutions and matrix products alone; boxes and losses stay float32.
                with autocast(self.device, config.precision):
                    shares = self.network(images, part[1])
                shares = {name: loss / len(parts) for name, loss in shares.items()}
                self.scaler.scale(sum(shares.values())).backward()
            for name, loss in shares.items():
                losses[name] = losses[name] + loss.detach() if name in losses else loss.detach()
        return losses

    def score(self, dataset: LabelledImages) -> dict[str, Any]:
        """What `evaluate` says of the model as it is now, in float32; all processes take part."""
        distributed.same_buffers(self.model)
        batch_size, workers = self.config.batch_size // distributed.size(), self.config.workers
        with self.averaged():
            metrics = evaluate(
                self.model, dataset, batch_size=batch_size, workers=workers, progress=False
            )
        self.objective.train()  # evaluation puts the whole model back into training mode
        return metrics

    def draw(self, dataset: LabelledImages, folder: Path, board: Loggers | None = None) -> None:
        """Writes pictures of detections and proposals, if any are wanted."""
        if self.config.pictures == 0:
            return
        with self.averaged():
            pictures = draw_evaluation(self.model, dataset, self.config.pictures)
        for name, image in pictures.items():
            write_image(folder / f"{name}-{self.step:06d}.jpg", image)
            if board is not None:
                board.picture(name, image, self.step)
        self.objective.train()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model has its averaged weights, if there are any."""
        with self.average.in_place(self.model) if self.average else nullcontext():
            if self.average is not None:
                distributed.same_buffers(self.model)
            yield

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        average = {} if self.average is None else {"ema": self.average.weights}
        return {
            **average,
            "model": describe_model(self.name, self.model, list(self.dataset.classes)),
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "images": len(self.dataset),
            "step": self.step,
            "total": self.total,
            "best": self.best,
            "metrics": self.metrics,
            "config": self.config.as_dict(),
        }

    def rehearse(self) -> None:
        """Takes the coming step, evaluates, draws and writes a checkpoint; then undoes it all.

        So a broken late stage fails in the first seconds, as it would in the run. Weights, buffers,
        optimizer and files are what they were before; training draws its random numbers anew in
        every step.
        """
        few = None
        if self.validation is not None:
            count = min(self.config.batch_size, len(self.validation))
            few = Part(self.validation, range(count))
        with unchanged(self.objective, self.optimizer, self.scaler):
            self.update(next(self.batches()))
            if few is not None:
                self.score(few)
            if not distributed.is_main():
                return
            with tempfile.TemporaryDirectory(dir=self.output, prefix=UNFINISHED) as folder:
                if few is not None:
                    self.draw(few, Path(folder))
                load_checkpoint(save_checkpoint(Path(folder) / "last.pt", self.content()))

    def _is_due(self, every: int) -> bool:
        """Whether to do now what is done every so many steps, and at the end; 0: then alone."""
        return self.step == self.total or (every > 0 and self.step % every == 0)

    def _evaluate_if_due(
        self, stop: StopSignals, board: Loggers, progress: TrainingProgress
    ) -> None:
        if self.step == 0 or not self._is_due(self.config.eval_every * self.steps_per_epoch):
            return
        done = {entry["step"] for entry in self.evaluations.entries}
        if self.validation is None or self.step in done:
            return
        self.losses.flush()
        with stop.at_once():
            self.metrics = self.score(self.validation)
        numbers = summary(self.metrics)
        if self.config.val_loss:
            with self.averaged():
                numbers |= validation_losses(
                    self.objective, self.validation, batch_size=self.config.batch_size
                )
        self.evaluations.append([{"step": self.step, **numbers}])
        board.scalars("val", numbers, self.step)
        ap = self.metrics["AP"] or 0.0
        is_better = ap > self.best
        self.best = max(self.best, ap)
        if distributed.is_main():
            self.draw(self.validation, self.output / PICTURES, board)
            if is_better:
                save_checkpoint(self.output / BEST, self.content())
        progress.print_metrics(self.step, numbers)

    def _with_replay(self, error: NonFiniteLossError) -> NonFiniteLossError:
        """Writes the batch of the step that the error is about; says so in the error."""
        is_exact = error.step > self.step  # found before the weights moved
        if is_exact:
            self.losses.flush()
        self.step = error.step - 1
        path = save_replay(
            self.output,
            describe_model(self.name, self.model, list(self.dataset.classes)),
            self.model,
            next(self.batches()),
            error.step,
            self.config,
            is_exact,
        )
        return error.with_note(f"fastrpn.training.replay({str(path)!r}) takes the step again")

    def _save(self) -> None:
        self.losses.flush()  # a checkpoint of a diverged model must not replace a good one
        if distributed.is_main():
            save_checkpoint(self.last_checkpoint, self.content(), self.output / PREVIOUS)

    def _restore(self) -> None:
        """Goes back to where the newest checkpoint was written, if there is one."""
        newest = load_newest(self.output)
        if newest is None:
            return
        path, content = newest
        wanted = describe_model(self.name, self.model, list(self.dataset.classes))
        require_same_model(path, content["model"], wanted)
        if not self.config.allow_changes:
            self.config.require_same(path, content["config"])
            require_same_images(path, content.get("images"), len(self.dataset))
        self.model.load_state_dict(content["weights"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average is not None:  # switched on by --allow-changes, it begins with the weights
            self.average.load(content.get("ema", content["weights"]))
        if "scaler" in content:
            self.scaler.load_state_dict(content["scaler"])
        self.step, self.best = content["step"], content["best"]
        self.metrics = content.get("metrics")


def image_ids(parts: Sequence[Batch]) -> list[Any]:
    """Which images a step takes in this process."""
    return [target.get("image_id") for _, targets in parts for target in targets]
