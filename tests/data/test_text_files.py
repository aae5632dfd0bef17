"""Text files with byte order marks and other line ends read as without."""

import codecs

import numpy as np
import pytest

from fastrpn.data import generate_synthetic, open_dataset
from fastrpn.images import write_image
from fastrpn.training.config import read_config_file

MARKS = {
    "none": b"",
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}


def rewrite(path, name, ends):
    encoding = "utf-8" if name == "none" else name
    text = path.read_text().replace("\n", ends)
    path.write_bytes(MARKS[name] + text.encode(encoding))


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", MARKS)
def test_image_sets_and_classes_of_voc(tmp_path, mark, ends):
    generate_synthetic(tmp_path, 3, 1, seed=0, image_size=(64, 64), progress=False)
    (tmp_path / "classes.txt").write_text("\n".join(open_dataset(tmp_path, "train").classes[1:]))
    plain = open_dataset(tmp_path, "train")
    for file in (tmp_path / "classes.txt", tmp_path / "ImageSets" / "Main" / "train.txt"):
        rewrite(file, mark, ends)
    found = open_dataset(tmp_path, "train")
    assert found.classes == plain.classes and len(found) == len(plain) == 3
    assert list(found.samples.paths) == list(plain.samples.paths)
    assert found.samples.labels.tolist() == plain.samples.labels.tolist()


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["none", "utf-8", "utf-16-le", "utf-16-be"])
def test_all_files_of_yolo(tmp_path, mark, ends):
    for name in ("a", "b"):
        path = tmp_path / "images" / "train" / f"{name}.png"
        write_image(path, np.zeros((40, 50, 3), np.uint8))
        label = tmp_path / "labels" / "train" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.2 0.2\n1 0.25 0.25 0.1 0.1\n")
        rewrite(label, mark, ends)
    (tmp_path / "train.txt").write_text("images/train/a.png\nimages/train/b.png\n")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: train.txt\nnames: [cat, dog]\n")
    for name in ("train.txt", "data.yaml"):
        rewrite(tmp_path / name, mark, ends)
    found = open_dataset(tmp_path, "train")
    assert found.classes == ["__background__", "cat", "dog"] and len(found) == 2
    assert found.samples.labels.tolist() == [1, 2, 1, 2]


def test_a_config_file_with_a_mark(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(codecs.BOM_UTF8 + b"data: here\r\noutput: there\r\nlr: 1e-3\r\n")
    config = read_config_file(path)
    assert (config.data, config.output, config.lr) == ("here", "there", 1e-3)
