"""What the readers of annotated images give: samples, and the images decoded when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rich.progress import track

from fastrpn.data.samples import Sample, SampleTable
from fastrpn.errors import BadDataError, BadDataPolicy
from fastrpn.images import image_to_tensor, read_image


class AnnotatedImages(torch.utils.data.Dataset):
    """SampleTable whose annotations were checked when the data set was opened.

    `ds[i]` is (image float32 [3,H,W] RGB in 0..1, target) where target holds "boxes" float32 [G,4]
    (xyxy, pixels), "labels" int64 [G] (1..C-1), "ignore" bool [G] and "image_id"; where the
    annotation says the areas of its objects, which may be smaller than their boxes, "area" too.

    Images are decoded when they are asked for, and only then a broken one, or one of another size
    than its annotation says, raises BadDataError. A `Loader` stops there or, with
    on_bad_data="skip", goes on without it; `check` decodes all beforehand.

    Args:
        samples: flat, or one by one.
        classes: names, "__background__" first.
        bad: what was left out.
        exif: turn images as their EXIF orientation says.

    Attributes:
        classes: class names; index 0 is "__background__".
        samples: the usable samples, in order.
        bad: the faults that were found, and what is done with others.
        file_ids: {image_id: what the annotation file calls the image}, where that is another id.
        category_ids: what the annotation file calls each class, by label; None where it has no
            numbers for them.
    """

    file_ids: Mapping[int, int | str] = {}
    category_ids: Sequence[int | str | None] | None = None

    def __init__(
        self,
        samples: Iterable[Sample],
        classes: Sequence[str],
        bad: BadDataPolicy | None = None,
        exif: bool = False,
    ) -> None:
        self.samples = SampleTable.of(samples)
        self.classes = list(classes)
        self.bad = bad or BadDataPolicy("drop")
        self.exif = exif

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict]:
        sample = self.samples[index]
        image = read_image(sample.image_path, self.exif)
        if image.shape[:2] != sample.size:
            raise BadDataError(
                f"{sample.image_path}: height and width are {image.shape[:2]}, but its annotation "
                f"says height and width are {sample.size}",
                "size differs",
            )
        return image_to_tensor(image), self.target(index)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image."""
        return [tuple(size) for size in self.samples.sizes.tolist()]

    @property
    def skipped(self) -> list[str]:
        """A message for each file and object that was left out."""
        return self.bad.skipped

    def target(self, index: int) -> dict:
        """The target of sample `index` without reading its image."""
        sample = self.samples[index]
        return {
            "boxes": torch.from_numpy(sample.boxes.copy()),
            "labels": torch.from_numpy(sample.labels.copy()),
            "ignore": torch.from_numpy(sample.ignore.copy()),
            "image_id": sample.image_id,
            **({} if sample.areas is None else {"area": torch.from_numpy(sample.areas.copy())}),
        }

    def subset(self, indices: Sequence[int]) -> AnnotatedImages:
        """Some of the images, in that order."""
        samples = self.samples.select(indices)
        part = AnnotatedImages(samples, self.classes, self.bad, self.exif)
        part.file_ids, part.category_ids = self.file_ids, self.category_ids
        return part

    def checked(self, progress: bool = True) -> AnnotatedImages:
        """The data set after decoding every image; `bad.on_bad_data` says what becomes of bad ones.

        Raises:
            BadDataError: a bad image, unless it may be skipped; or more than a tenth of them.
        """
        whole = []
        with ThreadPoolExecutor() as pool:
            errors = pool.map(self._error_of, range(len(self)))
            for i, error in enumerate(
                track(errors, "checking images", len(self), disable=not progress)
            ):
                if error is None:
                    whole.append(i)
                else:
                    self.bad.bad_file(error)
        if len(whole) == len(self):
            return self
        where = Path(self.samples.paths[0]).parent
        self.bad.report(f"images in {where}", len(self), len(self.samples.boxes))
        return self.subset(whole)

    def _error_of(self, index: int) -> BadDataError | None:
        try:
            self[index]
        except BadDataError as error:
            return error
        return None
