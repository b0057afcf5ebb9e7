"""Rules that choose the weight of the explicit priors, for each item of the batch.

There are two kinds. A `WeightRule` changes the weight between the steps of one run. A `WeightSearch` compares the
solutions of several weights; it reaches them through `Trials`, that is through `solve` itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from invtoolbox.objective.objective import Objective

if TYPE_CHECKING:
    from invtoolbox.parameter_choice.trials import Trials


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


@dataclass(frozen=True)
class WeightCurve:
    """What a search looked at, for each item: ``solution.weight_search``.

    Attributes:
        rule: the name of the rule.
        weights: in increasing order, ``(batch, looked at)``; NaN where an item was looked at less often than its
            neighbours. ``(batch, looked at, priors)`` in the order of the search, where every prior has its own weight.
        scores: of each of them, ``(batch, looked at)``; the smallest is best.
        chosen: the weight, ``(batch,)``; ``(batch, priors)`` where every prior has its own.
    """

    rule: str
    weights: Tensor
    scores: Tensor
    chosen: Tensor


@dataclass(frozen=True)
class WeightSearch(ABC):
    """A rule that compares the solutions of several weights. It is deterministic: draws have a seed in its settings.

    A user's own rule writes ``choose``; or it is a `ScoreSearch` and writes ``score``.
    """

    name: ClassVar[str] = "a search for the weight"
    separate: bool = False  # whether every prior has a weight of its own

    @abstractmethod
    def choose(self, trials: Trials) -> WeightCurve:
        """Look at several weights and choose one for each item."""

    @abstractmethod
    def describe(self, objective: Objective) -> str:
        """Which rule this is and why, in a sentence."""
