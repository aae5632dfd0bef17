"""From what annotations say to checked samples: where images are, how large, which boxes count."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from fastrpn.data.samples import SampleTable, Strings, areas_of_boxes
from fastrpn.errors import BadDataError, BadDataPolicy
from fastrpn.images import IMAGE_SUFFIXES, read_size
from fastrpn.models.classes import with_background

OVER_EDGE = ("clip", "drop")
LARGEST_SIDE = 10**6  # pixels; an annotation that says more of an image says nothing

Box = tuple[float, float, float, float]  # xyxy in pixels
Object = tuple[Sequence[float], str, bool, int]  # box, class, ignore, its number in the file


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """(height, width) as JSON says them, or None where that is nothing that can be true."""
    if isinstance(height, int) and isinstance(width, int):
        if 0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE:
            return height, width
    return None


def judge_boxes(
    boxes: np.ndarray, sizes: np.ndarray, over_edge: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Judges boxes by themselves and by their image.

    Args:
        boxes: float64 [N, 4] xyxy in pixels.
        sizes: int64 [N, 2], (height, width) of each box's image.
        over_edge: see `Collector`.

    Returns:
        int [N], 0 for a sound box, else what :func:`fault_of_box` puts into words; the boxes
        clipped to their image, float32; bool [N], boxes that reached over its edge by more than
        a pixel.
    """
    limit = sizes[:, [1, 0, 1, 0]].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.all(np.isfinite(boxes.astype(np.float32)), axis=1)
        clipped = np.clip(boxes, 0, limit).astype(np.float32)
        over = np.abs(np.where(finite[:, None], boxes - clipped, 0)).max(1, initial=0) > 1
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(1) & ~(over & (over_edge == "drop"))
    return np.select([~finite, ~has_area, ~inside], [1, 2, 3], 0), clipped, over


def fault_of_box(where: str, box: np.ndarray, size: np.ndarray, fault: int) -> BadDataError:
    """What `judge_boxes` found of one box, in words."""
    height, width = size
    kind, text = {
        1: ("not finite", "is not finite"),
        2: ("without area", "has no positive width and height"),
        3: ("outside the image", f"is outside the {width}x{height} image"),
    }[int(fault)]
    x1, y1, x2, y2 = box
    return BadDataError(f"{where}, x {x1:g} to {x2:g}, y {y1:g} to {y2:g}, {text}", kind)


class Collector:
    """Takes images and their objects one by one, and checks all boxes at once in `finish`.

    Args:
        name: of the data set, for messages.
        bad: what to do with faults.
        over_edge: boxes that reach more than a pixel over the edge of their image are clipped
            ("clip") or are bad objects ("drop"). One pixel is what tools that count from 0 get
            wrong in a format that counts from 1; it is always clipped.
        exif: whether images will be turned as their EXIF orientation says.
        entry: what to call object number {} of an annotation.

    Raises:
        ValueError: another `over_edge`.
    """

    def __init__(
        self,
        name: str,
        bad: BadDataPolicy,
        over_edge: str = "clip",
        exif: bool = False,
        entry: str = "box {}",
    ) -> None:
        if over_edge not in OVER_EDGE:
            raise ValueError(f"over_edge must be one of {OVER_EDGE}, got {over_edge!r}")
        self.name, self.bad, self.over_edge, self.exif = name, bad, over_edge, exif
        self.entry = entry
        self._paths: list[str] = []
        self._where: list[str] = []
        self._ids: list[int] = []
        self._sizes: list[tuple[int, int] | BadDataError | None] = []
        self._counts: list[int] = []
        self._boxes = array("d")
        self._names: list[str] = []
        self._ignore = bytearray()
        self._numbers = array("q")

    def add(
        self,
        where: str,
        path: str | os.PathLike,
        image_id: int,
        size: tuple[int, int] | None,
        objects: Iterable[Object],
    ) -> None:
        """Adds an image.

        Args:
            where: file and entry of the annotation, for messages.
            path: of the image.
            size: (height, width) as the annotation says; None reads it from the image's header.
        """
        count = 0
        for box, name, ignore, number in objects:
            self._boxes.extend(box)
            self._names.append(name)
            self._ignore.append(ignore)
            self._numbers.append(number)
            count += 1
        self._where.append(where)
        self._paths.append(os.fspath(path))
        self._ids.append(image_id)
        self._sizes.append(size)
        self._counts.append(count)

    def finish(
        self,
        classes: Sequence[str] | None = None,
        known: Sequence[str] | None = None,
        areas: np.ndarray | None = None,
    ) -> tuple[SampleTable, list[str]]:
        """Checks everything and gives samples and class names, "__background__" first.

        Args:
            classes: those to keep, in the order of their labels; objects of others are left out.
                None keeps all.
            known: the classes that the data set declares; an object of another one is a bad
                object. None: whatever occurs.
            areas: float64 of the objects by their numbers, NaN for that of the box.

        Raises:
            BadDataError: the policy stops, too much is bad, or nothing usable is left.
            ValueError: `classes` holds a name twice.
        """
        num_files = len(self._counts) + len(self.bad.files)
        num_objects = len(self._names) + len(self.bad.objects)
        readable = self._readable()
        of_image = np.repeat(np.arange(len(self._counts)), self._counts)
        boxes = np.frombuffer(self._boxes, np.float64).reshape(-1, 4) if self._boxes else None
        boxes = np.zeros((0, 4)) if boxes is None else boxes
        sound, boxes = self._sound(boxes, of_image, readable[of_image])
        sound &= self._known(known, of_image, sound)
        found = sorted({self._names[i] for i in np.flatnonzero(sound)})
        if classes is None:
            classes = list(known or found)
            if not classes:
                raise BadDataError(f"{self.name}: empty data set, no object", "empty data set")
        names = with_background(classes)
        if found and not set(names) & {*found, *(known or ())}:
            raise BadDataError(
                f"{self.name}: none of the classes {', '.join(names[1:])} occurs; there are: "
                f"{', '.join(known or found)}",
                "unknown class",
            )
        label_of = {name: label for label, name in enumerate(names)}
        labels = np.array([label_of.get(name, 0) for name in self._names], np.int64)
        self.bad.report(self.name, num_files, num_objects)
        if not readable.any():
            raise BadDataError(f"{self.name}: empty data set, no usable image", "empty data set")
        kept = sound & (labels > 0)
        counts = np.bincount(of_image[kept], minlength=len(readable))[readable]
        sizes = [size for size, good in zip(self._sizes, readable, strict=True) if good]
        samples = SampleTable(
            Strings(path for path, good in zip(self._paths, readable, strict=True) if good),
            torch.tensor(self._ids, dtype=torch.int64)[torch.from_numpy(readable)],
            torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2),
            torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
            torch.from_numpy(boxes[kept]),
            torch.from_numpy(labels[kept]),
            torch.from_numpy(np.frombuffer(self._ignore, bool)[kept]),
        )
        if areas is not None:
            given = torch.from_numpy(areas[np.frombuffer(self._numbers, np.int64)[kept]])
            samples.areas = torch.where(given.isnan(), areas_of_boxes(samples), given)
        return samples, names

    def _readable(self) -> np.ndarray:
        """bool [I]: the image is there, and its size known, from its header if need be."""
        unknown = [i for i, size in enumerate(self._sizes) if size is None]
        with ThreadPoolExecutor() as pool:
            for i, size in zip(unknown, pool.map(self._size_or_error, unknown), strict=True):
                self._sizes[i] = size
        readable = np.ones(len(self._sizes), bool)
        for i, found in enumerate(self._sizes):
            if isinstance(found, BadDataError):
                self.bad.bad_file(found)
                readable[i] = False
        return readable

    def _size_or_error(self, image: int) -> tuple[int, int] | BadDataError:
        try:
            return read_size(self._paths[image], self.exif)
        except BadDataError as error:
            return error

    def _sound(
        self, boxes: np.ndarray, of_image: np.ndarray, readable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """bool [N]: finite boxes with an area in their image; and the boxes, clipped, float32."""
        sizes = np.array([s if isinstance(s, tuple) else (1, 1) for s in self._sizes], np.int64)
        sizes = sizes.reshape(-1, 2)[of_image]
        faults, clipped, over = judge_boxes(boxes, sizes, self.over_edge)
        for i in np.flatnonzero((faults > 0) & readable).tolist():
            where = self._name_of(i, of_image)
            self.bad.bad_object(fault_of_box(where, boxes[i], sizes[i], faults[i]))
        sound = (faults == 0) & readable
        self.bad.num_clipped += int((sound & over).sum())
        return sound, clipped

    def _known(
        self, known: Sequence[str] | None, of_image: np.ndarray, sound: np.ndarray
    ) -> np.ndarray:
        """bool [N]: objects of a class that the data set declares."""
        if known is None:
            return np.ones(len(self._names), bool)
        names = set(known)
        is_known = np.array([name in names for name in self._names], bool)
        for i in np.flatnonzero(sound & ~is_known).tolist():
            self.bad.bad_object(
                BadDataError(
                    f"{self._name_of(i, of_image)}: unknown class {self._names[i]!r} "
                    f"(known: {', '.join(known)})",
                    "unknown class",
                )
            )
        return is_known

    def _name_of(self, i: int, of_image: np.ndarray) -> str:
        return f"{self._where[of_image[i]]}: {self.entry.format(self._numbers[i])}"


class ImageFolder:
    """The files below a folder, to look up what annotations name; each folder is listed once."""

    def __init__(self, root: str | Path) -> None:
        self.root = os.fspath(root)
        self._listed: dict[str, frozenset[str]] = {}

    def find(self, name: object, where: str) -> str:
        """The path of an image that an annotation names.

        Raises:
            BadDataError: no text, a name that leads out of the folder, or no such file.
        """
        if isinstance(name, str) and name in self.names_in(self.root):
            return os.path.join(self.root, name)
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise BadDataError(f"{where}: the image's file name is {name!r}", "no file name")
        for spelling in (name, name.replace("\\", "/")):
            path = os.path.normpath(os.path.join(self.root, spelling))
            if os.path.relpath(path, self.root).split(os.sep)[0] == os.pardir:
                raise BadDataError(
                    f"{where}: the image {name!r} is outside of {self.root}", "outside the folder"
                )
            folder, file = os.path.split(path)
            if file in self.names_in(folder):
                return path
        raise BadDataError(
            f"{where}: {os.path.join(self.root, name)}: cannot read the image (no such file)",
            "missing image",
        )

    def find_stem(self, stem: str) -> str | None:
        """The path of the image called `stem` and a suffix, or None."""
        folder, stem = os.path.split(os.path.normpath(os.path.join(self.root, stem)))
        found = [n for n in self._images(folder).get(stem, ()) if n in self.names_in(folder)]
        return os.path.join(folder, found[0]) if found else None

    def names_in(self, folder: str) -> frozenset[str]:
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = frozenset(entry.name for entry in entries)
            except OSError:
                self._listed[folder] = frozenset()
        return self._listed[folder]

    def _images(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._by_stem:
            stems: dict[str, list[str]] = {}
            for name in self.names_in(folder):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in IMAGE_SUFFIXES:
                    stems.setdefault(stem, []).append(name)
            order = list(IMAGE_SUFFIXES)
            for names in stems.values():
                names.sort(key=lambda n: (order.index(os.path.splitext(n)[1].lower()), n))
            self._by_stem[folder] = stems
        return self._by_stem[folder]

    @cached_property
    def _by_stem(self) -> dict[str, dict[str, list[str]]]:
        return {}
