"""Branches of a step that are rarely taken: a GPU runs on while the host assumes that none is.

A line search that accepts its first step, or a check that raises no error, reads one flag from the
device at every step, and the GPU is idle meanwhile. Within `RareBranches.open`, `is_any` guesses
that no flag is set. The flags are kept, and the host reads every few steps whether all guesses were
right; otherwise the steps must be repeated (`invtoolbox.loop.replay`).
"""

from __future__ import annotations

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
        self._flag: Tensor | None = None  # whether a guess since the last reading was wrong

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
