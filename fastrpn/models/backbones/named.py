"""What holds for the networks of all other libraries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from torch import nn

__all__ = ["check_strides", "keep_inputs", "require_name"]


def keep_inputs(network: nn.Module) -> None:
    """Lets activations write a map of their own where their gradient needs their input.

    In place they copy it first; ReLU's gradient needs its output alone.
    """
    for module in network.modules():
        if getattr(module, "inplace", False) and not isinstance(module, nn.ReLU | nn.Dropout):
            setattr(module, "inplace", False)  # noqa: B010  # a module's attributes have no types


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
