"""The rule for robust misfits: predict measurements that were held out, outliers included."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.data_terms.robust import Robust
from invtoolbox.errors import InputError
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.held_out import divide_weights
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.parameter_choice.walk import minimum, walk_over, weight_curve

#: Decades above the weight at which data term and priors are balanced where the walk starts, and
#: number of weights that it passes on either side of the best one. Steps with weights that are far too
#: large are slow, so a walk may take many iterations.
_ABOVE, _BEYOND, _LONGEST = 0.5, 3, 2560

#: Misfit, relative to that of an image of zeros, below which the first guess fits the measurements.
_FITS = 0.01


@dataclass(frozen=True)
class RobustValidation(WeightSearch):
    r"""The weight that predicts held-out measurements best, for `L1`, `Huber` and `Student`.

    Every sixth view of a scan, or a random sixth of the pixels, is held out. The score is the mean
    loss of the data term there (cross-validation; Stone, J. R. Statist. Soc. B 36, 1974; for `L1`
    the least absolute error of the prediction). An outlier that is held out adds about the same
    loss at every weight, so the outliers do not decide. The discrepancy principle cannot serve
    these terms: the typical residual of an image that fits most measurements exactly is 0, for
    right weights and for small ones.

    The weights are tried from large ones to small ones in one run of the solver; see `Walk`. The
    minimizer under `Student`, which is not convex, depends on the start and so on the walk; `Huber`
    of the same curvature takes its place (`Robust.convex`).

    Args:
        seed: seed of the random choice of measurements to hold out.

    Raises:
        InputError: for other data terms, and for priors that no rule can weigh.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> salt = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.2
    >>> y = torch.where(salt, 1.0, clean)
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(y, A, it.data_terms.L1())
    >>> solution = it.solve(
    ...     problem,
    ...     it.priors.TotalVariation(),
    ...     regularization=RobustValidation(),
    ...     progress=False,
    ... )
    >>> bool((solution.x - clean).norm() < 0.2 * (y - clean).norm())
    True
    """

    seed: int = 0
    name: ClassVar[str] = "robust-validation"

    def __post_init__(self) -> None:
        self._refuse_separate()

    def choose(self, trials: Trials) -> WeightCurve:
        problem = trials.problem
        if not accepts_robust(trials.objective):
            raise InputError(
                f"{self.name!r} is for L1, Huber and Student of one tensor, not for "
                f"{problem.data_term!r}; use 'validation', 'l-curve' or a number"
            )
        assert isinstance(problem.data_term, Robust)
        term = problem.data_term.convex(problem.y0)
        held_problem = problem.with_data_term(term.hold_out(*divide_weights(problem, self.seed)))
        nothing, misfit = (
            term.value(problem.operator(x), problem.y0)
            for x in (problem.zeros(), first_guess(problem, inverse=True))
        )
        # The first guess of a picture without a blur fits it exactly.
        misfit = torch.where(misfit > _FITS * nothing, misfit, nothing)
        # Rounding errors, which depend on the batch, must not reach the search.
        first = trials.centre(discrepancy=(2 * misfit).sqrt())[:, 0].round(decimals=3)
        first = first + _ABOVE * math.log(10.0)
        curves = walk_over(
            trials,
            first,
            _measure_loss,
            held_problem,
            beyond=_BEYOND,
            from_above=True,
            longest=_LONGEST,
        )
        chosen = torch.stack([minimum(curve, start) for curve, start in zip(curves, first)])
        return weight_curve(self.name, curves, chosen)

    def describe(self, objective: Objective) -> str:
        return (
            "the weight predicts held-out measurements best in the mean loss of the data term, "
            "which needs no noise level"
        )


def accepts_robust(objective: Objective) -> bool:
    """Return whether measurements can be held out from a robust misfit of one tensor."""
    problem = objective.problem
    return isinstance(problem.data_term, Robust) and isinstance(problem.y, Tensor)


def _measure_loss(objective: Objective, x: Tensor) -> Tensor:
    """Return the mean loss of the measurements that are held out, ``(batch, 1)``."""
    problem = objective.problem
    assert isinstance(problem.data_term, Robust)
    return problem.data_term.held_out_loss(problem.operator(x), problem.y0).unsqueeze(1)
