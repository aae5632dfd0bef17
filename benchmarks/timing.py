"""Fair timing: equal results first, then alternating runs in one process, then medians."""

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path


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
    repeat_below: float = 8.0,
    contexts: Mapping[str, Callable[[], AbstractContextManager]] | None = None,
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
        repeat_below: a candidate whose first run takes this many seconds or more has that run
            alone; the notes name it under "one run".
        contexts: library name -> makes a context manager that is entered before the clock starts.

    Raises:
        AssertionError: a peer's result differs.
    """
    context_of = {name: (contexts or {}).get(name, nullcontext) for name in candidates}
    first: dict[str, float] = {}
    results = {}
    for name, run in candidates.items():
        with context_of[name]():
            first[name], results[name] = _timed(run)  # warms caches, pools and allocators
            if first[name] < repeat_below:
                first[name], results[name] = _timed(run)
    if equal is not None:
        for name in [same_as] if same_as else candidates:
            assert equal(results["fastrpn"], results[name]), f"{op}, {work}: {name} differs"
    results.clear()

    slow = {name: taken for name, taken in first.items() if taken >= repeat_below}
    repeated = {name: run for name, run in candidates.items() if name not in slow}
    one_round = sum(first[name] for name in repeated)
    rounds = max(min_runs, min(200, int(seconds / max(one_round, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in repeated}
    for _ in range(rounds):
        for name, run in repeated.items():
            # Short calls are repeated so that the clock's own cost does not count.
            repeats = max(1, min(1000, int(2e-4 / first[name])))
            with context_of[name]():
                start = time.perf_counter()
                for _ in range(repeats):
                    run()
                times[name].append((time.perf_counter() - start) / repeats)
    row = Measurement(op, work, size, {}, {})
    for name in candidates:
        lower, median, upper = (
            [slow[name]] * 3 if name in slow else statistics.quantiles(times[name], n=4)
        )
        row.milliseconds[name] = 1e3 * median
        row.spread[name] = (upper - lower) / median
    if slow:
        row.notes["one run"] = list(slow)
    return row


def extra_megabytes(run: Callable[[], object]) -> float:
    """How far the peak memory of this process rises above what it holds now (Linux)."""

    def status(field: str) -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.split(f"{field}:")[1].split()[0])

    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed is not there to be used again
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    run()
    return round((status("VmHWM") - before) / 1024, 1)


def _timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result
