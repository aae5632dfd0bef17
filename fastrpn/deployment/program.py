"""A detector as a program without Python: what every exported format is made from."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.structures import ImageBatch, row_mask

__all__ = ["DetectionProgram", "InputSize", "trace"]

# What an image of any size is traced with. A trace holds for other sizes if no two of its
# symbols happen to be equal and none is 1: hence odd numbers that share no factor.
_EXAMPLE = (357, 475)


class InputSize(NamedTuple):
    """What an exported model takes: [3, H, W], or [B, 3, H, W] with a batch; None is any."""

    height: int | None = None
    width: int | None = None
    batch: int | None = None

    def fits(self, height: int, width: int) -> bool:
        """Whether an image has the height and width that were fixed."""
        return self.height in (None, height) and self.width in (None, width)

    def __str__(self) -> str:
        sides = [str(side or "any") for side in (self.height, self.width)]
        return " x ".join(sides)


class DetectionProgram(nn.Module):
    """A detector from one tensor to a few, all of fixed shape but for the image's size.

    Args:
        model: in evaluation mode.
        transform: whether normalising, resizing and padding are part of it. If not, it takes what
            ``model.prepare`` makes of images, and its boxes are in pixels of that.
    """

    def __init__(self, model: FasterRCNN, transform: bool) -> None:
        super().__init__()
        self.model = model
        self.transform = transform

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """RGB [3, H, W] in 0..1 -> boxes [D, 4], scores [D], labels [D]; with a batch in front,
        [B, 3, H, W], also of these and with counts [B] behind. D is ``detections_per_image``.

        Boxes are xyxy in pixels of the input, best first. Padding comes last and is all zeros.
        """
        if images.dim() == 3:
            boxes, scores, labels, _ = self._detect(images[None])
            return boxes[0], scores[0], labels[0]
        return self._detect(images)

    def _detect(self, images: Tensor) -> tuple[Tensor, ...]:
        batch = self._prepare(images)
        boxes, scores, labels, counts = self.model.detect(batch)
        original = _size_of(images)
        boxes = boxes * (original / batch.sizes).flip(1).repeat(1, 2)[:, None]
        real = row_mask(counts, scores.shape[1])
        return (
            torch.where(real[:, :, None], boxes, 0.0),
            torch.where(real, scores, 0.0),
            torch.where(real, labels, 0),
            counts,
        )

    def _prepare(self, images: Tensor) -> ImageBatch:
        layout = self.model.memory_format
        if self.transform:
            return self.model.transform.uniform(images, layout)
        return ImageBatch(images.contiguous(memory_format=layout), _size_of(images))


def _size_of(images: Tensor) -> Tensor:
    """int64 [B, 2], (height, width) of images [B, 3, H, W]."""
    size = torch.tensor([list(images.shape[2:])], device=images.device)
    return size.expand(images.shape[0], 2)


def trace(program: DetectionProgram, size: InputSize) -> ExportedProgram:
    """Traces the program for images of that size; sides that are None stay free."""
    step = program.model.config.size_divisible
    sides = [_EXAMPLE[i] if program.transform else (9 + 2 * i) * step for i in (0, 1)]
    height, width = size.height or sides[0], size.width or sides[1]
    shape = (3, height, width) if size.batch is None else (size.batch, 3, height, width)
    free = {
        len(shape) - 2 + i: Dim.DYNAMIC
        for i, side in enumerate((size.height, size.width))
        if side is None
    }
    example = torch.rand(shape, device=next(program.parameters()).device)
    # Else a map of one row would need a program of its own.
    no_size_is_special = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), no_size_is_special, _errors_alone():
        return torch.export.export(program, (example,), dynamic_shapes=(free,), strict=False)


@contextmanager
def _errors_alone() -> Iterator[None]:
    """Before torch raises an error it logs hints and prints the unfinished program, many pages."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
