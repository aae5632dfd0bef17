"""What training and evaluation ask of a data set, and a part of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["LabelledImages", "Part", "Samples"]


class Samples(Protocol):
    """``ds[i] -> (image float32 [3, H, W] in 0..1, target)``, as data sets of torch have it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, dict[str, Any]]: ...


class LabelledImages(Samples, Protocol):
    """Samples with the names of their classes, "__background__" first."""

    @property
    def classes(self) -> Sequence[str]: ...


class Part(torch.utils.data.Dataset[tuple[Tensor, dict[str, Any]]]):
    """Some samples of a data set, by their indices; its classes, where it has any."""

    def __init__(self, dataset: Samples, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices
        self.classes: Sequence[str] = getattr(dataset, "classes", ())

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        return self.dataset[self.indices[index]]
