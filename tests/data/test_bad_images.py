"""Images that only decoding finds to be bad, in a loader with and without workers."""

import pickle

import numpy as np
import pytest
import torch

from fastrpn.data import BadDataError, build_loader, open_dataset
from fastrpn.data.samples import SampleTable
from fastrpn.images import read_image, read_size, write_image


@pytest.fixture
def folder(tmp_path):
    """Twenty images, number 7 of which ends too early."""
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        write_image(tmp_path / f"{number:02}.jpg", pixels)
    bad = tmp_path / "07.jpg"
    bad.write_bytes(bad.read_bytes()[:-300])
    return tmp_path


def _load(folder, **options):
    dataset = open_dataset(folder, "all", ["thing"])
    return build_loader(dataset, 4, shuffle=True, seed=3, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_stops_with_the_name_of_the_file(folder, workers):
    with pytest.raises(BadDataError, match="^[^\n]*07.jpg: the JPEG file is truncated$"):
        list(_load(folder, workers=workers))


def test_it_is_replaced_by_the_next_one_whoever_reads(folder):
    epochs = []
    for workers in (0, 2):
        loader = _load(folder, workers=workers, on_bad_image="replace")
        with pytest.warns(UserWarning, match="goes on without an image: .*07.jpg"):
            epochs.append([t["image_id"] for _, targets in loader for t in targets])
        assert len(loader.bad) == 1
    assert epochs[0] == epochs[1]
    assert sorted(epochs[0]) == sorted([*({*range(20)} - {7}), 8])


def test_it_is_left_out(folder):
    loader = _load(folder, on_bad_image="leave out")
    with pytest.warns(UserWarning, match="07.jpg"):
        ids = [t["image_id"] for _, targets in loader for t in targets]
    assert sorted(ids) == sorted({*range(20)} - {7})


def test_more_than_a_tenth_raises(folder):
    dataset = open_dataset(folder, "all", ["thing"])
    for number in (10, 11):
        (folder / f"{number:02}.jpg").write_bytes(b"gone")
    loader = build_loader(dataset, 4, shuffle=True, seed=3, on_bad_image="replace")
    with pytest.raises(BadDataError, match="3 of 20 images cannot be decoded"), pytest.warns():
        list(loader)


def test_an_unknown_choice(folder):
    with pytest.raises(ValueError, match="on_bad_image must be one of"):
        _load(folder, on_bad_image="ignore")


def test_samples_are_shared_with_spawned_workers_not_copied(folder):
    dataset = open_dataset(folder, "all", ["thing"])
    assert all(isinstance(getattr(dataset.samples, f), torch.Tensor) for f in ("boxes", "labels"))
    loader = torch.utils.data.DataLoader(
        dataset, num_workers=1, multiprocessing_context="spawn", sampler=[0, 3], collate_fn=_ids
    )
    assert list(loader) == [0, 3]
    again = pickle.loads(pickle.dumps(dataset.samples))
    assert isinstance(again, SampleTable) and list(again.paths) == list(dataset.samples.paths)


def _ids(samples):
    return samples[0][1]["image_id"]


def test_jpegs_are_judged_by_their_format(folder):
    path = folder / "00.jpg"
    content = path.read_bytes()
    whole = read_image(path)
    rng = np.random.default_rng(0)
    for length in range(1, 60, 7):  # anything may follow the end, even other JPEGs
        for trailer in (rng.bytes(40 * length), content[:-length], b"\xff\xda" * length):
            path.write_bytes(content + trailer)
            assert (read_image(path) == whole).all()
    for length in rng.integers(3, len(content) - 1, 40):
        path.write_bytes(content[:length])
        with pytest.raises(BadDataError, match=r"00\.jpg: (the JPEG file is truncated|not an)"):
            read_image(path)


def test_large_images_are_refused_before_they_are_decoded(tmp_path):
    for name in ("a.png", "a.jpg"):
        path = write_image(tmp_path / name, np.zeros((100, 200, 3), np.uint8))
        with pytest.raises(BadDataError, match="200x100 are more than the 10000 pixels"):
            read_image(path, max_pixels=10_000)
        assert read_image(path, max_pixels=None).shape == (100, 200, 3)
        assert read_image(path, max_pixels=20_000).shape == (100, 200, 3)
    head = (tmp_path / "a.jpg").read_bytes()
    sof = head.index(b"\xff\xc0") + 5
    (tmp_path / "lie.jpg").write_bytes(head[:sof] + b"\xff\xff\xff\xff" + head[sof + 4 :])
    with pytest.raises(BadDataError, match="65535x65535 are more than"):
        read_image(tmp_path / "lie.jpg")


def test_exif_orientation_turns_size_and_pixels_together(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    assert read_size(tmp_path / "a.jpg") == (30, 40)
    assert read_size(tmp_path / "a.jpg", exif=True) == (40, 30)
    turned = read_image(tmp_path / "a.jpg", exif=True)
    assert turned.shape == (40, 30, 3) and turned[5].mean() > 200 > 50 > turned[35].mean()
    assert open_dataset(tmp_path, "all", ["thing"], exif=True)[0][0].shape == (3, 40, 30)
