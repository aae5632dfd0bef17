"""What a run shows: TensorBoard events, pictures, progress."""

import sys
import time
from types import SimpleNamespace

import pytest
import torch
from additive import make_config, make_trainer

from fastrpn.data import generate_synthetic
from fastrpn.images import read_image
from fastrpn.training.progress import Board, TrainingProgress, peak_memory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return generate_synthetic(root, 8, 2, seed=3, image_size=(64, 64), progress=False)


def test_scalars_and_pictures_reach_tensorboard(data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make_config(data, tmp_path, pictures=2, tensorboard=True, eval_every=1)
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


def test_without_tensorboard_there_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.warns(UserWarning, match=r"pip install 'fastrpn\[tensorboard\]'"):
        with Board(tmp_path, 0, enabled=True) as board:
            board.scalars("train", {"loss": 1.0}, 1)
    assert not list(tmp_path.iterdir())


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
