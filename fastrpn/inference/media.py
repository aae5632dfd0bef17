"""Images and videos to detect in: which files there are, and their pictures one after the other."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from fastrpn.errors import BadDataError, BadDataPolicy
from fastrpn.images import IMAGE_SUFFIXES, read_image

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}

_THREADS = 4  # that decode images; decoding releases the GIL
_AHEAD = 8  # images decoded before they are needed


class Frame(NamedTuple):
    """A picture and where it comes from."""

    path: Path
    image: np.ndarray  # uint8 [H,W,3] RGB
    number: int | None = None  # of a video's frame, from 0
    rate: float | None = None  # a video's frames a second

    @property
    def name(self) -> str:
        """The file's path, for a video's frame with "#" and its number."""
        return str(self.path) if self.number is None else f"{self.path}#{self.number}"


def list_media(paths: Iterable[str | Path], output: Path | None = None) -> dict[Path, Path]:
    """The files among the paths, and the images and videos in the folders among them, by name.

    Folders are searched with all that is below them, but for what is hidden.

    Args:
        output: a folder that is not searched where it lies below another.

    Returns:
        {file: where it lies below the path that brought it}; of a file, its name.

    Raises:
        FileNotFoundError: a path that does not exist, or no file at all.
    """
    files: dict[Path, Path] = {}
    paths = list(paths)
    for path in map(Path, paths):
        if path.is_dir():
            found = {file: file.relative_to(path) for file in _media_below(path, output)}
        elif path.is_file():
            found = {path: Path(path.name)}
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
        for file, place in found.items():
            files.setdefault(file, place)
    if not files:
        raise FileNotFoundError(f"no image or video in {', '.join(map(str, paths))}")
    return files


def _media_below(folder: Path, output: Path | None) -> list[Path]:
    """Images and videos, sorted: those of a folder, then those of the folders in it."""
    known = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
    left_out = output.resolve() if output is not None else None
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and Path(root, name).resolve() != left_out
        )
        found = (Path(root, name) for name in sorted(names) if not name.startswith("."))
        files += [file for file in found if file.suffix.lower() in known]
    return files


def read_media(files: Iterable[Path], policy: BadDataPolicy) -> Iterator[Frame]:
    """The pictures of images and videos in order, read a few ahead of the one that is asked for.

    Raises:
        BadDataError: a file that cannot be read, if the policy stops at it.
    """
    for frame in _read_ahead(_read, _images_and_frames(files)):
        if isinstance(frame, BadDataError):
            policy.bad_file(frame)
        else:
            yield frame


def count_frames(files: Iterable[Path]) -> int:
    """How many pictures `read_media` will give, as far as the videos' headers can be trusted."""
    return sum(_frames_in_header(file) if is_video(file) else 1 for file in files)


def is_video(file: Path) -> bool:
    """Whether the file is named as a video."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def read_video(path: Path) -> Iterator[Frame]:
    """The frames of a video, decoded as they are asked for.

    Raises:
        BadDataError: the file is missing, is no video that OpenCV can decode, or has no frame.
    """
    video = cv2.VideoCapture(str(path))
    try:
        rate = video.get(cv2.CAP_PROP_FPS)
        found, image = video.read()
        if not found:
            raise BadDataError(f"{path}: not a video that OpenCV can decode")
        number = 0
        while found:
            yield Frame(path, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), number, rate)
            found, image = video.read()
            number += 1
    finally:
        video.release()


def _images_and_frames(files: Iterable[Path]) -> Iterator[Path | Frame | BadDataError]:
    """Images as paths, to be decoded by threads, and videos frame by frame."""
    for file in files:
        if not is_video(file):
            yield file
            continue
        try:
            yield from read_video(file)
        except BadDataError as error:
            yield error


def _read(item: Path | Frame | BadDataError) -> Frame | BadDataError:
    if not isinstance(item, Path):
        return item
    try:
        return Frame(item, read_image(item, exif=True))
    except BadDataError as error:
        return error


def _read_ahead(function: Callable, items: Iterable) -> Iterator:
    """`map(function, items)` in threads, a few results ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _frames_in_header(file: Path) -> int:
    video = cv2.VideoCapture(str(file))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    return max(count, 1)
