"""From lists of images and targets to padded batches, and from padded detections to lists."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrpn.models.config import ModelConfig
from fastrpn.models.structures import Detections, GroundTruth, ImageBatch, Proposals
from fastrpn.resizing import resized

__all__ = ["ImageTransform", "to_lists"]


class ImageTransform(nn.Module):
    """Normalises, resizes and pads images; scales and pads their ground truth."""

    mean: Tensor  # [3, 1, 1], as the deviation
    std: Tensor
    _config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.resizes_training_images = True  # False: the loader gives them their size
        self.register_buffer("mean", torch.empty(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(3, 1, 1), persistent=False)
        self.config = config

    @property
    def config(self) -> ModelConfig:
        """The rules; mean and deviation follow them."""
        return self._config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        with torch.inference_mode(False):  # whatever the mode now, they are for training, too
            self.mean = torch.tensor(config.image_mean).view(3, 1, 1).to(self.mean)
            self.std = torch.tensor(config.image_std).view(3, 1, 1).to(self.std)
        self._config = config

    def forward(
        self,
        images: Sequence[Tensor],
        memory_format: torch.memory_format = torch.channels_last,
    ) -> ImageBatch:
        """RGB images [3, H, W] in 0..1, of any sizes -> a batch of that layout.

        The batch is as large as its largest image, rounded up to a multiple of
        ``size_divisible``; padding is 0 after normalisation.
        """
        sized = [self._resize(self._normalize(image)) for image in images]
        step = self.config.size_divisible
        height, width = (
            math.ceil(max(image.shape[d] for image in sized) / step) * step for d in (1, 2)
        )
        batch = torch.zeros(
            (len(sized), 3, height, width), dtype=sized[0].dtype, device=sized[0].device
        ).contiguous(memory_format=memory_format)
        for row, image in zip(batch, sized, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        sizes = _image_sizes(sized, batch.device)
        scales = (sizes / _image_sizes(images, batch.device)).mean(1)
        return ImageBatch(batch, sizes, scales)

    def uniform(
        self, images: Tensor, memory_format: torch.memory_format = torch.channels_last
    ) -> ImageBatch:
        """Images [B, 3, H, W] of one size as the same batch that a list of them would become.

        H and W may be symbols of an export: no branch asks for their values.
        """
        height, width = images.shape[2:]
        size = resized(height, width, self.config.min_size, self.config.max_size)
        scaled = F.interpolate(self._normalize(images), size=size, mode="bilinear")
        step = self.config.size_divisible
        bottom, right = ((side + step - 1) // step * step - side for side in size)
        padded = F.pad(scaled, (0, right, 0, bottom)).contiguous(memory_format=memory_format)
        sizes, original = (
            torch.tensor([list(pair)], device=images.device).expand(len(images), 2)
            for pair in (size, (height, width))
        )
        return ImageBatch(padded, sizes, (sizes / original).mean(1))

    def ground_truth(
        self, targets: Sequence[dict[str, Tensor]], images: Sequence[Tensor], batch: ImageBatch
    ) -> GroundTruth:
        """Pads the targets and scales their boxes from the images to the batch.

        Boxes marked by ``target["ignore"]`` take no part in training: they are sorted behind the
        others and not counted.
        """
        slots = max(1, max(len(target["boxes"]) for target in targets))
        device = batch.images.device
        boxes = torch.zeros(len(targets), slots, 4, device=device)
        labels = torch.zeros(len(targets), slots, dtype=torch.int64, device=device)
        ignore = torch.ones(len(targets), slots, dtype=torch.bool, device=device)
        for i, target in enumerate(targets):
            count = len(target["boxes"])
            boxes[i, :count] = target["boxes"].to(device, non_blocking=True)
            labels[i, :count] = target["labels"].to(device, non_blocking=True)
            ignore[i, :count] = False
            if "ignore" in target:
                ignore[i, :count] = target["ignore"].to(device, non_blocking=True)
        order = ignore.byte().argsort(dim=1, stable=True)
        boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
        boxes = boxes * _box_scale(images, batch)
        return GroundTruth(boxes, labels.gather(1, order), (~ignore).sum(1))

    def proposals(
        self, proposals: Sequence[Tensor], images: Sequence[Tensor], batch: ImageBatch
    ) -> Proposals:
        """Pads given boxes [K, 4] and scales them from the images to the batch; best first."""
        device = batch.images.device
        slots = max(1, max(map(len, proposals)))
        boxes = torch.zeros(len(proposals), slots, 4, device=device)
        for row, given in zip(boxes, proposals, strict=True):
            row[: len(given)] = given.to(device, non_blocking=True)
        scores = torch.zeros(boxes.shape[:2], device=device)
        counts = torch.tensor([len(given) for given in proposals]).to(device, non_blocking=True)
        return Proposals(boxes * _box_scale(images, batch), scores, counts)

    def _normalize(self, image: Tensor) -> Tensor:
        image = (image - self.mean) / self.std
        return image.flip(-3) if self.config.bgr else image

    def _resize(self, image: Tensor) -> Tensor:
        if self.training and not self.resizes_training_images:
            return image
        height, width = image.shape[1:]
        size = resized(height, width, self.config.min_size, self.config.max_size)
        if size == (height, width):
            return image
        return F.interpolate(image[None], size=size, mode="bilinear")[0]


def _box_scale(images: Sequence[Tensor], batch: ImageBatch) -> Tensor:
    """What takes boxes of the images to boxes of the batch, [B, 1, 4]."""
    scale = batch.sizes / _image_sizes(images, batch.sizes.device)
    return scale.flip(1).repeat(1, 2)[:, None]


def to_lists(
    detections: Detections, images: Sequence[Tensor], batch: ImageBatch
) -> list[dict[str, Tensor]]:
    """Padded detections -> for each image boxes [D, 4] in its own pixels, scores and labels [D].

    Reading the counts is the one moment at which the host waits for the device.
    """
    scale = _image_sizes(images, batch.sizes.device) / batch.sizes
    boxes = detections.boxes * scale.flip(1).repeat(1, 2)[:, None]
    return [
        {"boxes": b[:count], "labels": labels[:count], "scores": scores[:count]}
        for b, scores, labels, count in zip(
            boxes, detections.scores, detections.labels, detections.counts.tolist(), strict=True
        )
    ]


def _image_sizes(images: Sequence[Tensor], device: torch.device) -> Tensor:
    """int64 [B, 2], (height, width)."""
    sizes = [list(image.shape[-2:]) for image in images]
    return torch.tensor(sizes).to(device, non_blocking=True)
