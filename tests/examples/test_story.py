"""The founding text, executed: its numbers, on a photograph that is not fetched."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

PROGRAM = Path(__file__).parents[2] / "examples" / "anchors_to_detections.py"


@pytest.fixture(scope="module")
def story():
    spec = importlib.util.spec_from_file_location("anchors_to_detections", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_says_what_the_text_says(story, tmp_path, capsys):
    small = np.random.default_rng(0).integers(0, 255, (15, 20, 3), np.uint8)
    photograph = cv2.resize(small, (800, 600), interpolation=cv2.INTER_CUBIC)
    story.tell(photograph, tmp_path, steps=1)
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert [line[0] for line in lines] == list("12345678")
    assert lines[0].startswith("1. 9 anchors at (320, 320)")
    assert "39 x 51 = 1,989 positions, 17,901 anchors" in lines[1]
    assert "9 channels" in lines[3] and "paper's 18" in lines[3] and "regressor 36" in lines[3]
    assert "17,901 anchors get both" in lines[3]
    assert "191 x 191 pixels; 8 of 9 anchors reach out of it" in lines[4]
    assert "7 x 7" in lines[7]
    pictures = sorted(path.name for path in tmp_path.iterdir())
    assert len(pictures) == 5
    assert all(cv2.imread(str(tmp_path / name)).std() > 0 for name in pictures)


def test_positive_anchors_are_those_of_the_rule(story, tmp_path):
    photograph = np.zeros((600, 800, 3), np.uint8)
    model = story.faster_rcnn("zf", 4, min_size=600).eval()
    anchors, grid = story.anchors_of_the_image(model)
    assert grid == (39, 51) and anchors.shape == (17_901, 4)
    labels = story.labels_of_anchors(photograph, anchors, tmp_path)
    iou = story.ops.box_iou(anchors, story.OBJECTS)
    low, high = anchors[:, :2].min(dim=1).values, anchors[:, 2:]
    inside = (low >= 0) & (high[:, 0] <= 800) & (high[:, 1] <= 600)
    best = iou[inside].max(dim=0).values
    positive = inside & ((iou >= 0.7) | (iou == best)).any(dim=1)
    assert (labels >= 0).equal(positive) and positive.sum() > 3
    assert (labels == -1).equal(inside & ~positive & (iou < 0.3).all(dim=1))
