"""Random numbers of the items of a batch: shared by default, or independent within a context."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar

from invtoolbox.core.contexts import setting

_INDEPENDENT: ContextVar[bool] = ContextVar("items_are_independent", default=False)


def independent_items() -> AbstractContextManager[None]:
    """Let samplers draw numbers of their own for every item of a batch.

    By default the items share their numbers, so that an item has the same draws alone and in a
    batch. Items that are repetitions of an experiment need independent draws.

    >>> with independent_items():
    ...     items_are_independent()
    True
    """
    return setting(_INDEPENDENT, True)


def items_are_independent() -> bool:
    """Return whether samplers draw numbers of their own for every item."""
    return _INDEPENDENT.get()
