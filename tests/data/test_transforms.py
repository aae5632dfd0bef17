"""Transforms move boxes exactly as they move pixels."""

import numpy as np
import pytest
import torch

from fastrpn.data.augment import RandomCrop, RandomQuarterTurn
from fastrpn.data.transforms import (
    Compose,
    RandomHorizontalFlip,
    ResizeShortSide,
    flip_boxes,
)
from fastrpn.models import ModelConfig
from fastrpn.models.transform import ImageTransform
from fastrpn.resizing import resized

RNG = np.random.default_rng(0)


def _white_box(box, height=20, width=30):
    image = torch.zeros(3, height, width)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = 1
    target = {"boxes": torch.tensor([box], dtype=torch.float32), "labels": torch.tensor([1])}
    return image, target


def _white_span(image):
    """The xyxy box of the pixels above one half."""
    rows, columns = torch.where(image[0] > 0.5)
    return [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def test_flip_moves_box_with_pixels():
    image, target = _white_box((2, 4, 10, 9))
    flipped, moved = RandomHorizontalFlip(probability=1)(image, target, RNG)
    assert moved["boxes"].tolist() == [[20, 4, 28, 9]] == [_white_span(flipped)]
    assert moved["labels"] is target["labels"]
    assert target["boxes"].tolist() == [[2, 4, 10, 9]]  # the argument is as it was
    assert torch.equal(flip_boxes(moved["boxes"], 30), target["boxes"])


def test_flip_follows_its_probability():
    image, target = _white_box((2, 4, 10, 9))
    for probability, low, high in ((0, 0, 0), (0.5, 70, 130), (1, 200, 200)):
        flip = RandomHorizontalFlip(probability)
        flips = sum(flip(image, target, RNG)[1] is not target for _ in range(200))
        assert low <= flips <= high


@pytest.mark.parametrize(
    ("short", "long", "size"),
    [(40, None, (40, 60)), (10, None, (10, 15)), (40, 45, (30, 45)), (600, 1000, (600, 900))],
)
def test_resize_moves_box_with_pixels(short, long, size):
    image, target = _white_box((2, 4, 10, 8))
    larger, moved = ResizeShortSide(short, long)(image, target, RNG)
    assert larger.shape == (3, *size) and larger.dtype == torch.float32
    scale = size[0] / 20
    assert moved["boxes"].tolist() == [[2 * scale, 4 * scale, 10 * scale, 8 * scale]]
    assert np.abs(np.subtract(_white_span(larger), moved["boxes"][0].numpy())).max() <= 1


@pytest.mark.parametrize("size", [(37, 53), (61, 40), (100, 90), (1, 70), (64, 1), (1, 1)])
@pytest.mark.parametrize(("short", "long"), [(20, 30), (48, 64), (90, None), (7, 333)])
def test_loader_and_model_resize_to_the_same_size_and_pixels(size, short, long):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    target = {"boxes": torch.tensor([[0.0, 0, size[1], size[0]]])}
    if long is None and min(size) == 1:
        return  # 90 times 70 pixels wide and up
    of_loader, moved = ResizeShortSide(short, long)(image, target, RNG)
    rules = ModelConfig(
        min_size=short, max_size=long, image_mean=(0, 0, 0), image_std=(1, 1, 1), size_divisible=1
    )
    batch = ImageTransform(rules).eval()([image])
    height, width = of_loader.shape[1:]
    assert batch.sizes.tolist() == [[height, width]] == [list(resized(*size, short, long))]
    torch.testing.assert_close(batch.images[0], of_loader, rtol=0, atol=1e-5)
    assert moved["boxes"].tolist()[0] == pytest.approx([0, 0, width, height])


def test_compose_applies_in_order():
    image, target = _white_box((2, 4, 10, 8))
    both = Compose(ResizeShortSide(40), RandomHorizontalFlip(1))
    assert both(image, target, RNG)[1]["boxes"].tolist() == [[40, 8, 56, 16]]


@pytest.mark.parametrize("seed", range(8))
def test_a_quarter_turn_moves_box_with_pixels(seed):
    image, target = _white_box((2, 4, 10, 8))
    turned, moved = RandomQuarterTurn()(image, target, np.random.default_rng(seed))
    assert turned.shape in ((3, 20, 30), (3, 30, 20)) and turned.sum() == image.sum()
    assert moved["boxes"][0].tolist() == _white_span(turned)


def test_quarter_turns_are_equally_likely():
    image, target = _white_box((2, 4, 10, 8))
    rng = np.random.default_rng(0)
    seen = [
        tuple(RandomQuarterTurn()(image, target, rng)[1]["boxes"][0].tolist()) for _ in range(400)
    ]
    assert len(set(seen)) == 4 and all(70 < seen.count(box) < 130 for box in set(seen))


def test_a_crop_moves_box_with_pixels_and_drops_what_it_hardly_shows():
    image, target = _white_box((2, 4, 10, 8))
    target |= {"ignore": torch.tensor([True]), "proposals": torch.tensor([[2.0, 4, 10, 8]])}
    kept = 0
    for seed in range(60):
        crop, found = RandomCrop(12)(image, target, np.random.default_rng(seed))
        assert crop.shape == (3, 12, 12) and crop.is_contiguous()
        visible = float(crop[0].sum()) / 32
        assert len(found["boxes"]) == len(found["labels"]) == len(found["ignore"])
        assert len(found["boxes"]) == (visible >= 0.5)
        if visible >= 0.5:
            kept += 1
            span = _white_span(crop)
            assert found["boxes"][0].tolist() == [*span[:2], *span[2:]]
            assert found["proposals"].tolist() == found["boxes"].tolist()
    assert 5 < kept < 60
    whole, same = RandomCrop(100)(image, target, RNG)
    assert torch.equal(whole, image) and torch.equal(same["boxes"], target["boxes"])
