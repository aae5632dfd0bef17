"""The VOC reader: coordinates, difficult objects, and a clear error for every kind of bad file."""

import cv2
import numpy as np
import pytest
import torch

from fastrpn.data import BadDataError, VOCDataset
from fastrpn.data.voc_xml import Annotation, format_annotation, read_annotation
from fastrpn.images import image_to_array, image_to_tensor, read_image, write_image


def _object(name="cat", box=(1, 1, 10, 10), difficult=0):
    corners = "".join(
        f"<{tag}>{value}</{tag}>"
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox></object>"
    )


def _write_sample(root, name, *objects, size=(20, 30)):
    image = np.random.default_rng(len(name)).integers(0, 256, (*size, 3), np.uint8)
    write_image(root / "JPEGImages" / f"{name}.jpg", image)
    folder = root / "Annotations"
    folder.mkdir(exist_ok=True)
    text = f"<annotation>{''.join(objects)}</annotation>"
    (folder / f"{name}.xml").write_text(text)


def _write_set(root, names, image_set="train"):
    path = root / "ImageSets" / "Main" / f"{image_set}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


@pytest.fixture
def root(tmp_path):
    """Three good images; the tests break the one called "b"."""
    _write_sample(tmp_path, "a", _object("dog", (1, 1, 30, 20)))
    _write_sample(tmp_path, "b", _object("cat", (3, 5, 10, 9), difficult=1), _object("dog"))
    _write_sample(tmp_path, "c")
    _write_set(tmp_path, "abc")
    return tmp_path


def test_coordinates_labels_and_difficult(root):
    dataset = VOCDataset(root, "train")
    assert dataset.classes == ["__background__", "cat", "dog"]  # sorted
    image, target = dataset[1]
    assert image.shape == (3, 20, 30) and image.dtype == torch.float32
    assert 0 <= image.min() and image.max() <= 1
    # 1-based with the last pixel included: columns 3..10 are the span [2, 10].
    assert target["boxes"].tolist() == [[2, 4, 10, 9], [0, 0, 10, 10]]
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1, 2] and target["labels"].dtype == torch.int64
    assert target["ignore"].tolist() == [True, False]
    assert target["image_id"] == 1
    assert dataset[0][1]["boxes"].tolist() == [[0, 0, 30, 20]]  # the whole image


def test_what_is_written_is_read_back(tmp_path):
    boxes = np.array([[0, 0, 30, 20], [2, 4, 10, 9]], np.float32)
    written = Annotation(boxes, ["cat & <dog>", "b"], np.array([False, True]), (20, 30))
    path = tmp_path / "a.xml"
    path.write_text(format_annotation("a.jpg", written))
    assert "<xmin>3</xmin><ymin>5</ymin><xmax>10</xmax><ymax>9</ymax>" in path.read_text()
    again = read_annotation(path)
    assert (again.boxes == boxes).all() and again.names == written.names
    assert again.difficult.tolist() == [False, True] and again.size == (20, 30)


def test_images_are_rgb(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    write_image(tmp_path / "red.png", red)
    assert (read_image(tmp_path / "red.png") == red).all()


def test_arrays_and_tensors_convert_without_loss():
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    tensor = image_to_tensor(image)
    assert tensor.shape == (3, 7, 9) and tensor.is_contiguous()
    assert (image_to_array(tensor) == image).all() and image_to_array(image) is image
    assert image_to_array(torch.full((3, 2, 2), 1.7)).max() == 255
    for wrong in (image[0], image.astype(np.float32), tensor[:1]):
        with pytest.raises(ValueError, match="image must be"):
            image_to_array(wrong)


def test_image_without_objects_has_empty_tensors(root):
    _, target = VOCDataset(root, "train")[2]
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)


def test_targets_are_copies(root):
    dataset = VOCDataset(root, "train")
    dataset[0][1]["boxes"].zero_()
    assert dataset[0][1]["boxes"].tolist() == [[0, 0, 30, 20]]


def test_classes_given_from_file_or_found(root):
    given = VOCDataset(root, "train", classes=["__background__", "dog", "cat"])
    assert given.classes == ["__background__", "dog", "cat"]
    assert given[0][1]["labels"].tolist() == [1]
    (root / "classes.txt").write_text("bird\ncat\ndog\n")
    assert VOCDataset(root, "train").classes == ["__background__", "bird", "cat", "dog"]


def test_object_of_a_zero_based_tool_is_clipped(root):
    _write_sample(root, "b", _object("cat", (0, 0, 30, 20)))
    assert VOCDataset(root, "train")[1][1]["boxes"].tolist() == [[0, 0, 30, 20]]


def _break_jpeg(root):
    (root / "JPEGImages" / "b.jpg").write_bytes(b"not a picture")


def _empty_jpeg(root):
    (root / "JPEGImages" / "b.jpg").write_bytes(b"")


def _truncate_jpeg(root):
    path = root / "JPEGImages" / "b.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def _remove_jpeg(root):
    (root / "JPEGImages" / "b.jpg").unlink()


def _remove_xml(root):
    (root / "Annotations" / "b.xml").unlink()


def _break_xml(root):
    (root / "Annotations" / "b.xml").write_text("<annotation><object>")


def _annotate(*objects, extra=""):
    def change(root):
        text = f"<annotation>{extra}{''.join(objects)}</annotation>"
        (root / "Annotations" / "b.xml").write_text(text)

    return change


BAD_FILES = {
    "b.jpg: cannot read": _remove_jpeg,
    "b.jpg: not an image": _break_jpeg,
    "b.jpg: not an image ": _empty_jpeg,
    "b.jpg: the JPEG file is truncated": _truncate_jpeg,
    "b.xml: cannot read": _remove_xml,
    "b.xml: broken XML": _break_xml,
    "b.jpg: .* annotation says height and width are .99, 30.": _annotate(
        _object(), extra="<size><width>30</width><height>99</height></size>"
    ),
}
BAD_OBJECTS = {
    "b.xml: box 2, .* outside the 30x20 image": _annotate(_object(), _object(box=(32, 5, 33, 10))),
    "b.xml: box 1, .* outside": _annotate(_object(box=(-9, 5, -2, 10))),
    "b.xml: box 1, .* no positive": _annotate(_object(box=(10, 5, 9, 10))),
    "b.xml: box 1, x 9 to 5, .* no positive": _annotate(_object(box=(10, 5, 5, 10))),
    "b.xml: box 1, .* not finite": _annotate(_object(box=("nan", 5, 5, 10))),
    "b.xml: object 1: <bndbox><xmax> is 'x'": _annotate(_object(box=(1, 1, "x", 10))),
    "b.xml: object 1 has no <name>": _annotate(_object(name="")),
    "b.xml: object 1 has no <bndbox><xmin>": _annotate("<object><name>cat</name></object>"),
    "b.xml: box 1: unknown class 'cow'": _annotate(_object(name="cow")),
}
OVER_THE_EDGE = {
    "b.xml: box 2, .* outside the 30x20 image": _annotate(_object(), _object(box=(5, 5, 32, 10))),
    "b.xml: box 1, .* outside": _annotate(_object(box=(-1, 5, 12, 10))),
}


@pytest.fixture
def many(root):
    """So many good samples beside the three that a bad one is less than a tenth."""
    names = [f"good{number:02}" for number in range(20)]
    for name in names:
        _write_sample(root, name, _object("cat"))
    _write_set(root, [*"abc", *names])
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


@pytest.mark.parametrize("message", BAD_FILES)
def test_bad_file_stops_with_its_name(many, message):
    BAD_FILES[message](many)
    for policy in ("stop", "drop"):
        with pytest.raises(BadDataError, match=message.strip()):
            VOCDataset(many, "train", on_bad_data=policy).checked(progress=False)


@pytest.mark.parametrize("message", BAD_FILES)
def test_bad_file_is_skipped_and_counted(many, message):
    BAD_FILES[message](many)
    with pytest.warns(UserWarning, match="left out 1 of 23 files .*; the first: .*b[.]"):
        dataset = VOCDataset(many, "train", on_bad_data="skip").checked(progress=False)
    assert len(dataset.skipped) == 1 and f"{many}" in dataset.skipped[0]
    assert [target["image_id"] for _, target in (dataset[0], dataset[1])] == [0, 2]


@pytest.mark.parametrize("message", BAD_OBJECTS)
def test_bad_object_stops_with_its_name(many, message):
    BAD_OBJECTS[message](many)
    with pytest.raises(BadDataError, match=message):
        VOCDataset(many, "train", on_bad_data="stop")


@pytest.mark.parametrize("message", BAD_OBJECTS)
@pytest.mark.parametrize("policy", ["drop", "skip"])
def test_bad_object_is_left_out_and_counted(many, message, policy):
    good = BAD_OBJECTS[message] is BAD_OBJECTS["b.xml: box 2, .* outside the 30x20 image"]
    BAD_OBJECTS[message](many)
    with pytest.warns(UserWarning, match=f"left out 1 of 2[23] objects .*; the first: .*{message}"):
        dataset = VOCDataset(many, "train", on_bad_data=policy)
    assert len(dataset) == 23 and len(dataset[1][1]["boxes"]) == int(good)
    assert [str(fault) for fault in dataset.bad.objects] == dataset.skipped


@pytest.mark.parametrize("message", OVER_THE_EDGE)
def test_boxes_over_the_edge_are_clipped_or_bad(many, message):
    OVER_THE_EDGE[message](many)
    with pytest.raises(BadDataError, match=message):
        VOCDataset(many, "train", on_bad_data="stop", over_edge="drop")
    dataset = VOCDataset(many, "train", on_bad_data="stop")
    x1, y1, x2, y2 = dataset[1][1]["boxes"][-1].tolist()
    assert (x1, x2) in ((4, 30), (0, 12)) and (y1, y2) == (4, 10)
    assert dataset.bad.num_clipped == 1 and not dataset.skipped


def test_the_report_file_lists_what_was_left_out(many, tmp_path):
    BAD_OBJECTS["b.xml: box 1: unknown class 'cow'"](many)
    with pytest.warns(UserWarning):
        dataset = VOCDataset(many, "train")
    lines = dataset.bad.write(tmp_path / "report.txt").read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith("unknown class\t") and "b.xml" in lines[0]


@pytest.mark.parametrize("suffix", [".JPG", ".bmp", ".webp", ".tif", ".Jpeg", ".PNG"])
def test_every_suffix_of_an_image_is_found(root, suffix):
    image = read_image(root / "JPEGImages" / "b.jpg")
    (root / "JPEGImages" / "b.jpg").unlink()
    content = cv2.imencode(suffix, image)[1].tobytes()
    (root / "JPEGImages" / f"b{suffix}").write_bytes(content)
    assert VOCDataset(root, "train")[1][0].shape == (3, 20, 30)


def test_the_annotation_says_which_of_two_images_is_meant(root):
    write_image(root / "JPEGImages" / "b.png", np.zeros((40, 50, 3), np.uint8))
    assert VOCDataset(root, "train").sizes[1] == (20, 30)
    _annotate(_object(), extra="<filename>b.png</filename>")(root)
    assert VOCDataset(root, "train").sizes[1] == (40, 50)


def test_lines_of_an_image_set(root):
    _write_sample(root, "my cat", _object())
    _write_sample(root, "night 1", _object())
    path = root / "ImageSets" / "Main" / "train.txt"
    path.write_bytes(b"\xef\xbb\xbfa  1\r\nb -1\r\n\r\nmy cat\r\nnight 1\r\nmy cat  0\n")
    assert VOCDataset(root, "train").ids == ["a", "b", "my cat", "night 1", "my cat"]


def test_encodings_that_xml_parsers_do_not_know(root):
    text = '<?xml version="1.0" encoding="gb2312"?><annotation>'
    text += _object("\u732b") + "</annotation>"
    (root / "Annotations" / "b.xml").write_bytes(text.encode("gb2312"))
    assert VOCDataset(root, "train").classes == ["__background__", "dog", "\u732b"]
    (root / "Annotations" / "b.xml").write_bytes(text.encode("gb2312").replace(b"gb2312", b"none"))
    with pytest.raises(BadDataError, match="b.xml: broken XML .*none"):
        VOCDataset(root, "train")


def test_entities_are_refused(root):
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>'
    (root / "Annotations" / "b.xml").write_text(bomb)
    with pytest.raises(BadDataError, match="b.xml: broken XML .*Entit"):
        VOCDataset(root, "train")


def test_xml_beside_images_as_rectlabel_saves_it(tmp_path):
    for name in ("one", "two"):
        write_image(tmp_path / f"{name}.png", np.zeros((20, 30, 3), np.uint8))
        text = f"<annotation><filename>{name}.png</filename>{_object('tree')}</annotation>"
        (tmp_path / f"{name}.xml").write_text(text)
    dataset = VOCDataset(tmp_path, "")
    assert dataset.ids == ["one", "two"] and dataset.classes == ["__background__", "tree"]
    assert dataset[1][1]["boxes"].tolist() == [[0, 0, 10, 10]]


def test_image_that_breaks_later_still_names_the_file(root):
    dataset = VOCDataset(root, "train")
    _break_jpeg(root)
    with pytest.raises(BadDataError, match="b.jpg"):
        dataset[1]


def test_missing_image_set_lists_the_others(root):
    with pytest.raises(BadDataError, match=r"test\.txt: no such image set \(there are: train\)"):
        VOCDataset(root, "test")


def test_empty_data_sets(root):
    _write_set(root, [], "none")
    with pytest.raises(BadDataError, match="none.txt: empty data set"):
        VOCDataset(root, "none")
    _write_set(root, ["lost"], "lost")
    with pytest.raises(BadDataError, match="left out 1 of 1 file .*lost.xml"):
        VOCDataset(root, "lost", classes=["cat"], on_bad_data="skip")


def test_classes_cannot_be_found_without_an_object(root):
    _write_set(root, ["c"], "empty")
    with pytest.raises(BadDataError, match="image set 'empty': empty data set, no object"):
        VOCDataset(root, "empty")
    assert len(VOCDataset(root, "empty", classes=["cat"])) == 1


def test_bad_arguments(root):
    with pytest.raises(ValueError, match="on_bad_data.*'ignore'"):
        VOCDataset(root, "train", on_bad_data="ignore")
    with pytest.raises(ValueError, match="classes"):
        VOCDataset(root, "train", classes=["cat", "cat"])
