"""Seconds of the parts of the demo."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["timed"]


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long what is within it took."""
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)
