"""Proposals of a data set as a file, so that detectors can train and be judged on any method's.

The file is a NumPy archive (.npz) without pickled objects:

    format     "fastrpn-proposals 1"
    method     how they were made, for example "rpn" or "selective-search"
    image_ids  int64 [I]        target["image_id"] of the images, each once
    offsets    int64 [I + 1]    rows offsets[i] to offsets[i + 1] belong to image i
    boxes      float32 [N, 4]   xyxy, pixels of the image as stored, best first in each image
    scores     float32 [N]      higher is better; only the order within an image means anything
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastrpn.data.dataset import AnnotatedImages
from fastrpn.errors import BadDataError
from fastrpn.files import write_atomically

_FORMAT = "fastrpn-proposals 1"
_DTYPES = {"image_ids": "<i8", "offsets": "<i8", "boxes": "<f4", "scores": "<f4"}


@dataclass(frozen=True)
class ProposalSet(Mapping[int, tuple[Tensor, Tensor]]):
    """Proposals of many images: `proposals[image_id]` is (boxes float32 [K,4], scores [K])."""

    method: str
    image_ids: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {int(n): i for i, n in enumerate(self.image_ids)}

    @classmethod
    def collect(cls, method: str, images: Mapping[int, tuple[Tensor, Tensor]]) -> ProposalSet:
        """Gathers (boxes [K,4], scores [K]) of each image id, sorted best first.

        Raises:
            ValueError: boxes or scores of another shape or not finite; the message names the image.
        """
        boxes, scores = [np.zeros((0, 4), "<f4")], [np.zeros(0, "<f4")]
        for image_id, (some_boxes, some_scores) in images.items():
            b = some_boxes.detach().cpu().numpy().astype("<f4")
            s = some_scores.detach().cpu().numpy().astype("<f4")
            if b.ndim != 2 or b.shape[1] != 4 or s.shape != (len(b),):
                raise ValueError(f"image {image_id}: boxes {b.shape} and scores {s.shape}")
            if not (np.isfinite(b).all() and np.isfinite(s).all()):
                raise ValueError(f"image {image_id}: boxes or scores are not finite")
            order = np.argsort(-s, kind="stable")
            boxes.append(b[order])
            scores.append(s[order])
        offsets = np.cumsum([len(s) for s in scores])  # the empty first entry gives the 0
        ids = np.array(list(images), "<i8")
        return cls(method, ids, offsets, np.concatenate(boxes), np.concatenate(scores))

    def __getitem__(self, image_id: int) -> tuple[Tensor, Tensor]:
        row = self._rows[int(image_id)]
        part = slice(self.offsets[row], self.offsets[row + 1])
        return torch.from_numpy(self.boxes[part].copy()), torch.from_numpy(self.scores[part].copy())

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def save(self, path: str | Path) -> Path:
        """Writes the file, whole or not at all."""
        content = io.BytesIO()
        arrays = {name: getattr(self, name).astype(dtype) for name, dtype in _DTYPES.items()}
        np.savez_compressed(content, format=_FORMAT, method=self.method, **arrays)
        return write_atomically(path, content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> ProposalSet:
        """Reads a file and checks it.

        Raises:
            BadDataError: missing or not such a file, or arrays that contradict each other. The
                message names the file.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                if str(archive["format"]) != _FORMAT:
                    raise BadDataError(f"{path}: format is {archive['format']}, not {_FORMAT}")
                method = str(archive["method"])
                arrays = {name: archive[name].astype(dtype) for name, dtype in _DTYPES.items()}
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            if isinstance(error, BadDataError):
                raise
            raise BadDataError(f"{path}: cannot read the proposals ({error})") from error
        proposals = cls(method, **arrays)
        proposals._check(path)
        return proposals

    def require_images(self, image_ids: Iterable[int]) -> None:
        """Raises ValueError unless every image has an entry (it may hold no box)."""
        missing = sorted(set(image_ids) - set(self))
        if missing:
            raise ValueError(
                f"{self.method} proposals lack {len(missing)} of the data set's images, "
                f"for example image_id {missing[0]}"
            )

    def _check(self, path: str | Path) -> None:
        ids, offsets, boxes, scores = self.image_ids, self.offsets, self.boxes, self.scores
        if boxes.shape != (len(boxes), 4) or scores.shape != (len(boxes),):
            raise BadDataError(f"{path}: boxes {boxes.shape} and scores {scores.shape}")
        if len(self) != len(ids):
            raise BadDataError(f"{path}: an image occurs twice")
        if (
            offsets.shape != (len(ids) + 1,)
            or (np.diff(offsets) < 0).any()
            or (offsets[0], offsets[-1]) != (0, len(boxes))
        ):
            raise BadDataError(f"{path}: offsets do not divide {len(boxes)} boxes on {len(ids)}")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise BadDataError(f"{path}: boxes or scores are not finite")


class WithProposals(AnnotatedImages):
    """Annotated images whose targets also hold "proposals" float32 [K, 4], for Fast R-CNN.

    Raises:
        ValueError: an image has no entry in the proposals.
    """

    def __init__(self, dataset: AnnotatedImages, proposals: ProposalSet):
        super().__init__(dataset.samples, dataset.classes, dataset.bad, dataset.exif)
        proposals.require_images(dataset.samples.image_ids.tolist())
        self.proposals = proposals

    def target(self, index: int) -> dict:
        """The target of sample `index` without reading its image."""
        target = super().target(index)
        return {**target, "proposals": self.proposals[target["image_id"]][0]}
