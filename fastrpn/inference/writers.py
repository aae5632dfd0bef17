"""Detections as files: COCO's results format, CSV, pictures and videos, of any length.

Each process adds to a file of lines while it runs, so that memory does not grow with the number of
images; at the end the lines of all processes become the files that were asked for.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from torch import Tensor

from fastrpn.data import detections_to_coco_results
from fastrpn.drawing import draw_detections
from fastrpn.files import replacing
from fastrpn.images import write_image
from fastrpn.inference.media import Frame, is_video

__all__ = ["CSV_COLUMNS", "PictureWriter", "ResultLines", "VideoWriter", "picture_names"]
__all__ += ["write_coco_results", "write_csv"]

CSV_COLUMNS = ("image_id", "class", "score", "x1", "y1", "x2", "y2")


class ResultLines:
    """A file with a detection on each line, as JSON in COCO's results format; a context manager.

    It stays for the caller to join and delete, unless the context ends with an error.

    Args:
        path: is overwritten.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("w", encoding="utf-8")

    def add(self, detections: Sequence[dict], image_ids: Sequence[int | str]) -> None:
        """Appends the detections of some images."""
        for result in detections_to_coco_results(detections, image_ids):
            self._file.write(json.dumps(result) + "\n")

    def __enter__(self) -> ResultLines:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if error is not None:
            self.path.unlink()


def write_coco_results(
    path: Path, parts: Iterable[Path], categories: Sequence[int | str] | None = None
) -> Path:
    """Joins files of lines into one JSON list, whole or not at all.

    Args:
        categories: the ids of the classes by label; else the labels.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        before = "[\n"
        for line in _lines(parts):
            if categories is not None:
                result = json.loads(line)
                result["category_id"] = categories[result["category_id"]]
                line = json.dumps(result)
            file.write(before + line)
            before = ",\n"
        file.write("\n]\n" if before == ",\n" else "[]\n")
    return path


def write_csv(path: Path, parts: Iterable[Path], classes: Sequence[str]) -> Path:
    """Joins files of lines into a table of `CSV_COLUMNS`, boxes in pixels, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(CSV_COLUMNS)
        for line in _lines(parts):
            result = json.loads(line)
            x, y, width, height = result["bbox"]
            box = [f"{value:.2f}" for value in (x, y, x + width, y + height)]
            name = classes[result["category_id"]]
            table.writerow([result["image_id"], name, f"{result['score']:.4f}", *box])
    return path


class PictureWriter:
    """Draws detections: images, and videos frame by frame; one video at a time is open.

    Args:
        output: the folder.
        names: of the pictures, see `picture_names`.
        classes: names, "__background__" first.
        videos: closes the last video.
    """

    def __init__(
        self, output: Path, names: dict[Path, str], classes: Sequence[str], videos: ExitStack
    ) -> None:
        self.output, self.names, self.classes = output, names, classes
        self._videos = videos
        self._video: VideoWriter | None = None

    def add(self, frame: Frame, found: Mapping[str, Tensor]) -> None:
        """Writes a picture, or adds a frame to its video."""
        path = self.output / self.names[frame.path]
        picture = draw_detections(
            frame.image, found["boxes"], found["labels"], found["scores"], self.classes
        )
        if frame.number is None:
            write_image(path, picture)
            return
        if frame.number == 0:
            self._videos.close()
            self._video = self._videos.enter_context(VideoWriter(path, frame.rate or 0.0))
        if self._video is not None:
            self._video.write(picture)


def picture_names(files: Mapping[Path, Path]) -> dict[Path, str]:
    """Where each picture goes below the output folder: as its file lies below the path that
    brought it; of two that would go to one place, the second gets a number.

    Args:
        files: of :func:`fastrpn.inference.media.list_media`.
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file, place in files.items():
        suffix = ".mp4" if is_video(file) else ".jpg"
        name, number = str(place.with_suffix(suffix)), 1
        while name in taken:
            number += 1
            name = str(place.with_name(f"{place.stem}-{number}{suffix}"))
        taken.add(name)
        names[file] = name
    return names


class VideoWriter:
    """Writes uint8 [H,W,3] RGB frames to an .mp4 file; a context manager.

    The file appears when the context ends without an error. Frames of another size than the first
    one's are resized to it.
    """

    def __init__(self, path: str | Path, rate: float):
        self.path, self.rate = Path(path), rate if rate > 0 else 25.0  # some files do not tell
        self._writer: cv2.VideoWriter | None = None
        self._files = ExitStack()

    def __enter__(self) -> VideoWriter:
        self._temporary = self._files.enter_context(replacing(self.path))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        self._files.__exit__(kind, error, trace)

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame.

        Raises:
            OSError: OpenCV has no encoder for the file.
        """
        if self._writer is None:
            self._size = (frame.shape[1], frame.shape[0])
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temporary), codec, self.rate, self._size)
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: OpenCV cannot encode this video")
        if (frame.shape[1], frame.shape[0]) != self._size:
            frame = cv2.resize(frame, self._size)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def _lines(parts: Iterable[Path]) -> Iterator[str]:
    for part in parts:
        with part.open(encoding="utf-8") as file:
            yield from (line.rstrip("\n") for line in file)
