"""What happens when a file of a data set is bad: stop, or skip and count."""

from __future__ import annotations

import warnings


class BadDataError(ValueError):
    """A file of a data set cannot be used; the message names the file."""


class BadDataPolicy:
    """Decides what a `BadDataError` does to the reading of a data set.

    "stop" raises it. "skip" records its message in `skipped`, so that the sample is left out, and
    `report` warns once with the count.
    """

    def __init__(self, on_bad_data: str):
        if on_bad_data not in ("stop", "skip"):
            raise ValueError(f'on_bad_data must be "stop" or "skip", got {on_bad_data!r}')
        self.stop = on_bad_data == "stop"
        self.skipped: list[str] = []

    def handle(self, error: BadDataError) -> None:
        """Raises `error`, or records it."""
        if self.stop:
            raise error
        self.skipped.append(str(error))

    def report(self, total: int) -> None:
        """Warns if anything was skipped out of `total` samples."""
        if self.skipped:
            first = self.skipped[0]
            warnings.warn(
                f"skipped {len(self.skipped)} of {total} samples; the first: {first}", stacklevel=3
            )
