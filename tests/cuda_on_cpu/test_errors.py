"""Every call that can fail, failing: CUDA's runtime and CUB under an op, memory under a CPU kernel.

With `fail_calls` and `fail_allocations` the harness lets the n-th call fail, for each n: the op
raises once and stops there, leaves no error pending and no memory behind, and is right when called
again.
"""

import pytest
import torch

from . import harness
from .test_generate_proposals import random_inputs
from .test_match_anchors import grid_anchors, random_gt
from .test_nms import random_scene


def nms_request(n, dtype=torch.float32, **options):
    boxes, scores = random_scene(1, n, seed=7, dtype=dtype, crowd=400.0)
    options = {"max_output": n, "iou_threshold": 0.5, **options}
    return "nms", {"boxes": boxes, "scores": scores, **options}


def soft_nms_request(n):
    boxes, scores = random_scene(1, max(n, 1), seed=7)
    options = {"gaussian": False, "sigma": 0.5, "iou_threshold": 0.3, "score_threshold": 0.05}
    return "soft_nms", {"boxes": boxes[0, :n], "scores": scores[0, :n], **options}


def proposals_request(dtype):
    names = ("objectness", "deltas", "anchors", "image_sizes")
    inputs = dict(zip(names, random_inputs(2, 60, dtype), strict=True))
    options = {"pre_nms_top_n": 30, "post_nms_top_n": 10, "nms_threshold": 0.6, "min_size": 8.0}
    return "generate_proposals", inputs | options | {"anchors_per_level": torch.tensor([40, 20])}


def match_request():
    inputs = {"anchors": grid_anchors(), "gt_boxes": random_gt(2, 5)}
    inputs["gt_counts"] = torch.tensor([5, 3])
    return "match_anchors", {**inputs, "high": 0.6, "low": 0.3, "allow_low_quality": True}


def roi_request(op, backward, channels_last, dtype=torch.float32, batch=1, sampling_ratio=2):
    sizes = {"batch": batch, "channels": 4, "pooled_height": 2, "pooled_width": 2}
    rois = torch.tensor([[0.0, 1, 1, 20, 20], [0, 5, 3, 30, 11]])
    request = sizes | {"rois": rois, "channels_last": channels_last}
    if op == "roi_pool":
        request |= {"height": 8, "width": 9, "spatial_scale": 0.25}
        winners = torch.tensor([0, 3, 27, 30] * 4 + [10, 14, 19, 23] * 4)  # a cell of each bin
        request |= {"argmax": winners.int() if backward else 1}
    else:
        request |= {"heights": torch.tensor([8]), "widths": torch.tensor([9])}
        request |= {"scales": torch.tensor([0.25]).double(), "aligned": 1}
        request |= {"sampling_ratio": sampling_ratio}
    tensor = torch.randn(32 if backward else batch * 4 * 8 * 9, generator=torch.manual_seed(0)).to(
        dtype
    )
    features = "features" if op == "roi_pool" else "features0"
    return op, request | {"grad_output" if backward else features: tensor}


def levels_request(backward):
    """roi_align of two levels, one RoI on each."""
    op, request = roi_request("roi_align", backward, True)
    request |= {"heights": torch.tensor([8, 4]), "widths": torch.tensor([9, 5])}
    request |= {"scales": torch.tensor([0.25, 0.125]).double()}
    request |= {"roi_levels": torch.tensor([1, 0], dtype=torch.int32)}
    return op, request | ({} if backward else {"features1": torch.rand(4 * 4 * 5)})


# name: (request, calls on CUDA with the workspace's allocation, allocations on the CPU at least)
REQUESTS = {
    "box_iou": (("box_iou", {"boxes1": torch.rand(9, 4), "boxes2": torch.rand(70, 4)}), 1, 0),
    "nms ranked": (nms_request(150), 1 + 3, 3),
    "nms of nothing": (nms_request(0), 1 + 1, 0),
    "nms sorted": (nms_request(4100, counts=torch.tensor([90]), max_output=1000), 1 + 3 + 5, 3),
    "nms of segments": (
        nms_request(4100, counts=torch.tensor([90]), groups=torch.arange(4100)[None] % 7),
        1 + 3 + 1 + 5 + 1,
        9,
    ),
    "nms of groups": (nms_request(150, groups=torch.arange(150)[None] % 3), 1 + 3, 9),
    "soft_nms": (soft_nms_request(40), 1 + 2, 2),
    "match_anchors": (match_request(), 1 + 3, 3),
    "generate_proposals": (proposals_request(torch.float32), 1 + (7 + 1) + 1 + 3 + (1 + 1) + 1, 6),
    "generate_proposals of doubles": (
        proposals_request(torch.float64),
        1 + (11 + 4) + 1 + 3 + (1 + 2) + 1,
        6,
    ),
    "roi_pool": (roi_request("roi_pool", False, False), 1 + 2, 5),
    "roi_pool in place": (roi_request("roi_pool", False, True), 1 + 2, 3),
    "roi_pool backward": (roi_request("roi_pool", True, False, torch.float16), 1 + 2, 1),
    "roi_pool backward of images": (roi_request("roi_pool", True, False, batch=2), 1 + 3, 1),
    "roi_align": (roi_request("roi_align", False, False), 1 + 1, 8),
    "roi_align in place": (roi_request("roi_align", False, True), 1 + 1, 6),
    "roi_align of many samples": (
        roi_request("roi_align", False, True, sampling_ratio=0),
        1 + 2,
        6,
    ),
    "roi_align backward": (roi_request("roi_align", True, False, torch.float16), 1 + 2, 8),
    "roi_align backward of images": (roi_request("roi_align", True, False, batch=2), 1 + 3, 8),
    "roi_align of levels": (levels_request(False), 1 + 1, 6),
    "roi_align backward of levels": (levels_request(True), 1 + 3, 8),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_each_call_fails_once(name):
    (op, request), calls, allocations = REQUESTS[name]
    outputs = harness.run(op, fail_calls=1, fail_allocations=1, **request)
    assert outputs["calls"] == calls
    assert outputs["allocations"] >= allocations


def test_allocations_of_a_grid_fail_one_by_one():
    """So many boxes are kept that the CPU kernel builds a grid of them."""
    op, request = nms_request(700, iou_threshold=0.9)
    outputs = harness.run(op, fail_allocations=1, **request)
    assert outputs["kept"] > 600 and outputs["allocations"] >= 13


# name: (op, file, original, mistake, request, what the harness says)
FAULTS = {
    "unchecked_launch": (
        "nms",
        "order_cuda.h",
        "return FASTRPN_LAUNCH(nms_rank_kernel<T>, rows, kThreads, 0, stream, args, w);",
        "return FASTRPN_LAUNCH(nms_rank_kernel<T>, rows, kThreads, 0, stream, args, w), nullptr;",
        "nms ranked",
        "went on after a call that had failed",
    ),
    "unchecked_memset": (
        "match_anchors",
        "match_anchors_cuda.cu",
        "FASTRPN_TRY(status_of(cudaMemsetAsync(workspace, 0, bytes, stream)))",
        "cudaMemsetAsync(workspace, 0, bytes, stream)",
        "match_anchors",
        "went on after a call that had failed",
    ),
    "error_left_pending": (
        "match_anchors",
        "match_anchors_cuda.cu",
        "FASTRPN_TRY(status_of(cudaMemsetAsync(workspace, 0, bytes, stream)))",
        "if (auto e = cudaMemsetAsync(workspace, 0, bytes, stream)) return cudaGetErrorString(e)",
        "match_anchors",
        "its error is still pending",
    ),
    "last_status_dropped": (
        "nms",
        "nms_cuda.cu",
        "return status_of(cudaMemsetAsync(args.kept, 0, size_t(args.batch) * 8, stream));",
        "return status_of(cudaMemsetAsync(args.kept, 0, size_t(args.batch) * 8, stream)), nullptr;",
        "nms of nothing",
        "call 2 failed, but the op says: ''",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault):
    op, file, original, mistake, name, message = FAULTS[fault]
    mutant = harness.build_mutant(op, file, original, mistake, fault)
    harness.run(mutant, **REQUESTS[name][0][1])
    with pytest.raises(harness.HarnessError, match=message):
        harness.run(mutant, fail_calls=1, **REQUESTS[name][0][1])


def test_sizes_beyond_an_address_space_are_no_small_workspace():
    """A number of bytes that wraps around would be allocated, and written past."""
    request = {"boxes": torch.zeros(0), "batch": 2, "n": 2**30}
    with pytest.raises(harness.HarnessError, match="2\\^31 boxes or more"):
        harness.run("nms", **request)
