"""The quasi-optimality principle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective import Objective
from invtoolbox.operators.base import item_norm
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.parameter_choice.weight_grid import GridSearch, lowest


@dataclass(frozen=True)
class QuasiOptimality(GridSearch):
    r"""The weight at which the solution changes least, ``min |x(q weight) - x(weight)|`` (Tikhonov & Glasko 1965).

    Too little weight, and the noise changes with it; too much, and the image does. It needs no noise level (but a rough
    one for the first guess), no energy and no divergence, only solutions on a grid. A heuristic, and the least reliable
    of the rules here: a solution may also hardly change because it is smooth already, or because so little weight does
    nothing (denoising, where the rule fails).

    Args:
        below, above, per_decade: the grid, in decades around a first guess; ``q = 10^(1 / per_decade)``.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> A = it.operators.Blur(torch.ones(3, 3) / 9, (32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A)
    >>> solution = it.solve(problem, it.priors.TotalVariation(), regularization=QuasiOptimality(per_decade=2), progress=False)
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
        return "quasi-optimality chooses the weight at which the solution changes least, which needs no noise level"


def _image(objective: Objective, solution: Any) -> Tensor:
    x = solution.x
    if not isinstance(x, Tensor):
        raise InputError(
            f"quasi-optimality compares images, and the solution is a {type(x).__name__}"
        )
    return x
