"""One case of the fuzzer: what it draws its inputs from, and how it compares."""

import math
import random
from collections.abc import Callable, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor

from fastrpn._library import core, set_simd_level

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Sizes around the widths of the vectors (4 to 16 elements, and blocks of 64), primes, 0 and 1.
SMALL = (0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13)
MIDDLE = (15, 16, 17, 23, 31, 32, 33, 47, 63, 64, 65, 97)
LARGE = (127, 129, 211, 255, 257, 521)
HUGE = (1025, 2047, 4099, 6007)
# How often a case is called at each SIMD level, each time laid out in memory another way.
LAYOUTS_OF_A_LEVEL = 2


class Mismatch(AssertionError):
    """A result that is not the oracle's."""


class Trial:
    """Draws the inputs of one case and compares the results of one operator.

    Everything follows from the name `op:seed:index`, and `:limit` behind it bounds every size: a
    case that fails is drawn again with smaller and smaller limits, which shrinks it.
    """

    def __init__(self, case: str) -> None:
        self.case = case
        self.op, seed, index, *limit = case.split(":")
        self.random = random.Random(f"{self.op}:{seed}:{index}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(62))
        self.limit = int(limit[0]) if limit else math.inf
        self.calls = 0  # of our operators
        self.undecided = 0  # results that rounding may turn either way

    def choose(self, *options):
        return self.random.choice(options)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def size(self, largest: float = math.inf) -> int:
        """A number of boxes, rows or channels; most are small."""
        at = self.random.random()
        sizes = SMALL if at < 0.7 else MIDDLE if at < 0.985 else LARGE if at < 0.999 else HUGE
        return int(min(self.random.choice(sizes), largest, self.limit))

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def randint(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator)

    def float_dtype(self) -> torch.dtype:
        return self.choose(torch.float32, torch.float32, *FLOATS)

    def restrided(self, tensor: Tensor) -> Tensor:
        """The same numbers laid out in memory some other way, among numbers that are not read."""
        how = self.random.randrange(8)
        if how == 0:
            reverse = tuple(range(tensor.dim()))[::-1]
            return tensor.permute(reverse).contiguous().permute(reverse)
        if how == 1:
            return _among_garbage(tensor, (*tensor.shape, 3))[..., 1].copy_(tensor)
        if how == 2:
            shape = (tensor.shape[0] * 2 + 1, *tensor.shape[1:])
            return _among_garbage(tensor, shape)[1::2].copy_(tensor)
        if how == 3:  # off the alignment of vectors
            flat = _among_garbage(tensor, (tensor.numel() + 3,))
            return flat[self.choose(1, 3) :][: tensor.numel()].view(tensor.shape).copy_(tensor)
        if how == 4 and tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        if how == 5 and len(tensor) > 1 and torch.equal(tensor, tensor[:1].expand_as(tensor)):
            return tensor[:1].expand_as(tensor)
        return tensor

    def expect(
        self,
        wanted: object,
        call: Callable,
        *tensors: Tensor | None,
        same: Callable[[object, object], str] | None = None,
        layouts: bool = True,
    ) -> object:
        """Calls with several layouts, SIMD levels and numbers of threads; all must be `wanted`.

        `same` says what differs between a result and the one wanted, and nothing if it will do.
        After the first result the others must have its very bits. Returns the first result.
        """
        first = call(*tensors)
        self.calls += 1
        self._reject((same or difference)(first, wanted), "contiguous", first, wanted)
        for level in LAYOUTS_OF_A_LEVEL * simd_levels():
            threads = self.choose(1, 1, 1, 2)
            others = [t if t is None or not layouts else self.restrided(t) for t in tensors]
            with running(level, threads):
                result = call(*others)
            self.calls += 1
            what = difference(result, first)
            if what:
                strides = [None if t is None else t.stride() for t in others]
                how = f"{level}, {threads} threads, strides {strides}, unlike the first call"
                self._reject(what, how, result, first)
        return first

    def require(self, what: str) -> None:
        """Raises if something differs."""
        if what:
            raise Mismatch(what)

    def _reject(self, what: str, how: str, got: object, wanted: object) -> None:
        if what:
            raise Mismatch(f"{what} ({how})\n  got    {brief(got)}\n  wanted {brief(wanted)}")


def _among_garbage(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    garbage = torch.nan if like.is_floating_point() else 1
    return torch.full(shape, garbage, dtype=like.dtype)


_levels: list[str] = []


def simd_levels() -> list[str]:
    """The levels that run on this CPU."""
    if not _levels:
        info = core().build_info()
        for level in info["simd_levels"]:
            try:
                set_simd_level(level)
            except ValueError:
                continue
            _levels.append(level)
        set_simd_level(info["simd_level"])
    return _levels


@contextmanager
def running(level: str, threads: int):
    """Runs a block at a SIMD level and with a number of torch threads."""
    before, threads_before = core().build_info()["simd_level"], torch.get_num_threads()
    set_simd_level(level)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        set_simd_level(before)
        torch.set_num_threads(threads_before)


def difference(got: object, wanted: object) -> str:
    """What differs between two results, bit for bit but for the kinds of NaN; "" if nothing."""
    return compare(got, wanted, lambda got, wanted: (got == wanted) | (got != got) & wanted.isnan())


def equal_bits(got: object, wanted: object) -> str:
    """As `difference`, with -0 unlike 0."""

    def same(got, wanted):
        equal = (got == wanted) & (got.signbit() == wanted.signbit())
        return equal | got.isnan() & wanted.isnan()

    return compare(got, wanted, same, quick=False)


def within(rtol: float, atol: float) -> Callable[[object, object], str]:
    """A comparison up to rounding; NaN and infinities must be where they are wanted."""

    def same(got: Tensor, wanted: Tensor) -> Tensor:
        return torch.isclose(got, wanted, rtol=rtol, atol=atol, equal_nan=True)

    return lambda got, wanted: compare(got, wanted, same)


def compare(got: object, wanted: object, same: Callable, quick: bool = True) -> str:
    """What differs between two tensors or sequences of them, by an elementwise `same`."""
    if isinstance(wanted, Tensor):
        if not isinstance(got, Tensor) or got.dtype != wanted.dtype or got.shape != wanted.shape:
            return f"expected {_kind(wanted)}, got {_kind(got)}"
        if quick and torch.equal(got, wanted):
            return ""
        wrong = ~same(got, wanted)
        if not wrong.any():
            return ""
        at = tuple(wrong.nonzero()[0].tolist())
        return (
            f"{int(wrong.sum())} of {wrong.numel()} elements differ, "
            f"first at {list(at)}: got {got[at].item()!r}, wanted {wanted[at].item()!r}"
        )
    if isinstance(wanted, Iterable) and not isinstance(wanted, str):
        if len(got) != len(wanted):
            return f"expected {len(wanted)} results, got {len(got)}"
        for number, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
            what = compare(mine, theirs, same, quick)
            if what:
                return f"result {number}: {what}"
        return ""
    return "" if got == wanted else f"expected {wanted!r}, got {got!r}"


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {list(value.shape)}"
    return type(value).__name__


def brief(value: object) -> str:
    """A result in at most a few lines."""
    if isinstance(value, Tensor):
        value = value.flatten()[:12].tolist()
    elif isinstance(value, tuple | list):
        return ", ".join(map(brief, value))
    return str(value)[:400]
