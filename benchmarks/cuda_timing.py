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
        must, aim: the speed-up over torchvision that is wanted.
        bound: "copy", or "fill" for an op that reads next to nothing: the speed it is compared to.
        comparable: whether the libraries return the same thing in the same form.
    """

    op: str
    work: str
    size: int
    make: Callable[[], Sequence[Tensor]]
    libraries: dict[str, Callable[..., Call]]
    must: float | None = None
    aim: float | None = None
    bound: str = "copy"
    comparable: bool = True
    notes: dict[str, object] = field(default_factory=dict)


class Timer:
    """Measures cases on one device.

    Args:
        device: "cuda", or "cpu" for a dry run.
        seconds: how long each library of a case may take.
    """

    FLUSH_BYTES = 256 << 20  # twice the L2 cache of any GPU
    MIN_RUNS, MAX_RUNS = 5, 100

    def __init__(self, device: str, seconds: float = 1.5) -> None:
        self.is_dry = device == "cpu"
        self.device, self.seconds = device, seconds
        flush_bytes = 0 if self.is_dry else self.FLUSH_BYTES
        self.flush = torch.empty(flush_bytes, dtype=torch.uint8, device=device)

    def measure(self, case: Case) -> Measurement:
        """Times every library of a case; one that runs out of memory is left out and noted."""
        inputs = [x.to(self.device) for x in case.make()]
        times: dict[str, list[float]] = {}
        results: dict[str, object] = {}
        notes = case.notes | {"must": case.must, "aim": case.aim, "bound": case.bound}
        notes |= {"peak_bytes": {}, "wall_milliseconds": {}, "out_of_memory": [], "equal": {}}
        for name, prepare in case.libraries.items():
            try:
                call = prepare(*inputs)
                notes["peak_bytes"][name], results[name] = self.peak_bytes(call)
                times[name] = self.times(call)
                if not self.is_dry:
                    notes["wall_milliseconds"][name] = self.wall_milliseconds(call)
            except torch.cuda.OutOfMemoryError:
                notes["out_of_memory"].append(name)
            call = None
            gc.collect()
        notes["floor_bytes"] = bytes_of(inputs) + bytes_of(results.get("fastrpn", ()))
        if case.comparable and "fastrpn" in results:
            peers = [name for name in results if name != "fastrpn"]
            notes["equal"] = {name: is_close(results["fastrpn"], results[name]) for name in peers}
        quartiles = {name: statistics.quantiles(t, n=4) for name, t in times.items()}
        return Measurement(
            case.op,
            case.work,
            case.size,
            {name: q[1] for name, q in quartiles.items()},
            {name: (q[2] - q[0]) / q[1] for name, q in quartiles.items()},
            notes,
        )

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
        self.flush.zero_()
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


def is_close(ours: object, theirs: object) -> bool:
    """Whether all tensors agree up to rounding."""
    pairs = list(zip(tensors_of(ours), tensors_of(theirs), strict=True))
    return all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=1e-3, equal_nan=True)
        for a, b in pairs
    )
