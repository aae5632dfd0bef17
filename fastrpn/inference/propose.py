"""Making proposals: by a trained RPN, or by selective search."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from fastrpn import distributed
from fastrpn.data import Part, ProposalSet, Samples, build_loader
from fastrpn.images import image_to_array
from fastrpn.models import FasterRCNN

__all__ = ["METHODS", "propose_dataset", "rpn_proposals", "selective_search"]

METHODS = ("rpn", "selective-search")


def propose_dataset(
    dataset: Samples,
    method: str,
    model: FasterRCNN | None = None,
    *,
    limit: int = 2000,
    workers: int = 0,
    progress: bool = True,
) -> tuple[ProposalSet | None, float]:
    """Proposals of every image of a data set, to save, to train on or to judge.

    Under torchrun each process takes its share of the images.

    Args:
        dataset: (image float32 [3, H, W] in 0..1, target with "image_id") by index.
        method: "rpn" or "selective-search".
        model: for "rpn", a trained model in evaluation mode.
        limit: proposals an image at most.
        workers: processes that read images; 0 reads in this one.
        progress: show a progress bar.

    Returns:
        In the main process the proposals of all images, in their order; in the others None. And the
        seconds an image took on average, without reading it.

    Raises:
        ValueError: unknown method, "rpn" without a model, or an image id that occurs twice.
        ImportError: see :func:`selective_search`.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "rpn" and model is None:
        raise ValueError('method "rpn" needs a model')

    def propose(image: Tensor) -> tuple[Tensor, Tensor]:
        if method == "rpn" and model is not None:
            return rpn_proposals(model, [image], limit=limit)[0]
        boxes = selective_search(image, limit=limit)
        return boxes, torch.linspace(1, 0, len(boxes))

    rank, size = distributed.rank(), distributed.size()
    # One image at a time: in a batch, what an image gets would depend on its neighbours' sizes.
    share = Part(dataset, range(rank, len(dataset), size))
    loader = build_loader(share, 1, shuffle=False, seed=0, workers=workers)
    found: list[tuple[int, tuple[Tensor, Tensor]]] = []
    seconds = 0.0
    hidden = not progress or rank > 0
    for (image,), (target,) in track(loader, "Proposing", len(loader), disable=hidden):
        start = time.perf_counter()
        boxes, scores = propose(image)
        seconds += time.perf_counter() - start
        found.append((target["image_id"], (boxes.cpu(), scores.cpu())))
    shares = distributed.gather((found, seconds))
    if shares is None:
        return None, seconds / max(1, len(share))
    together = dict(shares[i % size][0][i // size] for i in range(len(dataset)))
    if len(together) < len(dataset):
        raise ValueError("dataset: several images have the same image_id")
    seconds = sum(spent for _, spent in shares)
    return ProposalSet.collect(method, together), seconds / max(1, len(dataset))


def rpn_proposals(
    model: FasterRCNN, images: Sequence[Tensor], *, limit: int = 2000
) -> list[tuple[Tensor, Tensor]]:
    """What a model's RPN proposes, without its detection head.

    Args:
        model: put into evaluation mode by the caller.
        images: RGB [3, H, W] in 0..1, of any sizes.
        limit: at most this many proposals an image, in place of the configuration's; as many as
            that survive NMS come back.

    Returns:
        For each image boxes float32 [K, 4] xyxy in its pixels and scores float32 [K], best first.

    Raises:
        ValueError: the model is in training mode, or limit is not positive.
    """
    if model.training:
        raise ValueError("model is in training mode; call model.eval() first")
    if limit < 1:
        raise ValueError(f"limit must be positive, got {limit}")
    device = next(model.parameters()).device
    with torch.inference_mode():
        batch = model.prepare([image.to(device) for image in images])
        proposals = model.propose(batch, limit)
    results = []
    for image, size, boxes, scores, count in zip(
        images, batch.sizes, *proposals[:2], proposals.counts.tolist(), strict=True
    ):
        own_size = torch.tensor(image.shape[-2:], dtype=torch.float32, device=size.device)
        scale = (own_size / size).flip(0).repeat(2)
        results.append((boxes[:count] * scale, scores[:count]))
    return results


def selective_search(
    image: Tensor | np.ndarray, *, mode: str = "fast", limit: int = 2000, seed: int = 0
) -> Tensor:
    """Proposals by grouping segments (Uijlings et al., "Selective search for object recognition",
    2013), the method Fast R-CNN relies on.

    OpenCV's implementation; like the paper's it orders boxes by a random fraction of the level of
    the hierarchy they come from, so that a prefix is a fair sample with large regions first.

    Args:
        image: RGB, float [3, H, W] in 0..1 or uint8 [H, W, 3].
        mode: "fast" or "quality" (more colour spaces and scales: slower, more boxes).
        limit: return at most this many, the first.
        seed: of the random fractions; equal arguments give equal boxes.

    Returns:
        float32 [K, 4] xyxy in pixels, best first.

    Raises:
        ImportError: OpenCV is installed without its contributed modules; the message has the cure.
        ValueError: unknown mode.
    """
    if mode not in ("fast", "quality"):
        raise ValueError(f'mode must be "fast" or "quality", got {mode!r}')
    search = _segmentation().createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.cvtColor(image_to_array(image), cv2.COLOR_RGB2BGR))
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    ctypes.CDLL(None).srand(seed)  # the module draws from rand(), not from OpenCV's generator
    boxes = torch.from_numpy(np.asarray(search.process()[:limit], np.float32).reshape(-1, 4))
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)  # from x, y, w, h


def _segmentation() -> Any:
    try:
        return cv2.ximgproc.segmentation  # type: ignore[attr-defined]
    except AttributeError:
        raise ImportError(
            "selective search needs OpenCV's contributed modules:\n"
            "  pip install --force-reinstall --no-deps opencv-contrib-python"
        ) from None
