"""torch.ops.fastrpn.* called directly with garbage: it raises or computes, and never crashes."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastrpn import ops

HERE = Path(__file__).parent


def good_arguments() -> dict[str, list]:
    """A legal call of each operator."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(5, 4, generator=generator).cumsum(1)
    scores, labels = torch.rand(5, generator=generator), torch.zeros(5, dtype=torch.int64)
    features = torch.rand(2, 3, 8, 8, generator=generator)
    rois = torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 5]])
    levels, scales = torch.tensor([0, 1], dtype=torch.int32), [1.0, 0.5]
    pooled, argmax = torch.ops.fastrpn.roi_pool_argmax(features, rois, 1.0, 2, 2)
    valid = torch.ones(5, dtype=torch.bool)
    sizes = torch.tensor([[9, 9]])
    return {
        "box_iou": [boxes, boxes],
        "box_iou_values": [boxes, boxes],
        "nms": [boxes, scores, 0.5],
        "batched_nms": [boxes, scores, labels, 0.5],
        "nms_padded": [boxes[None], scores[None], 0.5, 3, torch.tensor([5]), labels[None], 0.1],
        "soft_nms": [boxes, scores, "linear", 0.5, 0.3, 0.001],
        "match_anchors": [boxes, boxes[None], torch.tensor([5]), 0.7, 0.3, True, valid],
        "generate_proposals": [
            scores[None], boxes[None], boxes, sizes, 3, 3, 0.7, 0.0, [2, 3]
        ],
        "roi_pool": [features, rois, 1.0, 2, 2],
        "roi_pool_argmax": [features, rois, 1.0, 2, 2],
        "roi_pool_backward": [pooled, rois, argmax, 1.0, 2, 3, 8, 8],
        "roi_align": [[features, features], rois, levels, scales, 2, 2, 2, False],
        "roi_align_backward": [pooled, rois, levels, scales, 2, False, 2, [8, 4], [8, 4], False],
    }  # fmt: skip


def other_kinds(tensor: torch.Tensor):
    """Tensors that fit in nothing: rank, last dimension, dtype, layout."""
    yield tensor[None, None]
    yield tensor.flatten()[0]
    yield tensor.to(torch.complex64)
    yield tensor.long() if tensor.dtype == torch.bool else tensor.bool()
    yield tensor.to_sparse()
    if tensor.dim() > 1:
        yield tensor[..., :0]
        yield tensor.flatten()


TENSOR_ARGUMENTS = [
    (name, position)
    for name, arguments in good_arguments().items()
    for position, value in enumerate(arguments)
    if isinstance(value, torch.Tensor)
]
# A map and its bins may have any width, also none.
LEGAL = {("roi_pool", 0, 5), ("roi_pool_argmax", 0, 5), ("roi_align_backward", 0, 5)}


@pytest.mark.parametrize(("name", "position"), TENSOR_ARGUMENTS)
def test_tensors_of_another_kind_raise(name, position):
    good = good_arguments()[name]
    for kind, tensor in enumerate(other_kinds(good[position])):
        if (name, position, kind) in LEGAL:
            continue
        arguments = [*good[:position], tensor, *good[position + 1 :]]
        with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
            getattr(torch.ops.fastrpn, name)(*arguments)


HUGE = 2**62
NEGATIVE = [
    ("nms_padded", {3: -1}),
    ("generate_proposals", {4: 0}),
    ("generate_proposals", {5: -1}),
    ("generate_proposals", {8: [6, -1]}),
    ("generate_proposals", {8: [2, 2]}),
    ("generate_proposals", {8: [HUGE, HUGE, HUGE, HUGE, 5]}),
    ("roi_pool", {3: 0}),
    ("roi_pool", {4: -1}),
    ("roi_pool_argmax", {3: -(2**63)}),
    ("roi_pool_backward", {4: -1}),
    ("roi_pool_backward", {5: 2}),
    ("roi_pool_backward", {6: -1, 7: -1}),
    ("roi_align", {0: []}),
    ("roi_align", {3: [1.0]}),
    ("roi_align", {2: None}),
    ("roi_align", {4: 0}),
    ("roi_align_backward", {6: -2}),
    ("roi_align_backward", {7: [8, -4]}),
    ("roi_align_backward", {7: [8]}),
    ("roi_align_backward", {3: [1.0] * 9, 7: [8] * 9, 8: [8] * 9}),
    ("soft_nms", {2: "hard"}),
    ("soft_nms", {5: -0.1}),
    ("soft_nms", {5: math.nan}),
]


@pytest.mark.parametrize(("name", "changes"), NEGATIVE)
def test_sizes_that_do_not_fit_raise(name, changes):
    arguments = good_arguments()[name]
    for position, value in changes.items():
        arguments[position] = value
    with pytest.raises(RuntimeError):
        getattr(torch.ops.fastrpn, name)(*arguments)


def odd_values(value):
    """Values of the right kind that no caller should give: out of range, not finite, huge."""
    if isinstance(value, torch.Tensor):
        numbers = [-1, -2, 7, 64, 10**6, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
        if value.is_floating_point():
            numbers = [*map(float, numbers), math.nan, math.inf, -math.inf, 1e38, -1e38]
        elif value.dtype == torch.int32:
            numbers = [number for number in numbers if -(2**31) <= number < 2**31]
        elif value.dtype == torch.bool:
            numbers = [False]
        for number in numbers:
            yield torch.full_like(value, number)
            for position in (0, -1):
                one = value.clone()
                one.view(-1)[position] = number
                yield one
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, float):
        yield from (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e308, -1e308, 5e-324)
    elif isinstance(value, int):
        yield from (-(2**63), -1, 0, 1, 7, 2**31 - 1, 2**31, 2**32, 2**40, HUGE, 2**63 - 1)
    elif isinstance(value, list):
        yield from ([], value[:1], value * 5)
        for odd in odd_values(value[0]):
            yield from ([odd, *value[1:]], [*value[:-1], odd], [odd] * len(value))


SAMPLING_RATIO = {("roi_align", 6), ("roi_align_backward", 4)}


def run_odd_values() -> None:
    """Calls with one odd value at a time; prints how many raised and how many computed."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**30  # so that huge sizes raise, and soon
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    for name, good in good_arguments().items():
        raised = computed = 0
        for position, value in enumerate(good):
            for odd in odd_values(value):
                if (name, position) in SAMPLING_RATIO and odd > 2**20:
                    continue  # so many samples are a legal wish, and take as long as they take
                try:
                    getattr(torch.ops.fastrpn, name)(*good[:position], odd, *good[position + 1 :])
                    computed += 1
                except (RuntimeError, ValueError, MemoryError):
                    raised += 1
        print(name, raised, computed, flush=True)


def test_odd_values_never_crash():
    """In a process of its own, which would die with a kernel that reads or writes out of bounds."""
    code = "import test_raw_operators as t; t.run_odd_values()"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=HERE, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    counts = {name: counts for name, *counts in map(str.split, done.stdout.splitlines())}
    assert counts.keys() == good_arguments().keys()
    assert all(int(computed) > 10 for _, computed in counts.values())
    assert int(counts["generate_proposals"][0]) > 10


def test_indices_out_of_range_have_no_effect():
    """A level, an image, a winner or a count that does not exist is left out."""
    arguments = good_arguments()
    grad, rois, argmax, *rest = arguments["roi_pool_backward"]
    outside = torch.tensor([-1, -7, 64, 65, 2**31 - 1, -(2**31)], dtype=torch.int32)
    winners = outside[torch.arange(argmax.numel()) % 6].view(argmax.shape)
    assert not torch.ops.fastrpn.roi_pool_backward(grad, rois, winners, *rest).any()
    maps, rois, _, *rest = arguments["roi_align"]
    levels = torch.tensor([-1, 2], dtype=torch.int32)
    assert not torch.ops.fastrpn.roi_align(maps, rois, levels, *rest).any()
    boxes, scores, *rest = arguments["nms_padded"]
    everything = torch.ops.fastrpn.nms_padded(boxes, scores, *rest)
    for count, wanted in ((10**6, everything[1]), (2**63 - 1, everything[1]), (-(2**63), 0)):
        rest[2] = torch.tensor([count])
        assert torch.ops.fastrpn.nms_padded(boxes, scores, *rest)[1] == wanted
    anchors, gt_boxes, _, *rest = arguments["match_anchors"]
    labels = [
        ops.match_anchors(anchors, gt_boxes, torch.tensor([count]), high=0.7, low=0.3)[0]
        for count in (5, 6, 2**63 - 1)
    ]
    assert torch.equal(labels[0], labels[1]) and torch.equal(labels[0], labels[2])
