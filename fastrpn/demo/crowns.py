"""The detector without training that the trained one has to beat: green blobs."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from fastrpn import ops
from fastrpn.images import image_to_array

__all__ = ["CrownBaseline"]

_SIGMAS = np.array([6.0, 8.0, 10.0, 13.0, 16.0, 20.0])  # pixels: crowns of 22 to 72
_HALF_SIDE = 1.8  # of a crown, in sigmas: the best of 1.4, 1.8 and 2.2 on the training photograph


class CrownBaseline:
    """Squares around the blobs of green, at all sizes.

    Green is the excess green index 2 G - R - B (Woebbecke et al., 1995). A blob is a maximum in
    place and scale of its normalised Laplacian (Lindeberg, "Feature Detection with Automatic Scale
    Selection", 1998), which is its score.
    """

    def __call__(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections {"boxes", "scores", "labels"} of each image float32 [3, H, W] in 0..1."""
        return [self._detect(image_to_array(image)) for image in images]

    def _detect(self, image: np.ndarray) -> dict[str, Tensor]:
        height, width = image.shape[:2]
        smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
        red, green, blue = np.moveaxis(smooth, 2, 0)
        responses = np.stack([_blobs(2 * green - red - blue, sigma) for sigma in _SIGMAS])
        scale, y, x = np.nonzero((responses == _largest_near(responses)) & (responses > 1))
        half = _SIGMAS[scale] * _HALF_SIDE
        boxes = torch.tensor(np.stack([x - half, y - half, x + half, y + half], axis=1)).float()
        boxes = ops.clip_boxes_to_image(boxes, (height, width))
        scores = torch.tensor(responses[scale, y, x]).float()
        kept = ops.nms(boxes, scores, 0.3)
        labels = torch.ones(len(kept), dtype=torch.int64)
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels}


def _blobs(plane: np.ndarray, sigma: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(plane, (0, 0), sigma)
    return -(sigma**2) * cv2.Laplacian(smooth, cv2.CV_32F, ksize=1)


def _largest_near(responses: np.ndarray) -> np.ndarray:
    """The greatest value in 5 x 5 pixels, of a scale and its neighbours."""
    planes = np.stack([cv2.dilate(plane, np.ones((5, 5))) for plane in responses])
    padded = np.pad(planes, ((1, 1), (0, 0), (0, 0)), constant_values=-np.inf)
    return np.maximum.reduce([padded[:-2], padded[1:-1], padded[2:]])
