"""Detection on files: pictures with boxes, and one JSON file in COCO's results format."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from fastrpn.data import BadDataError, detections_to_coco_results, read_image
from fastrpn.engine.predict import Predictor
from fastrpn.engine.report import write_json
from fastrpn.viz import draw_detections, write_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass
class FilesDetected:
    """What `detect_files` did."""

    num_images: int = 0
    num_detections: int = 0
    skipped: list[str] = field(default_factory=list)


def detect_files(
    predictor: Predictor,
    paths: Iterable[Path],
    output: Path,
    on_bad_data: str = "stop",
    progress: bool = True,
) -> FilesDetected:
    """Detects objects in image files and in the image files of folders.

    Writes `<name>.jpg` with boxes for every image and `detections.json`: a list of
    {"image_id", "category_id", "bbox" (x, y, width, height), "score"}, where image_id is the
    file's path as given and category_id indexes `predictor.classes`.

    Args:
        predictor: the model.
        paths: image files or folders.
        output: folder for the results, made if it is not there.
        on_bad_data: "stop" at an unreadable file, or "skip" it and say so in the result.
        progress: show a progress bar.

    Raises:
        BadDataError: an unreadable file, with "stop".
        FileNotFoundError: a path that does not exist, or nothing to detect in.
        ValueError: `on_bad_data` is neither.
    """
    if on_bad_data not in ("stop", "skip"):
        raise ValueError(f"on_bad_data must be 'stop' or 'skip', got {on_bad_data!r}")
    files = list_images(paths)
    names = _picture_names(files)
    done = FilesDetected()
    results: list[dict] = []
    output.mkdir(parents=True, exist_ok=True)
    batches = range(0, len(files), predictor.batch_size)
    for start in track(batches, "detecting", disable=not progress):
        images, readable = [], []
        for file in files[start : start + predictor.batch_size]:
            try:
                images.append(read_image(file))
                readable.append(file)
            except BadDataError as error:
                if on_bad_data == "stop":
                    raise
                done.skipped.append(str(error))
        detections = predictor(images)
        for file, image, found in zip(readable, images, detections, strict=True):
            picture = draw_detections(
                image, found["boxes"], found["labels"], found["scores"], predictor.classes
            )
            write_image(output / names[file], picture)
            done.num_detections += len(found["boxes"])
        results += detections_to_coco_results(detections, [str(file) for file in readable])
        done.num_images += len(readable)
    write_json(output / "detections.json", results)
    return done


def list_images(paths: Iterable[Path]) -> list[Path]:
    """The image files among the paths and in the folders among them, sorted within a folder."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    if not files:
        raise FileNotFoundError(f"no image files in {', '.join(map(str, paths))}")
    return list(dict.fromkeys(files))


def _picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """A file name for each picture; files of one name in several folders get a number."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        name, number = f"{file.stem}.jpg", 1
        while name in taken:
            number += 1
            name = f"{file.stem}-{number}.jpg"
        taken.add(name)
        names[file] = name
    return names
