"""The operators on a GPU: no waiting, any stream, CUDA graphs, equal gradients, large sizes."""

import pytest
import torch
from gpu_cases import (
    LAYOUTS,
    NO_SYNC,
    check_equal,
    features,
    gradient,
    needs_gpu,
    on_gpu,
    pyramid,
    randn,
    random_boxes,
    random_rois,
    roi_align,
    roi_pool,
)

from fastrpn import ops

pytestmark = needs_gpu
every_op = pytest.mark.parametrize("name", NO_SYNC)


@every_op
def test_waits_for_nothing(name, no_sync):
    op = NO_SYNC[name]
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.set_sync_debug_mode("default")
        inputs = on_gpu(op.inputs(0))
        torch.cuda.set_sync_debug_mode("error")
        op.function(*inputs)


@every_op
def test_a_captured_graph_replays_with_other_inputs(name):
    op = NO_SYNC[name]
    static = on_gpu(op.inputs(0))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        op.function(*static)  # what happens once, such as looking up the stream
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = op.function(*static)
    for seed in (7, 8):
        for x, new in zip(static, op.inputs(seed), strict=True):
            x.copy_(new)
        graph.replay()
        torch.cuda.synchronize()
        check_equal(captured, op.function(*op.inputs(seed)), op.uses_exp)


@every_op
def test_runs_on_the_current_stream(name):
    """The inputs become what they are late on that stream: an op on another one is too early."""
    op = NO_SYNC[name]
    inputs, new = on_gpu(op.inputs(4)), on_gpu(op.inputs(3))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # cycles
        for x, value in zip(inputs, new, strict=True):
            x.copy_(value)
        result = op.function(*inputs)
    stream.synchronize()
    check_equal(result, op.function(*op.inputs(3)), op.uses_exp)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@every_op
def test_runs_on_the_device_of_its_inputs(name):
    op = NO_SYNC[name]
    result = op.function(*on_gpu(op.inputs(0), "cuda:1"))  # while cuda:0 is the current device
    first = result[0] if isinstance(result, tuple) else result
    assert first.device.index == 1
    check_equal(result, op.function(*op.inputs(0)), op.uses_exp)


@pytest.mark.parametrize("function", [roi_pool, roi_align])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_the_same_bits_every_time(function, layout):
    x = randn(2, 24, 30, 34, seed=0).cuda().contiguous(memory_format=LAYOUTS[layout])
    rois = random_rois(300, seed=0).cuda()  # many share cells
    first = gradient(function)(x, rois)
    for _ in range(10):
        assert torch.equal(gradient(function)(x, rois), first)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_a_pyramid_are_the_same_bits_every_time(layout):
    levels = features(0, layout=layout).cuda(), features(1, 2, layout).cuda()
    rois = random_rois(300, seed=0).cuda()
    first = gradient(pyramid)(*levels, rois)
    for _ in range(10):
        for again, once in zip(gradient(pyramid)(*levels, rois), first, strict=True):
            assert torch.equal(again, once)


def test_an_image_that_does_not_exist_gives_zeros():
    x, rois = randn(2, 8, 30, 34, seed=0).cuda(), random_rois(4, seed=0)
    rois[:, 0] = torch.tensor([2.0, -1.0, 1e9, float("inf")])
    for function in (roi_pool, roi_align):
        assert not function(x, rois.cuda()).any()
        assert not gradient(function)(x, rois.cuda()).any()


def test_memory_of_a_large_nms():
    boxes, scores = random_boxes(100_000, seed=0).cuda(), randn(100_000, seed=0).cuda()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ops.nms(boxes, scores, 0.5)
    assert torch.cuda.max_memory_allocated() - before <= 64 << 20


def test_a_million_boxes():
    boxes, scores = random_boxes(1_000_000, seed=0), randn(1_000_000, seed=0)
    boxes += 5000 * torch.rand(1_000_000, 1)
    check_equal(ops.nms(boxes.cuda(), scores.cuda(), 0.5), ops.nms(boxes, scores, 0.5))
