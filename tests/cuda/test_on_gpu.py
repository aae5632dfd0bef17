"""The operators on a GPU: the CPU's results, any stream, CUDA graphs, deterministic gradients."""

import pytest
import torch

from fastrpn import ops

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def random_boxes(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, generator=generator) * 400
    return torch.cat([corners, corners + 4 + torch.rand(*shape, 2, generator=generator) * 90], -1)


def random_rois(count: int, seed: int) -> torch.Tensor:
    image = torch.arange(count)[:, None] % 2
    return torch.cat([image.float(), random_boxes(count, seed=seed)], dim=1)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(seed: int) -> torch.Tensor:
    return randn(2, 24, 30, 34, seed=seed).contiguous(memory_format=torch.channels_last)


def proposals(logits, deltas, anchors):
    return ops.generate_proposals(
        logits,
        deltas,
        anchors,
        torch.tensor([[400, 500], [300, 200]], device=logits.device),
        pre_nms_top_n=500,
        post_nms_top_n=100,
        nms_threshold=0.7,
        min_size=2.0,
        anchors_per_level=[1000, 200],
    )


def matched(anchors, gt_boxes):
    counts = torch.tensor([5, 9], device=anchors.device)
    return ops.match_anchors(anchors, gt_boxes, counts, high=0.5, low=0.3)


# Operators that never wait for the device: (function, inputs from a seed, whether exp is involved).
NO_SYNC = {
    "box_iou": (
        ops.box_iou,
        lambda s: (random_boxes(300, seed=s), random_boxes(50, seed=s + 1)),
        False,
    ),
    "nms_padded": (
        lambda boxes, scores: ops.nms_padded(boxes, scores, 0.5, 200),
        lambda s: (random_boxes(3, 6000, seed=s), randn(3, 6000, seed=s)),
        False,
    ),
    "match_anchors": (
        matched,
        lambda s: (random_boxes(700, seed=s), random_boxes(2, 9, seed=s + 1)),
        False,
    ),
    "generate_proposals": (
        proposals,
        lambda s: (
            randn(2, 1200, seed=s),
            randn(2, 1200, 4, seed=s + 1) / 4,
            random_boxes(1200, seed=s + 2),
        ),
        True,
    ),
    "roi_pool": (
        lambda x, rois: ops.roi_pool(x, rois, 7, 1 / 16),
        lambda s: (features(s), random_rois(60, s)),
        False,
    ),
    "roi_align": (
        lambda x, rois: ops.roi_align(x, rois, 7, 1 / 16, 2, True),
        lambda s: (features(s), random_rois(60, s)),
        False,
    ),
}


def on_gpu(tensors):
    return [x.cuda() for x in tensors]


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def check_equal(actual, expected, inexact=False):
    for a, e in zip(as_tuple(actual), as_tuple(expected), strict=True):
        tolerance = {"rtol": 1e-5, "atol": 1e-3} if inexact else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(a.cpu(), e.cpu(), equal_nan=True, **tolerance)


@pytest.mark.parametrize("op", NO_SYNC)
def test_equals_the_cpu(op):
    function, inputs, inexact = NO_SYNC[op]
    check_equal(function(*on_gpu(inputs(0))), function(*inputs(0)), inexact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 65, 5000, 20000])
def test_nms_keeps_the_rows_of_the_cpu(n, dtype):
    boxes, scores = random_boxes(n, seed=n).to(dtype), randn(n, seed=n).to(dtype)
    groups = torch.arange(n) % 7
    check_equal(ops.nms(boxes.cuda(), scores.cuda(), 0.5), ops.nms(boxes, scores, 0.5))
    check_equal(
        ops.batched_nms(boxes.cuda(), scores.cuda(), groups.cuda(), 0.5),
        ops.batched_nms(boxes, scores, groups, 0.5),
    )


@pytest.mark.parametrize("op", NO_SYNC)
def test_a_captured_graph_replays_with_other_inputs(op):
    function, inputs, inexact = NO_SYNC[op]
    static = on_gpu(inputs(0))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        function(*static)  # allocations of the first call
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = function(*static)
    for x, new in zip(static, inputs(7), strict=True):
        x.copy_(new)
    graph.replay()
    torch.cuda.synchronize()
    check_equal(captured, function(*inputs(7)), inexact)


@pytest.mark.parametrize("op", NO_SYNC)
def test_another_stream(op):
    function, inputs, inexact = NO_SYNC[op]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        result = function(*[x.cuda(non_blocking=True) for x in inputs(3)])
    stream.synchronize()
    check_equal(result, function(*inputs(3)), inexact)


@pytest.mark.parametrize("op", ["roi_pool", "roi_align"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_the_same_bits_every_time(op, layout):
    function, inputs, _ = NO_SYNC[op]
    x, rois = inputs(0)

    def gradient(device):
        leaf = x.to(device).contiguous(memory_format=layout).requires_grad_()
        output = function(leaf, rois.to(device))
        return torch.autograd.grad(output, leaf, torch.ones_like(output))[0]

    first = gradient("cuda")
    for _ in range(5):
        assert torch.equal(gradient("cuda"), first)
    torch.testing.assert_close(first.cpu(), gradient("cpu"))


def test_memory_of_a_large_nms():
    boxes, scores = random_boxes(100_000, seed=0).cuda(), randn(100_000, seed=0).cuda()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ops.nms(boxes, scores, 0.5)
    assert torch.cuda.max_memory_allocated() - before <= 64 << 20
