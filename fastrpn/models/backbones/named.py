"""What is said of a network of another library that is not there or does not fit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["check_strides", "require_name"]


def require_name(library: str, name: str, names: Iterable[str]) -> None:
    """Raises ValueError, with what is near, if the library has no network of that name."""
    names = list(names)
    if name in names:
        return
    near = [f"{library}:{n}" for n in difflib.get_close_matches(name, names, n=3, cutoff=0.4)]
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise ValueError(f"{library} has no network {name!r}{hint}")


def check_strides(name: str, wanted: Sequence[int], there: Sequence[int]) -> None:
    """Raises ValueError if a network lacks a map of some stride."""
    for stride in wanted:
        if stride not in there:
            known = ", ".join(map(str, there)) or "none"
            raise ValueError(
                f"{name} has no map of stride {stride} for the pyramid (strides of its maps: "
                f"{known}); fpn_strides chooses others"
            )
