"""Colours and scales: what each amount does, and that a sample follows from its generator alone."""

import colorsys

import numpy as np
import pytest
import torch

from fastrpn.data import ColorJitter, RandomShortSide, augmentation, build_loader
from fastrpn.data.augment import color_matrix

TARGET = {"boxes": torch.tensor([[2.0, 4, 10, 9]]), "labels": torch.tensor([1])}


class Fixed:
    """A generator that draws the end of every range."""

    def uniform(self, low, high):
        return high

    def integers(self, count):
        return count - 1


@pytest.fixture
def image():
    return torch.from_numpy(np.random.default_rng(0).random((3, 12, 16), np.float32)) * 0.5


def grey(image):
    return (torch.tensor([0.299, 0.587, 0.114]) @ image.flatten(1)).view(image.shape[1:])


def test_brightness_multiplies(image):
    changed, target = ColorJitter(brightness=0.5)(image, TARGET, Fixed())
    torch.testing.assert_close(changed, image * 1.5)
    assert target is TARGET


def test_contrast_spreads_around_the_mean_grey(image):
    changed, _ = ColorJitter(contrast=0.25)(image, TARGET, Fixed())
    expected = (1.25 * image - 0.25 * grey(image).mean()).clamp(0, 1)
    torch.testing.assert_close(changed, expected)


def test_saturation_spreads_around_the_grey_of_each_pixel(image):
    changed, _ = ColorJitter(saturation=0.25)(image, TARGET, Fixed())
    expected = (1.25 * image - 0.25 * grey(image)).clamp(0, 1)
    torch.testing.assert_close(changed, expected, atol=2e-4, rtol=0)


def test_hue_turns_colours_and_leaves_greys(image):
    third = color_matrix(1.0, -1 / 3)
    red = third @ np.array([0.6, 0.3, 0.3])
    hue, _, _ = colorsys.rgb_to_hsv(*red)
    assert abs(hue - 1 / 3) < 0.1  # red has become green
    np.testing.assert_allclose(third @ np.full(3, 0.4), 0.4, atol=1e-3)
    np.testing.assert_allclose(third @ third @ third, np.eye(3), atol=1e-9)
    changed, _ = ColorJitter(hue=0.5)(image, TARGET, Fixed())
    torch.testing.assert_close(grey(changed), grey(image), atol=0.05, rtol=0)
    assert (changed - image).abs().max() > 0.1


def test_colours_stay_in_range_and_the_argument_as_it_is(image):
    before = image.clone()
    changed, _ = ColorJitter(1, 1, 1, 0.5)(image * 2, TARGET, np.random.default_rng(1))
    assert 0 <= changed.min() and changed.max() <= 1
    assert torch.equal(image, before)


@pytest.mark.parametrize("amounts", [{"contrast": -0.1}, {"brightness": 1.5}, {"hue": 0.6}])
def test_color_jitter_names_the_bad_amount(amounts):
    with pytest.raises(ValueError, match=next(iter(amounts))):
        ColorJitter(**amounts)


def test_short_sides_are_all_drawn_and_boxes_follow(image):
    jitter, rng = RandomShortSide((6, 12, 24), long=30), np.random.default_rng(0)
    seen = set()
    for _ in range(40):
        changed, target = jitter(image, TARGET, rng)
        height, width = changed.shape[1:]
        factors = torch.tensor([width / 16, height / 12] * 2)
        torch.testing.assert_close(target["boxes"], TARGET["boxes"] * factors)
        seen.add((height, width))
    assert seen == {(6, 8), (12, 16), (22, 30)}  # the last is held to a long side of 30


def test_augmentation_chains_what_is_asked_for(image):
    assert augmentation() is None
    both = augmentation(flip=1.0, short_sides=(24,), color_jitter=(0.4, 0.4, 0.4, 0.1))
    changed, target = both(image, TARGET, np.random.default_rng(3))
    assert changed.shape == (3, 24, 32)
    assert target["boxes"].tolist() == [[12, 8, 28, 18]]


class Photos(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return torch.from_numpy(rng.random((3, 20, 24), np.float32)), {**TARGET, "image_id": index}


def test_a_sample_does_not_depend_on_the_number_of_workers():
    transform = augmentation(0.5, (0.4, 0.4, 0.4, 0.1), (16, 20, 28), 40)

    def run(workers):
        loader = build_loader(
            Photos(), 2, shuffle=True, seed=4, workers=workers, transform=transform
        )
        return [image for _ in range(2) for images, _ in loader for image in images]

    alone, helped = run(0), run(2)
    assert len(alone) == 16
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
