"""Random numbers of the items of a batch: shared by default, or independent within a context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_INDEPENDENT: ContextVar[bool] = ContextVar("items_are_independent", default=False)


@contextmanager
def independent_items() -> Iterator[None]:
    """Let samplers draw numbers of their own for every item of a batch.

    By default the items share their numbers, so that an item has the same draws alone and in a
    batch. Items that are repetitions of an experiment need independent draws.

    >>> with independent_items():
    ...     items_are_independent()
    True
    """
    token = _INDEPENDENT.set(True)
    try:
        yield
    finally:
        _INDEPENDENT.reset(token)


def items_are_independent() -> bool:
    """Return whether samplers draw numbers of their own for every item."""
    return _INDEPENDENT.get()
