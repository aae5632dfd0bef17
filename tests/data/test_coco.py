"""The COCO reader and the results it writes; what it reads is checked with pycocotools."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
import torch
from pycocotools import mask as masks
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


BAD_OBJECTS = {
    "b.jpg: annotations.2., x 31 to 41, .* outside the 30x20 image": dict(bbox=[31, 5, 10, 5]),
    "b.jpg: annotations.2., .* no positive width": dict(bbox=[5, 5, -3, 5]),
    "b.jpg: annotations.2., x 30 to 50, y 30 to 30, has no pos": dict(bbox=[30, 30, 20, 0]),
    "annotations.2.: bad annotation, its bbox is .5, 5, 3.": dict(bbox=[5, 5, 3]),
    "annotations.2.: bad annotation, neither bbox nor polygon": dict(bbox=[]),
    "annotations.2.: bad annotation, its bbox is .None": dict(bbox=[None, 1, 2, 3]),
    "annotations.2.: bad annotation, its bbox is .'1'": dict(bbox=["1", "1", "5", "5"]),
    "annotations.2., .* not finite": dict(bbox=[1, 1, 10**400, 5]),
    "annotations.2., x nan .* not finite": dict(bbox=[float("nan"), 1, 10, 5]),
    "annotations.2.: category_id is 8, an unknown category": dict(category_id=8),
    "annotations.2.: category_id is '7', an unknown": dict(category_id="7"),
    "annotations.2.: category_id is .7., an unknown": dict(category_id=[7]),
    "annotations.2.: image_id is '3', which no image has": dict(image_id="3"),
    "annotations.2.: image_id is None, which no image has": dict(image_id=None),
}


def _add_good(content, count):
    """Objects beside which one bad one is less than a tenth."""
    content["annotations"] += [_annotation(500, 7, [1, 1, 5, 5]) for _ in range(count)]
    return content


@pytest.mark.parametrize("message", BAD_OBJECTS)
@pytest.mark.parametrize("policy", ["drop", "skip"])
def test_a_bad_object_stops_or_is_left_out(tmp_path, content, message, policy):
    content["annotations"][2].update(BAD_OBJECTS[message])
    with pytest.raises(BadDataError, match=message):
        _open(tmp_path, content, on_bad_data="stop")
    _add_good(content, 10)
    with pytest.warns(UserWarning, match=f"left out 1 of 13 objects .*; the first: .*{message}"):
        dataset = _open(tmp_path, content, on_bad_data=policy)
    assert len(dataset.bad.objects) == 1 and not dataset.bad.files
    assert [len(dataset[i][1]["boxes"]) for i in range(2)] == [12, 0]


def test_an_entry_that_is_no_object_is_left_out(tmp_path, content):
    content["annotations"] = [None, *_add_good(content, 10)["annotations"]]
    with pytest.warns(UserWarning, match="annotations.0.: bad annotation None"):
        assert len(_open(tmp_path, content)[1][1]["boxes"]) == 1


BAD_FILES = {
    "b.jpg: height and width are .20, 30., .*says height and width are .99, 30.": dict(
        height=99, width=30
    ),
    "lost.jpg: cannot read": dict(file_name="lost.jpg"),
    "image with id 3: .*file name is None": dict(file_name=None),
    "image with id 3: .*file name is 7": dict(file_name=7),
    "is outside of": dict(file_name="../b.jpg"),
    "images.1.* has no id": dict(id=None),
    "2 images have the id 500": dict(id=500),
}


def _more_images(tmp_path, content, count):
    for number in range(count):
        name = f"more{number}.jpg"
        write_image(tmp_path / "images" / name, np.zeros((20, 30, 3), np.uint8))
        content["images"].append({"id": 1000 + number, "file_name": name})
        content["annotations"].append(_annotation(1000 + number, 7, [1, 1, 5, 5]))


@pytest.mark.parametrize("message", BAD_FILES)
def test_a_bad_file_stops_or_is_left_out(tmp_path, content, message):
    content["images"][1].update(BAD_FILES[message])
    content["annotations"] = []
    _more_images(tmp_path, content, 30)
    for policy in ("stop", "drop"):
        with pytest.raises(BadDataError, match=message):
            _open(tmp_path, content, on_bad_data=policy).checked(progress=False)
    with pytest.warns(UserWarning, match="left out [12] of 32 files .*; the first: "):
        dataset = _open(tmp_path, content, on_bad_data="skip").checked(progress=False)
    left_out = 2 if message.startswith("2") else 1  # nobody knows which of two is meant
    assert len(dataset.bad.files) == left_out and len(dataset) == 32 - left_out
    assert any(re.search(message, text) for text in dataset.skipped)


def test_more_than_a_tenth_is_an_error(tmp_path, content):
    content["annotations"][2].update(image_id="3")
    with pytest.raises(BadDataError, match="left out 1 of 3 objects .* More than a tenth"):
        _open(tmp_path, content)
    _add_good(content, 7)
    with pytest.warns(UserWarning, match="left out 1 of 10 objects"):
        _open(tmp_path, content)


def test_sizes_that_say_nothing_come_from_the_image(tmp_path, content):
    for side in (0, -1, None, "20", 10**12):
        content["images"][1].update(height=side, width=30)
        assert _open(tmp_path, content).sizes == [(20, 30), (20, 30)]


def test_categories_of_one_name_and_names_that_are_numbers(tmp_path, content):
    content["categories"] = [{"id": 7, "name": 7}, {"id": 90, "name": "dog"}]
    content["categories"].append({"id": 0, "name": "dog", "supercategory": "none"})
    dataset = _open(tmp_path, content)
    assert dataset.classes == ["__background__", "dog", "7"]
    assert dataset.category_ids == [0, 0, 7]
    assert dataset[0][1]["labels"].tolist() == [1, 2]


def test_ids_that_are_text_are_numbered(tmp_path, content):
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
    dataset = _open(tmp_path, content)
    assert [dataset.target(i)["image_id"] for i in range(2)] == [0, 1]
    assert dataset.file_ids == {0: "image 500", 1: "image 3"}
    assert [len(dataset.target(i)["boxes"]) for i in range(2)] == [2, 1]


def test_boxes_come_from_polygons_and_masks_where_there_is_no_bbox(tmp_path, content):
    polygon = [[3, 2, 12, 2, 12, 9], [20, 5, 22, 5, 22, 15]]
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[4:9, 6:16] = 1
    encoded = masks.encode(mask)
    crowd = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    content["annotations"][0].update(bbox=None, segmentation=polygon)
    content["annotations"][1].update(bbox=[], segmentation=crowd)
    boxes = _open(tmp_path, content)[0][1]["boxes"].tolist()
    assert boxes == [[3, 2, 22, 15], [6, 4, 16, 9]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_byte_order_marks_and_nan(tmp_path, content, encoding):
    content["extra"] = float("nan")  # Python writes NaN, which is no JSON
    path = tmp_path / "instances.json"
    path.write_bytes(json.dumps(content).encode(encoding))
    assert len(COCODataset(tmp_path / "images", path)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "instances.json: broken JSON"),
        ("[]", "instances.json: no COCO annotations"),
        ("", "instances.json: broken JSON"),
        ("[" * 100_000, "instances.json: no COCO annotations"),
        ('{"images": ' + "[" * 100_000, "instances.json: broken JSON"),
        ('{"images": [], "annotations": []}', "no COCO annotations, .*`categories`"),
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
