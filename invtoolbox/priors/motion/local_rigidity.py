"""Local rigidity and local rotation: neighbours move as the turning of a point says, and turn as it does.

As isometric as possible, on the means and the covariances of Gaussians.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.moving_shapes import Moving
from invtoolbox.geometry.neighbour_graph import NeighbourGraph, Weights
from invtoolbox.geometry.rotations import fit_rotation, rotation_matrices
from invtoolbox.kernels.points.sparse_product import SparseProduct
from invtoolbox.priors.motion.flow_prior import first_flow, is_over_time, smoothed_norm
from invtoolbox.priors.motion.rigidity import Edges, GraphPrior, Graphs


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

    def rotate(self, turns: Tensor) -> Tensor:
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
            [self._cost(piece, piece.move(flow[items]), turns[items]) for piece, items in groups]
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
        moved = piece.move(flow)
        return self._cost(
            piece, moved, fit_rotation(piece.spread(piece.weights[:, None] * moved))
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
            * smoothed_norm(moved - piece.rotate(turns), self.smoothing * piece.mean_length)
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


class _Neighbourhoods(Edges):
    """A graph at rest, with the distances between the second moments of its neighbourhoods."""

    def __init__(self, graph: NeighbourGraph) -> None:
        super().__init__(graph)
        self.degrees = (
            torch.bincount(graph.edges[0], minlength=len(self)).clamp_min(1).to(self.vectors)
        )
        self.spreads = self.distances(self.moments(self.vectors[None]))

    def moments(self, edges: Tensor) -> Tensor:
        """The mean of ``e e^T`` over the edges of every point: ``(batch, E, 3) -> (batch, N, 3, 3)``."""
        products = edges[..., :, None] * edges[..., None, :]
        sums = edges.new_zeros(len(edges), len(self), 3, 3).index_add(1, self.edges[0], products)
        return sums / self.degrees[:, None, None]

    def distances(self, covariances: Tensor) -> Tensor:
        """Between those of neighbours, in the Frobenius norm: ``(batch, N, 3, 3) -> (batch, E)``."""
        # That of equal covariances is 0, where the norm has a corner.
        tiny = (1e-6 * self.mean_length**2) ** 2
        return (self.differences(covariances.flatten(2)).square().sum(2) + tiny).sqrt()


class AsIsometricAsPossible(GraphPrior):
    r"""``R(x) = 1/W sum_ij w_ij (lambda_p | |m'_i - m'_j| - |m_i - m_j| | + lambda_c | |S'_i - S'_j| - |S_i - S_j| |)``.

    Neighbours keep their distance, and so do their covariances S in the Frobenius norm, which a rotation does not change (a norm of
    the six numbers of the upper triangle changes by several per cent). x is ``(displacements, covariances)``, ``(batch, N, 3)`` and
    ``(batch, N, 3, 3)``. Of displacements alone, or with more than Gaussians know (`PointWarp`), the covariances are those
    of the neighbourhoods: ``S_i`` is the mean of ``e e^T`` over the edges e of the point i. The corners of both moduli are rounded.
    A rigid motion costs nothing; a uniform scale c costs ``lambda_p (c - 1)`` times the mean edge and ``lambda_c (c^2 - 1)`` times the mean
    distance of covariances.

    Source: Qian et al., "3DGS-Avatar", CVPR 2024, with its weights and its 5 neighbours; a point is none of its own. Five distances hold
    no body together (see `Isometry`): it is meant for dense data.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph: the edges; see `GraphPrior`.
        covariances: at rest, ``(N, 3, 3)`` or ``(batch, N, 3, 3)``; needed where x holds covariances.
        position_weight, covariance_weight: the lambdas.
        smoothing: of the corners, in units of the mean edge, and of its square.

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
                f"covariances at rest have the shape (N, 3, 3) or (batch, N, 3, 3), got {tuple(covariances.shape)}"
            )
        if not (position_weight >= 0 and covariance_weight >= 0 and smoothing > 0):
            raise InputError(
                "AsIsometricAsPossible takes weights that are not negative and a positive smoothing, got "
                f"{position_weight}, {covariance_weight} and {smoothing}"
            )
        self.covariances = (
            covariances if covariances is None or covariances.ndim == 4 else covariances[None]
        )
        self.position_weight, self.covariance_weight, self.smoothing = (
            float(position_weight),
            float(covariance_weight),
            float(smoothing),
        )

    def _rest(self, graph: NeighbourGraph) -> _Neighbourhoods:
        return _Neighbourhoods(graph)

    def energy(self, x: Any) -> Tensor:
        if not isinstance(x, tuple) or self.covariances is None or is_over_time(x):
            return super().energy(x)
        flow, covariances = first_flow(x, None, repr(self)), x[1]
        if tuple(covariances.shape) != (*flow.shape, 3):
            raise InputError(
                f"{self!r} takes x as displacements {tuple(flow.shape)} and covariances {(*flow.shape, 3)}, "
                f"got {tuple(covariances.shape)}"
            )
        rest = self.covariances.to(covariances).expand(covariances.shape)
        shared = len(self.pieces) == 1
        groups = (
            [(self.pieces[0], slice(None))]
            if shared
            else [(piece, slice(k, k + 1)) for k, piece in enumerate(self.pieces)]
        )
        return torch.cat(
            [
                self._cost(piece, flow[items], piece.distances(rest[items]), covariances[items])
                for piece, items in groups
            ]
        )

    def _at(self, x: Any, time: int) -> Any:
        return (
            (x[0][:, time], x.at(time).covariances)
            if isinstance(x, Moving) and self.covariances is not None
            else super()._at(x, time)
        )

    def _item_energy(self, piece: _Neighbourhoods, flow: Tensor) -> Tensor:
        return self._shared_energy(piece, flow[None])[0]

    def _shared_energy(self, piece: _Neighbourhoods, flow: Tensor) -> Tensor:
        return self._cost(piece, flow, piece.spreads, piece.moments(piece.move(flow)))

    def _cost(
        self, piece: _Neighbourhoods, flow: Tensor, before: Tensor, covariances: Tensor
    ) -> Tensor:
        """The energy ``(batch,)``; ``before`` are the distances of the covariances at rest, ``(batch or 1, E)``."""
        length = piece.mean_length
        change = piece.move(flow).norm(dim=2) - piece.lengths
        total = self.position_weight * smoothed_norm(change[..., None], self.smoothing * length)
        spread = smoothed_norm(
            (piece.distances(covariances) - before)[..., None], self.smoothing * length**2
        )
        return (piece.weights * (total + self.covariance_weight * spread)).sum(1)
