"""fastrpn.numpy: the bits of fastrpn.ops, for arrays in any layout."""

import torch
from torch import Tensor

import fastrpn.numpy as fnp
from fastrpn import ops

from .boxes import random_boxes, random_scores, random_threshold
from .suppression import labels, soft_options
from .trial import Trial


def _scene(trial: Trial) -> tuple[Tensor, Tensor]:
    n, dtype = trial.size(), trial.choose(torch.float32, torch.float64)
    return random_boxes(trial, n).to(dtype), random_scores(trial, n).to(dtype)


def numpy_box_iou(trial: Trial) -> None:
    boxes, _ = _scene(trial)
    others = random_boxes(trial, trial.size(largest=100)).to(boxes.dtype)

    def call(*tensors):
        return torch.from_numpy(fnp.box_iou(*(tensor.numpy() for tensor in tensors)))

    trial.expect(ops.box_iou(boxes, others), call, boxes, others)


def numpy_nms(trial: Trial) -> None:
    boxes, scores = _scene(trial)
    threshold = random_threshold(trial)

    def call(*tensors):
        return torch.from_numpy(fnp.nms(*(tensor.numpy() for tensor in tensors), threshold))

    trial.expect(ops.nms(boxes, scores, threshold), call, boxes, scores)


def numpy_batched_nms(trial: Trial) -> None:
    boxes, scores = _scene(trial)
    idxs, threshold = labels(trial, len(boxes)), random_threshold(trial)
    if trial.chance(0.3):
        idxs = (idxs % 100).to(trial.choose(torch.int8, torch.uint8, torch.int32))

    def call(*tensors):
        return torch.from_numpy(fnp.batched_nms(*(tensor.numpy() for tensor in tensors), threshold))

    trial.expect(ops.batched_nms(boxes, scores, idxs, threshold), call, boxes, scores, idxs)


def numpy_soft_nms(trial: Trial) -> None:
    boxes, scores = _scene(trial)
    options = soft_options(trial)

    def call(*tensors):
        results = fnp.soft_nms(*(tensor.numpy() for tensor in tensors), **options)
        return tuple(map(torch.from_numpy, results))

    trial.expect(ops.soft_nms(boxes, scores, **options), call, boxes, scores)
