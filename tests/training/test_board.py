"""What a run shows: TensorBoard, W&B, MLflow, pictures, progress."""

import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from additive import make_config, make_trainer

from fastrpn.data import generate_synthetic
from fastrpn.images import read_image
from fastrpn.training.config import TrainConfig, read_config_file
from fastrpn.training.loggers import LOGGERS, Loggers
from fastrpn.training.progress import TrainingProgress, peak_memory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return generate_synthetic(root, 8, 2, seed=3, image_size=(64, 64), progress=False)


def test_scalars_and_pictures_reach_tensorboard(data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make_config(data, tmp_path, pictures=2, loggers=("tensorboard",), eval_every=1)
    result = make_trainer(config).run()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = events.Scalars("train/loss_classifier")
    assert [event.step for event in losses] == [2, 4]
    assert losses[-1].value == pytest.approx(result.history[-1]["loss_classifier"])
    assert events.Scalars("train/images_per_second")[-1].value > 0
    assert 0 < events.Scalars("train/data_wait")[-1].value < 1
    assert events.Scalars("val/AP50")[-1].value == pytest.approx(result.metrics["AP50"])
    for name in ("detections", "proposals"):
        assert [event.step for event in events.Images(name)] == [2, 4]
        picture = read_image(tmp_path / "pictures" / f"{name}-000004.jpg")
        assert picture.shape[1] == events.Images(name)[-1].width


def test_scalars_and_pictures_reach_wandb(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    patient = (("_SERVICE_WAIT", "300"), ("INIT_TIMEOUT", "300"))  # the machine may be busy
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONSOLE", "off"), *patient):
        monkeypatch.setenv(f"WANDB_{name}", value)
    config = make_config(data, tmp_path, pictures=1, loggers=("wandb",), eval_every=1)
    result = make_trainer(config).run()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (records,) = run.glob("*.wandb")
    deadline = time.monotonic() + 120
    while b"val/AP50" not in (written := records.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.5)  # its service writes in a process of its own
    for name in ("train/loss_classifier", "train/images_per_second", "val/AP50"):
        assert name.encode() in written
    assert f"{result.history[-1]['loss_classifier']}".encode() in written
    pictures = [path.name for path in (run / "files" / "media").rglob("*.png")]
    assert {name.split("_")[0] for name in pictures} == {"detections", "proposals"}
    assert json.loads((tmp_path / "loggers.json").read_text())["wandb"] in run.name


def test_scalars_and_pictures_reach_mlflow(data, tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = {"pictures": 1, "loggers": ("mlflow",), "eval_every": 1}
    config = make_config(data, tmp_path, steps=2, **options)
    make_trainer(config).run()
    longer = make_config(data, tmp_path, steps=4, resume=True, allow_changes=True, **options)
    result = make_trainer(longer).run()
    client = tracking.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("fastrpn").experiment_id])
    losses = client.get_metric_history(run.info.run_id, "train/loss_classifier")
    assert [metric.step for metric in losses] == [2, 4]  # one run, although it was resumed
    assert losses[-1].value == pytest.approx(result.history[-1]["loss_classifier"])
    assert run.data.metrics["val/AP50"] == pytest.approx(result.metrics["AP50"])
    assert run.data.params["batch_size"] == str(config.batch_size)
    assert run.info.status == "FINISHED"
    names = {path.name for path in (tmp_path / "mlflow").rglob("*.png")}
    assert names >= {"detections-000004.png", "proposals-000004.png"}


@pytest.mark.parametrize(
    ("name", "module"),
    [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")],
)
def test_a_logger_without_its_package_is_refused_at_once(data, tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"loggers: {name} needs {name}: pip install {name}"):
        make_trainer(make_config(data, tmp_path, loggers=(name,)))
    assert not (tmp_path / "last.pt").exists()


def test_a_logger_that_fails_does_not_end_the_run(tmp_path, monkeypatch):
    told = []

    class Failing:
        def __init__(self, *_):
            self.run_id = None

        def scalars(self, values, step):
            told.append(step)
            if step == 2:
                raise ConnectionError("no route to host")

        def close(self):
            told.append("close")

    monkeypatch.setitem(LOGGERS, "wandb", Failing)
    with Loggers(["wandb"], tmp_path, 0, {}) as board:
        board.scalars("train", {"loss": 1.0, "step": 1, "text": "a"}, 1)
        with pytest.warns(UserWarning, match="wandb gets nothing more of this run: no route"):
            board.scalars("train", {"loss": 1.0}, 2)
        board.scalars("train", {"loss": 1.0}, 3)
    assert told == [1, 2]


def test_unknown_loggers_are_refused():
    with pytest.raises(ValueError, match="loggers.*got 'comet'"):
        TrainConfig(loggers=("comet",))


def test_a_file_of_version_0_1_may_ask_for_tensorboard(tmp_path):
    (tmp_path / "config.yaml").write_text("tensorboard: true\n")
    assert read_config_file(tmp_path / "config.yaml").loggers == ("tensorboard",)


def test_progress_says_speed_memory_and_time_left(capsys):
    entry = {"step": 3, "lr": 0.1, "loss_classifier": 0.5, "loss_box_reg": 0.25}
    entry["grad_norm"] = 1.0
    loader = SimpleNamespace(waited=5.0)
    before = peak_memory(torch.device("cpu")) / 2**30
    with TrainingProgress(9, 0, 4, torch.device("cpu"), loader, enabled=True) as progress:
        time.sleep(0.02)
        loader.waited += 0.01
        shown = progress.update(3, entry)
        progress.print_metrics(3, {"AP": 0.5, "AP50": None})
    seconds = 3 * 4 / shown["images_per_second"]
    assert 0 < seconds < 60
    assert shown["data_wait"] == pytest.approx(0.01 / seconds)
    peak = peak_memory(torch.device("cpu")) / 2**30  # which printing may have raised since
    assert 0.01 < before <= shown["memory_gib"] <= peak
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 3/9  left 0:00:0") and "loss 0.75" in lines[0]
    assert "img/s" in lines[0] and "GiB" in lines[0]
    assert f"data {shown['data_wait']:.0%}" in lines[0]
    assert lines[1] == "step 3: AP 0.500"


def test_progress_is_silent_when_disabled(capsys):
    loader = SimpleNamespace(waited=0.0)
    with TrainingProgress(2, 0, 4, torch.device("cpu"), loader, enabled=False) as progress:
        progress.update(1, {"lr": 0.1, "loss_classifier": 0.5, "grad_norm": 1.0})
        progress.print_metrics(1, {"AP": 0.5})
    assert capsys.readouterr().out == ""
