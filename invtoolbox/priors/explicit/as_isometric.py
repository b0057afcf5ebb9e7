"""As isometric as possible, on the means and the covariances of Gaussians."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.explicit.flow_prior import is_over_time, smoothed_norm
from invtoolbox.priors.explicit.graph_prior import GraphPrior, Graphs
from invtoolbox.priors.explicit.isometry import Edges
from invtoolbox.priors.flow_points import first_flow
from invtoolbox.scenes.moving import Moving
from invtoolbox.scenes.neighbour_graph import NeighbourGraph, Weights


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
        return self._cost(piece, flow, piece.spreads, piece.moments(piece.moved(flow)))

    def _cost(
        self, piece: _Neighbourhoods, flow: Tensor, before: Tensor, covariances: Tensor
    ) -> Tensor:
        """The energy ``(batch,)``; ``before`` are the distances of the covariances at rest, ``(batch or 1, E)``."""
        length = piece.mean_length
        change = piece.moved(flow).norm(dim=2) - piece.lengths
        total = self.position_weight * smoothed_norm(change[..., None], self.smoothing * length)
        spread = smoothed_norm(
            (piece.distances(covariances) - before)[..., None], self.smoothing * length**2
        )
        return (piece.weights * (total + self.covariance_weight * spread)).sum(1)
