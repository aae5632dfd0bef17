"""How the public functions behave for code that is not run but read (`torch.fx`, TorchScript), and
for arguments of the wrong kind."""

import functools
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

from fastrpn.ops._misuse import explain

F = TypeVar("F", bound=Callable)
P = ParamSpec("P")
R = TypeVar("R")


def refuse_scripting(function: F) -> F:
    """Has `torch.jit.script` say in words that the function cannot be compiled, and what can."""
    function.__dict__["__prepare_scriptable__"] = functools.partial(refuse, function.__name__)
    return function


def refuse(name: str) -> NoReturn:
    """What `torch.jit.script` runs into; a module calls it in its `__prepare_scriptable__`."""
    raise NotImplementedError(
        f"{name}: fastrpn's functions cannot be compiled by torch.jit.script; use "
        "torch.compile, torch.export or torch.jit.trace, or script torchvision's function and "
        "run it under fastrpn.accelerate_torchvision()"
    )


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a public function one node in graphs of `torch.fx.symbolic_trace` (its checks ask for
    values that a proxy does not have), lets other objects with `__torch_function__` see it, and
    puts errors about the kind of an argument into words."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if has_torch_function(args):
            return handle_torch_function(call, args, *args, **kwargs)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            explain(error, function, *args, **kwargs)
            raise

    return refuse_scripting(call)
