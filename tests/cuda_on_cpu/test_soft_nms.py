"""soft_nms's CUDA kernels against the definition, step by step, and the CPU kernel, bit for bit."""

import math

import pytest
import torch

from fastrpn.ops import reference

from . import harness
from .test_nms import random_scene

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def expected_soft_nms(boxes, scores, gaussian, sigma, iou_threshold, score_threshold):
    wide = torch.promote_types(boxes.dtype, torch.float32)
    iou = reference.box_iou(boxes.to(wide), boxes.to(wide)).nan_to_num(nan=0.0)
    if gaussian:
        weight = torch.exp(-(iou**2) / sigma)
    else:
        weight = torch.where(iou.double() > iou_threshold, 1 - iou, 1.0)
    scores = scores.to(wide).clone()
    indices, decayed = [], []
    while True:
        scores[~(scores.to(boxes.dtype) > score_threshold)] = -math.inf
        if not (scores > -math.inf).any():
            return torch.tensor(indices), torch.tensor(decayed, dtype=wide)
        best = int(scores.argmax())
        indices.append(best)
        decayed.append(scores[best].item())
        scores = scores * weight[best]
        scores[best] = -math.inf


def run_both(boxes, scores, gaussian, sigma=0.5, iou_threshold=0.3, score_threshold=0.05):
    parameters = (gaussian, sigma, iou_threshold, score_threshold)
    indices, decayed = expected_soft_nms(boxes, scores, *parameters)
    names = ("gaussian", "sigma", "iou_threshold", "score_threshold")
    outputs = harness.run(
        "soft_nms",
        boxes=boxes,
        scores=scores,
        seeds=3,
        **dict(zip(names, parameters, strict=True)),
    )
    kept = outputs["kept"].item()
    assert outputs["indices"][:kept].tolist() == indices.tolist()
    tolerance = 2 * torch.finfo(boxes.dtype).eps
    torch.testing.assert_close(
        outputs["decayed"][:kept].to(decayed), decayed, rtol=tolerance, atol=tolerance
    )
    return kept


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gaussian", [False, True])
def test_equals_the_definition(gaussian, dtype):
    boxes, _ = random_scene(1, 40, seed=0, dtype=dtype)
    scores = torch.linspace(0.05, 1, 40)[torch.randperm(40, generator=torch.manual_seed(0))]
    kept = run_both(boxes[0], scores.to(dtype), gaussian)
    assert 5 < kept < 40


def test_more_boxes_than_threads():
    boxes, scores = random_scene(1, 1100, seed=1, dtype=torch.float64)
    assert run_both(boxes[0], scores[0], gaussian=False, score_threshold=0.49) > 3


def test_ties_nan_and_infinite_numbers():
    boxes, scores = random_scene(1, 20, seed=2)
    boxes[0, 3, 0], scores[0, 5], scores[0, 7] = float("nan"), float("nan"), 0.0
    run_both(boxes[0], scores[0], gaussian=False)


def test_no_boxes():
    assert run_both(torch.zeros(0, 4), torch.zeros(0), gaussian=True) == 0
