"""Batches: each sample once an epoch, an order that repeats, workers that change nothing."""

import time

import cv2
import numpy as np
import pytest
import torch

from fastrpn.data import RandomHorizontalFlip, build_loader


class Numbers(torch.utils.data.Dataset):
    """Image i is filled with i and has i % 3 boxes."""

    def __init__(self, length=11):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        boxes = torch.full((index % 3, 4), float(index))
        return torch.full((3, 4, 5 + index), float(index)), {"boxes": boxes, "image_id": index}


def _ids(loader):
    return [[target["image_id"] for target in targets] for _, targets in loader]


def _flat(batches):
    return [i for batch in batches for i in batch]


def test_without_shuffling_the_order_is_the_data_sets():
    loader = build_loader(Numbers(), 4, shuffle=False, seed=0)
    assert _ids(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert len(loader) == 3


def test_yields_lists_of_images_and_targets_of_their_own_size():
    images, targets = next(iter(build_loader(Numbers(), 4, shuffle=False, seed=0)))
    assert [image.shape[-1] for image in images] == [5, 6, 7, 8]
    assert [len(target["boxes"]) for target in targets] == [0, 1, 2, 0]


def test_epochs_differ_and_repeat():
    loader = build_loader(Numbers(), 4, shuffle=True, seed=1)
    first, second = _ids(loader), _ids(loader)
    assert sorted(_flat(first)) == sorted(_flat(second)) == list(range(11))
    assert first != second
    again = build_loader(Numbers(), 4, shuffle=True, seed=1)
    again.set_epoch(1)
    assert _ids(again) == second
    assert _ids(build_loader(Numbers(), 4, shuffle=True, seed=2)) != first


def test_resuming_inside_an_epoch():
    loader = build_loader(Numbers(), 4, shuffle=True, seed=1)
    whole, following = _ids(loader), _ids(loader)
    loader.set_epoch(0, skip_batches=2)
    assert _ids(loader) == whole[2:]
    assert _ids(loader) == following


def test_shards_share_each_batch():
    def batches(shard=(0, 1)):
        loader = build_loader(Numbers(), 4, shuffle=True, seed=1, drop_last=True, shard=shard)
        return _ids(loader)

    shares = [batches((rank, 2)) for rank in range(2)]
    for whole, even, odd in zip(batches(), *shares, strict=True):
        assert (even, odd) == (whole[::2], whole[1::2])


def test_drop_last():
    loader = build_loader(Numbers(), 4, shuffle=True, seed=1, drop_last=True)
    assert len(loader) == 2 and [len(batch) for batch in _ids(loader)] == [4, 4]


SIZES = [(9, 5) if i % 3 == 0 else (5, 9) for i in range(11)]  # 0, 3, 6 and 9 stand upright


def _grouped(**options):
    kwargs = {"shuffle": True, "seed": 1, "sizes": SIZES, **options}
    return build_loader(Numbers(), 3, **kwargs)


def test_groups_share_no_batch_but_the_last_ones():
    loader = _grouped()
    for _ in range(3):
        batches = _ids(loader)
        assert sorted(_flat(batches)) == list(range(11)) and len(batches) == len(loader) == 4
        kinds = [{i % 3 == 0 for i in batch} for batch in batches]
        assert all(len(kind) == 1 for kind in kinds[:3])
        assert {True} in kinds[:3] and {False} in kinds[:3]
        assert [len(batch) for batch in batches] == [3, 3, 3, 2]


def test_groups_follow_from_seed_and_epoch():
    loader = _grouped()
    first, second = _ids(loader), _ids(loader)
    assert first != second
    again = _grouped()
    again.set_epoch(1)
    assert _ids(again) == second


def test_resuming_inside_an_epoch_of_groups():
    loader = _grouped(drop_last=True)
    whole = _ids(loader)
    assert len(whole) == len(loader) == 3
    loader.set_epoch(0, skip_batches=1)
    assert _ids(loader) == whole[1:]


def test_sizes_must_be_as_many_as_images():
    with pytest.raises(ValueError, match="sizes has 2 entries for 11 images"):
        _grouped(sizes=SIZES[:2])


def test_workers_change_nothing():
    def run(workers):
        loader = build_loader(
            Numbers(), 3, shuffle=True, seed=5, workers=workers, transform=_add_noise
        )
        return [image for _ in range(2) for images, _ in loader for image in images]

    alone, helped = run(0), run(2)
    assert len(alone) == 22
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    noise = {float(image.max() - image.max().round()) for image in alone}
    assert len(noise) == 22  # no generator serves twice


def _add_noise(image, target, rng):
    return image + float(rng.uniform(0, 0.4)), target


def _count_threads(image, target, rng):
    return image, {"threads": (cv2.getNumThreads(), torch.get_num_threads())}


def test_a_worker_has_one_thread():
    loader = build_loader(Numbers(), 4, shuffle=False, seed=0, workers=1, transform=_count_threads)
    assert {target["threads"] for _, targets in loader for target in targets} == {(1, 1)}


def test_the_loader_tells_how_long_it_was_waited_for():
    def slowly(image, target, rng):
        time.sleep(0.01)
        return image, target

    loader = build_loader(Numbers(), 4, shuffle=False, seed=0, transform=slowly)
    start = time.perf_counter()
    for _ in loader:
        time.sleep(0.05)  # a training step: not waiting
    assert 0.11 <= loader.waited <= time.perf_counter() - start - 0.15


def test_the_transform_draws_anew_each_epoch():
    loader = build_loader(Numbers(1), 1, shuffle=False, seed=0, transform=_add_noise)
    values = [float(images[0].max()) for _ in range(5) for images, _ in loader]
    assert len(set(values)) == 5


def test_the_global_generators_are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    transform = RandomHorizontalFlip()
    list(build_loader(Numbers(), 4, shuffle=True, seed=9, transform=transform))
    assert (torch.rand(1), np.random.rand()) == expected


@pytest.mark.parametrize("kwargs", [{"batch_size": 0}, {"workers": -1}])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        build_loader(Numbers(), **{"batch_size": 1, "shuffle": True, "seed": 0, **kwargs})
