"""The settings of a training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["TrainConfig", "lr_factor"]


@dataclass
class TrainConfig:
    """One run of training; everything that decides its outcome.

    Attributes:
        data: folder in VOC or COCO layout.
        output: folder for checkpoints and history.
        train_set, val_set: image sets in ``data``, or in other folders as "folder:set", several
            joined; see :func:`fastrpn.data.open_dataset`. No evaluation when ``val_set`` is None.
        classes: names, or None to take them from the data.
        on_bad_data: "stop" at a broken sample, or "skip" it and count.
        model, preset, model_options: arguments of :func:`fastrpn.models.faster_rcnn`. On the
            command line and in files ``preset`` also gives the settings of a training that are
            left open, see :mod:`fastrpn.training.presets`.
        weights: file to start from: a classifier or a Faster R-CNN of torchvision, or a checkpoint;
            see :func:`fastrpn.models.load_weights`. None starts from random weights.
        batch_size: images in a batch; under torchrun the processes share them.
        accumulate: batches whose gradients make one step.
        steps: length of the run; None means ``epochs`` passes over the training set.
        schedule: "joint" trains all parts at once, "alternating" in the paper's four steps.
        rpn_stage, box_stage: settings that are different in the steps of the alternating schedule
            that train the RPN (1 and 3) and Fast R-CNN (2 and 4), for example ``{"steps": 40000}``.
        proposals: file of ``fastrpn proposals`` for the training set: Fast R-CNN alone is trained,
            on these.
        val_proposals: likewise for the validation set, without which Fast R-CNN alone is not
            evaluated.
        box_error_by_class: Fast R-CNN on given proposals measures errors of boxes in standard
            deviations of their class's targets, as py-faster-rcnn's alternating training does.
        lr_schedule: "steps" multiplies the rate by ``lr_gamma`` at each fraction of the run in
            ``lr_steps``; "cosine" lets it fall to 0.
        warmup_steps: steps of linear warm-up from 0.
        weight_decay: for weights; biases and norms have none.
        precision: "fp32", or "bf16" for autocast to bfloat16 in training.
        clip_grad_norm: greatest norm of the gradient; None does not clip.
        flip: mirror training images left to right with this probability.
        color_jitter: greatest changes of brightness, contrast, saturation and hue of training
            images; see :class:`fastrpn.data.ColorJitter`. Nothing changes when it is empty.
        short_sides: train at several scales: each image's short side is drawn from these. Empty
            takes the model's ``min_size``.
        group_by_shape: batches of upright images and batches of others, for less padding.
        workers: processes that read data; 0 reads in this one.
        eval_every: epochs between evaluations; 0 evaluates at the end alone.
        checkpoint_every: steps between checkpoints; 0 means once an epoch.
        log_every: steps between lines of the progress bar, and between checks for non-finite
            losses; every step is in the history.
        tensorboard: write TensorBoard events into ``output``.
        pictures: images to draw detections on at each evaluation; 0 draws nothing.
        rehearsal: before the first step, take one batch through training, evaluation, pictures and
            a checkpoint, so that what is broken fails at once; leaves no trace.
        resume: continue from ``output``'s last checkpoint if there is one.
    """

    data: str
    output: str
    train_set: tuple[str, ...] = ("train",)
    val_set: tuple[str, ...] | None = ("val",)
    classes: list[str] | None = None
    on_bad_data: str = "stop"

    model: str = "tiny"
    preset: str | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None

    schedule: str = "joint"
    rpn_stage: dict[str, Any] = field(default_factory=dict)
    box_stage: dict[str, Any] = field(default_factory=dict)
    proposals: str | None = None
    val_proposals: str | None = None
    box_error_by_class: bool = False
    batch_size: int = 8
    accumulate: int = 1
    epochs: int = 10
    steps: int | None = None
    lr: float = 0.02
    lr_schedule: str = "steps"
    lr_steps: tuple[float, ...] = (0.75,)
    lr_gamma: float = 0.1
    warmup_steps: int = 100
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "fp32"
    clip_grad_norm: float | None = 10.0
    flip: float = 0.5
    color_jitter: tuple[float, ...] = ()
    short_sides: tuple[int, ...] = ()
    group_by_shape: bool = True

    seed: int = 0
    device: str = "cpu"
    workers: int = 0
    eval_every: int = 0
    checkpoint_every: int = 0
    log_every: int = 10
    tensorboard: bool = False
    pictures: int = 4
    rehearsal: bool = True
    resume: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "epochs", "log_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in _NOT_NEGATIVE:
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("lr", self.lr > 0 and math.isfinite(self.lr), "positive")
        limit = self.clip_grad_norm
        self._require("clip_grad_norm", limit is None or limit > 0, "positive")
        inside = all(0 <= part <= 1 for part in self.lr_steps)
        self._require("lr_steps", inside, "fractions of the run, in 0..1")
        self._require("steps", self.steps is None or self.steps >= 1, "at least 1")
        for name, choices in _CHOICES.items():
            what = " or ".join(map(repr, choices))
            self._require(name, getattr(self, name) in choices, what)
        self._require("flip", 0 <= self.flip <= 1, "a probability")
        self._require("color_jitter", len(self.color_jitter) <= 4, "at most four numbers")
        self._require("short_sides", all(side >= 1 for side in self.short_sides), "positive")
        self.lr_steps = tuple(self.lr_steps)
        self.color_jitter, self.short_sides = tuple(self.color_jitter), tuple(self.short_sides)
        own = {"name", "num_classes", "preset"} & set(self.model_options)
        self._require("model_options", not own, "fields of ModelConfig")
        names = {setting.name for setting in dataclasses.fields(self)}
        for name in ("rpn_stage", "box_stage"):
            self._require(name, set(getattr(self, name)) <= names, "settings of a training")
        alone = self.proposals is None or self.schedule == "joint"
        self._require("schedule", alone, "'joint' where proposals are given")
        self.train_set = _names(self.train_set)
        self.val_set = _names(self.val_set) if self.val_set else None

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {what}, got {getattr(self, name)!r}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or a JSON file."""
        return dataclasses.asdict(self)


_CHOICES = {
    "schedule": ("joint", "alternating"),
    "lr_schedule": ("steps", "cosine"),
    "precision": ("fp32", "bf16"),
}
_NOT_NEGATIVE = ("warmup_steps", "weight_decay", "workers", "eval_every", "checkpoint_every")
_NOT_NEGATIVE += ("pictures", "seed")


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def lr_factor(config: TrainConfig, step: int, total: int) -> float:
    """What the base learning rate is multiplied by at a step (0, 1, ..., total - 1).

    A pure function: there is no scheduler whose state could be lost.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.lr_schedule == "cosine":
        progress = max(0, step - config.warmup_steps) / max(1, total - config.warmup_steps)
        return warmup * 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * config.lr_gamma ** sum(step >= part * total for part in config.lr_steps)
