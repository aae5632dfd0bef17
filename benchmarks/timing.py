"""Fair timing: equal results first, then alternating runs in one process, then medians."""

import ctypes
import random
import statistics
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

LIMITS = {"fill", "copy"}  # no library: what nobody can beat; not compared
WATCHED = ("fastrpn", "torchvision")
NOISY, REPEATS = 0.3, 3  # a row with a greater spread is measured again, so many times
Key = TypeVar("Key", bound=Hashable)


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
        minima: the fastest run by library, in milliseconds; empty where nobody took it.
    """

    op: str
    work: str
    size: int
    milliseconds: dict[str, float]
    spread: dict[str, float]
    notes: dict[str, object] = field(default_factory=dict)
    minima: dict[str, float] = field(default_factory=dict)

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
    exact: Collection[str] | None = None,
    alike: Callable[[object, object], bool] | None = None,
    repeat_below: float = 8.0,
    contexts: Mapping[str, Callable[[], AbstractContextManager]] | None = None,
) -> Measurement:
    """Times the candidates on the same work, taking turns.

    Args:
        op, work, size: see :class:`Measurement`.
        candidates: library name -> function that does the whole work and returns the result;
            must hold "fastrpn". Those in `LIMITS` are not compared.
        equal: (fastrpn's result, a peer's result) -> bool, asserted before the clock starts;
            None where nothing is to be compared.
        seconds: about how long all candidates together are measured.
        min_runs: fewest runs of each candidate.
        exact: the peers that `equal` is asserted of; None: all.
        alike: (fastrpn's result, a peer's result) -> bool for the other peers; the notes name
            those it refuses under "other results".
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
    others = _compare(f"{op}, {work}", results, equal, exact, alike)
    results.clear()

    slow = {name: taken for name, taken in first.items() if taken >= repeat_below}
    repeated = {name: run for name, run in candidates.items() if name not in slow}
    one_round = sum(first[name] for name in repeated)
    rounds = max(min_runs, min(200, int(seconds / max(one_round, 1e-6))))

    def take_turns() -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [taken] for name, taken in slow.items()}
        order, shuffle = list(repeated.items()), random.Random(0).shuffle
        for _ in range(rounds):
            shuffle(order)  # what ran before decides what memory and caches are left
            for name, run in order:
                # Short calls are repeated so that the clock's own cost does not count.
                repeats = max(1, min(1000, int(2e-4 / first[name])))
                with context_of[name]():
                    start = time.perf_counter()
                    for _ in range(repeats):
                        run()
                    taken = time.perf_counter() - start
                times.setdefault(name, []).append(taken / repeats)
        return times

    times, again = calmest(take_turns, WATCHED)
    row = Measurement(op, work, size, {}, {})
    for name in candidates:
        row.milliseconds[name], row.spread[name] = summary(times[name])
        row.minima[name] = 1e3 * min(times[name])
    notes = {"one run": list(slow), "other results": others, "measured again": again}
    row.notes |= {name: value for name, value in notes.items() if value}
    return row


def summary(seconds: Sequence[float]) -> tuple[float, float]:
    """(median in milliseconds, spread) of one candidate's runs."""
    if len(seconds) == 1:
        return 1e3 * seconds[0], 0.0
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return 1e3 * median, (upper - lower) / median


def calmest(
    take: Callable[[], dict[Key, list[float]]], watched: Collection[Key]
) -> tuple[dict[Key, list[float]], int]:
    """The least noisy of up to four series of runs, and how many of them repeated the first.

    `take` gives the seconds of every run of every candidate. It is called again while a candidate
    among `watched` spreads over more than `NOISY`; the series whose worst spread is least counts.
    """

    def noise(times: dict[Key, list[float]]) -> float:
        return max((summary(times[name])[1] for name in watched if name in times), default=0.0)

    series = [take()]
    while noise(series[-1]) > NOISY and len(series) <= REPEATS:
        series.append(take())
    return min(series, key=noise), len(series) - 1


def extra_megabytes(run: Callable[[], object]) -> float | None:
    """How far the peak memory of this process rises above what it holds now; None without /proc."""
    if not Path("/proc/self/clear_refs").exists():
        return None

    def status(field: str) -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.split(f"{field}:")[1].split()[0])

    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed is not there to be used again
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    run()
    return round((status("VmHWM") - before) / 1024, 1)


def _compare(
    work: str,
    results: Mapping[str, object],
    equal: Callable[[object, object], bool] | None,
    exact: Collection[str] | None,
    alike: Callable[[object, object], bool] | None,
) -> list[str]:
    """Asserts equality, see `measure`; returns the peers whose results are not alike."""
    ours = results["fastrpn"]
    peers = [name for name in results if name not in LIMITS and name != "fastrpn"]
    checked = peers if exact is None else [name for name in peers if name in exact]
    for name in checked if equal else []:
        assert equal(ours, results[name]), f"{work}: {name} differs"
    rest = [name for name in peers if name not in checked]
    return [name for name in rest if alike and not alike(ours, results[name])]


def _timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result
