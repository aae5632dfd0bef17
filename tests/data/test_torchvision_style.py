"""torchvision's data sets give what the project's own readers give for the same files."""

import json

import numpy as np
import pytest
import torch

from fastrpn.data import (
    BadDataError,
    COCODataset,
    FromTorchvision,
    VOCDataset,
    build_loader,
    generate_synthetic,
)
from fastrpn.data.torchvision_style import VOC_CLASSES
from fastrpn.images import image_to_array, write_image
from fastrpn.models import faster_rcnn

datasets = pytest.importorskip("torchvision.datasets")


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    """A data set in VOC layout where VOCDetection looks for VOC2007."""
    root = tmp_path_factory.mktemp("voc")
    generate_synthetic(
        root / "VOCdevkit" / "VOC2007", 5, 1, seed=1, image_size=(64, 80), progress=False
    )
    return root


def same(a, b):
    (image, target), (other_image, other_target) = a, b
    assert target.keys() == other_target.keys() and target["image_id"] == other_target["image_id"]
    assert (image - other_image).abs().max() < 0.05  # two JPEG decoders
    for key in ("boxes", "labels", "ignore"):
        assert (
            torch.equal(target[key], other_target[key])
            and target[key].dtype == other_target[key].dtype
        )


def test_voc_detection(devkit):
    own = VOCDataset(devkit / "VOCdevkit" / "VOC2007", "train")
    theirs = datasets.VOCDetection(devkit, year="2007", image_set="train")
    wrapped = FromTorchvision(theirs, own.classes)
    assert len(wrapped) == len(own) == 5 and wrapped.classes == own.classes
    for i in range(5):
        same(wrapped[i], own[i])
    assert FromTorchvision(theirs).classes[1:] == list(VOC_CLASSES)
    with pytest.raises(BadDataError, match="sample 0: unknown class"):
        FromTorchvision(theirs)[0]


def test_difficult_objects_are_ignored():
    box = {"xmin": "1", "ymin": "1", "xmax": "8", "ymax": "9"}
    objects = [
        {"name": "cat", "difficult": "1", "bndbox": box},
        {"name": "dog", "bndbox": {**box, "xmin": "3"}},
    ]
    sample = (np.zeros((10, 10, 3), np.uint8), {"annotation": {"object": objects}})
    _, target = FromTorchvision([sample])[0]
    assert target["boxes"].tolist() == [[0, 0, 8, 9], [2, 0, 8, 9]]
    assert target["ignore"].tolist() == [True, False]
    empty = (np.zeros((10, 10, 3), np.uint8), {"annotation": {}})
    assert FromTorchvision([empty])[0][1]["boxes"].shape == (0, 4)


def test_coco_detection(tmp_path):
    for name in ("a.png", "b.png"):
        pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
        write_image(tmp_path / name, pixels)
    file = tmp_path / "instances.json"
    annotations = [
        {"id": 1, "image_id": 9, "category_id": 18, "bbox": [1, 2, 30, 20], "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [5, 5, 10, 10], "iscrowd": 1},
    ]
    content = {
        "images": [{"id": 4, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": annotations,
    }
    file.write_text(json.dumps(content))
    own = COCODataset(tmp_path, file)
    wrapped = FromTorchvision(datasets.CocoDetection(tmp_path, file))
    assert wrapped.classes == own.classes == ["__background__", "car", "dog"]
    for i in range(2):
        same(wrapped[i], own[i])
    assert wrapped[1][1]["labels"].tolist() == [2, 1]


class ForDetectionModels(torch.utils.data.Dataset):
    """As torchvision's tutorial writes one."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = torch.full((3, 64, 64 + 8 * index), 90, dtype=torch.uint8)
        boxes = torch.tensor([[4, 4, 40, 50], [8, 8, 20, 20]])
        target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "iscrowd": torch.tensor([0, 1])}
        return image, {**target, "image_id": index + 10, "area": torch.ones(2)}


def test_targets_of_detection_models_train():
    dataset = FromTorchvision(ForDetectionModels(), ["square", "crowd"])
    image, target = dataset[1]
    assert image.dtype == torch.float32 and float(image.max()) == pytest.approx(90 / 255)
    assert target["ignore"].tolist() == [False, True] and target["image_id"] == 11
    model = faster_rcnn("tiny", len(dataset.classes), min_size=64, max_size=96)
    for images, targets in build_loader(dataset, 2, shuffle=True, seed=0):
        assert all(loss.isfinite() for loss in model(images, targets).values())


def test_classes_must_be_known_from_somewhere():
    with pytest.raises(ValueError, match="classes must be given"):
        FromTorchvision(ForDetectionModels())


def test_a_pil_image_of_any_mode(devkit):
    images = pytest.importorskip("PIL.Image")
    grey = images.new("L", (10, 8), 128)
    image, _ = FromTorchvision([(grey, {"annotation": {}})])[0]
    assert image.shape == (3, 8, 10) and np.all(image_to_array(image) == 128)
