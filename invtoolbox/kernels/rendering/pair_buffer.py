"""Buffers for pairs of splats and tiles, so that the host need not wait for their number.

A GPU sorts the pairs in a tensor whose size the host must know. Within `PairBuffers.open` the size
is a guess from earlier steps. `PairBuffers.read` then tells whether every guess was large enough;
otherwise the steps must be repeated (`invtoolbox.loop.capture`).
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from contextvars import ContextVar

import torch
from torch import Tensor

from invtoolbox.core.contexts import setting

#: Size of a guess, relative to the largest number of pairs so far.
MARGIN = 1.5


class PairBuffers:
    """Sizes of the buffers of pairs that the steps of a solve need.

    Attributes:
        may_guess: whether sizes may be guessed, because the caller can repeat a step.
    """

    def __init__(self) -> None:
        self.may_guess = False
        self._sizes: dict[Hashable, int] = {}
        self._needs: dict[Hashable, Tensor] = {}  # largest number of pairs since the last reading

    @property
    def is_used(self) -> bool:
        """Whether a step has sorted pairs."""
        return bool(self._sizes)

    def open(self) -> AbstractContextManager[None]:
        """Let `buffer_size` guess by these buffers."""
        return setting(_OPEN, self)

    def size(self, key: Hashable, total: Tensor) -> int:
        """Return the size of a buffer, for a number of pairs that the host does not know."""
        guess = self._sizes.get(key)
        if guess is None or not self.may_guess:
            count = int(total)
            self._sizes[key] = max(_enlarge(count), guess or 0)
            return count
        before = self._needs.get(key)
        self._needs[key] = total if before is None else torch.maximum(before, total)
        return guess

    def read(self, number: Tensor) -> tuple[int, bool]:
        """Return a number, and whether every guess was enough; the host waits once for both.

        Sizes that were nearly too small grow.
        """
        if not self._needs:
            return int(number), True
        keys = list(self._needs)
        first, *needs = torch.stack([number, *self._needs.values()]).tolist()
        fits = all(need <= self._sizes[key] for key, need in zip(keys, needs))
        for key, need in zip(keys, needs):
            if need > 0.8 * self._sizes[key]:
                self._sizes[key] = _enlarge(need)
        self._needs.clear()
        return int(first), fits


_OPEN: ContextVar[PairBuffers | None] = ContextVar("open pair buffers", default=None)


def buffer_size(key: Hashable, total: Tensor) -> int:
    """Return the size of a buffer of pairs: the size in the open buffers, or the total itself."""
    buffers = _OPEN.get()
    return int(total) if buffers is None else buffers.size(key, total)


def _enlarge(count: int) -> int:
    return int(MARGIN * count) + 1024
