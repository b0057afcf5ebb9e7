"""Rules that minimise a score over the weight, or over several weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.parameter_choice.base import WeightCurve, WeightSearch
from invtoolbox.parameter_choice.golden_section import Line, grid, refine
from invtoolbox.parameter_choice.trials import Trials

#: Between two weights of a grid: half a decade.
_SPACING = 0.5 * math.log(10.0)
#: Of the grid along one of several weights, around the best one so far.
_POINTS_EACH = 5


@dataclass(frozen=True)
class ScoreSearch(WeightSearch):
    """Minimises ``score`` over the logarithm of the weight: a grid of half decades, then golden sections.

    A grid whose best weight lies at an end is continued there, up to six decades. With ``separate`` every prior of a sum
    has a weight of its own: all of them are moved together first, and then one after the other.

    Args:
        points: of the first grid; 9 are four decades.
        sections: golden sections around the best point; 4 leave a bracket of 0.15 decades.
        separate: find a weight for each prior of the sum, instead of one factor for all of them.
        cycles: over the weights, where they are separate.
    """

    points: int = 9
    sections: int = 4
    separate: bool = False
    cycles: int = 2

    def __post_init__(self) -> None:
        if self.points < 3 or self.sections < 0 or self.cycles < 1:
            raise InputError(
                "a search needs at least 3 points, 0 sections and 1 cycle, "
                f"got {self.points}, {self.sections} and {self.cycles}"
            )

    @abstractmethod
    def score(self, trials: Trials, log_weight: Tensor, items: Tensor) -> Tensor:
        """What is to be small, for the logarithms of weights ``(k, n, weights)`` of the items ``(n,)``; shape ``(k, n)``."""

    def choose(self, trials: Trials) -> WeightCurve:
        number = trials.number
        log_weight = trials.centre()
        direction = torch.ones(number, dtype=log_weight.dtype, device=log_weight.device)
        line = self._along(trials, log_weight, direction, self.points)
        if number == 1:
            positions = log_weight[:, 0] + line.positions
            seen = positions.isfinite()
            return WeightCurve(
                self.name,
                torch.where(seen, positions.exp(), torch.nan).T,
                torch.where(seen, line.values, torch.nan).T,
                (log_weight[:, 0] + line.best).exp(),
            )
        lines = [log_weight + line.positions.unsqueeze(2) * direction]
        scores = [line.values]
        log_weight = log_weight + line.best.unsqueeze(1) * direction
        for direction in torch.eye(number, dtype=log_weight.dtype, device=log_weight.device).repeat(
            self.cycles, 1
        ):
            line = self._along(trials, log_weight, direction, _POINTS_EACH)
            lines.append(log_weight + torch.where(direction > 0, line.positions.unsqueeze(2), 0.0))
            scores.append(line.values)
            log_weight = log_weight + line.best.unsqueeze(1) * direction
        weights, values = torch.cat(lines), torch.cat(scores)
        seen = weights.isfinite().all(2)
        return WeightCurve(
            self.name,
            torch.where(seen.unsqueeze(2), weights.exp(), torch.nan).movedim(0, 1),
            torch.where(seen, values, torch.nan).T,
            log_weight.exp(),
        )

    def _along(self, trials: Trials, base: Tensor, direction: Tensor, points: int) -> Line:
        """The line ``base + t * direction``; t is 0 in the middle of its grid."""

        def values(t: Tensor, items: Tensor) -> Tensor:
            return self.score(trials, base[items] + t.unsqueeze(2) * direction, items)

        return refine(
            values, grid(values, torch.zeros_like(base[:, 0]), _SPACING, points), self.sections
        )
