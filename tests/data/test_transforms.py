"""Transforms move boxes exactly as they move pixels."""

import numpy as np
import pytest
import torch

from fastrpn.data.transforms import (
    Compose,
    RandomHorizontalFlip,
    ResizeShortSide,
    flip_boxes,
    resize_image,
)

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
    resized, moved = ResizeShortSide(short, long)(image, target, RNG)
    assert resized.shape == (3, *size) and resized.dtype == torch.float32
    scale = size[0] / 20
    assert moved["boxes"].tolist() == [[2 * scale, 4 * scale, 10 * scale, 8 * scale]]
    assert np.abs(np.subtract(_white_span(resized), moved["boxes"][0].numpy())).max() <= 1


def test_shrinking_averages():
    checks = (torch.arange(64) % 2).float().expand(3, 64, 64)
    assert torch.allclose(resize_image(checks, (16, 16)), torch.tensor(0.5))


def test_compose_applies_in_order():
    image, target = _white_box((2, 4, 10, 8))
    both = Compose(ResizeShortSide(40), RandomHorizontalFlip(1))
    assert both(image, target, RNG)[1]["boxes"].tolist() == [[40, 8, 56, 16]]
