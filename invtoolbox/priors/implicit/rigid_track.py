"""Rigid motion of points over several times, with smoothly changing velocity: one per item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rigid, rotation
from invtoolbox.priors.base import Problem
from invtoolbox.priors.implicit.rigid_motion import RigidMotion
from invtoolbox.priors.settings import replace, require_bound


class RigidTrack(RigidMotion):
    r"""One rigid body per item at K times: velocity and turn rate change little.

    .. math:: f_s(p) = (R(s \omega) - 1) (p - c) + s t + \tfrac12 (s^2 - s) (\omega \times t + a)

    is the displacement of a point p at the time s, in periods from now: t is the displacement of
    the centre c after one period, omega the rotation per period (v / r, as in `RigidMotion`), and a
    the change of the velocity besides the one of a steady turn. The points of an item are its N
    points, K times one after the other, once for every time. The prior adds ``S = 1/2 smooth |a|^2
    + 1/2 steady v_z^2`` to the energy of `RigidMotion`.

    With the one time 1 it is `RigidMotion`; a is then zero.

    Args:
        steps: the times s, in periods.
        upright: see `RigidMotion`.
        smooth: weight of a change of velocity, in units of the misfit per square metre.
        steady: weight of the rotation about the upright axis, in the same units.
        weights: weights of the points, ``(batch or 1, K N)``.

    >>> import invtoolbox as it
    >>> points = torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]]).repeat(1, 2, 1)
    >>> problem = it.Problem(points, it.operators.PointWarp(points), it.data_terms.Chamfer())
    >>> prior = RigidTrack((-1.0, 2.0)).prepare(problem, it.solve)
    >>> start = {**prior.initial(), "translation": torch.tensor([[0.5, 0.0, 0.0]])}
    >>> prior.decode(start)[0, :, 0]
    tensor([-0.5000, -0.5000,  1.0000,  1.0000])
    """

    item_fields: ClassVar[tuple[str, ...]] = RigidMotion.item_fields

    def __init__(
        self,
        steps: Sequence[float],
        upright: float = 1.0,
        smooth: float = 0.3,
        steady: float = 0.0,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(upright, weights)
        if not steps:
            raise InputError("RigidTrack takes at least one time, got none")
        check_range(self, "[0, inf]", smooth=smooth, steady=steady)
        self.steps, self.smooth, self.steady = tuple(steps), smooth, steady

    def prepare(self, problem: Problem, solve: Any) -> Self:
        bound = super().prepare(problem, solve)
        around = require_bound(bound, bound.around)
        if around.shape[1] % len(self.steps):
            raise InputError(
                f"RigidTrack has {len(self.steps)} times, and {around.shape[1]} points are not a "
                "multiple of them"
            )
        return replace(bound, around=around[:, : around.shape[1] // len(self.steps)])

    def initial(self) -> dict[str, Tensor]:
        """Return the parameters of no motion."""
        start = super().initial()
        if len(self.steps) > 1:
            start["bend"] = torch.zeros_like(start["turn"])
        return start

    def _paths(self, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the rotations ``(batch, K, 3, 3)`` and the ways of the centre ``(batch, K, 3)``."""
        turn, t = parameters["turn"] / self.radius[:, None], parameters["translation"]
        s = torch.tensor(self.steps, dtype=t.dtype, device=t.device)[:, None]
        path = s * t[:, None]
        if "bend" in parameters:
            change = torch.linalg.cross(turn, t) + parameters["bend"]
            path = path + 0.5 * (s.square() - s) * change[:, None]
        return rotation(s * turn[:, None]), path

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        around = require_bound(self, self.around)
        turned, path = self._paths(parameters)
        by_rotation = around[:, None] @ (turned - torch.eye(3).to(around)).transpose(2, 3)
        return (by_rotation + path[:, :, None]).flatten(1, 2)

    def tracks(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the motion of each item from now to each time, ``(batch, K, 4, 4)``."""
        turned, path = self._paths(parameters)
        centre = self.centre[:, None].expand_as(path)
        return rigid(turned, centre + path - (turned @ centre[..., None]).squeeze(-1))

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        total = super().energy(parameters, x) + 0.5 * self.steady * parameters["turn"][:, 2] ** 2
        if "bend" in parameters:
            total = total + 0.5 * self.smooth * parameters["bend"].square().sum(1)
        return total

    def __repr__(self) -> str:
        return f"RigidTrack(steps={self.steps}, upright={self.upright:g}, smooth={self.smooth:g})"
