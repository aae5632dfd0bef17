"""Runs a program unchanged, with our kernels behind torchvision's operators.

    python -m fastrpn.accelerate script.py arguments ...
    python -m fastrpn.accelerate -m module arguments ...

The program sees what it would see if Python ran it: its name is ``__main__``, ``sys.argv`` and
``sys.path`` begin as usual, its exit code and its traceback are its own. Processes that it starts
anew (``spawn``, ``torchrun``) call :func:`fastrpn.accelerate_torchvision` themselves.
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import NoReturn

from fastrpn.ops import accelerate_torchvision

__all__ = ["main"]

_USAGE = "usage: python -m fastrpn.accelerate (SCRIPT | -m MODULE) [ARGUMENT ...]"


def main(arguments: list[str]) -> None:
    """Runs the script or module that the arguments name.

    Args:
        arguments: a path, or "-m" and the name of a module; what follows is the program's.
    """
    is_module = arguments[:1] == ["-m"]
    program = arguments[1:] if is_module else arguments
    if not program or (not is_module and program[0].startswith("-")):
        _stop(_USAGE)
    try:
        accelerate_torchvision()
    except ImportError as error:
        _stop(f"fastrpn.accelerate: {error}")
    sys.argv = list(program)
    if is_module:
        sys.path[0] = os.getcwd()
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    else:
        if not os.path.exists(program[0]):
            _stop(f"fastrpn.accelerate: {program[0]}: no such file")
        sys.path[0] = os.path.dirname(os.path.abspath(program[0]))
        runpy.run_path(program[0], run_name="__main__")


def _stop(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
