"""Values of context variables within a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Let a context variable have a value within a block, and the earlier one after it.

    Args:
        variable: the variable.
        value: its value within the block.

    >>> level = ContextVar("level", default=0)
    >>> with setting(level, 1):
    ...     level.get()
    1
    """
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
