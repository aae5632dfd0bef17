"""Detection on files: pictures and videos with boxes, COCO results, a table.

Processes that torchrun started share the files between them:

    torchrun --nproc-per-node=2 -m fastrpn detect ...
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from fastrpn import distributed
from fastrpn.data.coco import COCOIds
from fastrpn.errors import BadDataPolicy
from fastrpn.inference.media import count_frames, list_media, read_media
from fastrpn.inference.predictor import Predictor
from fastrpn.inference.writers import (
    PictureWriter,
    ResultLines,
    picture_names,
    write_coco_results,
    write_csv,
)

FORMATS = ("pictures", "json", "csv")


@dataclass
class FilesDetected:
    """What `detect_files` did, in all processes together."""

    num_images: int = 0  # a video counts with every frame
    num_detections: int = 0
    skipped: list[str] = field(default_factory=list)


def detect_files(
    predictor: Predictor,
    paths: Iterable[Path],
    output: Path,
    on_bad_data: str = "stop",
    progress: bool = True,
    formats: Sequence[str] = ("pictures", "json"),
    ids: COCOIds | None = None,
) -> FilesDetected:
    """Detects objects in images and videos, given one by one or as folders.

    Memory does not grow with their number and length. Writes what `formats` asks for:

    - "pictures": `<name>.jpg` with boxes for every image, `<name>.mp4` for every video, in folders
      as the inputs are.
    - "json": `detections.json`, a list of {"image_id", "category_id", "bbox" (x, y, width, height),
      "score"} in the order of the files. image_id is the file's path as given, for a frame of a
      video with "#" and its number from 0; category_id indexes `predictor.classes`. With `ids`
      both are those of a COCO file.
    - "csv": `detections.csv`, the same as a table with the names of the classes.

    Args:
        predictor: the model.
        paths: images, videos or folders, which are searched with all that is below them.
        output: folder for the results, made if it is not there; not searched.
        on_bad_data: "stop" at an unreadable file, or "skip" it and say so in the result.
        progress: show a progress bar.
        formats: some of the three.
        ids: see :func:`fastrpn.data.coco.read_coco_ids`.

    Raises:
        BadDataError: an unreadable file, with "stop".
        FileNotFoundError: a path that does not exist, or nothing to detect in.
        ValueError: `on_bad_data` or a format is unknown, a picture would replace an input, or
            `ids` do not have a file.
    """
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise ValueError(f"formats must be some of {', '.join(FORMATS)}, got {min(unknown)!r}")
    policy = BadDataPolicy(on_bad_data)
    places = list_media(paths, output)
    files = list(places)
    names = picture_names(places) if "pictures" in formats else {}
    _protect_inputs(files, output, names)
    if ids is not None:
        for file in files:  # before any is looked at
            ids.of_image(str(file))
    rank, size = distributed.rank(), distributed.size()
    mine = files[len(files) * rank // size : len(files) * (rank + 1) // size]
    done = FilesDetected(skipped=policy.skipped)
    frames = predictor.detect_frames(read_media(mine, policy))
    hidden = not (progress and distributed.is_main())
    with ResultLines(_part(output, rank)) as lines, ExitStack() as videos:
        pictures = PictureWriter(output, names, predictor.classes, videos)
        for frame, found in track(frames, "detecting", count_frames(mine), disable=hidden):
            lines.add([found], [frame.name if ids is None else ids.of_image(frame.name)])
            if names:
                pictures.add(frame, found)
            done.num_images += 1
            done.num_detections += len(found["boxes"])
    done = _total(distributed.all_gather(done))
    if distributed.is_main():
        parts = [_part(output, other) for other in range(size)]
        if "json" in formats:
            categories = None if ids is None else ids.categories
            write_coco_results(output / "detections.json", parts, categories)
        if "csv" in formats:
            write_csv(output / "detections.csv", parts, predictor.classes)
        for part in parts:
            part.unlink()
    return done


def _protect_inputs(files: Sequence[Path], output: Path, names: dict[Path, str]) -> None:
    inputs = {file.resolve() for file in files}
    for name in names.values():
        if (output / name).resolve() in inputs:
            raise ValueError(f"output {output}: the picture {name} would replace an input file")


def _part(output: Path, rank: int) -> Path:
    return output / f".detections-{rank}.jsonl"


def _total(shares: Sequence[FilesDetected]) -> FilesDetected:
    return FilesDetected(
        sum(share.num_images for share in shares),
        sum(share.num_detections for share in shares),
        [message for share in shares for message in share.skipped],
    )
