"""Data sets by name: VOC 07, 12 and 07+12, COCO's layout, a JSON file, mixtures of them."""

import json

import numpy as np
import pytest
import torch

from fastrpn.data import (
    BadDataError,
    COCODataset,
    ProposalSet,
    VOCDataset,
    WithProposals,
    concatenate,
    open_dataset,
)
from fastrpn.images import write_image


def make_voc(root, names, objects, image_set="trainval"):
    """A VOC folder of 40x30 images; `objects` are the class names, an object each image."""
    for name, label in zip(names, objects, strict=True):
        write_image(root / "JPEGImages" / f"{name}.jpg", np.full((30, 40, 3), 99, np.uint8))
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><object><name>{label}</name><bndbox><xmin>3</xmin><ymin>5</ymin>"
            "<xmax>20</xmax><ymax>25</ymax></bndbox></object></annotation>"
        )
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{image_set}.txt").write_text("\n".join(names) + "\n")
    return root


def make_coco(root, folder, annotations):
    """Two images in root/folder; categories 0 cat and 5 dog, both used."""
    for name in ("a.jpg", "b.jpg"):
        write_image(root / folder / name, np.full((30, 40, 3), 99, np.uint8))
    (root / annotations).parent.mkdir(exist_ok=True)
    (root / annotations).write_text(
        json.dumps(
            {
                "images": [{"id": 70, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
                "categories": [{"id": 0, "name": "cat"}, {"id": 5, "name": "dog"}],
                "annotations": [
                    {"image_id": 70, "category_id": 0, "bbox": [2, 3, 10, 10], "iscrowd": 0},
                    {"image_id": 9, "category_id": 5, "bbox": [1, 1, 5, 5], "iscrowd": 1},
                ],
            }
        )
    )
    return root


@pytest.fixture
def voc07(tmp_path):
    return make_voc(tmp_path / "VOC2007", ["000005", "000007"], ["dog", "cat"])


@pytest.fixture
def voc12(tmp_path):
    return make_voc(tmp_path / "VOC2012", ["2008_1", "2008_2", "2008_3"], ["cow", "dog", "cat"])


def names_of(dataset):
    return [dataset.classes[int(dataset[i][1]["labels"][0])] for i in range(len(dataset))]


def test_one_voc_set_is_the_reader_itself(voc07):
    dataset = open_dataset(voc07, "trainval")
    assert isinstance(dataset, VOCDataset) and len(dataset) == 2


def test_voc_07_and_12_together(voc07, voc12):
    dataset = open_dataset(voc07, ["trainval", f"{voc12}:trainval"])
    assert dataset.classes == ["__background__", "cat", "cow", "dog"]
    assert names_of(dataset) == ["dog", "cat", "cow", "dog", "cat"]
    assert [dataset.target(i)["image_id"] for i in range(5)] == [0, 1, 2, 3, 4]
    assert [s.image_path.parent.parent.name for s in dataset.samples] == ["VOC2007"] * 2 + [
        "VOC2012"
    ] * 3


def test_classes_that_are_given_stay_in_their_order(voc07, voc12):
    sets = ["trainval", f"{voc12}:trainval"]
    dataset = open_dataset(voc07, sets, ["dog", "cow", "cat"])
    assert dataset.classes == ["__background__", "dog", "cow", "cat"]
    assert names_of(dataset) == ["dog", "cat", "cow", "dog", "cat"]
    with pytest.raises(BadDataError, match="none of the classes sheep occurs; there are: cat, dog"):
        open_dataset(voc07, sets, ["sheep"])


def test_some_classes_alone(voc07, voc12):
    dataset = open_dataset(voc07, ["trainval", f"{voc12}:trainval"], ["dog"])
    assert dataset.classes == ["__background__", "dog"] and len(dataset) == 5
    assert [len(dataset.target(i)["boxes"]) for i in range(5)] == [1, 0, 0, 1, 0]
    assert not dataset.skipped


def test_coco_layout_and_a_json_file(tmp_path):
    coco = make_coco(tmp_path / "coco", "val2017", "annotations/instances_val2017.json")
    dataset = open_dataset(coco, "val2017")
    assert isinstance(dataset, COCODataset) and dataset.category_ids == [0, 0, 5]
    assert names_of(dataset) == ["cat", "dog"]
    assert dataset[1][1]["ignore"].tolist() == [True]
    same = open_dataset(coco / "val2017", "../annotations/instances_val2017.json")
    assert [s.image_id for s in same.samples] == [70, 9]
    absolute = f"{coco / 'val2017'}:{coco / 'annotations' / 'instances_val2017.json'}"
    assert names_of(open_dataset("elsewhere", absolute)) == ["cat", "dog"]


def test_coco_takes_its_labels_from_the_classes(tmp_path):
    coco = make_coco(tmp_path, "images", "a.json")
    dataset = COCODataset(coco / "images", coco / "a.json", classes=["bird", "dog", "cat"])
    assert names_of(dataset) == ["cat", "dog"] and dataset.category_ids == [0, None, 5, 0]
    some = COCODataset(coco / "images", coco / "a.json", classes=["dog"])
    assert some.category_ids == [0, 5]
    assert [len(some.target(i)["boxes"]) for i in range(2)] == [0, 1]


def test_a_mixture_keeps_ids_apart(tmp_path, voc12):
    coco = make_coco(tmp_path / "coco", "val2017", "annotations/instances_val2017.json")
    dataset = concatenate([open_dataset(coco, "val2017"), open_dataset(voc12, "trainval")])
    assert [s.image_id for s in dataset.samples] == [70, 9, 71, 72, 73]
    assert names_of(dataset) == ["cat", "dog", "cow", "dog", "cat"]


def test_what_was_skipped_is_told_for_all(tmp_path):
    names = [f"{number:03}" for number in range(12)]
    one, two = (make_voc(tmp_path / name, names, ["dog"] * 12) for name in ("one", "two"))
    (one / "JPEGImages" / "007.jpg").write_bytes(b"")
    (two / "JPEGImages" / "003.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out 1 of 12 files"):
        both = open_dataset(one, ["trainval", f"{two}:trainval"], on_bad_data="skip")
    assert len(both) == 22 and len(both.skipped) == 2 and len(both.bad.files) == 2
    with pytest.raises(BadDataError, match=r"007\.jpg"):
        open_dataset(one, ["trainval", f"{two}:trainval"])


def test_a_set_that_is_not_there(tmp_path, voc07):
    with pytest.raises(BadDataError, match=r"no such image set \(there are: trainval\)"):
        open_dataset(voc07, "test")
    with pytest.raises(BadDataError, match="no image set 'val2017'.*instances_val2017.json"):
        open_dataset(tmp_path, "val2017")
    with pytest.raises(ValueError, match="at least one image set"):
        open_dataset(voc07, [])


def test_ignored_objects_stay_ignored_in_a_mixture(tmp_path, voc12):
    coco = make_coco(tmp_path / "coco", "val2017", "annotations/instances_val2017.json")
    dataset = concatenate([open_dataset(voc12, "trainval"), open_dataset(coco, "val2017")])
    ignore = torch.cat([dataset.target(i)["ignore"] for i in range(len(dataset))])
    assert ignore.tolist() == [False, False, False, False, True]


def test_sets_with_ids_that_are_texts_join_and_have_proposals(tmp_path):
    for folder, of_folder in (("one", ["b", "a"]), ("two", ["a", "c", "7"])):
        images = []
        for number, key in enumerate(of_folder):
            name = f"{folder}-{number}.png"
            write_image(tmp_path / folder / name, np.full((30, 40, 3), 9 * number, np.uint8))
            images.append({"id": key, "file_name": name, "height": 30, "width": 40})
        content = {
            "images": images,
            "categories": [{"id": "x", "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {"id": i, "image_id": key, "category_id": ["x", 2][i % 2], "bbox": [i, 2, 9, 9]}
                for i, key in enumerate(of_folder)
            ],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{folder}.json").write_text(json.dumps(content))
    joined = open_dataset(tmp_path, ["one", "two"])
    targets = [joined.target(i) for i in range(5)]
    assert [target["image_id"] for target in targets] == [0, 1, 2, 3, 4]
    assert [target["boxes"][0, 0].item() for target in targets] == [0, 1, 0, 1, 2]
    assert [joined.classes[target["labels"][0]] for target in targets] == [
        *("cat", "dog"),
        *("cat", "dog", "cat"),
    ]
    found = {t["image_id"]: (t["boxes"] + 1, torch.ones(len(t["boxes"]))) for t in targets}
    ProposalSet.collect("rpn", found).save(tmp_path / "proposals.npz")
    given = WithProposals(joined, ProposalSet.load(tmp_path / "proposals.npz"))
    for i, target in enumerate(targets):
        assert torch.equal(given[i][1]["proposals"], target["boxes"] + 1)
