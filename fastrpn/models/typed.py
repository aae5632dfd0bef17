"""Values from files and command lines, checked against the type hints of a setting."""

from __future__ import annotations

import numbers
import types
import typing
from typing import Any

__all__ = ["checked"]


def checked(name: str, value: Any, hint: Any) -> Any:
    """The value as a type hint wants it.

    Lists become tuples where the hint says so, one value stands for a list of it, and numbers may
    be strings, because YAML reads ``1e-3`` as one.

    Raises:
        ValueError: a value of another type; the message names it.
    """
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in members:
        try:
            return _as_kind(name, value, kind)
        except TypeError:
            continue
    if typing.get_origin(hint) is typing.Literal:
        wanted = " or ".join(map(repr, typing.get_args(hint)))
    else:
        wanted = hint.__name__ if type(hint) is type else str(hint)
    raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _as_kind(name: str, value: Any, kind: Any) -> Any:
    """Raises TypeError if the value is not of that kind."""
    plain = typing.get_origin(kind) or kind
    if plain is typing.Literal:
        if value in typing.get_args(kind):
            return value
        raise TypeError
    if value is None and plain is not type(None):
        raise TypeError
    if plain in (list, tuple):
        return plain(_items(name, value, typing.get_args(kind)))
    if isinstance(value, bool) and plain is not bool:
        raise TypeError
    if plain in (int, float):
        return _number(value, plain)
    if isinstance(value, plain):
        return value
    raise TypeError


def _items(name: str, value: Any, kinds: tuple) -> list:
    """``kinds`` of list[T] are (T,), of tuple[T, ...] (T, ...), else one for each item."""
    value = list(value) if isinstance(value, list | tuple) else [value]
    if len(kinds) == 1 or kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    elif len(kinds) != len(value):
        raise TypeError
    pairs = zip(value, kinds, strict=True)
    return [checked(f"{name}[{i}]", item, kind) for i, (item, kind) in enumerate(pairs)]


def _number(value: Any, kind: type) -> int | float:
    if isinstance(value, numbers.Integral if kind is int else numbers.Real):
        return kind(value)
    if not isinstance(value, str):
        raise TypeError
    try:
        return kind(value)
    except ValueError as error:
        raise TypeError from error
