"""Files of detections: what pycocotools makes of them is what we say; the loss on other images."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fastrpn.cli import main
from fastrpn.data import COCODataset, FromTorchvision, generate_synthetic, open_dataset
from fastrpn.evaluation import evaluate_detections
from fastrpn.evaluation.coco_ap import coco_precision
from fastrpn.evaluation.detections import read_detections, write_detections
from fastrpn.evaluation.validation_loss import validation_losses
from fastrpn.images import write_image
from fastrpn.models import faster_rcnn
from fastrpn.training import TrainConfig, train

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def random_boxes(rng, count, side):
    corners = rng.uniform(0, side * 0.6, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(4, side * 0.4, (count, 2))], axis=1)


def moved(rng, boxes):
    found = boxes + rng.normal(0, 2, boxes.shape)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    return found


@pytest.fixture(params=["numbers", "texts"])
def coco(request, tmp_path):
    """A COCO file with ids that do not start at 1, have gaps or are texts, with areas of polygons
    and crowds; and detections of its images."""
    rng, side = np.random.default_rng(1), 300
    ids = [397133, 37, 139] if request.param == "numbers" else ["b/1.png", "zwei", "3"]
    images, annotations, detections = [], [], []
    for number, key in enumerate(ids):
        name = f"{number}.png"
        write_image(tmp_path / name, np.zeros((side, side, 3), np.uint8))
        images.append({"id": key, "file_name": name, "height": side, "width": side})
        boxes = random_boxes(rng, 30, side).astype(np.float32).astype(float)
        labels = rng.integers(1, 4, 30)
        for box, label in zip(boxes, labels, strict=True):
            width, height = box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 5,
                    "image_id": key,
                    "category_id": [0, 18, 1, 90][label],
                    "bbox": [box[0], box[1], width, height],
                    "area": width * height * rng.uniform(0.3, 1),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
        found = moved(rng, np.concatenate([boxes, boxes[:9]]))
        detections.append(
            {
                "boxes": torch.from_numpy(found),
                # With ties, which count by the ids, where they have the order of numbers.
                "scores": torch.from_numpy(
                    rng.uniform(0, 1, len(found)).round(1 if request.param == "numbers" else 9)
                ),
                "labels": torch.from_numpy(np.concatenate([labels, rng.integers(1, 4, 9)])),
            }
        )
    categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "cup"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    dataset = COCODataset(tmp_path, file, classes=["dog", "person", "cup"])
    return file, dataset, detections


def score_with_pycocotools(annotations, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def test_pycocotools_gives_our_numbers_for_the_file(coco, tmp_path):
    file, dataset, detections = coco
    targets = [dataset.target(i) for i in range(3)]
    ids = [target["image_id"] for target in targets]
    path = write_detections(tmp_path / "found.json", dataset, detections, ids)
    ours = evaluate_detections(detections, targets, dataset.classes)
    theirs = score_with_pycocotools(file, path)
    assert [ours[name] for name in NAMES] == pytest.approx(theirs[:6], abs=1e-9)
    assert ours["AR"] == pytest.approx(theirs[8], abs=1e-9)
    by_boxes = [{key: t[key] for key in t if key != "area"} for t in targets]
    assert (
        evaluate_detections(detections, by_boxes, dataset.classes)["AP_small"] != ours["AP_small"]
    )
    again = evaluate_detections(read_detections(path, dataset), targets, dataset.classes)
    assert [again[name] for name in NAMES] == pytest.approx([ours[name] for name in NAMES])


def test_a_part_of_a_data_set_keeps_the_ids(coco, tmp_path):
    _, dataset, detections = coco
    part = dataset.subset([2, 0])
    targets = [part.target(i) for i in range(2)]
    found = [detections[2], detections[0]]
    path = write_detections(tmp_path / "x.json", part, found, [t["image_id"] for t in targets])
    assert {entry["image_id"] for entry in json.loads(path.read_text())} == {
        dataset.file_ids[target["image_id"]] for target in targets
    }
    torch.testing.assert_close(read_detections(path, part)[0]["boxes"], detections[2]["boxes"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "broken JSON"),
        ("{}", "no detections in COCO's results format"),
        ('[{"image_id": 1}]', "no detections"),
        (
            '[{"image_id": 12, "category_id": 18, "bbox": [0, 0, 9, 9], "score": 1}]',
            "image_id is 12",
        ),
        (
            '[{"image_id": 37, "category_id": 2, "bbox": [0, 0, 9, 9], "score": 1}]',
            "category_id is 2",
        ),
        (
            '[{"image_id": 37, "category_id": 0, "bbox": [0, 0, 9, 9], "score": 1}]',
            "category_id is 0",
        ),
        ('[{"image_id": 37, "category_id": 18, "bbox": [0, 0, 9], "score": 1}]', "no detections"),
        ('[{"image_id": 37, "category_id": 18, "bbox": [0, 0, 9, 9], "score": "x"}]', "no detec"),
    ],
)
@pytest.mark.parametrize("coco", ["numbers"], indirect=True)
def test_what_is_wrong_with_a_file_of_detections_is_named(coco, tmp_path, content, message):
    path = tmp_path / "found.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_detections(path, coco[1])
    assert str(path) in str(raised.value)


def test_the_fast_evaluation_equals_pycocotools():
    """Crowds, areas, ties, images without objects or detections, other limits than 100."""
    rng = np.random.default_rng(3)
    for trial in range(12):
        targets, detections = [], []
        for _ in range(int(rng.integers(1, 12))):
            count = int(rng.integers(0, 20))
            boxes = random_boxes(rng, count, 400)
            found = moved(rng, np.repeat(boxes, int(rng.integers(0, 4)), axis=0))
            of_classes = rng.integers(1, 4, count)
            targets.append(
                {
                    "boxes": boxes,
                    "labels": of_classes,
                    "ignore": rng.random(count) < 0.2,
                    "area": (boxes[:, 2:] - boxes[:, :2]).prod(1) * rng.uniform(0.3, 1, count),
                }
            )
            scores = rng.uniform(0, 1, len(found)).round(1)
            detections.append(
                {"boxes": found, "scores": scores, "labels": rng.integers(1, 4, len(found))}
            )
        for limit in (100, 1, 7, 300):
            ours = coco_precision(detections, targets, 4, limit)
            theirs = precision_of_pycocotools(detections, targets, 4, limit)
            for found, expected in zip((ours.precision, ours.recall), theirs, strict=True):
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, err_msg=str(trial))


def precision_of_pycocotools(detections, targets, num_classes, limit):
    def entries(images, extra):
        found = []
        for image, of_image in enumerate(images):
            for i, (x1, y1, x2, y2) in enumerate(of_image["boxes"].tolist()):
                box = {"image_id": image + 1, "category_id": int(of_image["labels"][i])}
                box |= {"id": len(found) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                found.append({**box, "area": (x2 - x1) * (y2 - y1), **extra(of_image, i)})
        return found

    def index(found):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(len(targets))],
            "categories": [{"id": c} for c in range(1, num_classes)],
            "annotations": found,
        }
        coco.createIndex()
        return coco

    def of_target(target, i):
        return {"iscrowd": int(target["ignore"][i]), "area": float(target["area"][i])}

    with contextlib.redirect_stdout(io.StringIO()):
        truth = index(entries(targets, of_target))
        found = index(entries(detections, lambda d, i: {"score": float(d["scores"][i])}))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = [limit]
        evaluation.evaluate()
        evaluation.accumulate()
    values = (evaluation.eval[name][..., 0] for name in ("precision", "recall"))
    return [np.where(value < 0, np.nan, value) for value in values]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A COCO-like set, a checkpoint, and the folder."""
    root = tmp_path_factory.mktemp("trained")
    data = generate_synthetic(root / "voc", 8, 4, seed=3, image_size=(64, 64), progress=False)
    config = TrainConfig(
        data=str(data),
        output=str(root / "run"),
        model_options={"min_size": 64, "max_size": 64, "box_batch_size": 16},
        **{"batch_size": 2, "steps": 4, "warmup_steps": 1, "pictures": 0, "progress": False},
        **{"val_loss": True, "eval_every": 1},
    )
    train(config)
    voc = open_dataset(data, "val")
    folder = root / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val").symlink_to(data / "JPEGImages")
    images, annotations = [], []
    for i, sample in enumerate(voc.samples):
        name = sample.image_path.name
        images.append({"id": 100 + 7 * i, "file_name": name, "height": 64, "width": 64})
        for box, label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            size = [box[2] - box[0], box[3] - box[1]]
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": 100 + 7 * i, "iscrowd": 0},
                    **{
                        "category_id": 50 - label,
                        "bbox": [*box[:2], *size],
                        "area": size[0] * size[1],
                    },
                }
            )
    categories = [{"id": 50 - i, "name": name} for i, name in enumerate(voc.classes) if i > 0]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root


def test_the_commands_write_and_score_files_of_detections(trained, tmp_path, capsys):
    annotations = trained / "coco" / "annotations" / "instances_val.json"
    common = ["eval", "--data", str(trained / "coco"), "--output"]
    model = ["--checkpoint", str(trained / "run" / "last.pt"), "--max-detections", "100"]
    found, first, second = (str(tmp_path / name) for name in ("found.json", "1.json", "2.json"))
    main([*common, first, *model, "--save-detections", found, "--loss"])
    main([*common, second, "--detections", found])
    ours, again = (json.loads(open(path).read()) for path in (first, second))
    assert "loss_classifier" in capsys.readouterr().out and ours["loss"] > 0
    theirs = score_with_pycocotools(annotations, found)
    for numbers in (ours, again):
        expected = [-1.0 if numbers[name] is None else numbers[name] for name in NAMES]
        assert theirs[:6] == pytest.approx(expected, abs=1e-9)

    folder = trained / "coco" / "val"
    val = {entry["file_name"] for entry in json.loads(annotations.read_text())["images"]}
    files = [str(folder / name) for name in sorted(val)]
    detect = ["detect", *files, *model[:2], "--score-threshold", "0.05", "--formats", "json"]
    main([*detect, "--output", str(tmp_path / "d"), "--ids", str(annotations)])
    of_detect = score_with_pycocotools(annotations, tmp_path / "d" / "detections.json")
    assert of_detect[:6] == pytest.approx(theirs[:6], abs=1e-9)
    for wrong in (
        [*detect, str(trained / "voc" / "JPEGImages"), "--ids", str(annotations)],
        ["eval", "--data", str(trained / "coco")],
        [*common, first, *model, "--detections", found],
    ):
        with pytest.raises(SystemExit) as end:
            main([*wrong, "--output", str(tmp_path / "wrong")])
        assert end.value.code == 2


def test_the_loss_on_validation_images(trained):
    log = [json.loads(line) for line in (trained / "run" / "evaluations.jsonl").open()]
    assert log and all(entry["loss"] > 0 and entry["loss_objectness"] > 0 for entry in log)
    model = faster_rcnn("tiny", 7, min_size=64, max_size=64, box_batch_size=16).eval()
    model.rpn.eval()
    data = open_dataset(trained / "voc", "val")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = validation_losses(model, data, batch_size=2)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert first == validation_losses(model, data, batch_size=2, workers=1)
    parts = sum(value for name, value in first.items() if name != "loss")
    assert first["loss"] == pytest.approx(parts) and len(first) == 5
    target = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1])}
    odd = FromTorchvision([(torch.rand(3, 64, 64), target)] * 3, ["a", "b", "c", "d", "e", "f"])
    assert validation_losses(model, odd, batch_size=2)["loss"] > 0
