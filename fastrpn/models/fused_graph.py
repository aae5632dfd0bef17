"""A network without its norms, additions and activations: each is part of a convolution.

The network is traced by ``torch.fx``, which sees which module calls which. What does not fit stays
as it is, and a network that cannot be traced, or whose results change, stays whole.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fastrpn.models.backbones.resnet import norm_as_scale
from fastrpn.models.convolution import Conv2d, SampledConv2d
from fastrpn.models.fused_convolution import (
    ACTIVATIONS,
    AFTER_ADDITION,
    Activation,
    FusedConv2d,
    find_activation,
)
from fastrpn.models.structures import list_of_maps

__all__ = ["fuse"]

_CONVOLUTIONS = (nn.Conv2d, Conv2d, SampledConv2d)  # others may change their weights or padding
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_known = isinstance(m, nn.Conv2d) or hasattr(m, "running_var")
        return is_known or super().is_leaf_module(m, module_qualified_name)


def fuse(network: nn.Module, example: Tensor, dtype: torch.dtype) -> nn.Module:
    """A network that computes the same, or the network.

    Args:
        network: in evaluation mode, a tensor -> a map or several; parts of it are used.
        example: an input, on which both are compared.
        dtype: of convolutions.
    """
    try:
        graph = fx.GraphModule(network, _Tracer().trace(network))
        _fuse_convolutions(graph, dtype)
        with torch.inference_mode():
            found, expected = list_of_maps(graph(example)), list_of_maps(network(example))
    except Exception:  # whatever a tracer says of code that is not meant for it
        return network
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    equal = all(_nearly_equal(a, b, tolerance) for a, b in zip(found, expected, strict=True))
    return graph if equal else network


class _Match(NamedTuple):
    """A convolution and what follows it, up to the node ``end``."""

    end: fx.Node
    norm: nn.Module | None
    shortcut: fx.Node | None
    activation: Activation


def _fuse_convolutions(graph: fx.GraphModule, dtype: torch.dtype) -> None:
    for node in graph.graph.nodes:
        if isinstance(_module(node, graph), nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    calls: list[fx.Node] = []
    for node in list(graph.graph.nodes):
        conv = _module(node, graph)
        if not isinstance(conv, nn.Conv2d) or type(conv) not in _CONVOLUTIONS:
            continue
        match = _match(node, graph)
        scale, shift = (None, None) if match.norm is None else norm_as_scale(match.norm)
        fused = FusedConv2d(conv, scale, shift, match.activation, dtype)
        name = f"fused_{len(calls)}"
        graph.add_submodule(name, fused)
        arguments = node.args if match.shortcut is None else (*node.args, match.shortcut)
        with graph.graph.inserting_before(match.end):
            call = graph.graph.call_module(name, arguments)
        match.end.replace_all_uses_with(call)
        calls.append(call)
    graph.graph.eliminate_dead_code()
    _overwrite_shortcuts(graph.graph, calls)
    graph.delete_all_unused_submodules()
    graph.recompile()


def _match(node: fx.Node, graph: fx.GraphModule) -> _Match:
    end, norm, activation = node, None, None
    user = _only_user(end)
    module = _module(user, graph)
    if user is not None and _is_fixed_norm(module):
        own = getattr(module, "act", nn.Identity())  # timm's norms may contain the activation
        activation = find_activation(own)
        drop = getattr(module, "drop", None)
        if activation is None or not isinstance(drop, nn.Identity | None):
            return _Match(node, None, None, ACTIVATIONS[nn.Identity])
        end, norm = user, module
        if type(own) is not nn.Identity:
            return _Match(end, norm, None, activation)
    shortcut, user = None, _only_user(end)
    if user is not None and user.target in _ADDITIONS and len(user.args) == 2 and not user.kwargs:
        others = [x for x in user.args if x is not end]
        if len(others) == 1 and isinstance(others[0], fx.Node):
            end, shortcut = user, others[0]
    user = _only_user(end)
    activation = None if user is None else _activation(user, graph)
    if activation is None or user is None or (shortcut and activation.name not in AFTER_ADDITION):
        return _Match(end, norm, shortcut, ACTIVATIONS[nn.Identity])
    return _Match(user, norm, shortcut, activation)


def _overwrite_shortcuts(graph: fx.Graph, calls: list[fx.Node]) -> None:
    """A result may take the memory of its shortcut if that is a convolution's, which shares it with
    nobody, and only convolutions, whose results do not share theirs, have read it before."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    for call in calls:
        shortcut = call.args[-1]
        if len(call.args) < 2 or not isinstance(shortcut, fx.Node):
            continue
        is_last = all(user in calls and place[user] <= place[call] for user in shortcut.users)
        if shortcut in calls and is_last and call.args[0] is not shortcut:
            call.args = (*call.args, True)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(node: fx.Node | None, graph: fx.GraphModule) -> nn.Module | None:
    if node is None or node.op != "call_module":
        return None
    return graph.get_submodule(str(node.target))


def _is_fixed_norm(module: nn.Module | None) -> bool:
    names = ("running_mean", "weight", "bias", "eps")
    has_statistics = getattr(module, "running_var", None) is not None
    return has_statistics and all(hasattr(module, name) for name in names)


def _activation(node: fx.Node, graph: fx.GraphModule) -> Activation | None:
    module = _module(node, graph)
    if module is not None:
        return find_activation(module)
    return ACTIVATIONS[nn.ReLU] if node.target in _RELUS else None


def _nearly_equal(found: Any, expected: Tensor, tolerance: float) -> bool:
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
