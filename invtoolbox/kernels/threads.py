"""Run Python work that releases the interpreter lock on several threads: torch's own where possible."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch


def run_on_threads(
    threads: int, bounds: Iterator[tuple[int, int]], part: Callable[[int, int], None]
) -> None:
    """Call ``part(first, last)`` for every pair of ``bounds`` on ``threads`` threads, the calling one among
    them.

    The first exception of a part is raised once all threads have ended.

    >>> seen = []
    >>> run_on_threads(2, iter([(0, 1), (1, 2), (2, 3)]), lambda first, last: seen.append(first))
    >>> sorted(seen)
    [0, 1, 2]
    """
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work(_: Any = None) -> None:
        try:
            while not errors:
                with lock:
                    step = next(bounds, None)
                if step is None:
                    return
                part(*step)
        except BaseException as error:
            # Also Ctrl-C: nothing may be raised through C code, so it is raised again below.
            errors.append(error)

    openmp = _openmp()
    if openmp is not None:
        function, callback_type = openmp
        function(callback_type(work), None, threads, 0)
    else:
        helpers = [_pool(os.getpid(), threads - 1).submit(work) for _ in range(threads - 1)]
        work()
        for helper in helpers:
            helper.result()
    if errors:
        raise errors[0]


@cache
def _openmp() -> tuple[Any, Any] | None:
    """The entry of GNU OpenMP's parallel region in the copy that torch has loaded, or None.

    OpenMP's threads keep spinning for some milliseconds after each parallel operation of torch, so threads of
    our own would get half a core (measured on two cores: a projection of 4.3 ms took 7.0 ms). Its own threads
    start at once.
    """
    no_load = getattr(os, "RTLD_NOLOAD", None)
    if no_load is None or not torch.backends.openmp.is_available():
        return None
    folder = Path(torch.__file__).parent
    for library in sorted(
        [*folder.glob("lib/libgomp*"), *folder.parent.glob("torch.libs/libgomp*")]
    ):
        try:
            # Only a copy that is in use already: a second OpenMP in one process would have threads of its
            # own.
            region = ctypes.CDLL(str(library), mode=no_load | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):
            continue
        callback_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        region.argtypes = [callback_type, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        region.restype = None
        return region, callback_type
    return None


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # Keyed by the process, because threads do not survive a fork (data loaders).
    return ThreadPoolExecutor(threads, thread_name_prefix="invtoolbox-kernel")
