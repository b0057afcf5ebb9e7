"""Rigid motions of points: one per item (`RigidMotion`), or one per cluster (`RigidClusters`)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rigid, rotation, rotation_vector
from invtoolbox.kernels.points.sparse_product import SparseProduct
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.motion.flow_prior import check_labels, flow_points, labels_of
from invtoolbox.priors.settings import replace, require_bound


class RigidMotion(ImplicitPrior):
    """One rigid motion of all points of an item: ``f(p) = (R(v / r) - 1) (p - c) + t``.

    c is the centre of the points and r their radius. The rotation vector v is scaled by the radius,
    so that it and the translation t are lengths of the same order: a step of 1 in either moves the
    outermost points by a metre. Objects on a street stay upright and on the ground:
    ``S = 1/2 upright (v_x^2 + v_y^2 + t_z^2)`` penalizes the other three degrees of freedom. A
    batch of objects is a batch of items, each with its own motion, steps and stopping.

    Args:
        upright: weight of leaving the plane, in units of the misfit per square metre; 0 for six
            free degrees.
        weights: weights of the points in the centre and the radius, ``(batch or 1, N)``; 0 for
            points that only fill up an item.

    >>> import invtoolbox as it
    >>> points = torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]])
    >>> problem = it.Problem(points, it.operators.PointWarp(points), it.data_terms.Chamfer())
    >>> prior = RigidMotion().prepare(problem, it.solve)
    >>> translation = torch.tensor([[0.5, 0.0, 0.0]])
    >>> prior.decode({"turn": torch.zeros(1, 3), "translation": translation})
    tensor([[[0.5000, 0.0000, 0.0000],
             [0.5000, 0.0000, 0.0000]]])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("weights", "around", "centre", "radius")
    is_well_determined: ClassVar[bool] = True

    def __init__(self, upright: float = 1.0, weights: Tensor | None = None) -> None:
        check_range(self, "[0, inf]", upright=upright)
        self.upright, self.weights = upright, weights
        self.around: Tensor | None = None
        self.centre = torch.zeros(1, 3)
        self.radius = torch.ones(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        points = getattr(problem.operator, "points", None)
        if points is None:
            raise InputError(
                "RigidMotion moves the points of a PointWarp, "
                f"and the operator is {problem.operator}"
            )
        weights = (
            points.new_ones(points.shape[:2])
            if self.weights is None
            else self.weights.to(points).expand(points.shape[:2])
        )
        shares = (weights / weights.sum(1, keepdim=True).clamp_min(1e-12))[..., None]
        centre = (shares * points).sum(1)
        around = points - centre[:, None]
        radius = (shares * around.square()).sum((1, 2)).sqrt().clamp_min(0.1)
        return replace(self, centre=centre, around=around, radius=radius)

    def initial(self) -> dict[str, Tensor]:
        """Return the parameters of no motion."""
        zeros = torch.zeros(1, 3, dtype=self.radius.dtype, device=self.radius.device)
        return {"turn": zeros, "translation": zeros.clone()}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        around = require_bound(self, self.around)
        turned = rotation(parameters["turn"] / self.radius[:, None]) - torch.eye(3).to(around)
        return around @ turned.transpose(1, 2) + parameters["translation"][:, None]

    def motions(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the motion of each item as a matrix, ``(batch, 4, 4)``.

        It moves other points of the same body too.
        """
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


class RigidClusters(ImplicitPrior):
    """One rigid motion per cluster: ``x(p) = (R_c - 1)(p - m_c) + t_c``.

    c is the cluster of p and m_c its centre; points of no cluster do not move. There are six
    numbers per cluster: a rotation vector about the centre, radians, and a translation, metres, 0
    at the start.

    Args:
        labels: cluster of each point, whole numbers ``(N,)`` or ``(batch, N)``; -1 for static
            points.
        initial_motions: initial guess: motions ``(K, 4, 4)`` or ``(batch, K, 4, 4)`` of the
            clusters 0 to K - 1, in the convention of `geometry.rigid` (about the origin, not the
            centre).
        rotation_rate: factor on the step of the rotations, radians per metre: the reciprocal of the
            usual distance of a cluster's points from its centre.

    >>> import invtoolbox as it
    >>> from invtoolbox.geometry.rigid import rotation
    >>> points = torch.rand(1, 100, 3, generator=torch.Generator().manual_seed(0)) * 4
    >>> labels = (points[0, :, 0] > 2).long() - 1  # one body, and static points
    >>> turned = points @ rotation(torch.tensor([0.0, 0.0, 0.2])).T + 0.5
    >>> target = torch.where((labels == 0)[None, :, None], turned, points)
    >>> problem, prior = it.Problem(target, it.operators.PointWarp(points)), RigidClusters(labels)
    >>> solver = it.solvers.Adam(learning_rate=0.05)
    >>> solution = it.solve(problem, prior, solver, max_iterations=300, progress=False)
    >>> bool((points + solution.x - target).abs().max() < 1e-3)
    True
    """

    item_fields: ClassVar[tuple[str, ...]] = ("bodies",)
    is_well_determined: ClassVar[bool] = True

    def __init__(
        self, labels: Tensor, initial_motions: Tensor | None = None, rotation_rate: float = 0.5
    ) -> None:
        self.labels = check_labels(labels, "RigidClusters")
        if not bool((self.labels >= 0).any()):
            raise InputError("RigidClusters needs at least one cluster: every label is negative")
        self.count = int(self.labels.max()) + 1
        check_range(self, "(0, inf]", rotation_rate=rotation_rate)
        if initial_motions is not None and (
            initial_motions.ndim not in (3, 4) or initial_motions.shape[-3:] != (self.count, 4, 4)
        ):
            raise InputError(
                f"RigidClusters of {self.count} clusters starts from motions ({self.count}, 4, 4), "
                "with or without a leading batch axis, "
                f"got {tuple(initial_motions.shape)}"
            )
        self.initial_motions, self.rotation_rate = initial_motions, rotation_rate
        self.bodies: tuple[_Bodies, ...] = ()  # one that all items share, or one per item

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.bind(flow_points(problem, repr(self)))

    def bind(self, points: Tensor) -> Self:
        """Return a copy for the points ``(1 or batch, N, 3)``."""
        if self.labels.shape[-1] != points.shape[1]:
            raise InputError(
                f"RigidClusters has labels of {self.labels.shape[-1]} points, "
                f"and the problem moves {points.shape[1]}"
            )
        items = max(len(points), len(self.labels) if self.labels.ndim == 2 else 1)
        bodies = []
        for k in range(items):
            labels = labels_of(self.labels, k)
            assert labels is not None
            bodies.append(
                _Bodies(points[k if len(points) > 1 else 0], labels.to(points.device), self.count)
            )
        return replace(self, bodies=tuple(bodies))

    def initial(self) -> dict[str, Tensor]:
        """Return ``rotation`` and ``translation``, ``(1 or batch, K, 3)`` each."""
        centres = self._centres()
        if self.initial_motions is None:
            return {"rotation": torch.zeros_like(centres), "translation": torch.zeros_like(centres)}
        motions = self.initial_motions.to(device=centres.device, dtype=torch.float64)
        motions = motions if motions.ndim == 4 else motions[None]
        R, t = motions[..., :3, :3], motions[..., :3, 3]
        arrived = (R @ centres.double()[..., None]).squeeze(-1) + t
        return {
            "rotation": rotation_vector(R).to(centres).expand(len(arrived), -1, -1).clone(),
            "translation": (arrived - centres).to(centres),
        }

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        return {"rotation": self.rotation_rate, "translation": 1.0}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        self._centres()
        turn = rotation(parameters["rotation"])
        turn = turn - torch.eye(3, dtype=turn.dtype, device=turn.device)
        stacked = torch.cat(
            [turn.transpose(-1, -2), parameters["translation"][..., None, :]], dim=-2
        ).flatten(1, 2)
        if len(self.bodies) == 1:
            return self.bodies[0].flows(stacked)
        return torch.stack([body.flows(motion) for body, motion in zip(self.bodies, stacked)])

    def motions(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the motion of each cluster, about the origin: ``(batch, K, 4, 4)``."""
        R, centres = rotation(parameters["rotation"]), self._centres()
        return rigid(R, centres + parameters["translation"] - (R @ centres[..., None]).squeeze(-1))

    def _centres(self) -> Tensor:
        require_bound(self, self.bodies)
        return torch.stack([body.centres for body in self.bodies])

    def __repr__(self) -> str:
        return f"RigidClusters({self.count} clusters)"


class _Bodies(Settings):
    """Clusters of an item: K centres, and a matrix from motions about them to flows.

    The matrix is ``(N, 4 K)``.
    """

    def __init__(self, points: Tensor, labels: Tensor, count: int) -> None:
        inside = (labels >= 0).nonzero()[:, 0]
        number = labels[inside]
        size = torch.bincount(number, minlength=count).clamp_min(1)
        sums = torch.zeros(count, 3, dtype=torch.float64, device=points.device).index_add_(
            0, number, points[inside].double()
        )
        self.centres = (sums / size[:, None]).to(points.dtype)
        arms = torch.cat(
            [points[inside] - self.centres[number], torch.ones_like(points[inside, :1])], dim=1
        )
        columns = 4 * number[:, None] + torch.arange(4, device=points.device)
        self.flows = SparseProduct(
            inside.repeat_interleave(4), columns.flatten(), arms.flatten(), (len(points), 4 * count)
        )
