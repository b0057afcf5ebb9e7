"""Memory: errors of allocation."""

from __future__ import annotations


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
