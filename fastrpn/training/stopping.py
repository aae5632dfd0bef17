"""SIGTERM and Ctrl-C end a training where it can go on later: between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

from fastrpn import distributed

__all__ = ["Interrupted", "StopSignals"]

T = TypeVar("T")

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Interrupted(BaseException):
    """Raised by :class:`StopSignals` where nothing is half done."""


class StopSignals:
    """Within it, SIGINT and SIGTERM are noted and raise nothing; a second one ends at once.

    The handlers of before are back afterwards. In another thread than the main one, where Python
    has no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _NAMES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._signal is not None:
            self._leave(number)
        self._signal = number
        if self._at_once:
            raise Interrupted

    def check(self) -> None:
        """Raises Interrupted in all processes if a signal has reached one of them."""
        if distributed.any_process(self._signal is not None):
            raise Interrupted

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a signal raises Interrupted: for what takes long and changes nothing. With
        several processes it does not, as the others would wait for this one."""
        self._at_once = distributed.size() == 1
        try:
            if self._at_once and self._signal is not None:
                raise Interrupted
            yield
        finally:
            self._at_once = False

    def waiting_for(self, items: Iterable[T]) -> Iterator[T]:
        """The items; waiting for one is `at_once`, what the caller does with it is not."""
        iterator = iter(items)
        while True:
            with self.at_once():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    @property
    def name(self) -> str:
        """What was sent."""
        return _NAMES.get(signal.Signals(self._signal), "") if self._signal else "another process"

    def leave(self) -> NoReturn:
        """Ends as the signal would have: KeyboardInterrupt, or SystemExit with status 143."""
        self._leave(self._signal or signal.SIGTERM)

    @staticmethod
    def _leave(number: int) -> NoReturn:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
