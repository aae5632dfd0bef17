"""torchvision's names with our kernels behind them, against torchvision's own."""

import torch
import torchvision

import fastrpn

from .boxes import random_boxes, random_scores, random_threshold
from .rois import aligned_by_torchvision, gradient, near, pooling, sampling, tame, terms
from .suppression import labels
from .trial import Trial, difference


def _accelerated(call):
    def with_our_kernels(*tensors):
        with fastrpn.accelerate_torchvision():
            return call(*tensors)

    return with_our_kernels


def _expect_the_same(trial: Trial, call, *tensors, same=None) -> None:
    trial.expect(call(*tensors), _accelerated(call), *tensors, same=same)


def accelerated_box_iou(trial: Trial) -> None:
    n, m, dtype = trial.size(), trial.size(largest=100), trial.float_dtype()
    sets = [random_boxes(trial, count).to(dtype) for count in (n, m)]
    _expect_the_same(trial, torchvision.ops.box_iou, *sets)


def accelerated_nms(trial: Trial) -> None:
    n, dtype = trial.size(), trial.choose(torch.float32, torch.float64)
    boxes, scores = random_boxes(trial, n).to(dtype), random_scores(trial, n).to(dtype)
    threshold = random_threshold(trial)
    _expect_the_same(trial, lambda *t: torchvision.ops.nms(*t, threshold), boxes, scores)


def accelerated_batched_nms(trial: Trial) -> None:
    """Few boxes, which torchvision's function keeps, and the more than 1,000 that ours takes."""
    n = min(trial.choose(1001, 1300), trial.limit) if trial.chance(0.2) else trial.size()
    dtype = trial.choose(torch.float32, torch.float64)
    boxes, scores = random_boxes(trial, n).to(dtype), random_scores(trial, n).to(dtype)
    # Its mask of NaN and its loop over classes agree on labels of moderate size alone.
    idxs, threshold = labels(trial, n) % 100, random_threshold(trial)
    _expect_the_same(
        trial, lambda *t: torchvision.ops.batched_nms(*t, threshold), boxes, scores, idxs
    )


def accelerated_roi_pool(trial: Trial) -> None:
    features, rois, grad, size, scale = _pooling(trial)

    def call(features, rois, grad):
        leaf = features.detach().requires_grad_()
        output = torchvision.ops.roi_pool(leaf, rois, size, scale)
        return output.detach(), torch.autograd.grad(output, leaf, grad)[0]

    def same(got, wanted):
        unlike = [a.stride() != b.stride() for a, b in zip(got, wanted, strict=True)]
        return "strides differ" if any(unlike) else difference(got, wanted)

    _expect_the_same(trial, call, features, rois, grad, same=same)


def accelerated_roi_align(trial: Trial) -> None:
    features, rois, grad, size, scale = _pooling(trial)
    options = sampling(trial)
    rows = torch.ones(len(rois), dtype=torch.bool)

    def call(features, rois, grad):
        leaf = features.detach().requires_grad_()
        output = torchvision.ops.roi_align(leaf, rois, size, scale, **options)
        return output.detach(), torch.autograd.grad(output, leaf, grad)[0]

    bound = aligned_by_torchvision(features.abs(), rois, size, scale, grad.abs(), rows, **options)
    wanted = call(features, rois, grad)
    same = near(wanted, bound, features.dtype, terms(rois, size, scale, options), rows)
    trial.expect(wanted, _accelerated(call), features, rois, grad, same=same)


def _pooling(trial: Trial):
    """What torchvision's kernels take without a crash: finite boxes on a map with elements."""
    features, rois, size, scale = pooling(trial, odd=False)
    dtype = trial.choose(torch.float32, torch.float64)
    features, rois = features.to(dtype), rois.to(dtype)
    rois = rois[tame(rois, scale) & (features.numel() > 0)]
    grad = gradient(trial, (len(rois), features.shape[1], *size), dtype)
    return features, rois, grad, size, scale
