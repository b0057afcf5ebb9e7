"""One linear motion of space: a translation, a pose, a similarity or an affine map."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_choice
from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.settings import replace, require_bound

LinearMotion = Literal["translation", "rigid", "similarity", "affine"]
LINEAR_MOTIONS: tuple[LinearMotion, ...] = ("translation", "rigid", "similarity", "affine")


class AffineMap(ImplicitPrior):
    r"""Displacement ``u(p) = T(p) - p`` of a linear motion T of space.

    ``T(p) = S (c + exp(G) (p - c) + t)`` with a start S, the centre c and ``G = sum_k z_k G_k / r``
    over a basis of matrices: the rotations (``"rigid"``), and the unit matrix (``"similarity"``),
    and the other symmetric matrices (``"affine"``), so that the determinant of ``exp(G)`` is
    positive. Because r is the radius of the points, a step of 1 in any parameter moves the points
    by about the unit of length. Every item has its own start, for several starts of one problem.

    Landmarks add ``weight / 2 sum_i |T(p_i) - q_i|^2``.

    Args:
        kind: ``"translation"``, ``"rigid"``, ``"similarity"`` or ``"affine"``.
        start: matrices S, ``(batch or 1, d + 1, d + 1)``; the identity by default.
        centre: the point c, ``(d,)``; by default the mean of the points of the operator.
        radius: the length r; by default the root mean square distance of the points from c.
        landmarks: points p_i and q_i, ``(N, d)`` each.
        landmark_weight: weight of the landmarks.

    >>> import invtoolbox as it
    >>> points = torch.tensor([[1.0, -1.0], [0.0, 0.0]]).view(2, 1, 2)
    >>> image = it.operators.PlacedImage(torch.ones(1, 1, 2, 2), torch.eye(3)[:2], points)
    >>> prior = AffineMap("rigid").prepare(it.Problem(torch.ones(1, 1, 1, 2), image), it.solve)
    >>> u = prior.decode({"motion": torch.tensor([[torch.pi / 2, 0.0, 0.0]])})
    >>> u.round(decimals=3).flatten(2) + 0.0
    tensor([[[-1.,  1.],
             [ 1., -1.]]])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("start",)
    is_well_determined: ClassVar[bool] = True
    is_well_scaled: ClassVar[bool] = True

    def __init__(
        self,
        kind: LinearMotion = "affine",
        start: Tensor | None = None,
        centre: Tensor | None = None,
        radius: float | None = None,
        landmarks: tuple[Tensor, Tensor] | None = None,
        landmark_weight: float = 1.0,
    ) -> None:
        check_choice(self, LINEAR_MOTIONS, kind=kind)
        self.kind, self.start, self.centre, self.radius = kind, start, centre, radius
        self.landmarks, self.landmark_weight = landmarks, landmark_weight
        self.points: Tensor | None = None

    def prepare(self, problem: Problem, solve: Any) -> Self:
        points = getattr(problem.operator, "points", None)
        if points is None:
            raise InputError(
                f"AffineMap moves the points of a PlacedImage, and the operator is "
                f"{problem.operator}"
            )
        centre = points.flatten(1).mean(1) if self.centre is None else self.centre.to(points)
        away = (points.flatten(1) - centre[:, None]).square().sum(0).mean().sqrt()
        start = torch.eye(len(points) + 1)[None] if self.start is None else self.start
        return replace(
            self,
            points=points,
            centre=centre,
            radius=float(away) if self.radius is None else self.radius,
            start=start.to(points),
        )

    def initial(self) -> dict[str, Tensor]:
        """Return the parameters of the starts."""
        start = require_bound(self, self.start)
        dimensions = start.shape[1] - 1
        count = len(_basis(self.kind, dimensions)) + dimensions
        return {"motion": start.new_zeros(len(start), count)}

    def matrices(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the motion T of each item, ``(batch, d + 1, d + 1)``."""
        motion, start = (
            parameters["motion"],
            require_bound(self, self.start).to(parameters["motion"]),
        )
        centre, dimensions = require_bound(self, self.centre).to(motion), start.shape[1] - 1
        basis = _basis(self.kind, dimensions).to(motion) / (self.radius or 1.0)
        turn, shift = motion[:, : len(basis)], motion[:, len(basis) :]
        E = torch.matrix_exp(torch.einsum("bk,kij->bij", turn, basis))
        offset = centre + shift - torch.einsum("bij,j->bi", E, centre)
        top = torch.cat([E, offset[..., None]], 2)
        bottom = torch.eye(dimensions + 1).to(motion)[-1:].expand(len(motion), 1, -1)
        return start @ torch.cat([top, bottom], 1)

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        points = require_bound(self, self.points)
        T = self.matrices(parameters)
        linear = T[:, :-1, :-1] - torch.eye(len(points)).to(T)
        u = torch.einsum("bij,jn->bin", linear, points.to(T).flatten(1)) + T[:, :-1, -1:]
        return u.unflatten(2, points.shape[1:])

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        if self.landmarks is None:
            return super().energy(parameters, x)
        T = self.matrices(parameters)
        p, q = (side.to(T) for side in self.landmarks)
        away = torch.einsum("bij,nj->bni", T[:, :-1, :-1], p) + T[:, None, :-1, -1] - q
        return 0.5 * self.landmark_weight * away.square().sum((1, 2))

    def __repr__(self) -> str:
        return f"AffineMap({self.kind!r})"


def _basis(kind: str, dimensions: int) -> Tensor:
    """Return a basis of the generators of a kind of motion, ``(k, d, d)``, each of norm sqrt 2."""
    pairs = [(i, j) for i in range(dimensions) for j in range(i + 1, dimensions)]
    matrices = []

    def add(*entries: tuple[int, int, float]) -> None:
        matrix = torch.zeros(dimensions, dimensions)
        for i, j, entry in entries:
            matrix[i, j] = entry
        matrices.append(matrix)

    if kind != "translation":
        for i, j in pairs:
            add((i, j, -1.0), (j, i, 1.0))
    if kind in ("similarity", "affine"):
        add(*((i, i, 1.0) for i in range(dimensions)))
    if kind == "affine":
        for i, j in pairs:
            add((i, j, 1.0), (j, i, 1.0))
        for i in range(1, dimensions):
            add((i - 1, i - 1, 1.0), (i, i, -1.0))
    return torch.stack(matrices) if matrices else torch.zeros(0, dimensions, dimensions)
