"""A logarithmic grid of weights, for the rules that read a curve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.parameter_choice.base import WeightSearch
from invtoolbox.parameter_choice.trials import Trials


@dataclass(frozen=True)
class GridSearch(WeightSearch):
    """Solves with the weights of a grid that reaches ``below`` and ``above`` a first guess, in decades.

    The guess makes half the misfit of the noise (estimated, or 2 % of the measurements) equal to the energy of the
    prior, which is too much more often than too little: images are rougher than the back-projection the energy is of.
    """

    below: float = 2.0
    above: float = 1.0
    per_decade: int = 4

    def __post_init__(self) -> None:
        if not (self.below >= 0 and self.above >= 0 and self.per_decade >= 1) or self.points < 5:
            raise InputError(
                f"the grid of {self.name!r} needs at least 5 weights, got {self.per_decade} a decade from {self.below:g} "
                f"decades below a first guess to {self.above:g} above it"
            )
        if self.separate:
            raise InputError(f"{self.name!r} chooses one weight; use 'gcv' or 'sure' for several")

    @property
    def points(self) -> int:
        return round((self.below + self.above) * self.per_decade) + 1

    def grid(self, trials: Trials) -> Tensor:
        """Logarithms of weights, ``(points, batch)``."""
        centre = trials.centre()[:, 0]
        steps = (
            torch.arange(self.points, dtype=centre.dtype, device=centre.device) / self.per_decade
            - self.below
        )
        return centre + math.log(10.0) * steps.unsqueeze(1)


def lowest(t: Tensor, height: Tensor) -> Tensor:
    """Where the parabola through the least value and its neighbours is lowest, ``(batch,)``; ``t`` is a regular grid."""
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
