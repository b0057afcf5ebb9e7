"""Branches of a step that are rarely taken: a GPU runs on while the host assumes that none is.

A line search that accepts its first step, or a check that raises no error, reads one flag from the
device at every step, and the GPU is idle meanwhile. Within `RareBranches.open`, `is_any` guesses
that no flag is set. The flags are kept, and the host reads every few steps whether all guesses were
right; otherwise the steps must be repeated (`invtoolbox.loop.capture`).

An iteration within a step, which ends by a test, is guessed too: it takes as many iterations as
the longest one so far, and whether all items have passed the test is one of the flags.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from contextvars import ContextVar

from torch import Tensor

from invtoolbox.core.contexts import setting


class RareBranches:
    """Guesses about the branches that the steps of a solve take.

    Attributes:
        may_guess: whether `is_any` may guess, because the caller can repeat a step.
        is_used: whether a step had such a branch.
    """

    def __init__(self) -> None:
        self.may_guess = False
        self.is_used = False
        self.counts: dict[Hashable, int] = {}  # iterations of the longest runs so far
        self._flag: Tensor | None = None  # whether a guess since the last reading was wrong

    @classmethod
    def for_recording(cls) -> RareBranches:
        """Return guesses for the recording of a step, with the counts of the open ones."""
        branches, opened = cls(), _OPEN.get()
        branches.may_guess = True
        branches.counts = {} if opened is None else dict(opened.counts)
        return branches

    def open(self) -> AbstractContextManager[None]:
        """Let `is_any` guess by this object."""
        return setting(_OPEN, self)

    def is_any(self, flags: Tensor) -> bool:
        """Return whether a flag is set, or guess that none is."""
        self.is_used = True
        if not self.may_guess:
            return bool(flags.any())
        flag = flags.any()
        self._flag = flag if self._flag is None else self._flag | flag
        return False

    def take_flag(self) -> Tensor | None:
        """Return whether a guess was wrong since the last call, on the device; None without one."""
        flag, self._flag = self._flag, None
        return flag


_OPEN: ContextVar[RareBranches | None] = ContextVar("open rare branches", default=None)


def is_any(flags: Tensor) -> bool:
    """Return whether a flag is set, for a branch that is rarely taken.

    Within `RareBranches.open` the answer may be False although a flag is set; the step is then
    repeated.

    >>> import torch
    >>> branches, flags = RareBranches(), torch.tensor([False, True])
    >>> branches.may_guess = True
    >>> guess = branches.is_any(flags)
    >>> is_any(flags), guess, branches.take_flag()
    (True, False, tensor(True))
    """
    branches = _OPEN.get()
    # The host reads a flag of its own without waiting.
    if branches is None or flags.device.type == "cpu":
        return bool(flags.any())
    return branches.is_any(flags)


def guess_count(key: Hashable, like: Tensor) -> int | None:
    """Return the guessed number of iterations of a loop within a step; None if the host must test.

    Args:
        key: what the number depends on, such as the method and the size.
        like: tensor of the loop, which gives the device.
    """
    branches = _OPEN.get()
    if branches is None or like.device.type == "cpu" or not branches.may_guess:
        return None
    return branches.counts.get(key)


def note_count(key: Hashable, count: int) -> None:
    """Store the number of iterations of a loop whose test the host has read.

    >>> import torch
    >>> branches, x = RareBranches(), torch.zeros(1, device="meta")
    >>> with branches.open():
    ...     note_count("prox", 20)
    ...     branches.may_guess = True
    ...     guess_count("prox", x), guess_count("prox", torch.zeros(1))
    (20, None)
    """
    branches = _OPEN.get()
    if branches is not None:
        branches.is_used = True
        branches.counts[key] = max(count, branches.counts.get(key, 0))


def counts_so_far() -> tuple[tuple[Hashable, int], ...]:
    """Return the numbers of iterations that are guessed, in a fixed order of their keys."""
    branches = _OPEN.get()
    return () if branches is None else tuple(branches.counts.items())
