"""Random numbers of the items of a batch: shared by default, or independent within a context."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Generator, Tensor

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


def draw_normal(
    generators: Sequence[Generator], shape: Sequence[int], dtype: torch.dtype, device: Any
) -> Tensor:
    """Draw standard normal numbers ``(samples * batch, ...)`` from one generator per sample.

    The items of a batch, which lie next to each other, have the same numbers, except within
    `independent_items`.
    """
    if items_are_independent():
        per_item = (shape[0] // len(generators), *shape[1:])
        return torch.cat(
            [torch.randn(per_item, generator=g, dtype=dtype, device=device) for g in generators]
        )
    numbers = torch.stack(
        [torch.randn(shape[1:], generator=g, dtype=dtype, device=device) for g in generators]
    )
    return numbers.repeat_interleave(shape[0] // len(generators), 0)
