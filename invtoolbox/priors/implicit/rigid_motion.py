"""One rigid motion for all points of an item."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.scenes.rigid import rigid, rotation

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class RigidMotion(ImplicitPrior):
    r"""The points of an item move as one body: ``f(p) = (R(v / r) - 1) (p - c) + t``, with c their centre and r their radius.

    The rotation vector v is scaled by the radius, so that it and the translation t are lengths of the same order: a step of 1
    moves the outermost points by a metre either way. Things on a street stay upright and on the ground:
    ``S = 1/2 upright (v_x^2 + v_y^2 + t_z^2)`` holds the other three degrees of freedom back. A batch of objects is a batch of
    items, each with its own motion, steps and stopping.

    Args:
        upright: the weight of leaving the plane, in units of the misfit an square metre; 0 for six free degrees.
        weights: of the points in the centre and the radius, ``(batch or 1, N)``; 0 for points that only fill up an item.

    >>> import invtoolbox as it
    >>> points = torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]])
    >>> prior = RigidMotion().prepare(it.Problem(points, it.operators.PointWarp(points), it.data_terms.Chamfer()), it.solve)
    >>> prior.decode({"turn": torch.zeros(1, 3), "translation": torch.tensor([[0.5, 0.0, 0.0]])})
    tensor([[[0.5000, 0.0000, 0.0000],
             [0.5000, 0.0000, 0.0000]]])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("weights", "around", "centre", "radius")

    def __init__(self, upright: float = 1.0, weights: Tensor | None = None) -> None:
        if not upright >= 0:
            raise InputError(f"RigidMotion takes a weight upright of at least 0, got {upright}")
        self.upright, self.weights = upright, weights
        self.around: Tensor | None = None
        self.centre = torch.zeros(1, 3)
        self.radius = torch.ones(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        points = getattr(problem.operator, "points", None)
        if points is None:
            raise InputError(
                f"RigidMotion moves the points of a PointWarp, and the operator is {problem.operator}"
            )
        bound = copy.copy(self)
        weights = (
            points.new_ones(points.shape[:2])
            if self.weights is None
            else self.weights.to(points).expand(points.shape[:2])
        )
        shares = (weights / weights.sum(1, keepdim=True).clamp_min(1e-12))[..., None]
        bound.centre = (shares * points).sum(1)
        bound.around = points - bound.centre[:, None]
        bound.radius = (shares * bound.around.square()).sum((1, 2)).sqrt().clamp_min(0.1)
        return bound

    def initial(self) -> dict[str, Tensor]:
        """No motion."""
        zeros = torch.zeros(1, 3, dtype=self.radius.dtype, device=self.radius.device)
        return {"turn": zeros, "translation": zeros.clone()}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        if self.around is None:
            raise InputError("RigidMotion must be prepared with a problem first; it.solve does so")
        turned = rotation(parameters["turn"] / self.radius[:, None]) - torch.eye(3).to(self.around)
        return self.around @ turned.transpose(1, 2) + parameters["translation"][:, None]

    def motions(self, parameters: dict[str, Tensor]) -> Tensor:
        """The motion of each item as a matrix, ``(batch, 4, 4)``, which moves other points of the same body too."""
        turned = rotation(parameters["turn"] / self.radius[:, None])
        return rigid(
            turned,
            self.centre + parameters["translation"] - (turned @ self.centre[..., None]).squeeze(-1),
        )

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        out = torch.cat([parameters["turn"][:, :2], parameters["translation"][:, 2:]], 1)
        return 0.5 * self.upright * out.square().sum(1)

    def __repr__(self) -> str:
        return f"RigidMotion(upright={self.upright:g})"
