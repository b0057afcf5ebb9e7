"""The number of threads of torch and of the kernels, chosen once per process.

A parallel operation of torch ends when its slowest thread ends, and threads that wait keep their
processor busy. If another program occupies one of two processors, two threads need several times
the processor time of one thread. The number therefore follows the processors that are free.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError

#: Environment variable that fixes the number of threads.
VARIABLE = "INVTOOLBOX_THREADS"

_AT_START = torch.get_num_threads()
_PROBE = 0.05  # seconds


def choose_threads(threads: int | None = None) -> int:
    """Return the number of threads for the work of this process.

    The first of these that is given: the argument, the environment variable
    ``INVTOOLBOX_THREADS``, a number that torch was given (``OMP_NUM_THREADS``,
    ``torch.set_num_threads``), and the number of processors that are free.

    Args:
        threads: number of threads; None to choose it.

    Raises:
        InputError: if the number is not positive.

    >>> choose_threads(3)
    3
    """
    if threads is None and VARIABLE in os.environ:
        text = os.environ[VARIABLE]
        if not text.isdecimal():
            raise InputError(f"{VARIABLE} is a number of threads, got {text!r}")
        threads = int(text)
    if threads is not None:
        check_range("invtoolbox", "[1, inf)", threads=threads)
        return threads
    torch_threads = torch.get_num_threads()
    if torch_threads == 1 or torch_threads != _AT_START or "OMP_NUM_THREADS" in os.environ:
        return torch_threads
    return min(torch_threads, free_processors())


@cache
def free_processors() -> int:
    """Return the number of processors that other programs leave free, at least 1.

    As many threads as torch would use compute for 50 ms, once per process. The number is their
    processor time per second of real time, so it respects affinity and limits of containers.
    """
    # Of two processors, 1.9 are two; with one other program, 1.3 to 1.5 are one.
    return max(1, int(_processor_time(_AT_START, _PROBE) + 0.25))


def _processor_time(threads: int, seconds: float) -> float:
    """Return the processor time of several threads per second of real time."""
    block, used = bytes(1 << 16), [0.0] * threads
    start_time = time.perf_counter()

    def compute(number: int) -> None:
        start = time.thread_time()
        while time.perf_counter() - start_time < seconds:
            hashlib.blake2b(block).digest()  # releases the interpreter lock
        used[number] = time.thread_time() - start

    helpers = [threading.Thread(target=compute, args=(k,)) for k in range(1, threads)]
    for helper in helpers:
        helper.start()
    compute(0)
    for helper in helpers:
        helper.join()
    return sum(used) / (time.perf_counter() - start_time)


@contextmanager
def limit_torch_threads(threads: int) -> Iterator[None]:
    """Set the number of torch's threads within a block.

    Sums depend on it in the last bit.

    Args:
        threads: number of threads.
    """
    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
