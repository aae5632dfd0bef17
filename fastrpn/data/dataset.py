"""What the readers of annotated images (VOC, COCO) share: samples, their checks, loading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fastrpn.errors import BadDataError, BadDataPolicy
from fastrpn.images import image_to_tensor, read_image

BACKGROUND = "__background__"


@dataclass
class Sample:
    """One image and its ground truth; boxes are continuous xyxy in pixels."""

    image_path: Path
    image_id: int
    size: tuple[int, int]  # (height, width)
    boxes: np.ndarray  # float32 [G,4]
    labels: np.ndarray  # int64 [G], from 1
    ignore: np.ndarray  # bool [G]


class AnnotatedImages(torch.utils.data.Dataset):
    """Samples that were all checked when the data set was opened.

    `ds[i]` is (image float32 [3,H,W] RGB in 0..1, target) where target holds "boxes" float32 [G,4]
    (xyxy, pixels), "labels" int64 [G] (1..C-1), "ignore" bool [G] and "image_id".

    Attributes:
        classes: class names; index 0 is "__background__".
        samples: the usable samples, in order.
        skipped: a message for each sample left out by on_bad_data="skip".
    """

    def __init__(self, samples: list[Sample], classes: Sequence[str], skipped: list[str]):
        self.samples = samples
        self.classes = list(classes)
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict]:
        image = read_image(self.samples[index].image_path)
        return image_to_tensor(image), self.target(index)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image."""
        return [sample.size for sample in self.samples]

    def target(self, index: int) -> dict:
        """The target of sample `index` without reading its image."""
        sample = self.samples[index]
        return {
            "boxes": torch.from_numpy(sample.boxes.copy()),
            "labels": torch.from_numpy(sample.labels.copy()),
            "ignore": torch.from_numpy(sample.ignore.copy()),
            "image_id": sample.image_id,
        }


def with_background(classes: Sequence[str]) -> list[str]:
    """Class names with "__background__" in front, whether or not it was there already.

    Raises:
        ValueError: a name occurs twice, or there is no class.
    """
    names = [name for name in classes if name != BACKGROUND]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"classes must be distinct names, at least one, got {list(classes)}")
    return [BACKGROUND, *names]


def map_checked(function: Callable, keys: Iterable, policy: BadDataPolicy) -> list:
    """`[function(key) for key in keys]` in threads (decoding releases the GIL).

    Where `function` raises BadDataError, `policy` stops or leaves the result out. Errors are
    handled in the order of `keys`, so that the outcome does not depend on the threads.
    """

    def attempt(key):
        try:
            return function(key)
        except BadDataError as error:
            return error

    results = []
    with ThreadPoolExecutor() as pool:
        try:
            for result in pool.map(attempt, keys):
                if isinstance(result, BadDataError):
                    policy.handle(result)
                else:
                    results.append(result)
        except BadDataError:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def check_boxes(boxes: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """Returns the boxes [G,4] clipped to the image, at most one pixel from where they were.

    One pixel is what tools that count from 0 get wrong in a format that counts from 1.

    Raises:
        BadDataError: a box is not finite, reaches more than one pixel out of the image, or has no
            positive width and height in it. The message starts with `where`.
    """
    height, width = size
    limit = np.array([width, height, width, height], np.float32)
    clipped = np.clip(boxes, 0, limit)
    for number, (box, inside) in enumerate(zip(boxes, clipped, strict=True), start=1):
        text = f"{where}: box {number}, x {box[0]:g} to {box[2]:g}, y {box[1]:g} to {box[3]:g},"
        if not np.isfinite(box).all():
            raise BadDataError(f"{text} is not finite")
        if np.abs(box - inside).max() > 1:
            raise BadDataError(f"{text} is outside the {width}x{height} image")
        if (inside[2:] - inside[:2] <= 0).any():
            raise BadDataError(f"{text} has no positive width and height")
    return clipped
