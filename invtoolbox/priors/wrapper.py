"""What priors that are made of another prior have in common."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from invtoolbox.priors.base import Prior

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class PriorWrapper(Prior):
    """A prior made of another one, ``prior``: prepared with it, at the same iteration as it, and of the same items."""

    prior: Any

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self._with(self.prior.prepare(problem, solve))

    def at(self, iteration: int) -> Self:
        return self._with(self.prior.at(iteration))

    def select(self, index: Tensor) -> Self:
        return super().select(index)._with(self.prior.select(index))

    def _with(self, prior: Any) -> Self:
        other = copy.copy(self)
        other.prior = prior
        return other
