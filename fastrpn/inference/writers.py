"""Detections as files: COCO's results format and CSV, of any length.

Each process adds to a file of lines while it runs, so that memory does not grow with the number of
images; at the end the lines of all processes become the files that were asked for.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fastrpn.data import detections_to_coco_results
from fastrpn.files import replacing

__all__ = ["CSV_COLUMNS", "ResultLines", "write_coco_results", "write_csv"]

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

    def add(self, detections: Sequence[dict], image_ids: Sequence[str]) -> None:
        """Appends the detections of some images."""
        for result in detections_to_coco_results(detections, image_ids):
            self._file.write(json.dumps(result) + "\n")

    def __enter__(self) -> ResultLines:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if error is not None:
            self.path.unlink()


def write_coco_results(path: Path, parts: Iterable[Path]) -> Path:
    """Joins files of lines into one JSON list, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        before = "[\n"
        for line in _lines(parts):
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


def _lines(parts: Iterable[Path]) -> Iterator[str]:
    for part in parts:
        with part.open(encoding="utf-8") as file:
            yield from (line.rstrip("\n") for line in file)
