"""Names of classes; the background is class 0."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["BACKGROUND", "name_classes", "with_background"]

BACKGROUND = "__background__"


def with_background(classes: Sequence[str]) -> list[str]:
    """Class names with "__background__" in front, whether or not it was there already.

    Raises:
        ValueError: a name occurs twice, or there is no class.
    """
    names = [name for name in classes if name != BACKGROUND]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"classes must be distinct names, at least one, got {list(classes)}")
    return [BACKGROUND, *names]


def name_classes(num_classes: int, classes: Sequence[str] | None) -> list[str]:
    """A model's classes: the given names, or numbers, "__background__" first.

    Raises:
        ValueError: another number of names than ``num_classes``, which counts the background.
    """
    names = with_background(classes or [str(label) for label in range(1, num_classes)])
    if len(names) != num_classes:
        raise ValueError(
            f"classes has {len(names)} names with the background, the model {num_classes}"
        )
    return names
