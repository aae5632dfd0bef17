"""YOLO, labelme, CVAT, Roboflow's COCO and plain folders: recognised by what is there."""

import json

import numpy as np
import pytest

from fastrpn.data import (
    BadDataError,
    COCODataset,
    CVATDataset,
    ImageFolderDataset,
    LabelmeDataset,
    VOCDataset,
    YOLODataset,
    open_dataset,
    split_dataset,
)
from fastrpn.images import write_image


def picture(path, height=40, width=80):
    return write_image(path, np.full((height, width, 3), 99, np.uint8))


def boxes(dataset, index=0):
    return dataset[index][1]["boxes"].tolist()


YAML = "path: {path}\ntrain: {train}\nval: {val}\nnc: 2\nnames: [cat, dog]\n"


def make_yolo(root, lines, yaml=None, folder="images/train"):
    image = picture(root / folder / "a.jpg")
    label = root / folder.replace("images", "labels") / "a.txt"
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text(lines)
    yaml = yaml or YAML.format(path=".", train="images/train", val="images/train")
    (root / "data.yaml").write_text(yaml)
    return image


@pytest.mark.parametrize(
    ("yaml", "folder"),
    [
        (YAML.format(path=".", train="images/train", val=""), "images/train"),
        (YAML.format(path="", train="../train/images", val="../valid/images"), "train/images"),
        ("train: [images/train]\nnames: {0: cat, 1: dog}\n", "images/train"),
        ("train: images/train/list.txt\nnames: {0: cat, 1: dog}\n", "images/train"),
    ],
)
def test_yolo_and_its_ways_to_say_where_images_are(tmp_path, yaml, folder):
    root = tmp_path / "set"
    make_yolo(root, "1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.3 0.1 0.3 0.6\n", yaml, folder)
    if "list.txt" in yaml:
        (root / folder / "list.txt").write_text("./a.jpg\n")
    else:
        picture(root / folder / "b.jpg")  # without a file of labels
    for data in (root, root / "data.yaml"):
        dataset = open_dataset(data, "train")
        assert isinstance(dataset, YOLODataset) and dataset.classes[1:] == ["cat", "dog"]
        assert boxes(dataset) == [[30, 10, 50, 30], pytest.approx([8, 4, 24, 24])]
        assert dataset[0][1]["labels"].tolist() == [2, 1]
    assert len(dataset) == 1 if "list.txt" in yaml else boxes(dataset, 1) == []


BAD_LINES = {
    "line 2: 'x 0.5 0.5 0.2 0.2' are no numbers": "x 0.5 0.5 0.2 0.2",
    "line 2: unknown class 7": "7 0.5 0.5 0.2 0.2",
    "line 2: unknown class 0.5": "0.5 0.5 0.5 0.2 0.2",
    "line 2: 2 numbers behind the class": "0 0.5 0.5",
    "line 2: .*shares of the image": "0 40 20 10 10",
    "line 2, .* no positive width": "0 0.5 0.5 0 0.2",
    "line 2, .* not finite": "0 nan 0.5 0.1 0.2",
    "line 2, .* is outside the 80x40 image": "0 1.5 0.5 0.1 0.2",
}


@pytest.mark.parametrize("message", BAD_LINES)
def test_bad_lines_of_yolo(tmp_path, message):
    good = "1 0.5 0.5 0.25 0.5\n"
    make_yolo(tmp_path, good + BAD_LINES[message] + "\n" + good * 9)
    with pytest.raises(BadDataError, match=f"a.txt: {message}"):
        open_dataset(tmp_path, "train", on_bad_data="stop")
    with pytest.warns(UserWarning, match="left out 1 of 11 objects"):
        assert len(boxes(open_dataset(tmp_path, "train"))) == 10


BAD_YAML = {
    "broken YAML": "names: [a",
    "no description": "- 1",
    "names must list": "train: images/train",
    "numbered from 0": "train: images/train\nnames: {1: a, 2: b}",
    "holds a class twice": "train: images/train\nnames: [a, a]",
    "no image set 'train'": "names: [a, b]",
    "no such folder": "train: nowhere\nnames: [a, b]",
}


@pytest.mark.parametrize("message", BAD_YAML)
def test_bad_descriptions_of_yolo(tmp_path, message):
    make_yolo(tmp_path, "", BAD_YAML[message])
    with pytest.raises(BadDataError, match=f"data.yaml: .*{message}"):
        open_dataset(tmp_path, "train")


def labelme(**changes):
    shape = {"label": "cat", "points": [[30, 20], [10, 5]], "shape_type": "rectangle"}
    content = {"version": "5.0", "flags": {}, "shapes": [shape], "imagePath": "..\\in\\a.jpg"}
    return {**content, "imageData": "A" * 5000, "imageHeight": 40, "imageWidth": 80, **changes}


def test_labelme(tmp_path):
    picture(tmp_path / "a.jpg")
    circle = {"label": "dog", "points": [[40, 20], [40, 30]], "shape_type": "circle"}
    polygon = {"label": "cat", "points": [[1, 2], [9, 3], [4, 12]], "shape_type": "polygon"}
    point = {"label": "cat", "points": [[1, 2]], "shape_type": "point"}
    shapes = labelme()["shapes"] * 8 + [circle, polygon]
    (tmp_path / "a.json").write_text(json.dumps(labelme(shapes=[*shapes, point])))
    with pytest.warns(UserWarning, match="a.json: shape 11: 1 points have no box"):
        dataset = open_dataset(tmp_path, "all")
    assert isinstance(dataset, LabelmeDataset) and dataset.classes[1:] == ["cat", "dog"]
    assert boxes(dataset)[7:] == [[10, 5, 30, 20], [30, 10, 50, 30], [1, 2, 9, 12]]
    with pytest.raises(BadDataError, match=r"a\.json: shape 11"):
        open_dataset(tmp_path, "", on_bad_data="stop")


def test_a_labelme_file_without_its_image(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(labelme()))
    with pytest.raises(BadDataError, match=r"a\.json: .*a\.jpg: cannot read"):
        open_dataset(tmp_path, "all")


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>cat</name></label><label><name>dog</name></label></labels></task></meta>
<image id="0" name="in/a.jpg" subset="Train" width="80" height="40">
 <box label="cat" source="manual" occluded="0" xtl="10" ytl="5" xbr="30" ybr="20" z_order="0"/>
 <box label="dog" xtl="30" ytl="10" xbr="50" ybr="20" rotation="90"/>
 <polygon label="cat" points="1,2;9,3;4,12"/><ellipse label="cat" cx="40" cy="20" rx="5" ry="7"/>
 <mask label="dog" rle="1" left="3" top="4" width="5" height="6"/><points label="cat" points="1,2"/>
{more}</image>
<image id="1" name="b.jpg" subset="Test" width="80" height="40"></image></annotations>"""


def test_cvat(tmp_path):
    picture(tmp_path / "images" / "in" / "a.jpg")
    picture(tmp_path / "b.jpg")
    (tmp_path / "annotations.xml").write_text(CVAT.replace("{more}", ""))
    dataset = open_dataset(tmp_path, "all")
    assert isinstance(dataset, CVATDataset) and len(dataset) == 2
    assert dataset[0][1]["labels"].tolist() == [1, 2, 1, 1, 2]
    assert boxes(dataset) == [
        [10, 5, 30, 20],
        pytest.approx([35, 5, 45, 25]),
        [1, 2, 9, 12],
        [35, 13, 45, 27],
        [3, 4, 8, 10],
    ]
    assert len(open_dataset(tmp_path / "annotations.xml", "Test")) == 1


def test_bad_shapes_of_cvat(tmp_path):
    picture(tmp_path / "images" / "in" / "a.jpg")
    picture(tmp_path / "b.jpg")
    good = '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>' * 40
    for bad, message in (
        ('<box label="cat" xtl="x" ytl="1" xbr="9" ybr="9"/>', "could not convert"),
        ('<box xtl="1" ytl="1" xbr="9" ybr="9"/>', "has no label"),
        ('<box label="cow" xtl="1" ytl="1" xbr="9" ybr="9"/>', "unknown class 'cow'"),
        ('<polygon label="cat" points=""/>', "could not convert"),
    ):
        (tmp_path / "annotations.xml").write_text(CVAT.replace("{more}", bad + good))
        with pytest.raises(BadDataError, match=f"image in/a.jpg: .*6.*{message}"):
            open_dataset(tmp_path, "all", on_bad_data="stop")
        with pytest.warns(UserWarning, match="left out 1 of 46 objects"):
            open_dataset(tmp_path, "all")
    (tmp_path / "annotations.xml").write_text("<annotations><track id='0'/></annotations>")
    with pytest.raises(BadDataError, match="annotations.xml: tracks of a video"):
        open_dataset(tmp_path, "all")


def test_roboflow_and_a_single_coco_file(tmp_path):
    picture(tmp_path / "valid" / "a.jpg")
    content = {
        "images": [{"id": 0, "file_name": "a.jpg"}],
        "categories": [
            {"id": 0, "name": "cats", "supercategory": "none"},
            {"id": 1, "name": "cat"},
        ],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    }
    (tmp_path / "valid" / "_annotations.coco.json").write_text(json.dumps(content))
    for name in ("val", "valid"):
        dataset = open_dataset(tmp_path, name)
        assert isinstance(dataset, COCODataset) and boxes(dataset) == [[1, 2, 4, 6]]
    picture(tmp_path / "one" / "images" / "a.jpg")
    (tmp_path / "one" / "result.json").write_text(json.dumps(content))
    assert boxes(open_dataset(tmp_path / "one", "all")) == [[1, 2, 4, 6]]


def test_rectlabel_and_plain_images(tmp_path):
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "train" / "deep" / "b.png")
    dataset = open_dataset(tmp_path, "train", ["thing"])
    assert isinstance(dataset, ImageFolderDataset) and len(dataset) == 2 and boxes(dataset, 1) == []
    with pytest.raises(BadDataError, match="images without annotations"):
        open_dataset(tmp_path, "train")
    (tmp_path / "train" / "a.xml").write_text(
        "<annotation><object><name>tree</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )
    dataset = open_dataset(tmp_path, "train")
    assert isinstance(dataset, VOCDataset) and boxes(dataset) == [[0, 0, 9, 9]]


def test_a_split_is_repeatable_and_complete(tmp_path):
    for number in range(10):
        picture(tmp_path / f"{number}.png")
    dataset = open_dataset(tmp_path, "all", ["thing"])
    train, val = split_dataset(dataset, 0.3, seed=1)
    again = split_dataset(dataset, 0.3, seed=1)[1]
    ids = [[d.target(i)["image_id"] for i in range(len(d))] for d in (train, val, again)]
    assert sorted(ids[0] + ids[1]) == list(range(10)) and len(ids[1]) == 3 and ids[1] == ids[2]
    assert ids[1] != [
        d.target(i)["image_id"] for d in [split_dataset(dataset, 0.3, seed=2)[1]] for i in range(3)
    ]
    for fraction in (0, 1, -1, float("nan")):
        with pytest.raises(ValueError, match="val_fraction"):
            split_dataset(dataset, fraction)
