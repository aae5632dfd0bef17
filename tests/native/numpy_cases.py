"""Calls everything in fastrpn.numpy, at sizes around vectors, with odd numbers: for valgrind.

The results are compared with themselves, so that a byte that was never written decides a branch.
"""

import numpy as np

import fastrpn.numpy as ops

SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 16, 17, 33, 64, 300)
ODD = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0])


def draw(random: np.random.Generator, n: int, dtype: type, odd: bool) -> tuple:
    corners = random.integers(0, 40, (n, 2))
    boxes = np.concatenate([corners, corners + random.integers(1, 12, (n, 2))], 1).astype(dtype)
    scores = (random.integers(0, 20, n) / 20).astype(dtype)
    if odd and n > 0:
        boxes[random.integers(0, n), random.integers(0, 4)] = random.choice(ODD)
        scores[random.integers(0, n)] = random.choice(ODD)
    return boxes, scores


def main() -> None:
    random = np.random.default_rng(0)
    calls = 0
    for n in SIZES:
        for dtype in (np.float32, np.float64):
            boxes, scores = draw(random, n, dtype, odd=n % 2 == 1)
            others, _ = draw(random, n // 2 + 1, dtype, odd=False)
            groups = random.integers(0, 3, n)
            results = [
                ops.box_iou(boxes, others),
                ops.nms(boxes, scores, 0.5),
                ops.batched_nms(boxes, scores, groups, 0.3),
                *ops.soft_nms(boxes, scores, method="linear"),
                *ops.soft_nms(boxes, scores, method="gaussian"),
            ]
            for result in results:
                assert np.array_equal(result, result, equal_nan=result.dtype.kind == "f")
            calls += 5
    print(f"{calls} calls of fastrpn.numpy")


if __name__ == "__main__":
    main()
