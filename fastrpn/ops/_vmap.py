"""What `torch.vmap` does with the operators, whose kernels know no further batch dimension: it
calls the operator for each element and stacks the results."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import VmapInfo
from torch.utils._pytree import tree_flatten, tree_unflatten


def register_loop(name: str, *, instead: str | None = None) -> None:
    """Gives the operator `fastrpn::<name>` that rule.

    Args:
        name: of the operator.
        instead: what to use where the elements' results differ in shape, for the error's words.
    """
    op = getattr(torch.ops.fastrpn, name).default

    def rule(info: VmapInfo, in_dims: tuple, *args: object) -> tuple[Any, Any]:
        dims, (leaves, spec) = tree_flatten(in_dims)[0], tree_flatten(args)
        results = [
            op(*tree_unflatten(_element(leaves, dims, index), spec))
            for index in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return _stack(results, name, instead), 0
        outputs = [_stack(parts, name, instead) for parts in zip(*results, strict=True)]
        return type(results[0])(outputs), type(results[0])([0] * len(outputs))

    torch.library.register_vmap(f"fastrpn::{name}", rule)


def _element(leaves: list, dims: list, index: int) -> list:
    """The arguments of one call."""
    return [
        leaf if dim is None else leaf.select(dim, index)
        for leaf, dim in zip(leaves, dims, strict=True)
    ]


def _stack(results: Sequence[Tensor], name: str, instead: str | None) -> Tensor:
    shapes = {tuple(result.shape) for result in results}
    if len(shapes) > 1:
        raise ValueError(
            f"{name}: under vmap every element must give a result of one shape, "
            f"got {sorted(shapes)}; {instead}"
        )
    return torch.stack(list(results))
