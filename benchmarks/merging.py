"""NMS and merging of supervision and sahi on NumPy arrays, beside fastrpn.numpy.

    python -m benchmarks.merging

Results are compared before the clock starts; then the candidates take turns and the median counts.
The boxes are those of tiles that overlap: every object found several times, whole or in part.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np

from fastrpn import numpy as fnp

SIZES = (300, 2000, 5000)
THRESHOLD = 0.5
RUNS = 7


def scene(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [N, 4], scores [N], classes [N]: four finds of each object."""
    rng = np.random.default_rng(0)
    objects = -(-n // 4)
    corners = rng.uniform(0, 60 * n**0.5, (objects, 2)).repeat(4, axis=0)[:n]
    size = rng.uniform(20, 80, (objects, 2)).repeat(4, axis=0)[:n]
    corners += rng.uniform(-4, 4, (n, 2))
    boxes = np.concatenate([corners, corners + size * rng.uniform(0.4, 1.1, (n, 2))], axis=1)
    scores = rng.random(n).astype(np.float32)
    return boxes.astype(np.float32), scores, rng.integers(0, 3, objects).repeat(4)[:n]


def ours(merges: bool, boxes: np.ndarray, scores: np.ndarray, idxs: np.ndarray, metric: str):
    """Kept indices, or the groups, as the others give them."""
    if not merges:
        return {
            int(i): set() for i in fnp.batched_nms(boxes, scores, idxs, THRESHOLD, metric=metric)
        }
    joined = fnp.nmm(boxes, scores, THRESHOLD, idxs=idxs, metric=metric)
    return groups(joined)


def groups(joined: np.ndarray) -> dict[int, set[int]]:
    """The others of each group, by the kept box."""
    found: dict[int, set[int]] = {
        int(i): set() for i in np.flatnonzero(joined == np.arange(len(joined)))
    }
    for i in np.flatnonzero(joined != np.arange(len(joined))):
        found[int(joined[i])].add(int(i))
    return found


def supervision(merges: bool, predictions: np.ndarray, metric: str) -> dict[int, set[int]]:
    from supervision.detection.utils import iou_and_nms

    measure = iou_and_nms.OverlapMetric(metric.upper())
    if not merges:
        kept = iou_and_nms.box_non_max_suppression(predictions, THRESHOLD, measure)
        return {int(i): set() for i in np.flatnonzero(kept)}
    found = iou_and_nms.box_non_max_merge(predictions, THRESHOLD, measure)
    return {first: set(others) for first, *others in found}


def sahi(merges: bool, predictions: np.ndarray, metric: str) -> dict[int, set[int]]:
    from sahi.postprocess import combine

    if not merges:
        kept = combine.batched_nms(predictions, metric.upper(), THRESHOLD)
        return {i: set() for i in kept}
    found = combine.batched_greedy_nmm(predictions, metric.upper(), THRESHOLD)
    return {first: set(others) for first, others in found.items()}


def median_ms(candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(RUNS):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(series) for name, series in times.items()}


def main() -> None:
    """Prints a table in Markdown."""
    peers = {
        name: peer
        for name, peer in (("supervision", supervision), ("sahi", sahi))
        if importlib.util.find_spec(name)
    }
    if "sahi" in peers:
        from sahi.postprocess.backends import set_postprocess_backend

        set_postprocess_backend("numpy")
    print(f"| work | boxes | fastrpn, ms | {', ms | '.join(peers)}, ms | equal |")
    print("|---|---|---|" + "---|" * len(peers) + "---|")
    for n in SIZES:
        boxes, scores, idxs = scene(n)
        predictions = np.concatenate([boxes, scores[:, None], idxs[:, None]], axis=1)
        predictions = predictions.astype(np.float32)
        for merges in (False, True):
            for metric in ("iou", "ios"):
                candidates: dict[str, Callable] = {
                    "fastrpn": lambda m=merges, k=metric, a=(boxes, scores, idxs): ours(m, *a, k)
                }
                for name, peer in peers.items():
                    candidates[name] = lambda p=peer, m=merges, k=metric, a=predictions: p(m, a, k)
                wanted = candidates["fastrpn"]()
                equal = all(run() == wanted for run in candidates.values())
                times = median_ms(candidates)
                work = f"{'NMM' if merges else 'NMS'} per class, {metric}"
                cells = " | ".join(f"{times[name]:.2f}" for name in candidates)
                print(f"| {work} | {n:,} | {cells} | {'yes' if equal else 'no'} |", flush=True)


if __name__ == "__main__":
    main()
