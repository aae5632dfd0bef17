"""Resizing, normalising and padding; ground truth follows, ignored boxes do not count."""

import pytest
import torch

from fastrpn.models import ModelConfig
from fastrpn.models.structures import Detections
from fastrpn.models.transform import ImageTransform, to_lists
from fastrpn.resizing import resized

PLAIN = {"image_mean": (0, 0, 0), "image_std": (1, 1, 1), "size_divisible": 32}


@pytest.mark.parametrize(
    ("short", "long", "size", "expected"),
    [
        (600, None, (300, 900), (600, 1800)),
        (600, 1000, (300, 900), (333, 1000)),
        (600, 1000, (480, 640), (600, 800)),
        (800, 1333, (1, 1400), (1, 1333)),
        (800, 1333, (2000, 2), (1333, 1)),
        (800, 1333, (1, 1), (800, 800)),
        (600, 1000, (1, 5000), (1, 1000)),
    ],
)
def test_the_size_of_an_image_in_the_network(short, long, size, expected):
    assert resized(*size, short, long) == expected
    rules = ModelConfig(min_size=short, max_size=long)
    assert tuple(ImageTransform(rules)([torch.rand(3, *size)]).sizes[0].tolist()) == expected


def test_mixed_sizes_are_padded_to_the_largest():
    transform = ImageTransform(ModelConfig(min_size=40, max_size=60, **PLAIN))
    images = [torch.full((3, 40, 50), 0.25), torch.full((3, 80, 120), 0.5)]
    batch = transform(images)
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.sizes.tolist() == [[40, 50], [40, 60]]
    assert (batch.images[0, :, :40, :50] == 0.25).all()
    assert (batch.images[0, :, 40:] == 0).all() and (batch.images[0, :, :, 50:] == 0).all()
    torch.testing.assert_close(batch.images[1, :, :40, :60], torch.full((3, 40, 60), 0.5))

    targets = [
        {"boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "labels": torch.tensor([1])},
        {
            "boxes": torch.tensor([[9.0, 9, 19, 19], [10, 20, 30, 40], [0, 0, 8, 8]]),
            "labels": torch.tensor([3, 2, 1]),
            "ignore": torch.tensor([True, False, False]),
        },
    ]
    truth = transform.ground_truth(targets, images, batch)
    assert truth.boxes.shape == (2, 3, 4) and truth.counts.tolist() == [1, 2]
    assert truth.boxes[0, 0].tolist() == [1, 2, 3, 4]
    assert truth.boxes[1, :2].tolist() == [[5, 10, 15, 20], [0, 0, 4, 4]]
    assert truth.labels[1, :2].tolist() == [2, 1]


def test_bgr_with_the_means_of_caffe():
    mean, std = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255), (1 / 255,) * 3
    config = ModelConfig(min_size=32, image_mean=mean, image_std=std, bgr=True)
    batch = ImageTransform(config)([torch.ones(3, 32, 32)])
    expected = torch.tensor([255 - 102.9801, 255 - 115.9465, 255 - 122.7717])
    torch.testing.assert_close(batch.images[0, :, 0, 0], expected)


def test_detections_return_to_the_images_own_pixels():
    transform = ImageTransform(ModelConfig(min_size=40, max_size=60, **PLAIN))
    images = [torch.zeros(3, 40, 50), torch.zeros(3, 80, 120)]
    batch = transform(images)
    boxes = torch.tensor([[4.0, 8.0, 12.0, 16.0], [0, 0, 0, 0]]).repeat(2, 1, 1)
    padded = Detections(boxes, torch.rand(2, 2), torch.ones(2, 2).long(), torch.tensor([0, 1]))
    first, second = to_lists(padded, images, batch)
    assert first["boxes"].shape == (0, 4)
    assert second["boxes"].tolist() == [[8.0, 16.0, 24.0, 32.0]]
    assert second["scores"].shape == second["labels"].shape == (1,)


def test_training_images_that_the_loader_resized_stay_as_they_are():
    transform = ImageTransform(ModelConfig(min_size=64))
    image = torch.rand(3, 40, 50)
    assert transform([image]).sizes.tolist() == [[64, 80]]
    transform.resizes_training_images = False
    assert transform([image]).sizes.tolist() == [[40, 50]]
    assert transform.eval()([image]).sizes.tolist() == [[64, 80]]
