"""The operators on a GPU: the CPU's results, any stream, CUDA graphs, deterministic gradients."""

import pytest
import torch
from gpu_cases import (
    DTYPES,
    LAYOUTS,
    NO_SYNC,
    check_equal,
    gradient,
    on_gpu,
    randn,
    random_boxes,
    random_rois,
    roi_align,
    roi_pool,
)

from fastrpn import ops

every_op = pytest.mark.parametrize("name", NO_SYNC)


@every_op
def test_equals_the_cpu(name):
    op = NO_SYNC[name]
    check_equal(op.function(*on_gpu(op.inputs(0))), op.function(*op.inputs(0)), op.uses_exp)


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 65, 5000, 20_000])
def test_nms_keeps_the_rows_of_the_cpu(n, dtype):
    boxes, scores = random_boxes(n, seed=n).to(dtype), randn(n, seed=n).to(dtype)
    boxes[: n // 50, 0], scores[: n // 70] = float("nan"), float("nan")
    groups = torch.arange(n) % 7
    check_equal(ops.nms(boxes.cuda(), scores.cuda(), 0.5), ops.nms(boxes, scores, 0.5))
    check_equal(
        ops.batched_nms(boxes.cuda(), scores.cuda(), groups.cuda(), 0.5),
        ops.batched_nms(boxes, scores, groups, 0.5),
    )


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms_selects_the_rows_of_the_cpu(method):
    boxes, scores = random_boxes(500, seed=1), torch.rand(500)
    options = {"method": method, "sigma": 0.5, "iou_threshold": 0.3, "score_threshold": 0.01}
    actual = ops.soft_nms(boxes.cuda(), scores.cuda(), **options)
    check_equal(actual, ops.soft_nms(boxes, scores, **options), inexact=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 13, 64])
def test_box_iou_in_every_dtype(columns, dtype):
    one, two = random_boxes(70, seed=0).to(dtype), random_boxes(columns, seed=1).to(dtype)
    check_equal(ops.box_iou(one.cuda(), two.cuda()), ops.box_iou(one, two))


@pytest.mark.parametrize("function", [roi_pool, roi_align])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [24, 5])
def test_pooling_in_every_dtype_and_layout(function, layout, dtype, channels):
    x = randn(2, channels, 30, 34, seed=0).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    rois = random_rois(40, seed=1).to(torch.promote_types(dtype, torch.float32))
    actual, expected = function(x.cuda(), rois.cuda()), function(x, rois)
    assert actual.stride() == expected.stride()
    check_equal(actual, expected)


@pytest.mark.parametrize("function", [roi_pool, roi_align])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_the_same_bits_every_time(function, layout):
    x = randn(2, 24, 30, 34, seed=0).cuda().contiguous(memory_format=LAYOUTS[layout])
    rois = random_rois(300, seed=0).cuda()  # many share cells
    first = gradient(function)(x, rois)
    for _ in range(10):
        assert torch.equal(gradient(function)(x, rois), first)


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
