"""Rules that read a curve over a logarithmic grid of weights: the L-curve and quasi-optimality."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice
from invtoolbox.core.interrupts import OutOfTime, budget
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import item_norm
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import Trials


@dataclass(frozen=True)
class GridSearch(WeightSearch):
    """Solves with the weights of a grid from ``below`` to ``above`` a first guess, in decades.

    The guess makes half the misfit of the noise (estimated, or 2 % of the measurements) equal to
    the energy of the prior. It is too large more often than too small: images are rougher than the
    back-projection whose energy is used.
    """

    below: float = 2.0
    above: float = 1.0
    per_decade: int = 4

    def __post_init__(self) -> None:
        if not (self.below >= 0 and self.above >= 0 and self.per_decade >= 1) or self.points < 5:
            raise InputError(
                f"the grid of {self.name!r} needs at least 5 weights, got {self.per_decade} per "
                f"decade from {self.below:g} decades below a first guess to {self.above:g} above it"
            )
        self._refuse_separate()

    @property
    def points(self) -> int:
        return round((self.below + self.above) * self.per_decade) + 1

    def grid(self, trials: Trials) -> Tensor:
        """Return logarithms of weights, ``(points, batch)``."""
        centre = trials.centre()[:, 0]
        steps = (
            torch.arange(self.points, dtype=centre.dtype, device=centre.device) / self.per_decade
            - self.below
        )
        return centre + math.log(10.0) * steps.unsqueeze(1)


def lowest(t: Tensor, height: Tensor) -> Tensor:
    """Return the minimum of the parabola through the least value and its neighbours, ``(batch,)``.

    ``t`` is a regular grid.
    """
    height = torch.where(height.isnan(), torch.inf, height)
    k = height.argmin(0)
    inside = k.clamp(1, len(t) - 2)
    a, b, c = (height.gather(0, (inside + j).unsqueeze(0)).squeeze(0) for j in (-1, 0, 1))
    bend = a - 2 * b + c
    offset = (
        torch.where((bend > 0) & (k == inside), 0.5 * (a - c) / bend, torch.zeros_like(bend))
        .nan_to_num(0.0)
        .clamp(-1, 1)
    )
    return t.gather(0, k.unsqueeze(0)).squeeze(0) + offset.to(t) * (t[1] - t[0])


#: Derivatives by least squares: a parabola through five neighbouring points (Savitzky & Golay
#: 1964).
_SLOPE = (-0.2, -0.1, 0.0, 0.1, 0.2)
_BEND = (2 / 7, -1 / 7, -2 / 7, -1 / 7, 2 / 7)
_REACH = len(_SLOPE) // 2


@dataclass(frozen=True)
class LCurve(GridSearch):
    r"""The corner of the curve of misfit against energy, over a grid of weights.

    Hansen, SIAM Review 34, 1992. Above the corner more weight costs misfit and hardly lowers the
    energy; below it less weight lets in noise and hardly lowers the misfit. There are two
    definitions of the corner:

    - ``"chord"``: the point of ``(discrepancy, R)`` that lies furthest below the chord between the
      ends of the grid. For a convex problem this curve is convex (the Pareto curve of van den Berg
      & Friedlander, SIAM J. Sci. Comput. 31, 2008), so it has one corner.
    - ``"curvature"``: the largest curvature of ``(log discrepancy, log R)``, Hansen's own.

    In logarithms blurred pictures have several blunt corners: on the problems of
    ``benchmarks/parameter_choice.py`` the curvature loses twice as many dB as the chord. The chord,
    in turn, depends on the ends of the grid: by about a factor of 2 in the weight for half a
    decade. Needs no noise level (but a rough one for the first guess) and no white noise, but an
    energy. A heuristic.

    Args:
        below, above, per_decade: the grid, in decades around a first guess.
        corner: see above.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A)
    >>> solution = it.solve(
    ...     problem, it.priors.TotalVariation(), regularization=LCurve(per_decade=2), progress=False
    ... )
    >>> solution.weight_search.scores.shape
    torch.Size([1, 7])
    """

    corner: Literal["chord", "curvature"] = "chord"
    name: ClassVar[str] = "l-curve"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, ("chord", "curvature"), "corner")

    def choose(self, trials: Trials) -> WeightCurve:
        if not trials.objective.has_value:
            without = next(p for _, p in trials.objective.terms if "energy" not in p.offers)
            raise InputError(
                f"the L-curve needs the energy of every prior, and {without!r} has none; use 'gcv' "
                "or 'sure'"
            )
        t = self.grid(trials)
        curve = trials(t.unsqueeze(2), _misfit_and_energy).double()
        if budget().is_spent:
            raise OutOfTime  # the chord needs both ends
        misfit, energy = curve.clamp_min(torch.finfo(torch.float64).tiny).unbind(2)
        spacing = float(t[1, 0] - t[0, 0])
        score = (
            _chord(misfit, energy)
            if self.corner == "chord"
            else -_curvature(misfit.log(), energy.log(), spacing)
        )
        return WeightCurve(self.name, t.exp().T, score.to(t).T, lowest(t, score).exp())

    def describe(self, objective: Objective) -> str:
        return "the corner of the L-curve chooses the weight, which needs no noise level"


def _misfit_and_energy(objective: Objective, solution: Any) -> Tensor:
    problem = objective.problem
    misfit = problem.data_term.discrepancy(solution.problem.operator(solution.x), problem.y)
    return torch.stack([misfit, objective.prior_value(solution.x) / objective.regularization], 1)


def _chord(x: Tensor, y: Tensor) -> Tensor:
    """Return the height of a curve above the chord between its ends, ``(k, batch)``.

    Both axes are scaled to the chord.
    """
    along, up = (
        (v - v[-1]) / torch.where(v[0] != v[-1], v[0] - v[-1], torch.ones_like(v[0]))
        for v in (x, y)
    )
    return up - along


def _curvature(x: Tensor, y: Tensor, spacing: float) -> Tensor:
    """Return the curvature of a curve sampled at equal steps of its parameter, ``(k, batch)``.

    It is NaN at the two points at either end.
    """

    def derivative(values: Tensor, taps: tuple[float, ...]) -> Tensor:
        length = len(values) - 2 * _REACH
        return sum(
            (tap * values[j : j + length] for j, tap in enumerate(taps)),
            torch.zeros_like(values[:length]),
        )

    dx, dy = derivative(x, _SLOPE) / spacing, derivative(y, _SLOPE) / spacing
    ddx, ddy = derivative(x, _BEND) / spacing**2, derivative(y, _BEND) / spacing**2
    curvature = torch.full_like(x, torch.nan)
    curvature[_REACH : len(x) - _REACH] = (dx * ddy - dy * ddx) / (
        dx.square() + dy.square()
    ).clamp_min(1e-12).pow(1.5)
    return curvature


@dataclass(frozen=True)
class QuasiOptimality(GridSearch):
    r"""The weight at which the solution changes least, ``min |x(q weight) - x(weight)|``.

    Tikhonov & Glasko 1965. With too little weight the noise changes with it; with too much, the
    image does. It needs no noise level (but a rough one for the first guess), no energy and no
    divergence, only solutions on a grid. A heuristic, and the least reliable of the rules here: a
    solution may also hardly change because it is smooth already, or because so little weight has no
    effect (denoising, for which the rule fails).

    Args:
        below, above, per_decade: the grid, in decades around a first guess;
            ``q = 10^(1 / per_decade)``.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> A = it.operators.Blur(torch.ones(3, 3) / 9, (32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A)
    >>> solution = it.solve(
    ...     problem,
    ...     it.priors.TotalVariation(),
    ...     regularization=QuasiOptimality(per_decade=2),
    ...     progress=False,
    ... )
    >>> bool((solution.x - clean).norm() < 0.5 * (problem.y - clean).norm())
    True
    """

    below: float = 2.5
    above: float = 0.5
    per_decade: int = 3
    name: ClassVar[str] = "quasi-optimality"

    def choose(self, trials: Trials) -> WeightCurve:
        t = self.grid(trials)
        x = trials(t.unsqueeze(2), _image)
        changes = torch.stack([item_norm(x[k + 1] - x[k]) for k in range(len(x) - 1)]).double()
        middle = (t[:-1] + t[1:]) / 2
        return WeightCurve(
            self.name, middle.exp().T, changes.to(t).T, lowest(middle, changes).exp()
        )

    def describe(self, objective: Objective) -> str:
        return (
            "quasi-optimality chooses the weight at which the solution changes least, which needs "
            "no noise level"
        )


def _image(objective: Objective, solution: Any) -> Tensor:
    x = solution.x
    if not isinstance(x, Tensor):
        raise InputError(
            f"quasi-optimality compares images, and the solution is a {type(x).__name__}"
        )
    return x
