"""Loads the compiled libraries, or says why they cannot be loaded and what to do about it."""

import functools
import importlib
from pathlib import Path
from types import ModuleType

OLDEST_TORCH = (2, 10)
_TORCH_LIBRARY = Path(__file__).with_name("libfastrpn_torch.so")

_CURES = """\
{what}

  {cause}

Likely causes and cures:
  - fastrpn was not built here (a source tree without an installation):
    run `pip install .` or `pip install -e .`
  - Python imports the source tree you stand in instead of the installed package: change the folder
  - it was built for another Python or another machine:
    reinstall with `pip install --force-reinstall --no-deps .`
  - torch is older than {oldest}: `pip install -U torch`
`fastrpn info` shows what is installed."""


def _failure(what: str, cause: object) -> ImportError:
    oldest = ".".join(map(str, OLDEST_TORCH))
    return ImportError(_CURES.format(what=what, cause=cause, oldest=oldest))


@functools.cache
def core() -> ModuleType:
    """The extension module `fastrpn._C` (build information, NumPy front end).

    Raises:
        ImportError: the module is missing or broken; the message lists causes and cures.
    """
    try:
        return importlib.import_module("fastrpn._C")
    except ImportError as error:
        raise _failure("fastrpn's extension module could not be loaded.", error) from error


@functools.cache
def load_torch_operators() -> None:
    """Registers `torch.ops.fastrpn.*`, once.

    Raises:
        ImportError: torch is too old, or the library is missing or broken; the message lists causes
            and cures.
    """
    import torch

    what = "fastrpn's torch operators could not be loaded."
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        raise _failure(what, f"torch {torch.__version__} is installed")
    if not _TORCH_LIBRARY.exists():
        raise _failure(what, f"{_TORCH_LIBRARY} does not exist")
    try:
        torch.ops.load_library(_TORCH_LIBRARY)
    except (OSError, RuntimeError) as error:
        raise _failure(what, error) from error


def set_simd_level(level: str) -> None:
    """Forces the SIMD level of all CPU kernels, for tests and measurements.

    Args:
        level: "generic", "avx2" or "avx512".

    Raises:
        ValueError: the level was not compiled or this CPU cannot run it.
    """
    import torch

    load_torch_operators()
    if not (core().set_simd_level(level) and torch.ops.fastrpn.set_simd_level(level)):
        raise ValueError(f"level: {level!r} is not one of the levels this build and CPU can run")
