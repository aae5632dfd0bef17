"""What is wrong with people's files, and what happens then: stop, leave out and count, or go on."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastrpn.files import write_atomically

POLICIES = ("stop", "drop", "skip")
MOST_BAD = 0.1  # the share of a data set that may be left out


class BadDataError(ValueError):
    """A file of a data set, or an entry of one, cannot be used; the message names it.

    Attributes:
        kind: what is wrong, in a few words, by which faults are counted.
    """

    def __init__(self, message: str, kind: str = "unreadable file") -> None:
        super().__init__(message)
        self.kind = kind


class BadDataPolicy:
    """The faults of a data set, and what each of them does.

    `on_bad_data` is "stop": the first fault raises; "drop": a bad object is left out, a bad file
    raises; or "skip": bad files are left out, too. What is left out is kept in `faults`.

    Raises:
        ValueError: another `on_bad_data`.
    """

    def __init__(self, on_bad_data: str) -> None:
        if on_bad_data not in POLICIES:
            raise ValueError(f"on_bad_data must be one of {POLICIES}, got {on_bad_data!r}")
        self.on_bad_data = on_bad_data
        self.objects: list[BadDataError] = []
        self.files: list[BadDataError] = []
        self.skipped: list[str] = []  # the messages of both, as they come
        self.num_clipped = 0  # boxes that reached over the edge of their image

    @classmethod
    def together(cls, parts: Sequence[BadDataPolicy]) -> BadDataPolicy:
        """The faults of several data sets, with the policy of the first."""
        joined = cls(parts[0].on_bad_data)
        for part in parts:
            joined.objects += part.objects
            joined.files += part.files
            joined.skipped += part.skipped
            joined.num_clipped += part.num_clipped
        return joined

    @property
    def faults(self) -> list[BadDataError]:
        """What was left out: files, then objects."""
        return self.files + self.objects

    def bad_object(self, error: BadDataError) -> None:
        """Raises `error`, or leaves the object out."""
        if self.on_bad_data == "stop":
            raise error
        self.objects.append(error)
        self.skipped.append(str(error))

    def bad_file(self, error: BadDataError) -> None:
        """Raises `error`, or leaves the file out."""
        if self.on_bad_data != "skip":
            raise error
        self.files.append(error)
        self.skipped.append(str(error))

    def report(self, name: object, num_files: int, num_objects: int) -> None:
        """Warns in one line of what was left out, if anything was.

        Args:
            name: of the data set, for messages.
            num_files, num_objects: how many there were in all.

        Raises:
            BadDataError: more than a tenth of the files, or of the objects, was left out.
        """
        left_out = [
            (self.files, num_files, "files" if num_files != 1 else "file"),
            (self.objects, num_objects, "objects" if num_objects != 1 else "object"),
        ]
        parts = [
            f"{len(faults)} of {total} {what} ({_by_kind(faults)})"
            for faults, total, what in left_out
            if faults
        ]
        if not parts:
            return
        text = f"{name}: left out {' and '.join(parts)}; the first: {self.faults[0]}"
        if any(len(faults) > MOST_BAD * total for faults, total, _ in left_out):
            raise BadDataError(f"{text}. More than a tenth is bad", "mostly bad data")
        warnings.warn(text, stacklevel=4)

    def write(self, path: str | Path) -> Path:
        """Writes a line for each fault: its kind, a tab, the message."""
        lines = [f"{fault.kind}\t{str(fault)!r}"[:2000] for fault in self.faults]
        return write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def _by_kind(faults: list[BadDataError]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in Counter(f.kind for f in faults).most_common())
