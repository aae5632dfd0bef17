"""Operators and inputs for the tests on a GPU.

With FASTRPN_TEST_DEVICE=cpu those tests that only compare results run on the CPU, where they prove
nothing but that they can run.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fastrpn import ops
from fastrpn.ops.multiscale_roi_align import multiscale_roi_align

DEVICE = os.environ.get("FASTRPN_TEST_DEVICE", "cuda")
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="streams, graphs and such are a GPU's")

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


@dataclass
class Op:
    """An operator that never waits for the device, and its inputs for a seed.

    `uses_exp`: exp differs from the CPU's in the last place.
    """

    function: Callable[..., Tensor | tuple[Tensor, ...]]
    inputs: Callable[[int], tuple[Tensor, ...]]
    uses_exp: bool = False


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_boxes(*shape: int, seed: int) -> Tensor:
    """[*shape, 4] xyxy."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, generator=generator) * 400
    return torch.cat([corners, corners + 4 + torch.rand(*shape, 2, generator=generator) * 90], -1)


def random_rois(count: int, seed: int) -> Tensor:
    """[count, 5]: of two images; the last ones are NaN, of no image, and outside."""
    image = torch.arange(count)[:, None] % 2
    rois = torch.cat([image.float(), random_boxes(count, seed=seed)], dim=1)
    rois[-1, 2] = float("nan")
    rois[-2, 1:] += 5000
    return rois


def features(seed: int, scale: int = 1, layout: str = "NHWC") -> Tensor:
    maps = randn(2, 24, 32 // scale, 36 // scale, seed=seed)
    return maps.contiguous(memory_format=LAYOUTS[layout])


def proposals(logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, ...]:
    return ops.generate_proposals(
        *(logits, deltas, anchors),
        torch.full((2, 2), 400, device=logits.device),
        pre_nms_top_n=500,
        post_nms_top_n=100,
        nms_threshold=0.7,
        min_size=2.0,
        anchors_per_level=[1000, 200],
    )


def matched(
    anchors: Tensor, gt_boxes: Tensor, counts: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, ...]:
    return ops.match_anchors(anchors, gt_boxes, counts, high=0.5, low=0.3, valid=valid)


def padded_with_all(boxes: Tensor, scores: Tensor, counts: Tensor, groups: Tensor) -> tuple:
    """nms_padded with everything it can be asked for."""
    options = {"counts": counts, "groups": groups, "score_threshold": 0.2}
    return ops.nms_padded(boxes, scores, 0.5, 40, **options)


def pyramid(fine: Tensor, coarse: Tensor, rois: Tensor) -> Tensor:
    levels = (rois[:, 3] > rois[:, 1] + 50).to(torch.int32)
    return multiscale_roi_align([fine, coarse], rois, levels, 7, [1 / 16, 1 / 32], 2)


def gradient(function: Callable[..., Tensor]) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """The gradient of a RoI operator with respect to its features: all inputs but the last."""

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in inputs[:-1]]
        output = function(*leaves, inputs[-1])
        # Of few bits, which exp and cos are not: the same on every device.
        upstream = (4 * output.detach()).nan_to_num().clamp(-8, 8).round()
        gradients = torch.autograd.grad(output, leaves, upstream)
        return gradients[0] if len(leaves) == 1 else gradients

    return run


def roi_pool(x: Tensor, rois: Tensor) -> Tensor:
    return ops.roi_pool(x, rois, 7, 1 / 16)


def roi_align(x: Tensor, rois: Tensor) -> Tensor:
    return ops.roi_align(x, rois, 7, 1 / 16, 2, True)


def nms_of(n: int) -> Op:
    """3 images; by counting, in one chunk, in several, and with a second order."""
    return Op(
        lambda boxes, scores: ops.nms_padded(boxes, scores, 0.5, 200),
        lambda seed: (random_boxes(3, n, seed=seed), randn(3, n, seed=seed)),
    )


def nms_of_groups(n: int) -> Op:
    """3 images, one large group and many small ones, each decided in its way."""

    def inputs(seed: int) -> tuple[Tensor, ...]:
        groups = torch.randint(-50, 50, (3, n), generator=torch.Generator().manual_seed(seed))
        return random_boxes(3, n, seed=seed), randn(3, n, seed=seed), groups.clamp(min=0)

    return Op(lambda boxes, scores, g: ops.nms_padded(boxes, scores, 0.5, n, groups=g), inputs)


# The CPU refuses a batch index that does not exist, so none is here.
def _roi_inputs(seed: int) -> tuple[Tensor, Tensor]:
    return features(seed), random_rois(60, seed)


def _roi_inputs_nchw(seed: int) -> tuple[Tensor, Tensor]:
    return features(seed, layout="NCHW"), random_rois(60, seed)


def _pyramid_inputs(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    return features(seed), features(seed + 1, 2), random_rois(60, seed)


def _padded_inputs(seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 400, (3,), generator=generator)
    groups = torch.randint(-2, 3, (3, 400), generator=generator)
    return random_boxes(3, 400, seed=seed), randn(3, 400, seed=seed), counts, groups


def _match_inputs(seed: int) -> tuple[Tensor, ...]:
    return random_boxes(700, seed=seed), random_boxes(2, 9, seed=seed + 1), torch.tensor([7, 9])


def _batched_match_inputs(seed: int) -> tuple[Tensor, ...]:
    gt_boxes, counts = random_boxes(2, 9, seed=seed + 1), torch.tensor([9, 0])
    return random_boxes(2, 700, seed=seed), gt_boxes, counts, randn(2, 700, seed=seed) > 0


NO_SYNC = {
    "box_iou": Op(
        ops.box_iou, lambda seed: (random_boxes(300, seed=seed), random_boxes(52, seed=seed + 1))
    ),
    "nms_padded, few_boxes": nms_of(300),
    "nms_padded, 6000 boxes": nms_of(6000),
    "nms_padded, 20000 boxes": nms_of(20_000),
    "nms_padded, counts and groups": Op(padded_with_all, _padded_inputs),
    "nms_padded, 6000 boxes, groups": nms_of_groups(6000),
    "nms_padded, 20000 boxes, groups": nms_of_groups(20_000),
    "match_anchors": Op(matched, _match_inputs),
    "match_anchors, batched and valid": Op(matched, _batched_match_inputs),
    "generate_proposals": Op(
        proposals,
        lambda seed: (
            randn(2, 1200, seed=seed),
            randn(2, 1200, 4, seed=seed + 1) / 4,
            random_boxes(1200, seed=seed + 2),
        ),
        uses_exp=True,
    ),
    "roi_pool": Op(roi_pool, _roi_inputs),
    "roi_align": Op(roi_align, _roi_inputs),
    "roi_pool NCHW": Op(roi_pool, _roi_inputs_nchw),
    "roi_align NCHW": Op(roi_align, _roi_inputs_nchw),
    "multiscale_roi_align": Op(pyramid, _pyramid_inputs),
    "roi_pool backward": Op(gradient(roi_pool), _roi_inputs),
    "roi_align backward": Op(gradient(roi_align), _roi_inputs),
    "roi_pool backward NCHW": Op(gradient(roi_pool), _roi_inputs_nchw),
    "roi_align backward NCHW": Op(gradient(roi_align), _roi_inputs_nchw),
    "multiscale_roi_align backward": Op(gradient(pyramid), _pyramid_inputs),
}


def on_gpu(tensors: tuple[Tensor, ...], device: str = DEVICE) -> list[Tensor]:
    return [x.to(device) for x in tensors]


def check_equal(actual: object, expected: object, inexact: bool = False) -> None:
    """Equal to the last bit, or up to rounding if `inexact`."""
    tolerance = {"rtol": 1e-5, "atol": 1e-3} if inexact else {"rtol": 0, "atol": 0}
    as_tuple = [x if isinstance(x, tuple) else (x,) for x in (actual, expected)]
    for a, e in zip(*as_tuple, strict=True):
        torch.testing.assert_close(a.cpu(), e.cpu(), equal_nan=True, **tolerance)
