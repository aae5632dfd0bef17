"""Random changes of training images: colours, scales, and the chain that a run asks for.

Each draws from the generator it is given alone, so that a sample follows from (seed, epoch, index),
whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from fastrpn.data.transforms import (
    Compose,
    RandomHorizontalFlip,
    ResizeShortSide,
    Transform,
    map_boxes,
)
from fastrpn.tiling import boxes_in_tile

# RGB -> luma and two colour differences (the YIQ of analog television): grey has none of the two.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_TO_RGB = np.linalg.inv(_TO_YIQ)


class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random amounts.

    The names and ranges are those of `torchvision.transforms.ColorJitter`: the first three are
    multiplied by a factor from [1 - x, 1 + x], hue turns by an angle from [-hue, hue], 1 being the
    full circle. All four together are one linear map of the colours, applied in one pass and then
    clipped to 0..1; the hue turns in the plane of YIQ's colour differences.

    Raises:
        ValueError: an amount outside [0, 1], or a hue outside [0, 0.5].
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
    ):
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, amount in amounts.items():
            if not 0 <= amount <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {amount}")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue must lie in [0, 0.5], got {hue}")
        self.amounts, self.hue = tuple(amounts.values()), hue

    def __call__(
        self, image: torch.Tensor, target: dict, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict]:
        brightness, contrast, saturation = (rng.uniform(1 - x, 1 + x) for x in self.amounts)
        colours = color_matrix(saturation, rng.uniform(-self.hue, self.hue))
        planes = image.numpy()
        grey = float(_TO_YIQ[0] @ planes.mean(axis=(1, 2)))
        changed = _mix(planes, brightness * contrast * colours, brightness * (1 - contrast) * grey)
        return torch.from_numpy(changed), target


class RandomShortSide:
    """`ResizeShortSide` to a short side drawn from several, each as likely as the others.

    Training at several scales, as SPPnet, Fast R-CNN and detectron2 do. The model must take such
    images as they are (`model.transform.resizes_training_images = False`).
    """

    def __init__(self, short_sides: Sequence[int], long: int | None = None):
        self.resizes = [ResizeShortSide(short, long) for short in short_sides]

    def __call__(
        self, image: torch.Tensor, target: dict, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict]:
        return self.resizes[rng.integers(len(self.resizes))](image, target, rng)


class RandomCrop:
    """A square of `size` pixels at a random place; of a shorter side all.

    Of the objects, those stay of which at least half is inside, clipped to the crop.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(
        self, image: torch.Tensor, target: dict, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict]:
        height, width = image.shape[-2:]
        y, x = (int(rng.integers(max(0, side - self.size) + 1)) for side in (height, width))
        y2, x2 = min(height, y + self.size), min(width, x + self.size)
        tile = torch.tensor([x, y, x2, y2])
        boxes, kept = boxes_in_tile(target["boxes"], tile)
        objects = {name: target[name][kept] for name in ("labels", "ignore") if name in target}
        cropped = {**target, "boxes": boxes, **objects}
        if "proposals" in target:
            cropped["proposals"] = boxes_in_tile(target["proposals"], tile)[0]
        return image[:, y:y2, x:x2].contiguous(), cropped


class RandomQuarterTurn:
    """Turns image and boxes by 0, 90, 180 or 270 degrees: for what is seen from above."""

    def __call__(
        self, image: torch.Tensor, target: dict, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict]:
        turns = int(rng.integers(4))
        if turns == 0:
            return image, target
        planes = image.numpy()
        for _ in range(turns):  # counterclockwise: x becomes width - x going up
            width = planes.shape[-1]
            planes = np.rot90(planes, axes=(-2, -1))
            target = map_boxes(target, partial(_turned, width=width))
        return torch.from_numpy(planes.copy()), target


def _turned(boxes: torch.Tensor, width: int) -> torch.Tensor:
    """Boxes xyxy [N, 4] after a quarter turn counterclockwise of an image `width` pixels wide."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([y1, width - x2, y2, width - x1], dim=-1)


def augmentation(
    flip: float = 0.0,
    color_jitter: Sequence[float] = (),
    short_sides: Sequence[int] = (),
    long_side: int | None = None,
    crop: int | None = None,
    quarter_turns: bool = False,
) -> Transform | None:
    """The transforms of a training run as one, or None where there is none.

    Args:
        flip: probability of a horizontal flip.
        color_jitter: up to four arguments of `ColorJitter`.
        short_sides, long_side: arguments of `RandomShortSide`.
        crop: argument of `RandomCrop`.
        quarter_turns: whether to apply `RandomQuarterTurn`.
    """
    transforms: list[Transform] = []
    if crop:
        transforms.append(RandomCrop(crop))
    if quarter_turns:
        transforms.append(RandomQuarterTurn())
    if flip:
        transforms.append(RandomHorizontalFlip(flip))
    if any(color_jitter):
        transforms.append(ColorJitter(*color_jitter))
    if short_sides:
        transforms.append(RandomShortSide(short_sides, long_side))
    return Compose(*transforms) if transforms else None


def color_matrix(saturation: float, turns: float) -> np.ndarray:
    """The map of RGB colours [3,3] that scales colour differences and turns them."""
    angle = 2 * np.pi * turns
    chroma = np.eye(3)
    chroma[1:, 1:] = saturation * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    return _TO_RGB @ chroma @ _TO_YIQ


def _mix(planes: np.ndarray, matrix: np.ndarray, offset: float) -> np.ndarray:
    """matrix [3,3] times the colours of float32 [3,H,W], plus an offset, clipped to 0..1."""
    # Plane by plane: no BLAS, whose threads would compete with those of the other workers.
    red, green, blue = planes
    mixed = np.empty_like(planes)
    for out, (r, g, b) in zip(mixed, matrix.astype(np.float32), strict=True):
        np.multiply(red, r, out=out)
        out += green * g
        out += blue * b
        out += np.float32(offset)
    return np.clip(mixed, 0, 1, out=mixed)
