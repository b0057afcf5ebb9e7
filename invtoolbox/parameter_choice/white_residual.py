"""The usual weight of a learned prior, raised as long as that makes the residual whiter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.core.decision import ITEM, Decision
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.parameter_choice.validation import measure_fit

#: Factor of two weights (1.3 of the noise level), and how much smaller the whiteness has to be at
#: the larger one.
_RISE, _WHITER = 1.3**2, 0.87
#: Whiteness of a residual that is white enough, and largest number of rises.
_WHITE, _MOST = 0.2, 8


@dataclass(frozen=True)
class WhiteResidual(WeightSearch):
    """A first weight, which is multiplied by 1.69 as long as that makes the residual whiter.

    The usual weight of a denoiser follows from the noise level. If that is too small, or if the
    model is slightly wrong, the image makes up the difference, and leaves a residual that is not
    white. While its whiteness (`Validation`) is above 0.2, the next larger weight is tried, and kept
    if the whiteness falls to 87 % of that before. Each trial is a whole solve.

    Args:
        first: the first weight, ``(batch,)``.
        reason: why it is the first, in words.
    """

    first: Tensor = field(default_factory=lambda: torch.ones(1))
    reason: str = "the weight starts at 1"
    name: ClassVar[str] = "white-residual"

    def choose(self, trials: Trials) -> WeightCurve:
        self._refuse_separate()
        first = self.first.to(trials.objective.regularization).expand(trials.batch)
        weights = [first]
        scores = [self._whiteness(trials, first, trials.every)]
        rises = torch.zeros_like(first)
        rising = trials.every[scores[0] > _WHITE]
        while len(rising) and len(weights) <= _MOST:
            weight = weights[-1] * _RISE
            whiteness = torch.full_like(first, math.nan)
            whiteness[rising] = self._whiteness(trials, weight[rising], rising)
            is_whiter = whiteness[rising] <= _WHITER * scores[-1][rising]
            weights.append(weight)
            scores.append(whiteness)
            rising = rising[is_whiter]
            rises[rising] += 1
            rising = rising[whiteness[rising] > _WHITE]
        remarks = tuple(
            Decision(
                step="residual",
                item=k,
                sentence=f"the residual{ITEM} is whiter at {_RISE ** int(n):.3g} times the usual "
                "weight, which is taken: the noise is stronger than its level, or the operator does "
                "not quite describe the measurements",
            )
            for k, n in enumerate(rises)
            if n
        )
        return WeightCurve(
            self.name,
            torch.stack(weights, 1),
            torch.stack(scores, 1),
            first * _RISE**rises,
            remarks,
        )

    def _whiteness(self, trials: Trials, weight: Tensor, items: Tensor) -> Tensor:
        scores = trials(
            weight.log().view(1, -1, 1), lambda bound, run: measure_fit(bound, run.x)[:, :1], items
        )
        return scores[0, :, 0].to(weight)

    def describe(self, objective: Objective) -> str:
        return f"{self.reason}; it rises while that makes the residual whiter"
