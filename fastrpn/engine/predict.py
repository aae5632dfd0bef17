"""Detection on images in memory or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastrpn.data import image_to_tensor, read_image
from fastrpn.engine.checkpoint import load_model

__all__ = ["Image", "Predictor"]

Image = np.ndarray | Tensor | str | Path


class Predictor:
    """A trained model, ready for images.

    Args:
        checkpoint: file of :func:`fastrpn.engine.train`.
        device: where to run.
        batch_size: images in one pass through the network.
        score_threshold: detections below it are left out.

    Attributes:
        classes: names, "__background__" first; a detection's label is an index into them.

    Example::

        detect = Predictor("last.pt")
        result = detect("street.jpg")  # {"boxes": [D, 4], "labels": [D], "scores": [D]}
        results = detect(["a.jpg", array])  # a list of them
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | torch.device = "cpu",
        batch_size: int = 4,
        score_threshold: float = 0.0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model, self.classes = load_model(checkpoint, device)
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.score_threshold = score_threshold

    @torch.inference_mode()
    def __call__(
        self, images: Image | Sequence[Image]
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Detects objects in one image or in several.

        Args:
            images: uint8 arrays [H, W, 3] RGB, float tensors [3, H, W] in 0..1, or paths.

        Returns:
            for each image "boxes" float32 [D, 4] (xyxy, pixels), "labels" int64 [D] and "scores"
            float32 [D], best first, on the CPU; a single dict for a single image.

        Raises:
            BadDataError: a file that cannot be read. TypeError, ValueError: another kind of image.
        """
        if isinstance(images, Image):
            return self([images])[0]
        results = []
        for start in range(0, len(images), self.batch_size):
            batch = [_to_tensor(image) for image in images[start : start + self.batch_size]]
            detections = self.model([image.to(self.device) for image in batch])
            results += [self._select(detection) for detection in detections]
        return results

    def _select(self, detection: dict[str, Tensor]) -> dict[str, Tensor]:
        detection = {name: value.cpu() for name, value in detection.items()}
        keep = detection["scores"] >= self.score_threshold
        return {name: value[keep] for name, value in detection.items()}


def _to_tensor(image: Image) -> Tensor:
    """float32 [3, H, W] in 0..1."""
    if isinstance(image, str | Path):
        return image_to_tensor(read_image(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
        return image_to_tensor(image)
    return image
