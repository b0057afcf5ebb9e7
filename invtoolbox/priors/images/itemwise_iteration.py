"""Iterations on a batch whose items stop independently, for priors with an iterative prox."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.interrupts import check_time
from invtoolbox.core.rare_branches import guess_count, is_any, note_count


class ItemwiseIteration(ABC):
    """Iteration on a batch whose items leave as soon as their gap is within the tolerance.

    The iterations that are checked do not depend on the batch, nor does an item's result.
    """

    first_check: int = 0

    def run(self, results: Sequence[Tensor], tolerance: float, max_iterations: int) -> None:
        """Iterate until every item has finished.

        The tensors that `_measure` returns are written into ``results`` when an item finishes. A
        GPU guesses the number of iterations within the steps of a solve, see `core.rare_branches`.
        """
        key = type(self).__name__, results[0].shape, tolerance
        guess = guess_count(key, results[0])
        if guess is None:
            note_count(key, self._run_and_test(results, tolerance, max_iterations))
        else:
            self._run_to(guess, results, tolerance, max_iterations)

    def _run_and_test(
        self, results: Sequence[Tensor], tolerance: float, max_iterations: int
    ) -> int:
        """Iterate until the host has read that every item has finished; return the iterations."""
        active = torch.arange(len(results[0]), device=results[0].device)
        check, k = self.first_check, 0
        while len(active):
            check_time()
            if k >= check or k >= max_iterations:
                check = _next_check(k)
                measured = self._measure()
                # The comparison is false for NaN, so an item that is not finite counts as finished.
                going = (measured[-1] > tolerance) & (k < max_iterations)
                done, index = (~going).nonzero().flatten(), going.nonzero().flatten()
                for result, new in zip(results, measured):
                    result[active[done]] = new[done]
                if not len(index):
                    break
                # The others go on in a smaller batch: an item's arithmetic is its own.
                if len(index) < len(active):
                    active = active[index]
                    self._keep(index)
            k += 1
            self._step(k)
        return k

    def _run_to(
        self, guess: int, results: Sequence[Tensor], tolerance: float, max_iterations: int
    ) -> None:
        """Iterate to a guessed number without a wait; finished items are frozen by a mask."""
        going = torch.ones(len(results[0]), dtype=torch.bool, device=results[0].device)
        check = self.first_check
        for k in range(guess + 1):
            check_time()
            if k:
                self._step(k)
            if k >= check or k >= max_iterations:
                check = _next_check(k)
                measured = self._measure()
                before, going = going, going & (measured[-1] > tolerance) & (k < max_iterations)
                for result, new in zip(results, measured):
                    done = (before & ~going).view(-1, *[1] * (new.ndim - 1))
                    result.copy_(torch.where(done, new, result))
        is_any(going)  # a wrong guess, by which the step is repeated

    @abstractmethod
    def _step(self, k: int) -> None:
        """Take the iteration of number k, from 1 on."""

    @abstractmethod
    def _measure(self) -> tuple[Tensor, ...]:
        """Return the current results, the last of which is the gap, ``(items,)``."""

    @abstractmethod
    def _keep(self, index: Tensor) -> None:
        """Restrict the state to some items."""


def _next_check(k: int) -> int:
    """Return the next iteration with a test, after 10 more at first and then after 15 % more.

    The number of tests grows like the logarithm of k.
    """
    return max(k + 10, int(1.15 * k))
