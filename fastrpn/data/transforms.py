"""Transforms of an image and its target, drawing what is random from the generator they are given.

A transform is any callable `(image, target, rng) -> (image, target)` with image float32 [3,H,W],
target as a data set returns it and rng a `numpy.random.Generator`. None changes its arguments.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch

from fastrpn.resizing import resized

Transform = Callable[
    [torch.Tensor, dict, np.random.Generator],
    tuple[torch.Tensor, dict],
]


class Compose:
    """One transform after the other."""

    def __init__(self, *transforms: Transform):
        self.transforms = transforms

    def __call__(
        self, image: torch.Tensor, target: dict, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict]:
        for transform in self.transforms:
            image, target = transform(image, target, rng)
        return image, target


class RandomHorizontalFlip:
    """Mirrors image and boxes left to right with the given probability."""

    def __init__(self, probability: float = 0.5):
        self.probability = probability

    def __call__(
        self, image: torch.Tensor, target: dict, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict]:
        if rng.random() >= self.probability:
            return image, target
        mirrored = torch.from_numpy(image.numpy()[..., ::-1].copy())  # wakes no threads of torch
        return mirrored, map_boxes(target, lambda boxes: flip_boxes(boxes, image.shape[-1]))


class ResizeShortSide:
    """Scales image and boxes so that the short side is `short` pixels, the long one <= `long`, to
    the size and the pixels that a model with those numbers would give the image."""

    def __init__(self, short: int, long: int | None = None):
        self.short, self.long = short, long

    def __call__(
        self, image: torch.Tensor, target: dict, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict]:
        height, width = image.shape[-2:]
        size = resized(height, width, self.short, self.long)
        factors = torch.tensor([size[1] / width, size[0] / height] * 2)
        return resize_image(image, size), map_boxes(target, lambda boxes: boxes * factors)


def map_boxes(target: dict, function: Callable[[torch.Tensor], torch.Tensor]) -> dict:
    """The target with its "boxes" and, where it has some, "proposals" moved by the function."""
    moved = {name: function(target[name]) for name in ("boxes", "proposals") if name in target}
    return {**target, **moved}


def flip_boxes(boxes: torch.Tensor, width: int) -> torch.Tensor:
    """Mirrors xyxy boxes [N,4] in an image `width` pixels wide."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def resize_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes float32 [3,H,W] to (height, width), bilinearly as the model does in evaluation, but
    with OpenCV, which is faster on one thread."""
    result = np.empty((len(image), *size), np.float32)
    for plane, out in zip(image.numpy(), result, strict=True):  # no detour over [H,W,3]
        cv2.resize(plane, (size[1], size[0]), dst=out, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(result)
