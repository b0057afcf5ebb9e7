"""Rules that choose the weight of the explicit priors, for each item of the batch.

There are two kinds. A `WeightRule` changes the weight between the steps of one run. A
`WeightSearch` compares the solutions of several weights; it reaches them through `Trials`, that is
through `solve` itself.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invtoolbox.core.decision import Decision
from invtoolbox.objective.objective import Objective


@dataclass
class RuleState:
    """The weight of each item and the memory of a rule.

    Every tensor has the batch as its first axis.
    """

    weight: Tensor  # (batch,)


@dataclass(frozen=True)
class WeightRule(ABC):
    """A rule for ``regularization``.

    The loop calls ``init`` once, and ``update`` after each step.
    """

    @abstractmethod
    def init(self, objective: Objective, x: Tensor) -> Any:
        """Return the first weight; ``objective.regularization`` is 1 here."""

    def observe(self, state: Any, objective: Objective, x: Tensor, certificate: Tensor) -> Any:
        """Return the state after a look at the variable, before every `update`.

        Few rules need more than the discrepancy; the others keep this method.

        Args:
            state: the state before.
            objective: the objective of the step, with the present weight.
            x: the variable after the step.
            certificate: certificate of the solver after the step, ``(batch,)``.
        """
        return state

    @abstractmethod
    def update(self, state: Any, discrepancy: Tensor, certificate: Tensor, iteration: int) -> Any:
        """Return the weight after a step.

        Args:
            state: the state before.
            discrepancy: discrepancy after the step, ``(batch,)``.
            certificate: certificate of the solver after the step, ``(batch,)``.
            iteration: number of steps done.
        """

    @abstractmethod
    def satisfied(self, state: Any, discrepancy: Tensor) -> Tensor:
        """Return which items may stop, ``(batch,)`` booleans."""

    @abstractmethod
    def target(self, objective: Objective) -> Tensor:
        """Return the discrepancy to meet, ``(batch,)``."""

    @abstractmethod
    def describe(self, objective: Objective) -> str:
        """Return one sentence that names this rule and the reason for it."""


@dataclass(frozen=True)
class WeightCurve:
    """The weights and scores of a search, for each item: ``solution.weight_search``.

    Attributes:
        rule: the name of the rule.
        weights: the tried weights in increasing order, ``(batch, tried)``; NaN if an item has fewer
            than its neighbours. If every prior has its own weight, ``(batch, tried, priors)`` in
            the order of the search.
        scores: score of each weight, ``(batch, tried)``; the smallest is best.
        chosen: the weight, ``(batch,)``; ``(batch, priors)`` if every prior has its own.
        remarks: records about the residuals of the solutions, for `Solution.decisions`.
    """

    rule: str
    weights: Tensor
    scores: Tensor
    chosen: Tensor
    remarks: tuple[Decision, ...] = ()

    def scale(self, factor: Tensor) -> WeightCurve:
        """Return the curve with weights that are multiplied by one factor per item."""
        weights, chosen = (
            w * factor.view(-1, *[1] * (w.ndim - 1)).to(w) for w in (self.weights, self.chosen)
        )
        return dataclasses.replace(self, weights=weights, chosen=chosen)
