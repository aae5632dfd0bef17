"""Detection on images in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from fastrpn.deployment import ExportedModel, is_exported
from fastrpn.deployment.exported_model import ONNX_RUNTIMES
from fastrpn.distributed import local_device
from fastrpn.errors import BadDataPolicy
from fastrpn.images import array_as_rgb, image_to_tensor, read_image
from fastrpn.inference.backends import BACKENDS, open_backend
from fastrpn.inference.cuda_graph import graphed
from fastrpn.inference.media import Frame, list_media, read_media
from fastrpn.inference.tiled import TiledDetector
from fastrpn.models import FasterRCNN
from fastrpn.models.checkpoint import load_model
from fastrpn.models.classes import name_classes
from fastrpn.models.precision import PRECISIONS, autocast

__all__ = ["Image", "Predictor"]

Image = np.ndarray | Tensor | str | Path
Detection = dict[str, Tensor]


class Predictor:
    """A trained model, ready for images.

    Args:
        checkpoint: file of :func:`fastrpn.training.train` or of :func:`fastrpn.export`, or a model,
            which is used where it is and put into evaluation mode.
        device: where a checkpoint's model runs: "auto" (a GPU if it can be used, else the CPU),
            "cpu", "cuda", ... A model is not moved, nor an exported one that was compiled.
        batch_size: images in one pass through the network.
        score_threshold: lowest score of a detection, 0 to 1, lower than the model's own, too; None:
            the model's own.
        precision: "fp32", or "bf16" or "fp16" for convolutions and matrix products in bfloat16 or
            float16; boxes and scores stay float32.
        cuda_graph: replay one recorded CUDA graph for each shape of batch; for few or small images
            on a GPU, where the host is what limits the speed.
        classes: names of a model's classes; a checkpoint holds its own.
        nms: "hard", or soft-NMS of the detections, "linear" or "gaussian"; None: as the model's
            configuration says, which else is changed.
        tile: side in pixels of the tiles in which larger images are looked at, see
            :class:`fastrpn.inference.tiled.TiledDetector`; None: each image is taken whole.
        overlap: least share of its side that a tile has in common with the next, 0 to below 1.
        backend: what computes, with the same detections but for rounding: "eager" the model as it
            is; "fused" on a CPU a faster copy of it; "compiled" by AOTInductor, "onnxruntime",
            "openvino" the exported model, which is made once, in seconds to minutes, and kept in
            ``$FASTRPN_CACHE`` or ``~/.cache/fastrpn``; "auto" is "fused" where that is possible,
            else "eager". An exported file is run as it is; of ONNX files "auto" is "onnxruntime",
            and "openvino" may be asked for.

    Attributes:
        classes: names, "__background__" first; a detection's label is an index into them.

    Raises:
        ValueError: a ``batch_size`` below 1, a ``score_threshold`` outside [0, 1], an unknown
            ``precision`` or ``nms``, ``cuda_graph`` on a device that is no GPU or with soft-NMS, a
            bad checkpoint, another number of ``classes`` than the model's, a ``tile`` below 1 or an
            ``overlap`` outside [0, 1). Of an exported model: a ``score_threshold`` lower than its
            own, a ``precision``, an ``nms``, ``cuda_graph``, a ``backend`` that does not run it. An
            unknown ``backend``, or one that cannot run the model.
        ImportError: the backend's runtime is not installed.

    Example::

        detect = Predictor("last.pt")
        result = detect("street.jpg")  # {"boxes": [D, 4], "labels": [D], "scores": [D]}
        results = detect(["a.jpg", array])  # a list of them
        for frame, result in detect.stream(["photos/", "clip.mp4"]):
            print(frame.name, len(result["boxes"]))
    """

    def __init__(
        self,
        checkpoint: str | Path | FasterRCNN,
        device: str | torch.device = "auto",
        batch_size: int = 4,
        score_threshold: float | None = None,
        precision: str = "fp32",
        cuda_graph: bool = False,
        classes: Sequence[str] | None = None,
        nms: str | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
        backend: str = "auto",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must be in [0, 1], got {score_threshold}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if cuda_graph and backend not in ("auto", "eager"):
            raise ValueError(f"cuda_graph: the backend must be eager, got {backend}")
        self.batch_size = batch_size
        self.score_threshold = score_threshold
        self.precision = precision
        self.detect: Callable[[list[Tensor]], list[Detection]]
        if not isinstance(checkpoint, FasterRCNN) and is_exported(checkpoint):
            runtimes = ONNX_RUNTIMES if Path(checkpoint).suffix == ".onnx" else ()
            if backend not in ("auto", *runtimes):
                raise ValueError(f"backend {backend}: {checkpoint} was exported already")
            runtime = "onnxruntime" if backend == "auto" else backend
            model = ExportedModel(checkpoint, local_device(device), runtime)
            self._use_exported(model, cuda_graph, nms)
            if tile is not None:
                self.detect = TiledDetector(model, tile, overlap, batch_size=batch_size)
            return
        if isinstance(checkpoint, FasterRCNN):
            self.model = checkpoint.eval()
            self.classes = name_classes(self.model.num_classes, classes)
        else:
            self.model, self.classes = load_model(checkpoint, local_device(device))
        if nms is not None:
            self.model.config = self.model.config.override(box_nms=nms)
        self.device = next(self.model.parameters()).device
        above = None if score_threshold is None else self._floor(score_threshold)
        if cuda_graph:
            self.detect = graphed(self.model, score_threshold=above)
        else:
            other = open_backend(self.model, backend, precision, above, self.classes)
            self.detect = other or partial(self.model, score_threshold=above)
        if tile is not None:
            threshold = self.model.config.box_nms_threshold
            self.detect = TiledDetector(self.detect, tile, overlap, threshold, batch_size)

    def _use_exported(self, model: ExportedModel, cuda_graph: bool, nms: str | None) -> None:
        own = model.metadata.score_threshold
        if self.score_threshold is not None and self.score_threshold < own:
            raise ValueError(
                f"score_threshold must be at least {own}, with which {model.path} was exported, "
                f"got {self.score_threshold}"
            )
        if cuda_graph or nms is not None or self.precision != "fp32":
            option = "cuda_graph" if cuda_graph else f"nms {nms}"
            option = option if cuda_graph or nms else f"precision {self.precision}"
            raise ValueError(f"{option}: {model.path} was exported and cannot be changed")
        self.classes, self.device, self.detect = model.metadata.classes, model.device, model

    def _floor(self, score_threshold: float) -> float:
        """What the model's scores must exceed; `_select` keeps those at the threshold, too."""
        own = self.model.roi_head.config.box_score_threshold
        return min(own, float(np.nextafter(np.float32(score_threshold), np.float32(-1))))

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a path is a sequence of strings, too
        self, images: Image
    ) -> Detection: ...

    @overload
    def __call__(self, images: Sequence[Image]) -> list[Detection]: ...

    def __call__(self, images: Image | Sequence[Image]) -> Detection | list[Detection]:
        """Detects objects in one image or in several.

        Args:
            images: arrays [H, W, 3] RGB, also grey, with alpha, or of 16 bits, see
                :func:`fastrpn.images.array_as_rgb`; float tensors [3, H, W] in 0..1; or paths of
                files, which are turned as their EXIF orientation says.

        Returns:
            for each image "boxes" float32 [D, 4] (xyxy, pixels), "labels" int64 [D] and "scores"
            float32 [D], best first, on the CPU; a single dict for a single image.

        Raises:
            BadDataError: a file that cannot be read. TypeError, ValueError: another kind of image.
        """
        if isinstance(images, Image):
            return self._detect([_to_tensor(images)])[0]
        results: list[Detection] = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            results += self._detect([_to_tensor(image) for image in batch])
        return results

    def stream(
        self, paths: Iterable[str | Path], policy: BadDataPolicy | None = None
    ) -> Iterator[tuple[Frame, Detection]]:
        """Detects objects in files of any number and length.

        Images are read ahead while the network computes; a batch and a few pictures are in memory.

        Args:
            paths: images, videos, and folders of them; one of these alone will do.
            policy: whether to stop at an unreadable file, the default, or to skip it.

        Yields:
            ``Frame(path, image, number, rate)`` and its detections, as a call returns them.

        Raises:
            FileNotFoundError: a path that does not exist, or nothing to detect in.
            BadDataError: an unreadable file, if the policy stops at it.
        """
        files = list_media([paths] if isinstance(paths, str | Path) else paths)
        yield from self.detect_frames(read_media(files, policy or BadDataPolicy("stop")))

    def detect_frames(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Detection]]:
        """Detects objects in pictures as they come, ``batch_size`` at a time."""
        frames = iter(frames)
        while batch := list(islice(frames, self.batch_size)):
            yield from zip(batch, self([frame.image for frame in batch]), strict=True)

    @torch.inference_mode()
    def _detect(self, images: list[Tensor]) -> list[Detection]:
        with autocast(self.device, self.precision):
            detections = self.detect([image.to(self.device) for image in images])
        return [self._select(detection) for detection in detections]

    def _select(self, detection: Detection) -> Detection:
        detection = {name: value.cpu() for name, value in detection.items()}
        if self.score_threshold is None:
            return detection
        keep = detection["scores"] >= self.score_threshold
        return {name: value[keep] for name, value in detection.items()}


def _to_tensor(image: Image) -> Tensor:
    """float32 [3, H, W] in 0..1."""
    if isinstance(image, str | Path):
        return image_to_tensor(read_image(image, exif=True))
    if isinstance(image, np.ndarray):
        return image_to_tensor(array_as_rgb(image))
    return image
