"""A folder of images that nobody has annotated: to detect in, or to propose regions for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastrpn.data.collect import Collector
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.errors import BadDataError, BadDataPolicy
from fastrpn.images import IMAGE_SUFFIXES


class ImageFolderDataset(AnnotatedImages):
    """The images in a folder and those below it, without objects, in the order of their paths.

    Args:
        root: the folder.
        classes: must be given, as nothing in the folder names any.
        on_bad_data, over_edge, exif: see :func:`fastrpn.data.open_dataset`.

    Raises:
        BadDataError: no classes, no image, or a file that is none, unless "skip" leaves it out.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str] | None = None,
        on_bad_data: str = "drop",
        over_edge: str = "clip",
        exif: bool = False,
    ) -> None:
        if classes is None:
            text = f"{root}: images without annotations: no object to learn from, and no class"
            raise BadDataError(text, "empty data set")
        collector = Collector(str(root), BadDataPolicy(on_bad_data), over_edge, exif)
        files = (f for f in sorted(Path(root).rglob("*")) if f.suffix.lower() in IMAGE_SUFFIXES)
        for number, file in enumerate(files):
            collector.add(str(file), file, number, None, ())
        samples, names = collector.finish(classes)
        super().__init__(samples, names, collector.bad, exif)
