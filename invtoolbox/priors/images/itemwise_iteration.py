"""Iterations on a batch whose items stop independently, for priors with an iterative prox."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.interrupts import check_time


class ItemwiseIteration(ABC):
    """Iteration on a batch whose items leave as soon as their gap is within the tolerance.

    The iterations that are checked do not depend on the batch, nor does an item's result.
    """

    first_check: int = 0

    def run(self, results: Sequence[Tensor], tolerance: float, max_iterations: int) -> None:
        """Iterate until every item has finished.

        The tensors that `_measure` returns are written into ``results`` when an item finishes.
        """
        active = torch.arange(len(results[0]), device=results[0].device)
        check, k = self.first_check, 0
        while len(active):
            check_time()
            if k >= check or k >= max_iterations:
                # Checks come after 10 more iterations at first and then after 15 % more, so their
                # number grows like the logarithm of k.
                check = max(k + 10, int(1.15 * k))
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

    @abstractmethod
    def _step(self, k: int) -> None:
        """Take the iteration of number k, from 1 on."""

    @abstractmethod
    def _measure(self) -> tuple[Tensor, ...]:
        """Return the current results, the last of which is the gap, ``(items,)``."""

    @abstractmethod
    def _keep(self, index: Tensor) -> None:
        """Restrict the state to some items."""
