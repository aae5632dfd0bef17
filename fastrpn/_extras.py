"""Packages that parts of fastrpn need beyond torch and numpy, and the line that brings them."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["require"]

_TRAIN = ("cv2", "PIL", "matplotlib", "rich", "yaml", "msgspec", "defusedxml", "cyclopts")


def require(extra: str, *modules: str) -> None:
    """Raises ImportError, in one line with its cure, where a package is missing.

    Args:
        extra: of the package fastrpn; ``"train"`` alone means all that reads, draws and trains.
        modules: that must be there, by the names that one imports.
    """
    missing = [module for module in modules or _TRAIN if find_spec(module) is None]
    if missing:
        raise ImportError(
            f"{', '.join(missing)}: not installed; what this needs comes with "
            f"pip install 'fastrpn[{extra}]'"
        )
