"""Timing on a GPU: CUDA events, a cold L2 cache, medians; and what surrounds it.

On the CPU the same code runs each case once: the dry run.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.timing import Measurement

Call = Callable[[], object]


@dataclass
class Case:
    """The same work for each library.

    Attributes:
        op, work, size: as in :class:`benchmarks.timing.Measurement`.
        make: gives the inputs, on the CPU.
        libraries: name -> function that takes the inputs on the device and returns the call to be
            timed; what the function itself does is not timed.
        targets: quantity -> (must, aim) of benchmarks.cuda_report.
        bound: "copy", or "fill" for an op that reads next to nothing: the speed it is compared to.
        comparable: whether the libraries return the same thing in the same form. Those that compute
            in a half type, as their name says, are not compared.
    """

    op: str
    work: str
    size: int
    make: Callable[[], Sequence[Tensor]]
    libraries: dict[str, Callable[..., Call]]
    targets: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    bound: str = "copy"
    comparable: bool = True


class Timer:
    """Measures cases on one device.

    Args:
        device: "cuda", or "cpu" for a dry run.
        seconds: how long each library of a case may take.
    """

    FLUSH_BYTES = 256 << 20  # twice the L2 cache of any GPU
    MIN_RUNS, MAX_RUNS = 5, 100

    def __init__(self, device: str, seconds: float = 0.5) -> None:
        self.is_dry = device == "cpu"
        self.device, self.seconds = device, seconds
        self.flush = torch.zeros(0 if self.is_dry else self.FLUSH_BYTES // 4, device=device)

    def measure(self, case: Case) -> Measurement:
        """Times every library of a case; one that runs out of memory is left out and noted."""
        inputs = [x.to(self.device) for x in case.make()]
        times: dict[str, list[float]] = {}
        results: dict[str, object] = {}
        notes: dict[str, object] = {"targets": case.targets, "bound": case.bound}
        notes |= {"peak_bytes": {}, "wall_milliseconds": {}, "equal": {}}
        notes |= {"out_of_memory": [], "failed": {}}
        for name, prepare in case.libraries.items():
            try:
                call = prepare(*inputs)
                notes["peak_bytes"][name], results[name] = self.peak_bytes(call)
                times[name] = self.times(call)
                if not self.is_dry:
                    notes["wall_milliseconds"][name] = self.wall_milliseconds(call)
            except torch.cuda.OutOfMemoryError:
                notes["out_of_memory"].append(name)
            except Exception as error:  # the rows that follow matter more than a peer that fails
                if is_ours(name):
                    raise
                times.pop(name, None)
                notes["failed"][name] = str(error).splitlines()[0]
            call = None
            gc.collect()
        if case.comparable and "fastrpn" in results:
            peers = [name for name in times if name != "fastrpn" and half_type(name) is None]
            notes["equal"] = {name: is_close(results["fastrpn"], results[name]) for name in peers}
        notes["floor_bytes"] = bytes_of(inputs) + bytes_of(results.pop("fastrpn", ()))
        results.clear()
        notes["limit_milliseconds"] = self.limit_milliseconds(case.bound, notes["floor_bytes"])
        quartiles = {name: statistics.quantiles(t, n=4) for name, t in times.items()}
        return Measurement(
            case.op,
            case.work,
            case.size,
            {name: q[1] for name, q in quartiles.items()},
            {name: (q[2] - q[0]) / q[1] for name, q in quartiles.items()},
            notes,
            {name: min(t) for name, t in times.items()},
        )

    def limit_milliseconds(self, bound: str, size: int) -> float:
        """What filling so many bytes takes, or copying: reading and writing half of them each."""
        if bound == "fill":
            memory = torch.empty(max(size, 4) // 4, device=self.device)
            return statistics.median(self.times(lambda: memory.fill_(1)))
        source, to = torch.zeros(2, max(size, 8) // 8, device=self.device)
        return statistics.median(self.times(lambda: to.copy_(source)))

    def times(self, call: Call) -> list[float]:
        """Milliseconds of single calls, each with none of its data in the L2 cache."""
        if self.is_dry:
            return [self.wall_milliseconds(call)] * 2
        for _ in range(3):
            first = self.event_milliseconds(call)
        runs = int(1e3 * self.seconds / max(first, 1e-3))
        runs = min(max(runs, self.MIN_RUNS), self.MAX_RUNS)
        return [self.event_milliseconds(call) for _ in range(runs)]

    def event_milliseconds(self, call: Call) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.sum()  # reads: what it leaves in the cache need not be written back
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    def wall_milliseconds(self, call: Call) -> float:
        """From the call until the device is idle: what a caller waits for; median of several."""
        times = []
        for _ in range(1 if self.is_dry else 7):
            start = time.perf_counter()
            call()
            if not self.is_dry:
                torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)

    def peak_bytes(self, call: Call) -> tuple[int, object]:
        """Device memory that one call takes at its height, results included; and its result."""
        if self.is_dry:
            return 0, call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, result


def tensors_of(result: object) -> Iterable[Tensor]:
    """All tensors in nested sequences."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Sequence):
        for part in result:
            yield from tensors_of(part)


def bytes_of(result: object) -> int:
    """Size of all tensors of a result."""
    return sum(x.numel() * x.element_size() for x in tensors_of(result))


def is_ours(name: str) -> bool:
    """Whether a library is fastrpn, in any layout or dtype."""
    return name.split()[0] == "fastrpn"


def half_type(name: str) -> str | None:
    """The half type that a library's name says it computes in."""
    return next((word for word in name.split() if word in ("float16", "bfloat16")), None)


def is_close(ours: object, theirs: object) -> bool:
    """Whether all tensors agree up to rounding; in pieces, for the sake of memory."""
    a, b = list(tensors_of(ours)), list(tensors_of(theirs))
    if [x.shape for x in a] != [x.shape for x in b]:
        return False
    pieces = zip(
        (piece for x in a for piece in x.reshape(-1).split(1 << 26)),
        (piece for x in b for piece in x.reshape(-1).split(1 << 26)),
        strict=True,
    )
    return all(torch.allclose(x.double(), y.double(), atol=1e-3, equal_nan=True) for x, y in pieces)
