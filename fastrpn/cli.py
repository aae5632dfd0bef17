"""The command line: `fastrpn COMMAND`, also `python -m fastrpn COMMAND`."""

import argparse
import sys
from collections.abc import Sequence

from fastrpn._version import __version__
from fastrpn.commands import COMMANDS


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; bad input ends with one line and exit code 2, a training that diverged with
    one line and 1, a bug with its traceback."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser(arguments).parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, FileNotFoundError, NotADirectoryError, ImportError) as error:
        _exit(error, 2, options.debug)
    except RuntimeError as error:
        from fastrpn.training import NonFiniteLossError  # torch is there by now

        _exit(error, 1, options.debug or not isinstance(error, NonFiniteLossError))
    except KeyboardInterrupt:
        sys.exit(130)


def _exit(error: Exception, status: int, debug: bool) -> None:
    if debug:
        raise error
    print(f"fastrpn: error: {error}", file=sys.stderr)
    sys.exit(status)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the command that is asked for gets its options, which may import torch."""
    parser = argparse.ArgumentParser("fastrpn", description="Region proposals and Faster R-CNN.")
    parser.add_argument("--version", action="version", version=f"fastrpn {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, module in COMMANDS.items():
        summary = module.__doc__.partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        command.set_defaults(run=module.run)
        if name in arguments:
            module.add_options(command)
    return parser
