"""Memory: what is available, and errors of allocation as sentences."""

from __future__ import annotations

import re
from pathlib import Path

from invtoolbox.errors import InputError

_UNITS = {"bytes": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4, "PiB": 5, "EiB": 6}
_NEEDED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) (bytes|[KMGTPE]iB)", re.IGNORECASE)
_FREE_ON_GPU = re.compile(r"of which ([\d.]+) (bytes|[KMGTPE]iB) is free")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error states that memory could not be allocated.

    PyTorch raises a plain ``RuntimeError`` if the memory of the processor does not suffice.

    Args:
        error: the error.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in text
        or "CUDA out of memory" in text
    )


def memory_error(error: BaseException) -> InputError:
    """Return one sentence about an error for which `is_out_of_memory` is true.

    Args:
        error: the error of PyTorch or NumPy.

    >>> cause = RuntimeError("DefaultCPUAllocator: you tried to allocate 4000000000000 bytes.")
    >>> str(memory_error(cause))[:59]
    'there is not enough memory: 3.64 TiB are needed at once and'
    """
    text = str(error)
    needed, free = _NEEDED.search(text), _FREE_ON_GPU.search(text)
    facts = []
    if needed:
        facts.append(f"{_in_words(_bytes(needed))} are needed at once")
    left = _bytes(free) if free else None if "CUDA" in text else available_memory()
    if left is not None:
        facts.append(f"{_in_words(left)} are available" + (" on the GPU" if free else ""))
    return InputError(
        f"there is not enough memory{': ' if facts else ''}{' and '.join(facts)}; compute fewer "
        "items at once, a smaller image, or in float32"
    )


def available_memory() -> int | None:
    """Return the bytes that a process may still allocate, also in a container; None if unknown."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(1024 * int(line.split()[1]))
    except (OSError, ValueError):
        pass
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int((group / "memory.current").read_text(encoding="ascii"))
            limits.append(max(int(limit) - used, 0))
    except (OSError, ValueError):
        pass
    return min(limits, default=None)


def _bytes(match: re.Match[str]) -> float:
    return float(match[1]) * 1024.0 ** _UNITS[match[2]]


def _in_words(count: float) -> str:
    """Return a number of bytes with a unit."""
    units = list(_UNITS)
    power = 0
    while count >= 1024 and power + 1 < len(units):
        count, power = count / 1024, power + 1
    return f"{count:.3g} {units[power]}" if power else f"{count:.0f} bytes"
