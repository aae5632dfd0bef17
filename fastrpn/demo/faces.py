"""Another library's detector, unchanged, on a photograph: its NMS by torchvision and by fastrpn.

MTCNN (Zhang et al., "Joint Face Detection and Alignment using Multitask Cascaded Convolutional
Networks", 2016) in facenet-pytorch, with its weights, on the portrait of the astronaut Eileen
Collins (NASA, public domain) that scikit-image has among its data.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor

from fastrpn.demo.packages import fetch
from fastrpn.drawing import draw_detections
from fastrpn.images import read_image, write_image
from fastrpn.ops import accelerate_torchvision

__all__ = ["find_faces"]

# Thresholds of MTCNN's three networks: its own, and one with which every position of the first
# network goes into NMS, many with tied scores.
_THRESHOLDS = {"as it comes": [0.6, 0.7, 0.7], "every position a candidate": [0.0, 0.7, 0.7]}


def find_faces(output: Path) -> dict[str, Any]:
    """Finds the faces both ways and writes ``faces.png``.

    Returns:
        for each way of setting the thresholds: "faces", "candidates" (the most boxes in one NMS),
        "equal" (whether boxes, scores and landmarks are the same bits), and milliseconds in all
        calls of NMS: "torchvision_ms", "fastrpn_ms".

    Raises:
        NotFetchedError: the detector or the photograph cannot be had.
        ImportError: something that the detector needs is not installed.
    """
    packages = fetch("facenet-pytorch==2.6.0", ["facenet_pytorch/"], output / "packages")
    fetch("scikit-image", ["skimage/data/astronaut.png"], packages)
    image = read_image(packages / "skimage" / "data" / "astronaut.png")
    measured = {}
    with _importable(packages):
        mtcnn = importlib.import_module("facenet_pytorch").MTCNN
        mtcnn().detect(image)  # the first call of a process is slower
        for name, thresholds in _THRESHOLDS.items():
            detector = mtcnn(keep_all=True, thresholds=thresholds)
            theirs, their_ms, candidates = _detect(detector, image)
            with accelerate_torchvision():
                ours, our_ms, _ = _detect(detector, image)
            measured[name] = {
                "faces": len(ours[0]),
                "candidates": candidates,
                "equal": all(map(np.array_equal, ours, theirs)),
                "torchvision_ms": round(their_ms, 2),
                "fastrpn_ms": round(our_ms, 2),
            }
            boxes, scores = ours[:2]
    picture = draw_detections(image, boxes, np.ones(len(boxes)), scores, ["", "face"])
    write_image(output / "faces.png", picture)
    return measured


def _detect(detector: Any, image: np.ndarray) -> tuple[tuple, float, int]:
    """Boxes, scores and landmarks; milliseconds in NMS; the most boxes in one of its calls."""
    module = importlib.import_module("facenet_pytorch.models.utils.detect_face")
    nms, times, counts = module.batched_nms, [], []

    def timed_nms(boxes: Tensor, *arguments: Any) -> Tensor:
        start = time.perf_counter()
        kept = nms(boxes, *arguments)
        times.append(time.perf_counter() - start)
        counts.append(len(boxes))
        return kept

    with patch.object(module, "batched_nms", timed_nms):
        found = detector.detect(image, landmarks=True)
    return found, 1000 * sum(times), max(counts)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Within it modules are found in a folder, too, behind what is installed."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
