"""Memory between two steps of a training: kept by the process, not given back and fetched again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory(megabytes: int = 512) -> bool:
    """Let the C library keep this much freed memory, from now on and in the whole process; whether it could be told so.

    By default glibc gives back what is free at the end of a step, and the next one takes it page by page: a fifth of the time of a training
    whose temporaries are of a few megabytes. Nothing else changes, and nothing happens with another C library.

    A process has one such setting, so it is for whoever owns the process: ``invtoolbox train`` makes it for its own, and `train` leaves it
    alone. In a script that trains and does little else, call this first.

    >>> import platform
    >>> keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    True
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # Above 32 MB glibc takes no threshold; larger tensors then still come and go as pages.
    return bool(mallopt(_MMAP_THRESHOLD, 32 << 20)) and bool(
        mallopt(_TRIM_THRESHOLD, megabytes << 20)
    )
