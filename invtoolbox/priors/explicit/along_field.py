"""Priors of flows, for a field of flow: what it says at the points of the sweeps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.flow_prior import FlowPrior
from invtoolbox.priors.flow_points import sequence_of
from invtoolbox.scenes.flow_field import FlowField

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class AlongField(ExplicitPrior):
    r"""``R(F) = sum_t R_t(F(p_t, t, forward))``: a prior of flows at the points ``p_t`` of every sweep of a sequence.

    For problems whose ``x`` is a `scenes.flow_field.FlowField`: rigidity, the static world and limits of speed then hold for it too. An
    iteration looks at some of the sweeps, in turn, and takes them for all.

    Args:
        prior: of a flow ``(batch, N, 3)``, such as `ARAP` or `StaticWorld`.
        sweeps: how many an iteration looks at.
    """

    def __init__(self, prior: ExplicitPrior, sweeps: int = 2) -> None:
        if not isinstance(prior, ExplicitPrior) or "energy" not in prior.offers:
            raise InputError(f"AlongField takes an explicit prior with an energy, got {prior!r}")
        if sweeps < 1:
            raise InputError(f"AlongField looks at a sweep at least, got sweeps={sweeps}")
        self.prior, self.sweeps, self.first = prior, sweeps, 0
        self.is_smooth = prior.smooth
        self.priors: tuple[ExplicitPrior, ...] = ()
        self.points: tuple[Tensor, ...] = ()
        self.times: tuple[float, ...] = ()

    def prepare(self, problem: Problem, solve: Any) -> Self:
        points, times = sequence_of(problem, repr(self))
        other = copy.copy(self)
        other.points, other.times = points, times
        other.priors = tuple(
            self.prior.bind(cloud) if isinstance(self.prior, FlowPrior) else self.prior
            for cloud in points
        )
        return other

    def at(self, iteration: int) -> Self:
        other = copy.copy(self)
        other.first = iteration * self.sweeps
        other.priors = tuple(prior.at(iteration) for prior in self.priors)
        return other

    def energy(self, x: Any) -> Tensor:
        if not self.points:
            raise InputError(
                f"{self!r} knows no sweeps yet: it.solve tells it, or call prior.prepare(problem, it.solve)"
            )
        if not isinstance(x, FlowField):
            raise InputError(
                f"{self!r} takes a field of flow, as priors.SpaceTimeFlow() makes it, got {type(x).__name__}"
            )
        count = len(self.points)
        chosen = sorted({(self.first + k) % count for k in range(min(self.sweeps, count))})
        energies = [self.priors[k].energy(x.flow(self.points[k], self.times[k])) for k in chosen]
        return count * torch.stack(energies).mean(0)

    def __repr__(self) -> str:
        return f"AlongField({self.prior!r})"
