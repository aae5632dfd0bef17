"""Images that are hardly there, and photographs that lie on their side."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fastrpn.data import FromTorchvision
from fastrpn.images import read_image, write_image
from fastrpn.inference import Predictor
from fastrpn.inference.detect import detect_files
from fastrpn.models import faster_rcnn
from fastrpn.training import TrainConfig, Trainer

THIN = [(1, 1400), (1400, 1), (2, 2000), (2000, 2), (1, 1), (3, 1), (1, 64), (2, 333)]
MODELS = {
    "tiny": {},
    "resnet18_fpn": {"min_size": 120, "max_size": 200},
    "vgg16": {"min_size": 100, "max_size": 160, "box_dropout": 0.0},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.manual_seed(0)
    return faster_rcnn(request.param, 3, **MODELS[request.param], box_score_threshold=0.0)


@pytest.mark.parametrize("size", THIN)
def test_thin_images_are_detected_in_and_trained_on(model, size):
    image = torch.rand(3, *size)
    with torch.no_grad():
        found = model.eval()([image, torch.rand(3, 90, 70)])[0]
    assert found["boxes"].isfinite().all()
    limit = torch.tensor([size[1], size[0]] * 2)
    assert (found["boxes"] <= limit + 1e-3).all()
    target = {
        "boxes": torch.tensor([[0.0, 0, size[1], size[0]]]),
        "labels": torch.tensor([1]),
    }
    losses = model.train()([image], [target])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    model.zero_grad()


def test_a_training_on_thin_images(tmp_path):
    samples = [
        (
            torch.rand(3, *size),
            {"boxes": torch.tensor([[0.0, 0, *size[::-1]]]), "labels": torch.ones(1).long()},
        )
        for size in THIN
    ]
    config = TrainConfig(output=str(tmp_path / "a"), batch_size=2, steps=4, progress=False)
    data = FromTorchvision(samples, ["line"])
    assert Trainer(config, data, data).run().metrics["num_images"] == len(THIN)
    resized = dataclasses.replace(config, short_sides=(20, 50), output=str(tmp_path / "b"))
    assert len(Trainer(resized, data).run().history) == 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_pictures_and_files_agree_in_every_orientation(tmp_path, orientation):
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (6, 9, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(pixels)
    path = tmp_path / "photo.png"
    stored.save(path, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(read_image(path, exif=True), upright)
    torch.manual_seed(1)
    predictor = Predictor(faster_rcnn("tiny", 3, box_score_threshold=0.0), score_threshold=0.34)
    expected = predictor(upright)
    found = detect_files(predictor, [path], tmp_path / "out", progress=False)
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert found.num_detections == len(entries) == len(expected["boxes"]) > 0
    for entry, box in zip(entries, expected["boxes"].tolist(), strict=True):
        x, y, width, height = entry["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(box, abs=1e-3)
    assert read_image(tmp_path / "out" / "photo.jpg").shape == upright.shape
    for _, result in predictor.stream([path]):
        assert torch.equal(result["boxes"], expected["boxes"])
    write_image(tmp_path / "plain.png", upright)
    assert torch.equal(predictor(tmp_path / "plain.png")["boxes"], expected["boxes"])
    assert torch.equal(predictor(path)["boxes"], expected["boxes"])
