"""What the C library does with memory that a process gives back."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of mallopt's parameters, see malloc.h of glibc


def keep_freed_memory() -> bool:
    """Lets this process reuse freed memory instead of giving it back to the system.

    glibc asks the system for every tensor of more than 32 MiB anew, which then clears its pages:
    in a training step on a CPU up to a third of the time. The process stays as large as it once
    was. For command lines; a program of yours gets the same by starting with MALLOC_MMAP_MAX_=0
    and MALLOC_TRIM_THRESHOLD_=100000000000 in its environment.

    Returns:
        whether it does now: not where the C library is another one, or where the environment has
        set one of glibc's own variables.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
