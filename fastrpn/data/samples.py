"""The samples of a data set in a few flat tensors.

A COCO-sized set holds a million boxes. As objects they would be copied into every worker, page by
page, as reference counts change; flat tensors are shared: a forked worker never writes to them, and
a spawned one gets them through shared memory.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor


@dataclass
class Sample:
    """One image and its ground truth; boxes are continuous xyxy in pixels."""

    image_path: Path
    image_id: int
    size: tuple[int, int]  # (height, width)
    boxes: np.ndarray  # float32 [G, 4]
    labels: np.ndarray  # int64 [G], from 1
    ignore: np.ndarray  # bool [G]
    areas: np.ndarray | None = None  # float64 [G] in pixels, where the annotation says them


class Strings(Sequence[str]):
    """Strings as bytes and offsets; those that are no valid Unicode survive as file names do."""

    def __init__(self, strings: Iterable[str | os.PathLike]) -> None:
        encoded = [os.fsencode(string) for string in strings]
        self._bytes = torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8)
        self._ends = torch.tensor([len(string) for string in encoded], dtype=torch.int64).cumsum(0)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        end = int(self._ends[index])
        start = int(self._ends[index - 1]) if index % len(self) > 0 else 0
        return os.fsdecode(self._bytes[start:end].numpy().tobytes())


@dataclass
class SampleTable(Sequence[Sample]):
    """SampleTable as tensors; an index gives one as a `Sample`, a slice gives `SampleTable`.

    Attributes:
        paths: [I] where the images are.
        image_ids: int64 [I].
        sizes: int32 [I, 2], (height, width) in pixels.
        ends: int64 [I + 1]; objects `ends[i]` to `ends[i + 1]` belong to image i.
        boxes: float32 [N, 4] xyxy in pixels.
        labels: int64 [N].
        ignore: bool [N].
        areas: float64 [N] in pixels, of the objects and not their boxes; None if nothing says them.
    """

    paths: Sequence[str]
    image_ids: Tensor
    sizes: Tensor
    ends: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    areas: Tensor | None = None

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> SampleTable:
        """Flattens samples; tensors are made as they are if they are flat already."""
        if isinstance(samples, SampleTable):
            return samples
        samples = list(samples)
        counts = [0, *(len(sample.boxes) for sample in samples)]
        return cls(
            Strings(sample.image_path for sample in samples),
            torch.tensor([sample.image_id for sample in samples], dtype=torch.int64),
            torch.tensor([s.size for s in samples], dtype=torch.int32).reshape(-1, 2),
            torch.tensor(counts, dtype=torch.int64).cumsum(0),
            *(
                torch.from_numpy(np.concatenate([getattr(s, name) for s in samples] or [empty]))
                for name, empty in (
                    ("boxes", np.zeros((0, 4), np.float32)),
                    ("labels", np.zeros(0, np.int64)),
                    ("ignore", np.zeros(0, bool)),
                )
            ),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> SampleTable: ...

    def __getitem__(self, index: int | slice) -> Sample | SampleTable:
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        index = range(len(self))[index]
        height, width = self.sizes[index].tolist()
        objects = slice(int(self.ends[index]), int(self.ends[index + 1]))
        return Sample(
            Path(self.paths[index]),
            int(self.image_ids[index]),
            (height, width),
            self.boxes[objects].numpy(),
            self.labels[objects].numpy(),
            self.ignore[objects].numpy(),
            None if self.areas is None else self.areas[objects].numpy(),
        )

    def select(self, indices: Sequence[int]) -> SampleTable:
        """Some of the samples, in that order."""
        chosen = torch.as_tensor(list(indices), dtype=torch.int64)
        counts = (self.ends[1:] - self.ends[:-1])[chosen]
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        rows = torch.arange(int(ends[-1])) + (self.ends[chosen] - ends[:-1]).repeat_interleave(
            counts
        )
        return SampleTable(
            Strings(self.paths[index] for index in chosen.tolist()),
            self.image_ids[chosen],
            self.sizes[chosen],
            ends,
            self.boxes[rows],
            self.labels[rows],
            self.ignore[rows],
            None if self.areas is None else self.areas[rows],
        )

    def relabelled(self, labels: Tensor) -> SampleTable:
        """With `labels[old]` for each label."""
        return replace(self, labels=labels[self.labels])


def join_samples(parts: Sequence[SampleTable], shifts: Sequence[int]) -> SampleTable:
    """SampleTable one behind the other, the image ids of each part shifted."""
    offsets = np.cumsum([0, *(len(part.boxes) for part in parts)])
    ends = [part.ends[1:] + int(offset) for part, offset in zip(parts, offsets, strict=False)]
    ids = [part.image_ids + shift for part, shift in zip(parts, shifts, strict=True)]
    return SampleTable(
        Strings(path for part in parts for path in part.paths),
        torch.cat(ids),
        torch.cat([part.sizes for part in parts]),
        torch.cat([torch.zeros(1, dtype=torch.int64), *ends]),
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.ignore for part in parts]),
        torch.cat([areas_of_boxes(p) if p.areas is None else p.areas for p in parts]),
    )


def areas_of_boxes(samples: SampleTable) -> Tensor:
    """float64 [N], in pixels."""
    boxes = samples.boxes.double()
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


@contextmanager
def building_much(size: int) -> Iterator[None]:
    """For reading a file of `size` bytes into objects that are dropped in the end. If it is large,
    Python does not search them for cycles meanwhile, and their memory goes back to the system,
    where libc can."""
    if size < _LARGE:
        yield
        return
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


_LARGE = 2**24  # bytes
