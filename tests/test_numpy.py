"""fastrpn.numpy: the results of fastrpn.ops, in an interpreter that never sees torch."""

import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch

import fastrpn.numpy as fnp
from fastrpn import ops
from fastrpn._library import core

DTYPES = [np.float32, np.float64]


def random_case(n: int, dtype, seed: int = 0):
    rng = np.random.default_rng(seed)
    centre, size = 200 * rng.random((n, 2)), np.exp(2 + rng.standard_normal((n, 2)))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(dtype)
    scores = rng.standard_normal(n).round(1).astype(dtype)
    return boxes, scores, rng.integers(-3, 5, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 500])
def test_equals_the_torch_operators(n, dtype):
    boxes, scores, idxs = random_case(n, dtype)
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(idxs)
    kept = fnp.nms(boxes, scores, 0.4)
    assert kept.dtype == np.int64
    np.testing.assert_array_equal(kept, ops.nms(*tensors[:2], 0.4).numpy())
    kept = fnp.batched_nms(boxes, scores, idxs, 0.4)
    np.testing.assert_array_equal(kept, ops.batched_nms(*tensors, 0.4).numpy())
    iou = fnp.box_iou(boxes, boxes[::2])
    assert iou.dtype == dtype
    np.testing.assert_array_equal(iou, ops.box_iou(tensors[0], tensors[0][::2]).numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_soft_nms_equals_the_torch_operator(n, method, dtype):
    boxes, scores, _ = random_case(n, dtype)
    scores = abs(scores)
    ours = fnp.soft_nms(boxes, scores, method=method)
    wanted = ops.soft_nms(torch.from_numpy(boxes), torch.from_numpy(scores), method=method)
    for mine, theirs in zip(ours, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs.numpy(), strict=True)


def test_non_contiguous_read_only_and_small_integers():
    boxes, scores, idxs = random_case(100, np.float32)
    wanted = fnp.batched_nms(boxes[::2].copy(), scores[::2].copy(), idxs[::2].copy(), 0.3)
    boxes.setflags(write=False)
    ours = fnp.batched_nms(np.asfortranarray(boxes[::2]), scores[::2], idxs[::2].astype("i1"), 0.3)
    np.testing.assert_array_equal(ours, wanted)


def test_torch_is_never_imported():
    code = (
        "import sys, numpy as np, fastrpn.numpy as f\n"
        "b = np.array([[0, 0, 2, 2], [0, 0, 2, 1]], 'f4')\n"
        "assert f.box_iou(b, b)[0, 1] == 0.5\n"
        "assert f.nms(b, b[:, 3], 0.4).tolist() == [0]\n"
        "assert f.batched_nms(b, b[:, 3], np.array([0, 1]), 0.4).tolist() == [0, 1]\n"
        "assert f.soft_nms(b, b[:, 3])[0].tolist() == [0, 1]\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def wakes_before_the_end(call) -> bool:
    """Whether this thread gets to run while another one makes the call."""
    started, ended = threading.Event(), []

    def work():
        started.set()
        call()
        ended.append(time.perf_counter())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # no thread has to give up the GIL of itself
    try:
        thread = threading.Thread(target=work)
        thread.start()
        started.wait()
        awake = time.perf_counter()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    return awake < ended[0]


APART = np.arange(400_000, dtype=np.float32)[:, None] * 2 + np.array([0, 0, 1, 1], np.float32)
SCORES, CLASSES = APART[:, 2].copy(), np.arange(len(APART)) % 7


@pytest.mark.parametrize(
    "call",
    [
        lambda: core().box_iou(APART[:8000], APART[:8000]),
        lambda: core().nms(APART, SCORES, None, 0.5),
        lambda: core().nms(APART, SCORES, CLASSES, 0.5),
        lambda: core().soft_nms(APART[:30_000], SCORES[:30_000], False, 0.5, 0.3, 0.001),
    ],
    ids=["box_iou", "nms", "batched_nms", "soft_nms"],
)
def test_the_gil_is_released(call):
    """The kernels by themselves: NumPy would release the GIL too, where it copies their results."""
    assert any(wakes_before_the_end(call) for _ in range(3))


def test_a_call_that_keeps_the_gil_would_be_noticed():
    assert not any(wakes_before_the_end(lambda: sum(range(3_000_000))) for _ in range(3))


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (lambda boxes, scores, idxs: fnp.box_iou(boxes, boxes[:1]), 8),
        (lambda boxes, scores, idxs: fnp.nms(boxes, scores, 0.5), 8),
        (lambda boxes, scores, idxs: fnp.batched_nms(boxes, scores, idxs, 0.5), 8),
        (lambda boxes, scores, idxs: fnp.soft_nms(boxes, scores), 16),
    ],
    ids=["box_iou", "nms", "batched_nms", "soft_nms"],
)
def test_contiguous_arrays_are_not_copied(call, result):
    """`result` is the bytes a box of what is returned: no array is made beyond that."""
    n = 100_000
    arrays = np.tile([0.0, 0, 1, 1], (n, 1)), np.ones(n), np.zeros(n, np.int64)

    def allocated(*arrays) -> float:
        tracemalloc.start()
        call(*arrays)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak / n

    assert result <= allocated(*arrays) < result + 1
    assert allocated(np.asfortranarray(arrays[0]), *arrays[1:]) > result + 32  # this one is


BOXES = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fnp.box_iou([[0, 0, 1, 1]], BOXES), TypeError, "boxes1.*list"),
        (lambda: fnp.box_iou(BOXES, BOXES.astype("f8")), TypeError, "boxes2.*float64"),
        (lambda: fnp.box_iou(BOXES.astype("f2"), BOXES), TypeError, "boxes1.*float16"),
        (lambda: fnp.box_iou(BOXES[:, :3], BOXES), ValueError, r"boxes1.*\[2, 3\]"),
        (lambda: fnp.nms(BOXES, BOXES, 0.5), ValueError, r"scores.*\[2, 4\]"),
        (lambda: fnp.nms(BOXES, np.zeros(3, "f4"), 0.5), ValueError, r"scores.*\[3\]"),
        (lambda: fnp.soft_nms(BOXES, BOXES[:, 0], method="hard"), ValueError, "method.*hard"),
        (lambda: fnp.soft_nms(BOXES, BOXES[:, 0], sigma=0), ValueError, "sigma.*0"),
        (
            lambda: fnp.batched_nms(BOXES, BOXES[:, 0], np.zeros(2), 0.5),
            TypeError,
            "idxs.*float64",
        ),
        (
            lambda: fnp.batched_nms(BOXES, BOXES[:, 0], np.zeros(3, int), 0.5),
            ValueError,
            r"idxs.*\[3\]",
        ),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("kind", [float, np.float32, np.float64])
@pytest.mark.parametrize("number", [0.1, 0.2, 0.3, 0.7])
def test_scores_are_compared_with_a_number_as_numpy_compares(number, kind, method, dtype):
    """A Python number takes the type of the array, a NumPy scalar keeps its own."""
    threshold = kind(number)
    scores = np.array([number, 0.9, 0.05, np.float32(number)]).astype(dtype)
    boxes = (np.arange(4)[:, None] * 10 + np.array([0, 0, 5, 5])).astype(dtype)
    indices, _ = fnp.soft_nms(boxes, scores, method=method, score_threshold=threshold)
    assert sorted(indices.tolist()) == np.flatnonzero(scores > threshold).tolist()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda boxes, scores: fnp.nms(boxes, scores, np.nan), "iou_threshold"),
        (lambda boxes, scores: fnp.nms(boxes, scores, np.float32("nan")), "iou_threshold"),
        (
            lambda boxes, scores: fnp.batched_nms(boxes, scores, np.zeros(2, int), np.nan),
            "iou_threshold",
        ),
        (lambda boxes, scores: fnp.soft_nms(boxes, scores, iou_threshold=np.nan), "iou_threshold"),
        (lambda boxes, scores: fnp.soft_nms(boxes, scores, sigma=np.nan), "sigma"),
        (
            lambda boxes, scores: fnp.soft_nms(boxes, scores, score_threshold=np.nan),
            "score_threshold",
        ),
    ],
)
def test_nan_is_no_threshold(call, words):
    with pytest.raises(ValueError, match=f"{words}.*nan"):
        call(BOXES, BOXES[:, 0])
    assert len(fnp.nms(BOXES, BOXES[:, 0], np.inf)) == 2
