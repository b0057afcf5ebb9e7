"""Rules that choose the weight of the explicit priors, one weight an item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invtoolbox.objective import Objective


@dataclass
class RuleState:
    """The weight of each item and what a rule remembers; every tensor has the batch as its first axis."""

    weight: Tensor  # (batch,)


@dataclass(frozen=True)
class WeightRule(ABC):
    """A rule for ``regularization``. The loop calls ``init`` once and ``update`` after every step."""

    @abstractmethod
    def init(self, objective: Objective, x: Tensor) -> Any:
        """The first weight; ``objective.regularization`` is 1 here."""

    @abstractmethod
    def update(self, state: Any, discrepancy: Tensor, certificate: Tensor, iteration: int) -> Any:
        """The weight after a step that ended with this discrepancy and certificate of the solver, ``(batch,)`` each."""

    @abstractmethod
    def satisfied(self, state: Any, discrepancy: Tensor) -> Tensor:
        """Which items may stop, ``(batch,)`` booleans."""

    @abstractmethod
    def target(self, objective: Objective) -> Tensor:
        """The discrepancy to meet, ``(batch,)``."""

    @abstractmethod
    def describe(self, objective: Objective) -> str:
        """Which rule this is and why, in a sentence."""
