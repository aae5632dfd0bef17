"""Settings and checkpoints that version 0.1 wrote still open.

`of_0_1/` holds a run's config.yaml (`--preset paper --steps 2 --batch-size 2 --warmup-steps 1`) and
what its checkpoint said of the model; the weights are made here.
"""

import json
from pathlib import Path

import pytest
import torch

from fastrpn.data import generate_synthetic
from fastrpn.inference import Predictor
from fastrpn.models import faster_rcnn
from fastrpn.training import train
from fastrpn.training.config import read_config_file

WRITTEN = Path(__file__).with_name("of_0_1")


@pytest.fixture
def checkpoint(tmp_path):
    described = json.loads((WRITTEN / "model.json").read_text())
    torch.manual_seed(0)
    classes = described["classes"]
    model = faster_rcnn(described["name"], len(classes), "paper", **described["config"])
    config = {name: _tuples(value) for name, value in described["config"].items()}
    content = {
        "format": "fastrpn checkpoint 1",
        "model": {**described, "config": config},
        "weights": model.state_dict(),
        "optimizer": torch.optim.SGD(_groups(model), lr=0.1, momentum=0.9).state_dict(),
        **{"step": 1, "total": 2, "best": 0.0, "metrics": None, "config": {}},
    }
    path = tmp_path / "run" / "last.pt"
    path.parent.mkdir()
    torch.save(content, path)
    return path


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _groups(model):
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.0005},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]


def test_its_settings_mean_what_they_meant():
    config = read_config_file(WRITTEN / "config.yaml")
    assert (config.preset, config.lr, config.momentum) == ("paper", 0.001, 0.9)
    assert (config.steps, config.batch_size, config.warmup_steps) == (2, 2, 1)
    assert (config.clip_grad_norm, config.device) == (None, "cpu")
    assert config.model_options["anchor_sizes"] == [[16, 32, 64]]


def test_its_checkpoint_detects_and_goes_on(checkpoint, tmp_path):
    found = Predictor(checkpoint, device="cpu")(torch.rand(3, 64, 64))
    assert set(found) == {"boxes", "labels", "scores"}
    data = generate_synthetic(tmp_path / "data", 4, 2, seed=3, image_size=(64, 64), progress=False)
    given = {"data": str(data), "output": str(checkpoint.parent), "resume": True}
    config = read_config_file(WRITTEN / "config.yaml", **given)
    assert [entry["step"] for entry in train(config).history] == [2]
