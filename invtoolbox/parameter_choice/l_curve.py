"""The L-curve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective import Objective
from invtoolbox.parameter_choice.base import WeightCurve, WeightSearch
from invtoolbox.parameter_choice.trials import Trials

#: Derivatives by least squares: a parabola through five neighbouring points (Savitzky & Golay 1964).
_SLOPE = (-0.2, -0.1, 0.0, 0.1, 0.2)
_BEND = (2 / 7, -1 / 7, -2 / 7, -1 / 7, 2 / 7)
_REACH = len(_SLOPE) // 2


@dataclass(frozen=True)
class LCurve(WeightSearch):
    r"""The corner of ``(log discrepancy(A x, y), log R(x))`` over the weight (Hansen, SIAM Review 34, 1992).

    Above the corner more weight costs misfit and hardly lowers the prior's energy; below it less weight lets in noise
    and hardly lowers the misfit. The corner is where the curvature is largest, on a logarithmic grid of weights, with
    derivatives from parabolas through five points; a parabola through the largest three curvatures places it between
    the grid's points. It needs no noise level and no white noise, but an energy, and it is a heuristic: for smooth
    images the corner is blunt, and the weight tends to be too small where A damps little.

    Args:
        decades: of the grid, around a first guess.
        per_decade: points of it.

    >>> import torch, invtoolbox as it
    >>> clean = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A)
    >>> solution = it.solve(problem, it.priors.Tikhonov("gradient"), regularization=LCurve(per_decade=2), progress=False)
    >>> bool(solution.regularization > 1)
    True
    """

    decades: float = 5.0
    per_decade: int = 4
    name: ClassVar[str] = "l-curve"

    def __post_init__(self) -> None:
        if not self.decades > 0 or self.per_decade < 1 or self.decades * self.per_decade < 2 * _REACH + 2:
            raise InputError(f"the grid of an L-curve needs at least {2 * _REACH + 3} points, got {self.decades:g} decades of "
                             f"{self.per_decade}")
        if self.separate:
            raise InputError("the L-curve chooses one weight; use 'gcv' or 'sure' for several")

    def choose(self, trials: Trials) -> WeightCurve:
        spacing, t = log_grid(trials, self.decades, self.per_decade)
        if not trials.objective.has_value:
            without = next(p for _, p in trials.objective.terms if "energy" not in p.offers)
            raise InputError(f"the L-curve needs the energy of every prior, and {without!r} has none; use 'gcv' or 'sure'")
        seen = trials(t.unsqueeze(2), _misfit_and_energy)
        tiny = torch.finfo(torch.float64).tiny
        x, y = seen.double().clamp_min(tiny).log().unbind(2)
        curvature = _curvature(x, y, spacing)
        inside = t[_REACH:len(t) - _REACH]
        best = peak(inside, curvature)
        scores = torch.full_like(t, torch.nan)
        scores[_REACH:len(t) - _REACH] = -curvature.to(t)
        return WeightCurve(self.name, t.exp().T, scores.T, best.exp())

    def describe(self, objective: Objective) -> str:
        return "the corner of the L-curve chooses the weight, which needs no noise level"


def log_grid(trials: Trials, decades: float, per_decade: int) -> tuple[float, Tensor]:
    """The spacing and the logarithms of a grid of weights, ``(k, batch)``."""
    k = round(decades * per_decade) + 1
    centre = trials.centre()[:, 0]
    spacing = math.log(10.0) / per_decade
    offsets = spacing * (torch.arange(k, dtype=centre.dtype, device=centre.device) - (k - 1) / 2)
    return spacing, centre + offsets.unsqueeze(1)


def peak(t: Tensor, height: Tensor) -> Tensor:
    """Where the parabola through the largest value and its neighbours is highest, ``(batch,)``."""
    height = torch.where(height.isnan(), -torch.inf, height)
    k = height.argmax(0).clamp(1, len(t) - 2)
    a, b, c = (height.gather(0, (k + j).unsqueeze(0)).squeeze(0) for j in (-1, 0, 1))
    bend = a - 2 * b + c
    offset = torch.where(bend < 0, 0.5 * (a - c) / bend, torch.zeros_like(bend)).nan_to_num(0.0).clamp(-1, 1)
    return t.gather(0, k.unsqueeze(0)).squeeze(0) + offset.to(t) * (t[1] - t[0])


def _misfit_and_energy(objective: Objective, solution: Any) -> Tensor:
    problem = objective.problem
    misfit = problem.data_term.discrepancy(solution.problem.operator(solution.x), problem.y)
    return torch.stack([misfit, objective.prior_value(solution.x) / objective.regularization], 1)


def _curvature(x: Tensor, y: Tensor, spacing: float) -> Tensor:
    """Of a curve sampled at equal steps of its parameter ``(k, batch)``, at all but the two points at either end."""

    def derivative(values: Tensor, taps: tuple[float, ...]) -> Tensor:
        length = len(values) - 2 * _REACH
        return sum((tap * values[j:j + length] for j, tap in enumerate(taps)), torch.zeros_like(values[:length]))

    dx, dy = derivative(x, _SLOPE) / spacing, derivative(y, _SLOPE) / spacing
    ddx, ddy = derivative(x, _BEND) / spacing**2, derivative(y, _BEND) / spacing**2
    return (dx * ddy - dy * ddx) / (dx.square() + dy.square()).clamp_min(1e-12).pow(1.5)
