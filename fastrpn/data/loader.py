"""Batches in an order, and with random transforms, that depend on (seed, epoch) alone."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fastrpn.data.part import Samples
from fastrpn.data.transforms import Transform
from fastrpn.errors import MOST_BAD, BadDataError

ON_BAD_IMAGE = ("stop", "replace", "leave out")
MOST_DEATHS = 3  # of workers in an epoch


class WorkerKilledError(RuntimeError):
    """Processes that read images are killed again and again."""


class Loader:
    """Iterates over (list of images, list of targets); see `build_loader`.

    Each pass is one epoch: the first is 0, or what `set_epoch` said, and the count then goes on by
    itself. Worker processes change nothing about what comes out.

    Attributes:
        waited: seconds that the user of the batches has waited for them so far.
        bad: what is wrong with each image that was replaced or left out so far.
    """

    def __init__(self, batches: EpochBatches, start: Callable[[], DataLoader], stops: bool):
        self._batches, self._start, self._stops = batches, start, stops
        self._loader = start()
        self.waited = 0.0
        self.bad: dict[str, BadDataError] = {}

    def __len__(self) -> int:
        """Batches in a full epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[list[torch.Tensor], list[dict]]]:
        start = time.perf_counter()
        for images, targets, errors in self._batches_of_workers():
            self.waited += time.perf_counter() - start
            self._note(errors)
            if images:
                yield images, targets
            start = time.perf_counter()

    def _batches_of_workers(self) -> Iterator[tuple[list, list[dict], list[BadDataError]]]:
        """What the workers make; those that were killed are replaced, and theirs made again."""
        epoch, skip = self._batches.epoch, self._batches.skip
        done = deaths = 0
        iterator = None
        while True:
            try:
                if iterator is None:
                    with _no_handler_of_dead_children():
                        iterator = iter(self._loader)
                batch = next(iterator)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if not (self._loader.num_workers and _tells_of_a_death(error)):
                    raise
                deaths += 1
                if deaths > MOST_DEATHS:
                    raise WorkerKilledError(
                        f"processes that read images were killed {deaths} times in one epoch: not "
                        "enough memory? Fewer --workers take less"
                    ) from error
                warnings.warn("a process that reads images was killed; started again", stacklevel=3)
                self._loader = self._start()
                self.set_epoch(epoch, skip + done)
                iterator = None
                continue
            done += 1
            yield batch

    def _note(self, errors: Sequence[BadDataError]) -> None:
        for error in errors:
            if self._stops:
                raise error
            if str(error) not in self.bad:
                warnings.warn(f"goes on without an image: {error}", stacklevel=3)
            self.bad[str(error)] = error
        total = len(self._batches.groups)
        if len(self.bad) > MOST_BAD * total:
            raise BadDataError(
                f"{len(self.bad)} of {total} images cannot be decoded, more than a tenth; the "
                f"first: {next(iter(self.bad))}",
                "mostly bad data",
            )

    def set_epoch(self, epoch: int, skip_batches: int = 0) -> None:
        """Makes the next pass epoch `epoch`, without its first batches (to resume inside it)."""
        self._batches.epoch = epoch
        self._batches.skip = skip_batches


def build_loader(
    dataset: Samples,
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    workers: int = 0,
    transform: Transform | None = None,
    drop_last: bool = False,
    shard: tuple[int, int] = (0, 1),
    sizes: Sequence[tuple[int, int]] | None = None,
    pin_memory: bool = False,
    on_bad_image: str = "stop",
) -> Loader:
    """A loader over any data set that returns (image, target).

    Args:
        dataset: `ds[i] -> (image [3,H,W], target dict)`.
        batch_size: images a batch, at least 1.
        shuffle: a new order each epoch; else 0, 1, 2, ...
        seed: non-negative; equal seeds give equal epochs, with any number of workers.
        workers: processes that read and transform; 0 does it in this one.
        transform: applied to each sample with a generator seeded by (seed, epoch, index).
        drop_last: leave out a last batch that is not full.
        shard: (rank, size): of each batch only every size-th image, from the rank-th on, so that
            `size` processes share each batch and the order does not depend on how many they are.
        sizes: (height, width) of each image. If given, upright images and others come in batches
            of their own, which need less padding; only an epoch's last batches may mix them. Still
            each image comes once an epoch, in as many batches.
        pin_memory: put batches into memory from which a GPU copies while it computes.
        on_bad_image: what follows if an image cannot be decoded: "stop" raises its BadDataError,
            which names the file; "replace" takes the next image that can be, whoever reads it, so
            that equal seeds still give equal batches; "leave out" makes the batch smaller. Each is
            told in a warning, once, and more than a tenth of the data set raises.

    Returns:
        A `Loader`, which yields (list of float32 [3,H,W], list of targets).
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if sizes is not None and len(sizes) != len(dataset):
        raise ValueError(f"sizes has {len(sizes)} entries for {len(dataset)} images")
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image must be one of {ON_BAD_IMAGE}, got {on_bad_image!r}")
    upright = [0] * len(dataset) if sizes is None else [int(h > w) for h, w in sizes]
    batches = EpochBatches(upright, batch_size, shuffle, seed, drop_last, shard)
    start = partial(
        DataLoader,
        _Transformed(dataset, transform, seed, on_bad_image == "replace"),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else each pass would advance the global one
    )
    return Loader(batches, start, on_bad_image == "stop")


def collate(
    samples: Sequence[tuple[torch.Tensor | None, dict | None, BadDataError | None]],
) -> tuple[list[torch.Tensor], list[dict], list[BadDataError]]:
    """Images, targets and errors as lists: images differ in size and are not stacked."""
    images = [image for image, _, _ in samples if image is not None]
    targets = [target for _, target, _ in samples if target is not None]
    return images, targets, [error for _, _, error in samples if error is not None]


class EpochBatches:
    """Yields batches of (epoch, index). The epoch travels with the index because persistent workers
    hold a copy of the data set that never hears of a new epoch.

    `groups` [length] holds a number for each image; images of different numbers meet in the last
    batches of an epoch only.
    """

    def __init__(
        self,
        groups: Sequence[int],
        batch_size: int,
        shuffle: bool,
        seed: int,
        drop_last: bool,
        shard: tuple[int, int] = (0, 1),
    ):
        self.groups, self.batch_size = groups, batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.rank, self.size = shard
        self.epoch = 0
        self.skip = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.groups), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, first = self.epoch, self.skip
        self.epoch, self.skip = epoch + 1, 0
        order = np.arange(len(self.groups))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        for batch in self._batches(order)[first : len(self)]:
            yield [(epoch, index) for index in batch[self.rank :: self.size]]

    def _batches(self, order: np.ndarray) -> list[list[int]]:
        """Batches of one group in the order in which they fill up, then what is left over: as many
        as without groups."""
        full: list[list[int]] = []
        waiting: dict[int, list[int]] = {group: [] for group in self.groups}
        for index in order.tolist():
            batch = waiting[self.groups[index]]
            batch.append(index)
            if len(batch) == self.batch_size:
                full.append(batch)
                waiting[self.groups[index]] = []
        rest = [index for batch in waiting.values() for index in batch]
        starts = range(0, len(rest), self.batch_size)
        return full + [rest[start : start + self.batch_size] for start in starts]


class _Transformed(Dataset):
    """Looks up (epoch, index) and applies the transform with the generator of that pair. Errors
    of images travel with the sample: raised in a worker, they would lose their type and clarity."""

    def __init__(self, dataset: Samples, transform: Transform | None, seed: int, replaces: bool):
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.replaces = replaces

    def __getitem__(
        self, epoch_and_index: tuple[int, int]
    ) -> tuple[torch.Tensor | None, dict | None, BadDataError | None]:
        epoch, index = epoch_and_index
        image, target, error = self._read(index)
        if image is not None and target is not None and self.transform is not None:
            rng = np.random.default_rng([self.seed, epoch, index])
            image, target = self.transform(image, target, rng)
        return image, target, error

    def _read(self, index: int) -> tuple[torch.Tensor | None, dict | None, BadDataError | None]:
        first = None
        for candidate in range(index, index + (len(self.dataset) if self.replaces else 1)):
            try:
                return *self.dataset[candidate % len(self.dataset)], first
            except BadDataError as error:
                first = first or error
        return None, None, first


def _tells_of_a_death(error: Exception) -> bool:
    """Whether torch has missed a worker, or lost the connection over which a batch was to come; an
    error that a worker met arrives as "Caught ... in DataLoader worker process"."""
    text = str(error)
    is_lost = isinstance(error, OSError | EOFError) and not text.startswith("Caught ")
    return is_lost or text.startswith("DataLoader worker")


def _start_worker(worker: int) -> None:
    """One thread a worker: the parallelism lies in the number of workers. Ctrl-C, which reaches
    every process of a terminal, is for the main one to answer: it may still want this batch."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _no_handler_of_dead_children() -> Iterator[None]:
    """Takes back the handler of SIGCHLD that torch installs: it raises where the main thread just
    is, in the middle of a step. Without it the loader notices a dead worker when it waits for it,
    within seconds."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
