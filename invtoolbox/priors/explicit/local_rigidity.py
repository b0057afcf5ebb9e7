"""Local rigidity and local rotation: neighbours move as the turning of a point says, and turn as it does."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.sparse_product import SparseProduct
from invtoolbox.priors.explicit.flow_prior import is_over_time, smoothed_norm
from invtoolbox.priors.explicit.graph_prior import GraphPrior, Graphs
from invtoolbox.priors.explicit.isometry import Edges
from invtoolbox.priors.flow_points import first_flow
from invtoolbox.scenes.best_rotation import fitted_rotation
from invtoolbox.scenes.moving import Moving
from invtoolbox.scenes.neighbour_graph import NeighbourGraph, Weights
from invtoolbox.scenes.quaternions import rotation_matrices


class _Turning(Edges):
    """A graph at rest, with the sums over the edges of a point: ``sum_j v_ij e_ij^T``, and its transpose, ``R_i e_ij``.

    Both are products with one sparse matrix of the edges e at rest, so nothing of the size ``(E, 3, 3)`` is ever made.
    """

    def __init__(self, graph: NeighbourGraph) -> None:
        super().__init__(graph)
        count, axes = len(self.lengths), torch.arange(3, device=graph.edges.device)
        rows = 3 * graph.edges[0][:, None] + axes
        columns = torch.arange(count, device=graph.edges.device)[:, None].expand(count, 3)
        self.products = SparseProduct(
            rows.flatten(), columns.flatten(), self.vectors.flatten(), (3 * len(graph), count)
        )

    def spread(self, vectors: Tensor) -> Tensor:
        """``(batch, E, 3) -> (batch, N, 3, 3)``."""
        return self.products(vectors).unflatten(1, (len(self), 3)).transpose(2, 3)

    def turned(self, turns: Tensor) -> Tensor:
        """``(batch, N, 3, 3) -> (batch, E, 3)``."""
        return self.products.T(turns.transpose(2, 3).flatten(1, 2))


class _OfRotations(GraphPrior):
    """A prior of displacements and of rotations: those of Gaussians, or the ones that fit the neighbourhoods best."""

    item_fields: ClassVar[tuple[str, ...]] = ("pieces", "orientations")

    def __init__(
        self,
        neighbours: int | None = 20,
        radius: float | None = None,
        labels: Tensor | None = None,
        weights: Weights = "gaussian",
        scale: float | None = None,
        symmetric: bool = False,
        graph: Graphs | None = None,
        orientations: Tensor | None = None,
        smoothing: float = 1e-3,
    ) -> None:
        super().__init__(neighbours, radius, labels, weights, scale, symmetric, graph)
        if orientations is not None and (
            orientations.ndim not in (2, 3) or orientations.shape[-1] != 4
        ):
            raise InputError(
                f"orientations at rest are quaternions (N, 4) or (batch, N, 4), got {tuple(orientations.shape)}"
            )
        if not smoothing > 0:
            raise InputError(f"the smoothing of {type(self).__name__} is positive, got {smoothing}")
        self.orientations = (
            orientations if orientations is None or orientations.ndim == 3 else orientations[None]
        )
        self.smoothing = float(smoothing)

    def _rest(self, graph: NeighbourGraph) -> _Turning:
        return _Turning(graph)

    def energy(self, x: Any) -> Tensor:
        if self.orientations is None or not isinstance(x, tuple) or is_over_time(x):
            return super().energy(x)
        flow, quaternions = first_flow(x, None, repr(self)), x[1]
        if tuple(quaternions.shape) != (*flow.shape[:2], 4):
            raise InputError(
                f"{self!r} takes x as displacements {tuple(flow.shape)} and quaternions {(*flow.shape[:2], 4)}, "
                f"got {tuple(quaternions.shape)}"
            )
        before = rotation_matrices(self.orientations.to(quaternions)).expand(*flow.shape, 3)
        turns = rotation_matrices(quaternions) @ before.transpose(-1, -2)
        groups = (
            [(self.pieces[0], slice(None))]
            if len(self.pieces) == 1
            else [(piece, slice(k, k + 1)) for k, piece in enumerate(self.pieces)]
        )
        return torch.cat(
            [self._cost(piece, piece.moved(flow[items]), turns[items]) for piece, items in groups]
        )

    def _at(self, x: Any, time: int) -> Any:
        return (
            (x[0][:, time], x.at(time).quats)
            if isinstance(x, Moving) and self.orientations is not None
            else super()._at(x, time)
        )

    def _item_energy(self, piece: _Turning, flow: Tensor) -> Tensor:
        return self._shared_energy(piece, flow[None])[0]

    def _shared_energy(self, piece: _Turning, flow: Tensor) -> Tensor:
        moved = piece.moved(flow)
        return self._cost(
            piece, moved, fitted_rotation(piece.spread(piece.weights[:, None] * moved))
        )

    def _cost(self, piece: _Turning, moved: Tensor, turns: Tensor) -> Tensor:
        """The energy ``(batch,)`` of moved edges ``(batch, E, 3)`` and of how points have turned, ``(batch, N, 3, 3)``."""
        raise NotImplementedError


class LocalRigidity(_OfRotations):
    r"""``R(x) = 1/W sum_ij w_ij |(m'_i - m'_j) - D_i (m_i - m_j)|``, ``m' = m + displacement``, W the sum of the weights.

    ``D_i`` is how Gaussian i has turned since rest, where x is ``(displacements, quaternions)``, ``(batch, N, 3)`` and ``(batch, N, 4)``;
    of displacements alone, it is the rotation that fits the neighbourhood best (in the squares, as in `ARAP`), and the derivative goes
    through it.
    The corner of the norm is rounded. Distances enter by their modulus and not by their square, so few large strains cost less than
    in `ARAP`. A rigid motion costs nothing; a uniform scale c costs ``|c - 1|`` times the weighted mean edge. Not convex.

    Source: ``L_rigid`` of Luiten et al., "Dynamic 3D Gaussians", 3DV 2024, with its 20 neighbours; their weights ``exp(-2000 d^2)`` are, as
    ``sqrt(w)``, ``weights="gaussian", scale=0.0224`` (metres) here; by default the scale follows the points.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph: the edges; see `GraphPrior`.
        orientations: quaternions ``(w, x, y, z)`` at rest, ``(N, 4)`` or ``(batch, N, 4)``; needed where x holds quaternions.
        smoothing: of the corner, in units of the mean edge.

    >>> p = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = LocalRigidity().bind(p)
    >>> bool(prior.energy(torch.ones_like(p)) < 1e-8), bool(prior.energy(0.1 * p) > 1e-3)
    (True, True)
    """

    def _cost(self, piece: _Turning, moved: Tensor, turns: Tensor) -> Tensor:
        return (
            piece.weights
            * smoothed_norm(moved - piece.turned(turns), self.smoothing * piece.mean_length)
        ).sum(1)


class LocalRotation(_OfRotations):
    r"""``R(x) = 1/W sum_ij w_ij sin(theta_ij / 2)``, theta the angle between how the neighbours i and j have turned.

    The rotations are those of `LocalRigidity`. ``sin(theta / 2)`` is the distance of the two quaternions but for terms of third order, and
    does not depend on their signs. A rigid motion costs nothing, and neither does a uniform scale: it is a companion of
    `Isometry` or `LocalRigidity`, no prior of its own.

    Source: ``L_rot`` of Luiten et al., "Dynamic 3D Gaussians", 3DV 2024.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph, orientations: see `LocalRigidity`.
        smoothing: of the corner, in sines.
    """

    def _cost(self, piece: _Turning, moved: Tensor, turns: Tensor) -> Tensor:
        return (
            piece.weights
            * smoothed_norm(piece.differences(turns.flatten(2)) / 8**0.5, self.smoothing)
        ).sum(1)
