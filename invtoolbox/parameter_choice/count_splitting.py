"""The rule for counts: predict the photons that a random thinning has held out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.interrupts import limit
from invtoolbox.core.reductions import mean_items
from invtoolbox.data_terms.poisson import Poisson
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.held_out import LEAST_MEASUREMENTS, separate_generator
from invtoolbox.parameter_choice.score_rules import grid, refine
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.problem import Problem

#: Mean count from which rounding to whole numbers adds little to the noise.
_ROUNDABLE = 5.0
#: Middle of the first grid, below the weight at which the prior outweighs the noise.
_BELOW = -2.5 * math.log(10.0)
#: Least predicted mean, relative to the mean count: rounding in the dark is no refutation.
_DARK = 1e-4


class _Fitted(Poisson):
    """Counts of which a part is held out.

    Args:
        background: background of the counts that are fitted.
        held: the other counts, of the shape of the measurements.
    """

    item_fields = (*Poisson.item_fields, "held")
    measurement_fields = (*Poisson.measurement_fields, "held")

    def __init__(self, background: Tensor, held: Tensor) -> None:
        super().__init__(background)
        self.held = held


@dataclass(frozen=True)
class CountSplitting(WeightSearch):
    r"""The weight that predicts held-out photons best, for `Poisson` counts.

    Every photon is fitted with the probability ``share`` and held out otherwise. The two parts of a
    Poisson variable are independent (Kingman, Poisson Processes, 1993, section 5.1), so the
    divergence of the held-out counts from ``(1 - share) (A x + b)`` estimates the divergence from
    the truth up to a constant (count thinning: Oliveira, Lei and Tibshirani, arXiv 2112.06336).
    Every pixel takes part in both, so nothing is lost at isolated points, and neither the noise
    level nor a convolution is needed. The search takes a grid of decades, then golden sections.

    Args:
        share: probability with which a photon is fitted, in (0, 1).
        points: number of points of the first grid.
        sections: number of golden sections around the best point.
        iterations: largest number of iterations of a solve at one weight.
        seed: seed of the thinning.

    Raises:
        InputError: for other data terms than `Poisson`, counts that are far from whole numbers, and
            for priors that no rule can weigh.

    >>> import torch, invtoolbox as it
    >>> A = it.operators.Identity((1, 16, 16))
    >>> y = torch.poisson(torch.full((1, 1, 16, 16), 9.0), generator=torch.Generator().manual_seed(0))
    >>> problem = it.Problem(y, A, it.data_terms.Poisson())
    >>> x = it.solve(
    ...     problem, it.priors.TotalVariation(), regularization=CountSplitting(), progress=False
    ... ).x
    >>> bool((x - 9).norm() < 0.5 * (y - 9).norm())
    True
    """

    share: float = 5 / 6
    points: int = 5
    sections: int = 4
    iterations: int = 200
    seed: int = 0
    name: ClassVar[str] = "count-splitting"

    def __post_init__(self) -> None:
        check_range(self, "(0, 1)", "share")
        check_range(self, "[3, inf)", "points")
        check_range(self, "[0, inf)", "sections")
        check_range(self, "[1, inf)", "iterations")
        self._refuse_separate()

    def choose(self, trials: Trials) -> WeightCurve:
        if not are_counts(trials.problem):
            raise InputError(
                f"{self.name!r} is for whole numbers of photons with data_terms.Poisson, and here are "
                f"{trials.problem.data_term!r} and other numbers; divide them by the camera's gain, "
                "or give a number"
            )
        problem = self._split(trials.problem)
        # Trials prepare their priors anew, from the photons that are fitted.
        objective = dataclasses.replace(trials.objective, problem=problem)
        trials = dataclasses.replace(trials, problem=problem, objective=objective)
        # Rounding errors, which depend on the batch, must not reach the search.
        centre = trials.centre()[:, 0].round(decimals=3)

        def values(t: Tensor, items: Tensor) -> Tensor:
            return trials((centre[items] + t).unsqueeze(2), self._measure, items)

        with limit(iterations=self.iterations):
            line = grid(values, torch.full_like(centre, _BELOW), math.log(10.0), self.points)
            line = refine(values, line, self.sections)
        # The misfit of a share of the photons is a share of the misfit.
        whole = centre - math.log(self.share)
        tried = line.positions.isfinite()
        return WeightCurve(
            self.name,
            torch.where(tried, (whole + line.positions).exp(), torch.nan).T,
            torch.where(tried, line.values, torch.nan).T,
            (whole + line.best).double().exp().to(centre),
        )

    def _split(self, problem: Problem) -> Problem:
        """Return the problem of the photons that are fitted."""
        y, term = problem.y0, problem.data_term
        assert isinstance(term, Poisson)
        whole = y.round().double().cpu()
        # Item by item, so that the draw of an item does not depend on the others.
        fitted = torch.stack(
            [
                torch.binomial(
                    item, torch.full_like(item, self.share), generator=separate_generator(self.seed)
                )
                for item in whole
            ]
        )
        held = (whole - fitted).to(y)
        return (
            problem.with_measurements(fitted.to(y))
            .with_operator(self.share * problem.operator)
            .with_data_term(_Fitted(self.share * term.background, held))
        )

    def _measure(self, objective: Objective, solution: Any) -> Tensor:
        """Return the divergence of the held-out counts from their prediction, ``(batch,)``."""
        problem = objective.problem
        term = problem.data_term
        assert isinstance(term, _Fitted)
        mean = (1 / self.share - 1) * term.mean(problem.operator(solution.x))
        least = expand(_DARK * mean_items(term.held), mean)
        return Poisson().value(mean.maximum(least), term.held)

    def describe(self, objective: Objective) -> str:
        return (
            "count splitting chooses the weight that predicts held-out photons best, which needs no "
            "noise level"
        )


def are_counts(problem: Problem) -> bool:
    """Return whether the measurements are photons that can be split, and enough of them."""
    y = problem.y0
    if not isinstance(problem.data_term, Poisson) or not isinstance(problem.y, Tensor):
        return False
    is_whole = bool((y == y.round()).all()) or float(y.mean()) >= _ROUNDABLE
    return is_whole and y[0].numel() >= LEAST_MEASUREMENTS and problem.is_linear
