"""The settings of a training run: one definition for Python, YAML files and the command line.

A setting is what was given, else what its preset says, else the default below.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from cyclopts import Parameter, Token

from fastrpn.data import Reading
from fastrpn.files import require_writable
from fastrpn.models.typed import checked
from fastrpn.training.presets import training_preset

__all__ = ["TrainConfig", "lr_factor", "read_config_file"]


def _pairs(_: Any, tokens: typing.Sequence[Token]) -> dict[str, Any]:
    """What KEY=VALUE words of a command line mean; values are YAML."""
    pairs = {}
    for token in tokens:
        key, equals, value = token.value.partition("=")
        if not equals:
            raise ValueError(f"{token.value!r} is not KEY=VALUE")
        pairs[key] = yaml.safe_load(value)
    return pairs


_KeyValues = Parameter(accepts_keys=False, n_tokens=-1, converter=_pairs, show_default=False)
Options = Annotated[dict[str, Any], _KeyValues]  # on the command line: KEY=VALUE ...


class _Given:
    """Remembers what it was given: that goes before a preset even where it equals the default."""

    given: Mapping[str, Any]

    def __new__(cls, **given: Any) -> _Given:
        config = super().__new__(cls)
        config.given = given
        return config


@dataclass(kw_only=True)
class TrainConfig(_Given, Reading):
    """One run of training; everything that decides its outcome.

    Types and ranges are checked; numbers may be strings, since YAML reads ``1e-3`` as one, and one
    value stands for a list of it. ``dataclasses.replace`` keeps what the preset has given.

    Attributes:
        data: folder of annotated images, or a data.yaml, annotations.xml or .json; required.
        output: folder for checkpoints and history; required.
        train_set: image sets to train on, in ``data`` or as "folder:set"; several are joined.
        val_set: image sets to evaluate on, likewise; without any there is no evaluation.
        val_fraction: share of the training images to evaluate on, 0 to 1, where the data has no
            validation set; goes before val_set.
        classes: names of the classes to train on; else all that the data has.
        on_bad_data: "stop" at the first fault; "drop" bad objects and stop at bad files; "skip" bad
            files, too. What is left out is counted and listed in bad-data.txt.
        over_edge: "clip" boxes that reach over the edge of their image, or "drop" them as bad.
        exif: turn images as their EXIF orientation says; annotations count turned pixels then.
        check: decode every image at the start, instead of finding a broken one hours later.
        model: name of a network, see ``fastrpn.models.faster_rcnn``.
        preset: rules of the model and numbers of its training, for what is not given: "paper",
            "py-faster-rcnn" or "torchvision".
        model_options: rules of the model, KEY=VALUE: fields of ``fastrpn.models.ModelConfig``.
        weights: file to start from: a classifier or a Faster R-CNN of torchvision, or a checkpoint;
            else weights are random.
        schedule: "joint" trains all parts at once, "alternating" in the paper's four steps.
        rpn_stage: KEY=VALUE, settings that differ in the steps of the alternating schedule that
            train the RPN (1 and 3), for example steps=40000.
        box_stage: likewise in the steps that train Fast R-CNN (2 and 4).
        proposals: file of ``fastrpn proposals`` for the training set: Fast R-CNN alone is trained.
        val_proposals: likewise for the validation set; without it Fast R-CNN is not evaluated.
        box_error_by_class: Fast R-CNN on given proposals measures errors of boxes in standard
            deviations of their class's targets, as py-faster-rcnn's alternating training does.
        batch_size: images in a batch; under torchrun the processes share them.
        accumulate: batches whose gradients make one step.
        epochs: length of the run in passes over the training set.
        steps: length of the run in steps, instead of epochs.
        lr: learning rate of a step.
        lr_schedule: "steps" multiplies the rate by lr_gamma at each of lr_steps, "cosine" lets it
            fall to 0.
        lr_steps: fractions of the run, 0 to 1.
        lr_gamma: factor of the learning rate at each of lr_steps.
        warmup_steps: steps of linear warm-up from 0.
        momentum: of the gradient descent.
        weight_decay: for weights; biases and norms have none.
        optimizer: "sgd" with momentum, or "adamw" (momentum is not used then).
        precision: "fp32", or "bf16" or "fp16" for autocast in training; fp16 scales its losses, and
            leaves out the steps whose gradients overflow.
        ema: decay of an exponential moving average of the weights, for example 0.9998; evaluation,
            best.pt and whoever opens a checkpoint use the average. Without it there is none.
        clip_grad_norm: greatest norm of the gradient; --no-clip-grad-norm sets no limit.
        flip: probability of mirroring a training image left to right.
        tile: side in pixels of the tiles that large images are cut into, for training and
            validation; without it each image is one sample.
        overlap: least share of its side that a tile has in common with the next, 0 to below 1.
        crop: side in pixels of the square at a random place that is taken from each training image.
        quarter_turns: turn training images by 0, 90, 180 or 270 degrees: for what is seen from
            above.
        color_jitter: greatest changes of brightness, contrast, saturation (fractions) and hue
            (turns) of training images; at most four numbers.
        short_sides: pixels; each training image's short side is drawn from these. Without any it is
            the model's min_size.
        group_by_shape: batches of upright images and batches of others, for less padding.
        seed: of weights, order, augmentation and sampling.
        device: "auto" (a GPU if it can be used, else the CPU), "cpu", "cuda", "cuda:1", ...
        workers: processes that read images; 0 reads in this one.
        eval_every: epochs between evaluations; 0 evaluates at the end alone.
        checkpoint_every: steps between checkpoints; 0 means once an epoch.
        log_every: steps between lines of the progress, and between checks for losses that are not
            finite; every step is in the history.
        val_loss: compute the losses on the validation images, too, at each evaluation.
        loggers: where numbers and pictures go besides the output folder: "tensorboard", "wandb",
            "mlflow".
        pictures: images to draw detections on at each evaluation.
        rehearsal: before the first step, take one batch through training, evaluation, pictures and
            a checkpoint, so that what is broken fails at once; leaves no trace.
        resume: continue from the output folder's last checkpoint if there is one. Settings that
            change the outcome must be those of the checkpoint.
        allow_changes: resume with other settings, too; a new length stretches the schedule of the
            learning rate.
        overwrite: begin anew where a former run has left its files, which are deleted.
        progress: show the progress.
    """

    data: str = ""
    output: str = ""
    train_set: tuple[str, ...] = ("train",)
    val_set: tuple[str, ...] | None = ("val",)
    val_fraction: float | None = None
    classes: list[str] | None = None

    model: str = "tiny"
    preset: str | None = None
    model_options: Options = field(default_factory=dict)
    weights: str | None = None

    schedule: Literal["joint", "alternating"] = "joint"
    rpn_stage: Options = field(default_factory=dict)
    box_stage: Options = field(default_factory=dict)
    proposals: str | None = None
    val_proposals: str | None = None
    box_error_by_class: bool = False
    batch_size: int = 8
    accumulate: int = 1
    epochs: int = 10
    steps: int | None = None
    lr: float = 0.02
    lr_schedule: Literal["steps", "cosine"] = "steps"
    lr_steps: tuple[float, ...] = (0.75,)
    lr_gamma: float = 0.1
    warmup_steps: int = 100
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: float | None = None
    clip_grad_norm: Annotated[float | None, Parameter(negative_none="no-")] = 10.0
    flip: float = 0.5
    tile: int | None = None
    overlap: float = 0.2
    crop: int | None = None
    quarter_turns: bool = False
    color_jitter: tuple[float, ...] = ()
    short_sides: tuple[int, ...] = ()
    group_by_shape: bool = True

    seed: int = 0
    device: str = "auto"
    workers: int = 0
    eval_every: int = 0
    checkpoint_every: int = 0
    log_every: int = 10
    val_loss: bool = False
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    pictures: int = 4
    rehearsal: bool = True
    resume: bool = False
    allow_changes: bool = False
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for name, hint in _HINTS.items():
            setattr(self, name, checked(name, getattr(self, name), hint))
        if self.preset is not None:
            for name, value in training_preset(self.preset, self.schedule, self.given).items():
                setattr(self, name, value)
        self.val_set = self.val_set or None
        require = self._require
        for name in ("batch_size", "accumulate", "epochs", "log_every"):
            require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "weight_decay", "workers", "pictures", "seed"):
            require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("eval_every", "checkpoint_every"):
            require(name, getattr(self, name) >= 0, "at least 0")
        require("steps", self.steps is None or self.steps >= 1, "at least 1")
        require("lr", self.lr > 0 and math.isfinite(self.lr), "positive")
        require("ema", self.ema is None or 0 < self.ema < 1, "between 0 and 1")
        limit = self.clip_grad_norm
        require("clip_grad_norm", limit is None or limit > 0, "positive")
        inside = all(0 <= part <= 1 for part in self.lr_steps)
        require("lr_steps", inside, "fractions of the run, in 0..1")
        share = self.val_fraction
        require("val_fraction", share is None or 0 < share < 1, "between 0 and 1")
        require("flip", 0 <= self.flip <= 1, "a probability")
        require("color_jitter", len(self.color_jitter) <= 4, "at most four numbers")
        require("short_sides", all(side >= 1 for side in self.short_sides), "positive")
        own = {"name", "num_classes", "preset"} & set(self.model_options)
        require("model_options", not own, "fields of ModelConfig")
        for name, stage in (("rpn_stage", self.rpn_stage), ("box_stage", self.box_stage)):
            require(name, set(stage) <= set(_HINTS), "settings of a training")
        require("tile", self.tile is None or self.tile >= 1, "at least 1")
        joint = self.schedule == "joint" and self.proposals is None
        require("tile", self.tile is None or joint, "None where proposals are written or given")
        require("overlap", 0 <= self.overlap < 1, "at least 0 and below 1")
        require("crop", self.crop is None or self.crop >= 1, "at least 1")
        alone = self.proposals is None or self.schedule == "joint"
        require("schedule", alone, "'joint' where proposals are given")

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {what}, got {getattr(self, name)!r}")

    def require_folders(self) -> None:
        """Raises ValueError unless there are data and a folder for the run."""
        for name, folder in (("data", self.data), ("output", self.output)):
            if not folder:
                raise ValueError(f"{name} is missing: give --{name}, or name it in the config file")

    def require_output(self) -> None:
        """Raises ValueError where the run's folder cannot be written, or has a former run that it
        would replace unasked."""
        require_writable("output", self.output, is_folder=True)
        if self.resume or self.overwrite:
            return
        for folder in (self.output, *(f"{self.output}/{stage}" for stage in STAGES)):
            for name in RUN_FILES:
                path = Path(folder, name)
                if path.is_file() and path.stat().st_size > 0:
                    raise ValueError(
                        f"output {self.output} holds a former run ({path}): --resume goes on with "
                        "it, --overwrite deletes it; or name another folder"
                    )

    def require_same(self, path: Path, saved: Mapping[str, Any]) -> None:
        """Raises ValueError if a checkpoint's settings are others, as far as they change what
        comes out; those of a later version of fastrpn have no say."""
        ours = self.as_dict()
        changed = [
            f"{name} {saved[name]!r} -> {value!r}"
            for name, value in ours.items()
            if name in saved and name not in _FREE and _plain(saved[name]) != _plain(value)
        ]
        if changed:
            raise ValueError(
                f"resume: {path} was trained with other settings ({', '.join(changed)}); "
                "--allow-changes goes on with the new ones"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or a file."""
        return dataclasses.asdict(self)


STAGES = ("1-rpn", "2-fast-rcnn", "3-rpn", "4-fast-rcnn")  # folders of an alternating training
RUN_FILES = ("last.pt", "previous.pt", "best.pt", "history.jsonl")  # that tell of a run
_FREE = {  # change nothing of what comes out, or are about this start alone
    *("output", "weights", "device", "workers", "check", "val_set", "val_proposals"),
    *("eval_every", "checkpoint_every"),
    *("log_every", "val_loss", "loggers", "pictures", "rehearsal", "progress"),
    *("resume", "allow_changes", "overwrite"),
}


def _plain(value: Any) -> Any:
    """Lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


_HINTS = {
    setting.name: typing.get_type_hints(TrainConfig)[setting.name]
    for setting in dataclasses.fields(TrainConfig)
}


def read_config_file(path: str | Path, **given: Any) -> TrainConfig:
    """The settings in a YAML file, a mapping of names to values, such as a run's ``config.yaml``.

    Args:
        path: of the file.
        **given: settings that go before the file's.

    Raises:
        ValueError: no such file, not YAML, not a mapping, an unknown name or a bad value.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config {path}: cannot be read ({error})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"config {path}: must be a mapping of settings, got {content!r}")
    values = {name: content[name] for name in content if name not in ("versions", "git")}
    if values.pop("tensorboard", False):  # as version 0.1 called it
        values.setdefault("loggers", ["tensorboard"])
    for name in values:
        if name not in _HINTS:
            nearest = difflib.get_close_matches(str(name), list(_HINTS), n=1, cutoff=0.0)[0]
            raise ValueError(f"config {path}: unknown setting {name!r}, did you mean {nearest!r}?")
    return TrainConfig(**{**values, **given})


def lr_factor(config: TrainConfig, step: int, total: int) -> float:
    """What the base learning rate is multiplied by at a step (0, 1, ..., total - 1).

    A pure function: there is no scheduler whose state could be lost.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.lr_schedule == "cosine":
        progress = max(0, step - config.warmup_steps) / max(1, total - config.warmup_steps)
        return warmup * 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * config.lr_gamma ** sum(step >= part * total for part in config.lr_steps)
