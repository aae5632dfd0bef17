"""How the public functions behave for code that is not run but read (`torch.fx`, TorchScript), and
for arguments of the wrong kind."""

import functools
from collections.abc import Callable

from torch.overrides import handle_torch_function, has_torch_function

from fastrpn.ops._misuse import explain


def refuse_scripting(function: Callable) -> Callable:
    """Has `torch.jit.script` say in words that the function cannot be compiled, and what can."""

    def refuse():
        raise NotImplementedError(
            f"{function.__name__}: fastrpn's functions cannot be compiled by torch.jit.script; use "
            "torch.compile, torch.export or torch.jit.trace, or script torchvision's function and "
            "run it under fastrpn.accelerate_torchvision()"
        )

    function.__prepare_scriptable__ = refuse
    return function


def leaf(function: Callable) -> Callable:
    """Makes a public function one node in graphs of `torch.fx.symbolic_trace` (its checks ask for
    values that a proxy does not have), lets other objects with `__torch_function__` see it, and
    puts errors about the kind of an argument into words."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if has_torch_function(args):
            return handle_torch_function(call, args, *args, **kwargs)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            explain(error, function, *args, **kwargs)
            raise

    return refuse_scripting(call)
