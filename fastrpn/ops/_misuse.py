"""Words for what a function was given wrongly, found only after it has failed.

Torch's dispatcher refuses an argument of the wrong kind in words of its own: a schema, a backend
key, the size of a nested tensor. Checks before every call would cost more than small calls take. So
the public functions run unchecked as far as they like, and when one raises, this module looks at
the kinds of its arguments, which follow from their annotations.
"""

import inspect
import typing
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from fastrpn.ops._checks import check_numbers

_INT64 = range(-(2**63), 2**63)


def explain(error: Exception, function: Callable, *args: object, **kwargs: object) -> None:
    """Raises for the first argument of the wrong kind, if there is one and `error` names none.

    Raises:
        TypeError: an argument of another type than its annotation says.
        ValueError: a tensor that is not plain (sparse, nested), or a number too large.
        torch.OutOfMemoryError: where a GPU has no more; the operators' own error is less exact.
    """
    if "CUDA out of memory" in str(error):
        raise torch.OutOfMemoryError(str(error)) from None
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        return  # too many arguments or too few: Python has said so
    if isinstance(error, TypeError | ValueError) and _says(error, given):
        return
    kinds = typing.get_type_hints(function)
    for name, value in given.items():
        _check_kind(name, value, kinds.get(name, object))


def _says(error: Exception, names: Iterable[str]) -> bool:
    """Whether a message begins with the name of an argument (or of several, or of an element)."""
    first = str(error).partition(":")[0].partition("[")[0].partition(",")[0]
    return first in names


def _check_kind(name: str, value: object, kind: object) -> None:
    allowed = typing.get_args(kind) if _is_union(kind) else (kind,)
    if value is None and type(None) in allowed or isinstance(value, torch.SymInt | torch.SymFloat):
        return
    if isinstance(value, Tensor) and Tensor in allowed:
        _check_plain(name, value)
    elif isinstance(value, Tensor) and (float in allowed or int in allowed):
        if value.numel() != 1 or value.is_complex():
            raise TypeError(f"{name}: expected a number, got a tensor of {list(value.shape)}")
    elif int in allowed and isinstance(value, Integral):
        if value not in _INT64:
            raise ValueError(f"{name}: expected an integer of 64 bits, got {value}")
    elif float in allowed and isinstance(value, Real):
        _check_finite_double(name, value)
    elif not any(_matches(name, value, one) for one in allowed):
        raise TypeError(f"{name}: expected {_in_words(allowed)}, got {_brief(value)}")


def _matches(name: str, value: object, kind: object) -> bool:
    """Whether the value is of that kind; looks into sequences, too."""
    origin = typing.get_origin(kind)
    if origin is None:
        return kind in (object, typing.Any) or (isinstance(kind, type) and isinstance(value, kind))
    if not issubclass(origin, Sequence):
        return isinstance(value, origin)
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | torch.Size):
        return False
    for index, item in enumerate(value):
        _check_kind(f"{name}[{index}]", item, typing.get_args(kind)[0])
    return True


def _check_plain(name: str, tensor: Tensor) -> None:
    if tensor.is_nested:
        raise ValueError(f"{name}: expected a plain tensor, got a nested one")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name}: expected a strided tensor, got {tensor.layout}")
    if tensor.is_quantized:
        check_numbers(name, tensor)
    if tensor.is_floating_point() and tensor.dtype.itemsize == 1:  # torch hardly computes with them
        raise TypeError(f"{name}: expected float16 to float64 or integers, got {tensor.dtype}")


def _check_finite_double(name: str, value: Real) -> None:
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number of a double's range, got {value}") from None


def _is_union(kind: object) -> bool:
    return typing.get_origin(kind) in (typing.Union, type(int | None))


def _in_words(kinds: tuple) -> str:
    words = {Tensor: "a torch.Tensor", float: "a number", int: "an integer", bool: "a bool",
             str: "a string", type(None): "None"}  # fmt: skip
    return " or ".join(words.get(kind, str(kind).split(".")[-1]) for kind in kinds)


def _brief(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) < 80 else type(value).__name__
