"""Room for the pairs of splats and tiles, so that the host need not wait for their number.

A GPU sorts the pairs in a tensor whose size the host must know. Within `Room.open` the size is a
guess from earlier steps. `Room.read` then tells whether every guess was large enough; the loop
repeats the steps otherwise.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

#: Size of a guess, relative to the largest number of pairs so far.
MARGIN = 1.5


class Room:
    """Numbers of pairs that the steps of a solve need.

    Attributes:
        is_used: whether a step has sorted pairs, so that the loop needs copies of its state.
        is_trusted: whether guesses may be used, because the loop can repeat a step.
    """

    def __init__(self) -> None:
        self.is_used = self.is_trusted = False
        self._sizes: dict[Hashable, int] = {}
        self._needs: dict[Hashable, Tensor] = {}  # largest number of pairs since the last reading

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let `pairs_in` use this room."""
        token = _OPEN.set(self)
        try:
            yield
        finally:
            _OPEN.reset(token)

    def size(self, key: Hashable, total: Tensor) -> int:
        """Return the number of pairs to sort, for a total that the host does not know."""
        self.is_used = True
        known = self._sizes.get(key)
        if known is None or not self.is_trusted:
            count = int(total)
            self._sizes[key] = max(_enlarge(count), known or 0)
            return count
        before = self._needs.get(key)
        self._needs[key] = total if before is None else torch.maximum(before, total)
        return known

    def read(self, number: Tensor) -> tuple[int, bool]:
        """Return a number, and whether every size was enough; the host waits once for both.

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


_OPEN: ContextVar[Room | None] = ContextVar("open room", default=None)


def pairs_in(key: Hashable, total: Tensor) -> int:
    """Return the number of pairs to sort: that of the open room, or the total itself."""
    room = _OPEN.get()
    return int(total) if room is None else room.size(key, total)


def _enlarge(count: int) -> int:
    return int(MARGIN * count) + 1024
