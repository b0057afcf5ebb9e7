"""The quasi-optimality principle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective import Objective
from invtoolbox.operators.base import item_norm
from invtoolbox.parameter_choice.base import WeightCurve, WeightSearch
from invtoolbox.parameter_choice.l_curve import log_grid, peak
from invtoolbox.parameter_choice.trials import Trials


@dataclass(frozen=True)
class QuasiOptimality(WeightSearch):
    r"""The weight at which the solution changes least, ``min |x(q weight) - x(weight)|`` (Tikhonov & Glasko 1965).

    Too little weight, and the noise changes with it; too much, and the image does. It needs no noise level, no energy
    and no divergence, only solutions on a logarithmic grid, one solve each; it is a heuristic.

    Args:
        decades: of the grid, around a first guess.
        per_decade: points of it; ``q = 10^(1 / per_decade)``.

    >>> import torch, invtoolbox as it
    >>> clean = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A)
    >>> solution = it.solve(problem, it.priors.Tikhonov("gradient"), regularization=QuasiOptimality(per_decade=2), progress=False)
    >>> bool(solution.regularization > 1)
    True
    """

    decades: float = 5.0
    per_decade: int = 3
    name: ClassVar[str] = "quasi-optimality"

    def __post_init__(self) -> None:
        if not self.decades > 0 or self.per_decade < 1 or self.decades * self.per_decade < 4:
            raise InputError(f"quasi-optimality needs a grid of at least 5 points, got {self.decades:g} decades of {self.per_decade}")
        if self.separate:
            raise InputError("quasi-optimality chooses one weight; use 'gcv' or 'sure' for several")

    def choose(self, trials: Trials) -> WeightCurve:
        spacing, t = log_grid(trials, self.decades, self.per_decade)
        x = trials(t.unsqueeze(2), _image)
        changes = torch.stack([item_norm(x[k + 1] - x[k]) for k in range(len(x) - 1)]).double()
        middle = t[:-1] + spacing / 2
        best = peak(middle, -_inner(changes).clamp_min(torch.finfo(torch.float64).tiny).log())
        return WeightCurve(self.name, middle.exp().T, changes.to(t).T, best.exp())

    def describe(self, objective: Objective) -> str:
        return "quasi-optimality chooses the weight at which the solution changes least, which needs no noise level"


def _inner(changes: Tensor) -> Tensor:
    """Infinite but at local minima inside the grid, where there is one."""
    local = torch.zeros_like(changes, dtype=torch.bool)
    local[1:-1] = (changes[1:-1] <= changes[:-2]) & (changes[1:-1] <= changes[2:])
    return changes


def _image(objective: Objective, solution: Any) -> Tensor:
    x = solution.x
    if not isinstance(x, Tensor):
        raise InputError(f"quasi-optimality compares images, and the solution is a {type(x).__name__}")
    return x
