"""The synthetic data set: repeatable, readable, tight boxes."""

import cv2
import numpy as np
import pytest

from fastrpn.data import SYNTHETIC_CLASSES, VOCDataset, generate_synthetic
from fastrpn.data.synthetic.generate import draw_scene
from fastrpn.data.synthetic.shapes import SHAPES


def _files(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate_synthetic(tmp_path / name, 6, 3, seed=seed, image_size=(96, 128), progress=False)
    a, b, c = (_files(tmp_path / name) for name in "abc")
    assert a == b
    images = [path for path in a if path.suffix == ".jpg"]
    assert len(images) == 9
    assert all(a[path] != c[path] for path in images)


def test_larger_set_begins_with_the_smaller(tmp_path):
    small = generate_synthetic(tmp_path / "s", 2, 1, image_size=(96, 96), progress=False)
    large = generate_synthetic(tmp_path / "l", 4, 2, image_size=(96, 96), progress=False)
    images = {p: c for p, c in _files(small).items() if p.suffix == ".jpg"}
    assert len(images) == 3 and images.items() <= _files(large).items()


def test_train_and_val_differ(tmp_path):
    files = _files(generate_synthetic(tmp_path, 3, 3, image_size=(96, 96), progress=False))
    images = [content for path, content in files.items() if path.suffix == ".jpg"]
    assert len(set(images)) == 6


def test_is_read_back_through_the_voc_reader(tmp_path):
    generate_synthetic(tmp_path, 20, 5, image_size=(128, 160), progress=False)
    train, val = VOCDataset(tmp_path, "train"), VOCDataset(tmp_path, "val")
    assert train.classes == val.classes == ["__background__", *SYNTHETIC_CLASSES]
    assert (len(train), len(val)) == (20, 5)
    image, target = train[0]
    assert image.shape == (3, 128, 160)
    assert 1 <= len(target["boxes"]) <= 6


def test_rewriting_leaves_nothing_of_the_old_set(tmp_path):
    generate_synthetic(tmp_path, 5, 5, image_size=(64, 64), progress=False)
    generate_synthetic(tmp_path, 2, 1, image_size=(64, 64), progress=False)
    assert len(list((tmp_path / "JPEGImages").iterdir())) == 3


def test_every_class_occurs_and_some_objects_are_difficult():
    annotations = [draw_scene(np.random.default_rng(i), (128, 128))[1] for i in range(120)]
    names = [name for a in annotations for name in a.names]
    assert set(names) == set(SYNTHETIC_CLASSES) and len(SYNTHETIC_CLASSES) >= 6
    difficult = np.concatenate([a.difficult for a in annotations])
    assert 0.01 < difficult.mean() < 0.25


def test_boxes_are_tight_around_the_drawn_shape(monkeypatch):
    """Without clutter and with one object, the box is where the picture differs from its ground."""
    import fastrpn.data.synthetic.generate as synthetic

    grey = np.full((128, 128, 3), 128, np.uint8)
    monkeypatch.setattr(synthetic, "_background", lambda rng, size: grey.copy())
    monkeypatch.setattr(synthetic, "_draw_line", lambda rng, image: None)
    monkeypatch.setattr(synthetic, "_photograph", lambda rng, image: image)
    monkeypatch.setattr(synthetic, "MAX_OBJECTS", 1)
    for seed in range(40):
        image, annotation = draw_scene(np.random.default_rng(seed), (128, 128))
        changed = (np.abs(image.astype(int) - 128).max(axis=2) > 8).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(changed)
        assert np.abs(annotation.boxes[0] - (x, y, x + w, y + h)).max() <= 2


@pytest.mark.parametrize("name", SYNTHETIC_CLASSES)
def test_shapes_fill_their_square(name):
    points = np.concatenate(SHAPES[name]())
    assert np.abs(points).max() <= 1 + 1e-9
    assert np.ptp(points, axis=0).min() > 1.4


@pytest.mark.parametrize("kwargs", [{"num_train": 0}, {"num_val": -1}, {"image_size": (32, 256)}])
def test_bad_arguments(tmp_path, kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        generate_synthetic(tmp_path, **{"num_train": 1, "num_val": 1, **kwargs})
