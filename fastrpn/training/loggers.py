"""Where a run's numbers and pictures go besides its folder: TensorBoard, Weights & Biases, MLflow.

A logger has three methods: ``scalars``, ``picture`` and ``close``.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastrpn.files import write_atomically

__all__ = ["LOGGERS", "Loggers", "require_loggers"]

_RUN_IDS = "loggers.json"  # in the run's folder: what the services call it, for --resume


class Logger(Protocol):
    """Takes what a run has to tell."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by "group/name"."""

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """A picture, uint8 [H, W, 3] RGB."""

    def close(self) -> None:
        """The run is over."""


class TensorBoard:
    """Event files in the folder ``tensorboard/``; those of later steps, of a run that was killed,
    are hidden."""

    needs = "torch.utils.tensorboard", "tensorboard"

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any], run_id: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = None
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Weights & Biases: the project ``WANDB_PROJECT`` or "fastrpn"; with ``WANDB_MODE=offline``
    files in the folder ``wandb/``, for ``wandb sync``."""

    needs = "wandb", "wandb"

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any], run_id: Any) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fastrpn"),
            name=folder.resolve().name,
            dir=folder,
            config=dict(settings),
            id=run_id,
            resume="allow" if run_id else None,
        )
        self.run_id = self._run.id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow: the store ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the folder; the experiment
    ``MLFLOW_EXPERIMENT_NAME`` or "fastrpn"."""

    needs = "mlflow", "mlflow"

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any], run_id: Any) -> None:
        from mlflow.tracking import MlflowClient

        place, folder = None, folder.resolve()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            uri, place = f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlflow").as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fastrpn")
            known = self._client.get_experiment_by_name(name)
            experiment = (
                known.experiment_id if known else self._client.create_experiment(name, place)
            )
            run_id = self._client.create_run(experiment, run_name=folder.name).info.run_id
            for key, value in settings.items():
                self._client.log_param(run_id, key, value)
        self.run_id = run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self.run_id, name, value, step=step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._client.log_image(self.run_id, image, artifact_file=f"{name}-{step:06d}.png")

    def close(self) -> None:
        self._client.set_terminated(self.run_id)


LOGGERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def require_loggers(names: Sequence[str]) -> None:
    """Raises ImportError, which says what to install, if a logger's package is not there."""
    for name in names:
        module, package = LOGGERS[name].needs
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(f"loggers: {name} needs {package}: pip install {package}") from error


class Loggers:
    """Several as one; a context manager. One that fails on the way is left out from then on, with a
    warning: a service that is down must not end a training.

    Args:
        names: of `LOGGERS`; none writes nothing.
        folder: of the run.
        step: that the run goes on from; 0: a new one.
        settings: of the run, for the services.

    Raises:
        Exception: what a logger raises that cannot be opened.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, step: int, settings: Mapping[str, Any]
    ) -> None:
        file = folder / _RUN_IDS
        ids = json.loads(file.read_text()) if names and step and file.is_file() else {}
        self._open: dict[str, Logger] = {}
        for name in names:
            logger = LOGGERS[name](folder, step, settings, ids.get(name))
            self._open[name] = logger
            ids[name] = logger.run_id
        if names:
            write_atomically(file, json.dumps(ids).encode())

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_: object) -> None:
        self._each(lambda logger: logger.close())

    def scalars(self, group: str, values: Mapping[str, Any], step: int) -> None:
        """Adds ``group/name`` for each value that is a number."""
        numbers = {
            f"{group}/{name}": float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and name != "step"
        }
        self._each(lambda logger: logger.scalars(numbers, step))

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Adds a picture, uint8 [H, W, 3] RGB."""
        self._each(lambda logger: logger.picture(name, image, step))

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                do(logger)
            except Exception as error:
                del self._open[name]
                warnings.warn(f"{name} gets nothing more of this run: {error}", stacklevel=3)
