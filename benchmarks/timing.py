"""Fair timing: equal results first, then alternating runs in one process, then medians."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field


@dataclass
class Measurement:
    """One row of a benchmark: the same work by several libraries.

    Attributes:
        op: name of the op.
        work: what was computed, e.g. "12,000 RPN-like @0.7".
        size: the number the cost grows with (boxes, RoIs, outputs), for plots.
        milliseconds: median by library.
        spread: (75th - 25th percentile) / median by library.
        notes: what else was measured (memory, kept boxes, ...).
    """

    op: str
    work: str
    size: int
    milliseconds: dict[str, float]
    spread: dict[str, float]
    notes: dict[str, object] = field(default_factory=dict)

    def speedup(self, over: str = "torchvision", of: str = "fastrpn") -> float | None:
        """How many times `of` is faster than `over`; None where `over` did not run."""
        slow = self.milliseconds.get(over)
        return None if slow is None else slow / self.milliseconds[of]

    def as_dict(self) -> dict[str, object]:
        """Plain values, with the speed-up over every peer."""
        peers = [name for name in self.milliseconds if name != "fastrpn"]
        return asdict(self) | {"speedup": {name: self.speedup(name) for name in peers}}


def measure(
    op: str,
    work: str,
    size: int,
    candidates: Mapping[str, Callable[[], object]],
    *,
    equal: Callable[[object, object], bool] | None,
    seconds: float = 2.0,
    min_runs: int = 5,
    same_as: str | None = None,
) -> Measurement:
    """Times the candidates on the same work, taking turns.

    Args:
        op, work, size: see :class:`Measurement`.
        candidates: library name -> function that does the whole work and returns the result;
            must hold "fastrpn".
        equal: (fastrpn's result, a peer's result) -> bool, asserted before the clock starts;
            None where a candidate is no peer (a memory fill).
        seconds: about how long all candidates together are measured.
        min_runs: fewest runs of each candidate.
        same_as: check against this peer only.

    Raises:
        AssertionError: a peer's result differs.
    """
    first: dict[str, float] = {}
    results = {}
    for name, run in candidates.items():
        run()  # warm caches, pools and allocators
        start = time.perf_counter()
        results[name] = run()
        first[name] = time.perf_counter() - start
    if equal is not None:
        for name in [same_as] if same_as else candidates:
            assert equal(results["fastrpn"], results[name]), f"{op}, {work}: {name} differs"
    results.clear()

    rounds = max(min_runs, min(200, int(seconds / sum(first.values()))))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            # Short calls are repeated so that the clock's own cost does not count.
            repeats = max(1, min(1000, int(2e-4 / first[name])))
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            times[name].append((time.perf_counter() - start) / repeats)
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in times.items()}
    return Measurement(
        op,
        work,
        size,
        {name: 1e3 * q[1] for name, q in quartiles.items()},
        {name: (q[2] - q[0]) / q[1] for name, q in quartiles.items()},
    )
