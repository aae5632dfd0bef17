"""The COCO reader and the results it writes; what it reads is checked with pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from fastrpn.data import BadDataError, COCODataset, detections_to_coco_results
from fastrpn.images import write_image


@pytest.fixture
def content(tmp_path):
    """Two images; the second one's annotations are what the tests break."""
    for name in ("a.jpg", "b.jpg"):
        pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
        write_image(tmp_path / "images" / name, pixels)
    return {
        "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}],
        "images": [
            {"id": 500, "file_name": "a.jpg", "height": 20, "width": 30},
            {"id": 3, "file_name": "b.jpg"},
        ],
        "annotations": [
            _annotation(500, 90, [2, 4, 10, 5.5]),
            _annotation(500, 7, [0, 0, 30, 20], crowd=1),
            _annotation(3, 7, [1, 1, 2, 2]),
        ],
    }


def _annotation(image_id, category_id, bbox, crowd=0):
    entry = {"image_id": image_id, "category_id": category_id, "bbox": bbox, "iscrowd": crowd}
    return {**entry, "id": image_id * 100 + category_id, "area": 1}


def _open(tmp_path, content, **kwargs):
    path = tmp_path / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return COCODataset(tmp_path / "images", path, **kwargs)


def test_boxes_labels_crowds_and_ids(tmp_path, content):
    dataset = _open(tmp_path, content)
    assert dataset.classes == ["__background__", "cat", "dog"]  # in the order of their ids
    assert dataset.category_ids == [0, 7, 90]
    image, target = dataset[0]
    assert image.shape == (3, 20, 30)
    assert target["boxes"].tolist() == [[2, 4, 12, 9.5], [0, 0, 30, 20]]
    assert target["labels"].tolist() == [2, 1]
    assert target["ignore"].tolist() == [False, True]
    assert [dataset.target(i)["image_id"] for i in range(2)] == [500, 3]


def test_image_without_annotations(tmp_path, content):
    content["annotations"].pop()
    assert _open(tmp_path, content)[1][1]["boxes"].shape == (0, 4)


def _set(name, index, **changes):
    return lambda content: content[name][index].update(changes)


BAD = {
    "b.jpg: box 1, .* outside the 30x20 image": _set("annotations", 2, bbox=[25, 5, 10, 5]),
    "b.jpg: box 1, .* no positive width": _set("annotations", 2, bbox=[5, 5, -3, 5]),
    "b.jpg: bad annotation": _set("annotations", 2, bbox=[5, 5, 3]),
    "b.jpg: bad annotation or unknown category, KeyError.8": _set("annotations", 2, category_id=8),
    "b.jpg: says height and width are .99, 30.": _set("images", 1, height=99),
    "lost.jpg: cannot read": _set("images", 1, file_name="lost.jpg"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_image_stops_or_is_skipped(tmp_path, content, message):
    BAD[message](content)
    with pytest.raises(BadDataError, match=message):
        _open(tmp_path, content)
    with pytest.warns(UserWarning, match="skipped 1 of 2"):
        dataset = _open(tmp_path, content, on_bad_data="skip")
    assert len(dataset) == len(dataset.skipped) == 1 and dataset[0][1]["image_id"] == 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "instances.json: broken JSON"),
        ("[]", "instances.json: no COCO annotations"),
        ('{"images": [], "annotations": []}', "no COCO annotations, KeyError.'categories'"),
        (
            '{"images": [], "annotations": [], "categories": []}',
            "instances.json: empty data set",
        ),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(BadDataError, match=message):
        _open(tmp_path, text)


def test_missing_file(tmp_path):
    with pytest.raises(BadDataError, match="none.json: cannot read"):
        COCODataset(tmp_path, tmp_path / "none.json")


def test_results_are_what_pycocotools_loads(tmp_path, content):
    dataset = _open(tmp_path, content)
    found = {
        "boxes": torch.tensor([[2.0, 4, 12, 9.5]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([2]),
    }
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}
    results = detections_to_coco_results([found, nothing], [500, 3], dataset.category_ids)
    assert results == [{"image_id": 500, "category_id": 90, "bbox": [2, 4, 10, 5.5], "score": 0.5}]
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(tmp_path / "instances.json").loadRes(json.loads(json.dumps(results)))
    assert loaded.anns[1]["area"] == 55
    assert detections_to_coco_results([found], ["a"])[0]["category_id"] == 2


def test_results_need_an_id_for_each_image():
    with pytest.raises(ValueError, match="0 detections for 1 image_ids"):
        detections_to_coco_results([], [1])
