"""What derivatives and torch's function transforms do with the operators; decided here for all.

An operator's kernel computes values. What it does for autograd, in reverse and in forward mode,
stands at the dispatcher's Autograd key, so that it holds for the raw operator, inside
`torch.func.grad`, `jvp` and `jacrev`, and in compiled code alike. `register_autograd` of
`torch.library` would not do: it looks at `requires_grad` alone, so that dual numbers pass it by,
and it refuses every function transform.

A Python kernel at that key costs each call microseconds. `call`, which the public functions use,
goes below it wherever there is nothing to record.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import _C, Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.utils._pytree import tree_leaves

_LIBRARY = torch.library.Library("fastrpn", "IMPL")  # registrations last as long as this object

below_autograd = _C._AutoDispatchBelowAutograd  # a context manager


def needs_derivative(*args: object) -> bool:
    """True if somebody may ask for a derivative with respect to a tensor among the arguments:
    it requires a gradient, or a level of forward mode or a transform of `torch.func` is active."""
    return (
        forward_ad._current_level >= 0
        or _C._are_functorch_transforms_active()
        or (torch.is_grad_enabled() and _C._any_requires_grad(*args))
    )


def call(op: Callable, *args: object) -> Any:
    """The operator of these arguments, past its autograd kernel where that has nothing to do."""
    if torch.compiler.is_compiling() or needs_derivative(*args):
        return op(*args)
    with below_autograd():
        return op(*args)


class SingleLevel(_SingleLevelFunction):
    """An `autograd.Function` for use at the Autograd key, where function transforms have already
    been taken apart into levels: it differentiates one of them."""

    @classmethod
    def of(cls, *args: object) -> Any:
        """The function's value, recorded. `forward` gets `compute` before the arguments, which
        calls an operator at the levels below."""
        with enable_single_level_autograd_function():
            compute = functools.partial(_compute, torch.is_grad_enabled())
            return cls.apply(compute, *args)  # type: ignore[attr-defined]  # not in torch's stubs


def _compute(grad_enabled: bool, op: Callable, *args: object) -> Any:
    # `forward` runs with both modes of differentiation off, but the levels below want theirs.
    with (
        torch.set_grad_enabled(grad_enabled),
        forward_ad._set_fwd_grad_enabled(True),
        below_autograd(),
    ):
        return op(*args)


def register_autograd(name: str, differentiable: Callable) -> None:
    """Has the operator `fastrpn::<name>` call `differentiable`, with its own arguments, where a
    derivative is needed."""
    op = getattr(torch.ops.fastrpn, name).default

    def kernel(keyset: _C.DispatchKeySet, *args: object) -> Any:
        # Not `needs_derivative`: that a transform is active says nothing of the level at hand.
        if _in_forward_mode(args) or (torch.is_grad_enabled() and _C._any_requires_grad(*args)):
            return differentiable(*args)
        with below_autograd():
            return op.redispatch(keyset & _C._after_autograd_keyset, *args)

    _LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)


def _in_forward_mode(args: Sequence[object]) -> bool:
    """True if an argument may be dual at this level. Compiled code enters its levels without
    `forward_ad`, which then knows nothing of them: look at the transform and at the tensors."""
    if forward_ad._current_level >= 0:
        return True
    transform: Any = _C._functorch.peek_interpreter_stack()  # None outside, whatever its stub says
    if transform is not None:
        return transform.key() == _C._functorch.TransformType.Jvp
    return _C._len_torch_dispatch_stack() > 0 and any(map(_is_dual, tree_leaves(args)))


def _is_dual(value: object) -> bool:
    return isinstance(value, Tensor) and torch._VF._unpack_dual(value, level=0)[1] is not None


class _Constant(SingleLevel):
    """An operator without a derivative: asking for one raises."""

    @staticmethod
    def forward(ctx: Any, compute: Callable, op: Any, *args: object) -> Any:
        ctx.op = op
        return compute(op, *args)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> NoReturn:
        _Constant._refuse(ctx)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> NoReturn:
        _Constant._refuse(ctx)

    @staticmethod
    def _refuse(ctx: Any) -> NoReturn:
        name = ctx.op._opname
        raise NotImplementedError(f"{name} has no gradient; detach its arguments")


def register_no_derivative(name: str) -> None:
    """Has the operator raise NotImplementedError where a derivative of its floats is asked for."""
    op = getattr(torch.ops.fastrpn, name).default
    register_autograd(name, lambda *args: _Constant.of(op, *args))
