"""Inference from CUDA graphs: the kernels of a pass are recorded once for each shape of batch.

Behind the padded batch every shape is fixed and nothing waits for the device (see
docs/architecture.md), so a whole detection can be replayed with one call from the host. What is
left to the host is loading, resizing and reading the counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastrpn.models import FasterRCNN
from fastrpn.models.structures import Detections, ImageBatch
from fastrpn.models.transform import to_lists

__all__ = ["GraphCache", "graphed"]

Detect = Callable[[ImageBatch], Detections]


class GraphCache:
    """Detects with one recorded graph for each bucket of batch shapes (and autocast's dtype).

    Args:
        record: takes a batch and returns what detects other batches of its shape.
        step: height and width of a batch are rounded up to a multiple of it; larger steps mean
            fewer graphs and more padding.
        max_graphs: when there are more shapes, the one not used for longest is forgotten.

    Raises:
        ValueError: a ``step`` or ``max_graphs`` below 1.
    """

    def __init__(
        self, record: Callable[[ImageBatch], Detect], step: int = 32, max_graphs: int = 32
    ) -> None:
        for name, number in (("step", step), ("max_graphs", max_graphs)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.record = record
        self.step = step
        self.max_graphs = max_graphs
        self._graphs: OrderedDict[tuple, Detect] = OrderedDict()

    def __call__(self, batch: ImageBatch) -> Detections:
        """Padded detections of a padded batch, as :meth:`FasterRCNN.detect` gives them."""
        batch = batch._replace(images=pad_to_multiple(batch.images, self.step))
        key = (*batch.images.shape, _autocast_dtype())
        if key not in self._graphs:
            if len(self._graphs) == self.max_graphs:
                self._graphs.popitem(last=False)
            self._graphs[key] = self.record(batch)
        self._graphs.move_to_end(key)
        return self._graphs[key](batch)


def graphed(
    model: FasterRCNN,
    step: int = 32,
    max_graphs: int = 32,
    score_threshold: float | None = None,
) -> Callable[[Sequence[Tensor]], list[dict[str, Tensor]]]:
    """The model's detections of lists of images, from CUDA graphs.

    Args:
        model: in evaluation mode, on a GPU, with hard NMS. Its parameters may change their values
            later, but not their memory.
        step, max_graphs: see :class:`GraphCache`.
        score_threshold: see :meth:`FasterRCNN.forward`.

    Returns:
        what takes and gives what ``model`` does: images [3, H, W] on its device -> a list of dicts.

    Raises:
        ValueError: a model that is not on a CUDA device, in training mode, or with soft-NMS, whose
            shapes depend on what it finds.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ValueError(f"cuda_graph: the model must be on a CUDA device, it is on {device}")
    if model.training:
        raise ValueError("cuda_graph: the model must be in evaluation mode")
    if model.config.box_nms != "hard":
        raise ValueError(f"cuda_graph: box_nms must be 'hard', got {model.config.box_nms!r}")
    record = partial(_record, model, torch.cuda.graph_pool_handle(), score_threshold)
    return partial(detect_lists, model, GraphCache(record, step, max_graphs))


@torch.no_grad()
def detect_lists(
    model: FasterRCNN, detect: Detect, images: Sequence[Tensor]
) -> list[dict[str, Tensor]]:
    """What ``model(images)`` gives, with another ``detect`` between the lists."""
    batch = model.prepare(images)
    return to_lists(detect(batch), images, batch)


def pad_to_multiple(images: Tensor, step: int) -> Tensor:
    """Images [B, 3, H, W] with zeros at the right and bottom up to a multiple of ``step``."""
    right, bottom = -images.shape[3] % step, -images.shape[2] % step
    return F.pad(images, (0, right, 0, bottom)) if right or bottom else images


def _autocast_dtype() -> torch.dtype | None:
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None


def _autocast_without_cache() -> torch.autocast:
    """The caller's autocast, but weights it casts do not outlive the graph that reads them."""
    dtype = _autocast_dtype()
    return torch.autocast("cuda", dtype, enabled=dtype is not None, cache_enabled=False)


@torch.no_grad()
def _record(
    model: FasterRCNN, pool: Any, score_threshold: float | None, batch: ImageBatch
) -> Detect:
    """Records ``model.detect`` on copies of the batch; graphs of one pool share their memory."""
    scales = None if batch.scales is None else batch.scales.clone()
    inputs = ImageBatch(batch.images.clone(), batch.sizes.clone(), scales)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), _autocast_without_cache():
        for _ in range(2):  # what happens once, such as choosing algorithms, is not recorded
            model.detect(inputs, score_threshold=score_threshold)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool), _autocast_without_cache():
        outputs = model.detect(inputs, score_threshold=score_threshold)
    # The graph reads anchors from the model's cache, which forgets: they must stay alive.
    anchors = list(model.rpn.anchors._cache.values())

    def replay(batch: ImageBatch, anchors: list[Tensor] = anchors) -> Detections:
        for to, new in zip(inputs, batch, strict=True):
            if to is not None and new is not None:
                to.copy_(new)
        graph.replay()
        return Detections(*(x.clone() for x in outputs))

    return replay
