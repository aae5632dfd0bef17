"""The command line: `fastrpn COMMAND`, also `python -m fastrpn COMMAND`.

The commands themselves are in :mod:`fastrpn.commands`, which is imported when one is asked for, so
that `fastrpn --help` answers at once, and `fastrpn info` where only torch and NumPy are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastrpn._extras import require
from fastrpn._version import __version__
from fastrpn.info import show

COMMANDS = {
    "demo": "find faces, train on photographs, evaluate, draw what is found",
    "train": "train on annotated images",
    "eval": "evaluate a checkpoint on annotated images",
    "detect": "find objects in images and videos",
    "proposals": "write the proposals of a data set to a file",
    "anchors": "judge anchors: what a model sees of them, which suit your data",
    "export": "write a model to a file that other programs run: ONNX, torch, AOTInductor",
    "export-weights": "write the weights of a checkpoint alone, as safetensors",
    "info": "say what was built and what was found at run time",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; bad input ends with one line and exit code 2, what went wrong on the way (a
    training that diverged, a full disk) with one line and 1, a bug with its traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    words = (place for place, word in enumerate(arguments) if not word.startswith("-"))
    end = next(words, len(arguments)) + 1  # behind the command's name
    is_info = arguments[end - 1 : end] == ["info"]
    options = _parser().parse_args(arguments if is_info else arguments[:end])
    debug = options.debug
    try:
        if is_info:  # works without the packages of the other commands
            show(options.json)
            return
        require("train")
        from fastrpn.commands import CycloptsError, NonFiniteLossError, WorkerKilledError, run
        from fastrpn.memory import keep_freed_memory
    except ImportError as error:
        _exit(error, 2, debug)
    keep_freed_memory()
    try:
        run(arguments[end - 1 :])
    except (NonFiniteLossError, WorkerKilledError) as error:
        _exit(error, 1, debug)
    except (CycloptsError, ValueError, FileNotFoundError, NotADirectoryError, ImportError) as error:
        _exit(error, 2, debug)
    except OSError as error:  # a full disk, for example
        _exit(error, 1, debug)
    except KeyboardInterrupt:
        sys.exit(130)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _exit(ValueError(message), 2, debug=False)


def _parser() -> argparse.ArgumentParser:
    """Takes what stands up to the command's name."""
    parser = _Parser("fastrpn", description="Region proposals and Faster R-CNN.")
    parser.add_argument("--version", action="version", version=f"fastrpn {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name == "info":
            command.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _exit(error: Exception, status: int, debug: bool) -> NoReturn:
    if debug:
        raise error
    print(f"fastrpn: error: {error}", file=sys.stderr)
    sys.exit(status)
