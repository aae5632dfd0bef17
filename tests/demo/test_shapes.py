"""The demo without a registry, from end to end, cut down to a few images and steps."""

import json

import cv2
import pytest

from fastrpn.demo import run_demo
from fastrpn.models.checkpoint import load_model


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo")
    size = {"num_train": 8, "num_val": 4, "image_size": (96, 128)}
    return output, run_demo(output, seed=3, data="synthetic", steps=3, progress=False, **size)


def test_metrics_are_written_as_they_were_measured(demo):
    output, metrics = demo
    assert json.loads((output / "metrics.json").read_text()) == metrics
    assert {"AP", "AP50", "baseline_AP50"} <= set(metrics)
    assert (metrics["seed"], metrics["num_train"], metrics["num_val"]) == (3, 8, 4)
    assert metrics["steps"] == 3


def test_checkpoint_can_be_loaded(demo):
    output, _ = demo
    model, classes = load_model(output / "model" / "last.pt")
    assert classes[0] == "__background__" and model.num_classes == len(classes)


@pytest.mark.parametrize("name", ["detections", "proposals", "losses", "pr_curves"])
def test_pictures_are_pictures(demo, name):
    picture = cv2.imread(str(demo[0] / f"{name}.png"))
    assert picture is not None and picture.std() > 0
