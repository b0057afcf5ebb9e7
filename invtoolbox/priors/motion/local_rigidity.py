"""Priors of local rigidity for points with rotations or covariances, such as Gaussians.

`LocalRigidity` and `LocalRotation` compare neighbours with the rotation of a point.
`AsIsometricAsPossible` keeps the distances between means and between covariances.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.moving_shapes import Moving
from invtoolbox.geometry.neighbour_graph import NeighbourGraph, Weights
from invtoolbox.geometry.rotations import fit_rotation, rotation_matrices
from invtoolbox.kernels.points.sparse_product import SparseProduct
from invtoolbox.priors.motion.flow_prior import first_flow, is_over_time, smooth_norm
from invtoolbox.priors.motion.rigidity import Edges, GraphPrior, Graphs


class _RotationPrior(GraphPrior):
    """Base class of priors of displacements and rotations.

    The rotations are those of Gaussians, or the rotations that fit the neighbourhoods best.
    """

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
                "orientations at rest are quaternions (N, 4) or (batch, N, 4), "
                f"got {tuple(orientations.shape)}"
            )
        check_range(self, "(0, inf]", smoothing=smoothing)
        self.orientations = (
            orientations if orientations is None or orientations.ndim == 3 else orientations[None]
        )
        self.smoothing = float(smoothing)

    def _rest(self, graph: NeighbourGraph) -> _RotatedEdges:
        return _RotatedEdges(graph)

    def energy(self, x: Any) -> Tensor:
        if self.orientations is None or not isinstance(x, tuple) or is_over_time(x):
            return super().energy(x)
        flow, quaternions = first_flow(x, None, repr(self)), x[1]
        if tuple(quaternions.shape) != (*flow.shape[:2], 4):
            raise InputError(
                f"{self!r} takes x as displacements {tuple(flow.shape)} and quaternions "
                f"{(*flow.shape[:2], 4)}, got {tuple(quaternions.shape)}"
            )
        # The rotation since rest, R R_0^T.
        before = rotation_matrices(self.orientations.to(quaternions)).expand(*flow.shape, 3)
        turns = rotation_matrices(quaternions) @ before.transpose(-1, -2)
        return torch.cat(
            [
                self._cost(piece, piece.move(flow[items]), turns[items])
                for piece, items in self._pieces_with_items()
            ]
        )

    def _at(self, x: Any, time: int) -> Any:
        return (
            (x[0][:, time], x.at(time).quats)
            if isinstance(x, Moving) and self.orientations is not None
            else super()._at(x, time)
        )

    def _shared_energy(self, piece: _RotatedEdges, flow: Tensor) -> Tensor:
        edges = piece.move(flow)
        return self._cost(piece, edges, fit_rotation(piece.spread(piece.weights[:, None] * edges)))

    def _cost(self, piece: _RotatedEdges, moved: Tensor, turns: Tensor) -> Tensor:
        """Return the energy ``(batch,)`` of moved edges and rotations.

        The edges are ``(batch, E, 3)`` and the rotations of the points ``(batch, N, 3, 3)``.
        """
        raise NotImplementedError


class LocalRigidity(_RotationPrior):
    """Rigidity of neighbourhoods, measured by the norm of the deviations, not by its square.

    ``R(x) = 1/W sum_ij w_ij |(m'_i - m'_j) - D_i (m_i - m_j)|`` with ``m' = m + displacement`` and
    W the sum of the weights. If x is ``(displacements, quaternions)``, ``(batch, N, 3)`` and
    ``(batch, N, 4)``, ``D_i`` is the rotation of Gaussian i since rest. For displacements alone it
    is the rotation that fits the neighbourhood best (in the squares, as in `ARAP`), and the
    derivative includes it. The corner of the norm is rounded. Distances enter by their modulus
    and not by their square, so few large strains cost less than in `ARAP`. A rigid motion costs
    nothing; a uniform scale c costs ``|c - 1|`` times the weighted mean edge. The energy is not
    convex.

    Source: ``L_rigid`` of Luiten et al., "Dynamic 3D Gaussians", 3DV 2024, with its 20 neighbours.
    Their weights ``exp(-2000 d^2)`` are, as ``sqrt(w)``, ``weights="gaussian", scale=0.0224``
    (metres) here; by default the scale follows the points.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph: settings of the edges, see
            `GraphPrior`.
        orientations: quaternions ``(w, x, y, z)`` at rest, ``(N, 4)`` or ``(batch, N, 4)``; needed
            if x holds quaternions.
        smoothing: smoothing of the corner, in units of the mean edge.

    >>> p = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = LocalRigidity().bind(p)
    >>> bool(prior.energy(torch.ones_like(p)) < 1e-8), bool(prior.energy(0.1 * p) > 1e-3)
    (True, True)
    """

    def _cost(self, piece: _RotatedEdges, moved: Tensor, turns: Tensor) -> Tensor:
        strains = smooth_norm(moved - piece.rotate(turns), self.smoothing * piece.mean_length)
        return (piece.weights * strains).sum(1)


class LocalRotation(_RotationPrior):
    """Penalty on the difference between the rotations of neighbours.

    ``R(x) = 1/W sum_ij w_ij sin(theta_ij / 2)``, theta the angle between the rotations of the
    neighbours i and j. The rotations are those of `LocalRigidity`. ``sin(theta / 2)`` is the
    distance of the two quaternions up to terms of third order, and does not depend on their signs.
    A rigid motion costs nothing, and neither does a uniform scale: the term accompanies `Isometry`
    or `LocalRigidity` and is no prior of its own.

    Source: ``L_rot`` of Luiten et al., "Dynamic 3D Gaussians", 3DV 2024.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph, orientations: see
            `LocalRigidity`.
        smoothing: smoothing of the corner, in sines.
    """

    def _cost(self, piece: _RotatedEdges, moved: Tensor, turns: Tensor) -> Tensor:
        # |R_i - R_j|_F = 8^(1/2) sin(theta / 2).
        sines = smooth_norm(piece.differences(turns.flatten(2)) / 8**0.5, self.smoothing)
        return (piece.weights * sines).sum(1)


class AsIsometricAsPossible(GraphPrior):
    """Penalty on changes of the distances between neighbours' means and covariances.

    ``R(x) = 1/W sum_ij w_ij (lambda_p |a_ij| + lambda_c |b_ij|)`` with the changes of the distances
    ``a_ij = |m'_i - m'_j| - |m_i - m_j|`` and ``b_ij = |S'_i - S'_j| - |S_i - S_j|``.

    Neighbours keep their distance, and so do their covariances S in the Frobenius norm, which a
    rotation does not change (a norm of the six numbers of the upper triangle changes by several per
    cent). x is ``(displacements, covariances)``, ``(batch, N, 3)`` and ``(batch, N, 3, 3)``. For
    displacements alone, or if no covariances at rest are given (`PointWarp`), the covariances are
    those of the neighbourhoods: ``S_i`` is the mean of ``e e^T`` over the edges e of the point i.
    The corners of both moduli are rounded. A rigid motion costs nothing; a uniform scale c costs
    ``lambda_p (c - 1)`` times the mean edge and ``lambda_c (c^2 - 1)`` times the mean distance of
    covariances.

    Source: Qian et al., "3DGS-Avatar", CVPR 2024, with its weights and its 5 neighbours; here a
    point is not a neighbour of itself. Five distances do not hold a body together (see `Isometry`):
    the prior is meant for dense data.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph: settings of the edges, see
            `GraphPrior`.
        covariances: covariances at rest, ``(N, 3, 3)`` or ``(batch, N, 3, 3)``; needed if x holds
            covariances.
        position_weight, covariance_weight: the factors lambda_p and lambda_c.
        smoothing: smoothing of the corners, in units of the mean edge, and of its square.

    >>> p = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = AsIsometricAsPossible().bind(p)
    >>> bool(prior.energy(torch.ones_like(p)) < 1e-5), bool(prior.energy(0.1 * p) > 1e-2)
    (True, True)
    """

    item_fields: ClassVar[tuple[str, ...]] = ("pieces", "covariances")

    def __init__(
        self,
        neighbours: int | None = 5,
        radius: float | None = None,
        labels: Tensor | None = None,
        weights: Weights = "uniform",
        scale: float | None = None,
        symmetric: bool = False,
        graph: Graphs | None = None,
        covariances: Tensor | None = None,
        position_weight: float = 1.0,
        covariance_weight: float = 100.0,
        smoothing: float = 1e-3,
    ) -> None:
        super().__init__(neighbours, radius, labels, weights, scale, symmetric, graph)
        if covariances is not None and (
            covariances.ndim not in (3, 4) or tuple(covariances.shape[-2:]) != (3, 3)
        ):
            raise InputError(
                "covariances at rest have the shape (N, 3, 3) or (batch, N, 3, 3), "
                f"got {tuple(covariances.shape)}"
            )
        check_range(
            self,
            "[0, inf]",
            position_weight=position_weight,
            covariance_weight=covariance_weight,
        )
        check_range(self, "(0, inf]", smoothing=smoothing)
        self.covariances = (
            covariances if covariances is None or covariances.ndim == 4 else covariances[None]
        )
        self.position_weight, self.smoothing = float(position_weight), float(smoothing)
        self.covariance_weight = float(covariance_weight)

    def _rest(self, graph: NeighbourGraph) -> _Neighbourhoods:
        return _Neighbourhoods(graph)

    def energy(self, x: Any) -> Tensor:
        if not isinstance(x, tuple) or self.covariances is None or is_over_time(x):
            return super().energy(x)
        flow, covariances = first_flow(x, None, repr(self)), x[1]
        if tuple(covariances.shape) != (*flow.shape, 3):
            raise InputError(
                f"{self!r} takes x as displacements {tuple(flow.shape)} and covariances "
                f"{(*flow.shape, 3)}, got {tuple(covariances.shape)}"
            )
        rest = self.covariances.to(covariances).expand(covariances.shape)
        return torch.cat(
            [
                self._cost(piece, flow[items], piece.distances(rest[items]), covariances[items])
                for piece, items in self._pieces_with_items()
            ]
        )

    def _at(self, x: Any, time: int) -> Any:
        return (
            (x[0][:, time], x.at(time).covariances)
            if isinstance(x, Moving) and self.covariances is not None
            else super()._at(x, time)
        )

    def _shared_energy(self, piece: _Neighbourhoods, flow: Tensor) -> Tensor:
        return self._cost(piece, flow, piece.spreads, piece.moments(piece.move(flow)))

    def _cost(
        self, piece: _Neighbourhoods, flow: Tensor, before: Tensor, covariances: Tensor
    ) -> Tensor:
        """Return the energy ``(batch,)``.

        ``before`` are the distances of the covariances at rest, ``(batch or 1, E)``.
        """
        length = piece.mean_length
        change = piece.move(flow).norm(dim=2) - piece.lengths
        total = self.position_weight * smooth_norm(change[..., None], self.smoothing * length)
        spread = smooth_norm(
            (piece.distances(covariances) - before)[..., None], self.smoothing * length**2
        )
        return (piece.weights * (total + self.covariance_weight * spread)).sum(1)


class _RotatedEdges(Edges):
    """Graph at rest, with ``sum_j v_ij e_ij^T`` over the edges of a point, and ``R_i e_ij``.

    The second map is the transpose of the first. Both are products with one sparse matrix of the
    edges e at rest, so no tensor of size ``(E, 3, 3)`` is made.
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
        """Return ``sum_j v_ij e_ij^T``: ``(batch, E, 3) -> (batch, N, 3, 3)``."""
        return self.products(vectors).unflatten(1, (len(self), 3)).transpose(2, 3)

    def rotate(self, turns: Tensor) -> Tensor:
        """Return ``R_i e_ij``: ``(batch, N, 3, 3) -> (batch, E, 3)``."""
        return self.products.T(turns.transpose(2, 3).flatten(1, 2))


class _Neighbourhoods(Edges):
    """Graph at rest, with the distances between the second moments of its neighbourhoods."""

    def __init__(self, graph: NeighbourGraph) -> None:
        super().__init__(graph)
        self.degrees = (
            torch.bincount(graph.edges[0], minlength=len(self)).clamp_min(1).to(self.vectors)
        )
        self.spreads = self.distances(self.moments(self.vectors[None]))

    def moments(self, edges: Tensor) -> Tensor:
        """Return the mean of ``e e^T`` over the edges of every point.

        The shapes are ``(batch, E, 3) -> (batch, N, 3, 3)``.
        """
        products = edges[..., :, None] * edges[..., None, :]
        sums = edges.new_zeros(len(edges), len(self), 3, 3).index_add(1, self.edges[0], products)
        return sums / self.degrees[:, None, None]

    def distances(self, covariances: Tensor) -> Tensor:
        """Return the Frobenius distances of neighbours: ``(batch, N, 3, 3) -> (batch, E)``."""
        # The distance of equal covariances is 0, where the norm has a corner.
        tiny = (1e-6 * self.mean_length**2) ** 2
        return (self.differences(covariances.flatten(2)).square().sum(2) + tiny).sqrt()
