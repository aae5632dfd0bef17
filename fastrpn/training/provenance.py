"""What a run was made with: versions of the software, commit of the code around it."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from typing import Any

from fastrpn._version import __version__

__all__ = ["git_state", "versions"]


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers; torchvision only where it is installed."""
    found = {"fastrpn": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """The commit of the working directory's repository, and whether files differ from it.

    None outside of a repository, before its first commit, or without git.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
