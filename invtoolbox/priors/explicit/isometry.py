"""Isometry: the distances between neighbours stay what they are."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.priors.explicit.flow_prior import smoothed_norm
from invtoolbox.priors.explicit.graph_prior import GraphPrior, Graphs
from invtoolbox.priors.flow_points import first_flow
from invtoolbox.priors.majoriser import Springs
from invtoolbox.scenes.neighbour_graph import NeighbourGraph, Weights
from invtoolbox.settings import Settings


class Edges(Settings):
    """A graph at rest: its edges with their lengths, and weights that add up to 1."""

    def __init__(self, graph: NeighbourGraph) -> None:
        self.count, self.edges, self.vectors = len(graph), graph.edges, graph.vectors
        self.lengths = self.vectors.norm(dim=1)
        self.weights = graph.weights / graph.weights.sum().clamp_min(1e-30)
        self.mean_length = self.lengths.mean() if len(self.lengths) else self.lengths.new_ones(())
        # A product with a fixed matrix and not index_select, whose derivative adds edge by edge: most of the time of a gradient.
        self.differences = graph.differences

    def __len__(self) -> int:
        return self.count

    def moved(self, flow: Tensor) -> Tensor:
        """The edges ``(batch, E, 3)`` of points that have moved by a flow ``(batch, N, 3)``."""
        return self.vectors + self.differences(flow)


class Isometry(GraphPrior):
    r"""``R(x) = 1/W sum_ij w_ij rho(|p'_i - p'_j| - |p_i - p_j|)``, ``p' = p + x``, W the sum of the weights.

    ``rho(t) = t^2`` (``norm="l2"``), or ``|t|`` (``"l1"``) with its corner rounded, ``sqrt(t^2 + s^2) - s``. A rigid motion costs
    nothing, and
    neither does a reflection; a uniform scale c costs the mean of ``rho((c - 1) |p_i - p_j|)``. Distances to few neighbours leave a
    body floppy: in space a point needs at least six independent ones (Maxwell's count), so 20 are the default. Not convex.

    Source: ``L_iso`` of Luiten et al., "Dynamic 3D Gaussians", 3DV 2024, where ``norm="l1"``, 20 neighbours and Gaussian weights are used.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph: the edges; see `GraphPrior`.
        norm: see above.
        smoothing: s, in units of the mean length of the edges.

    >>> import torch
    >>> p = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = Isometry().bind(p)
    >>> bool(prior.energy(torch.ones_like(p)) < 1e-10), bool(prior.energy(0.1 * p) > 1e-4)
    (True, True)
    """

    def __init__(
        self,
        neighbours: int | None = 20,
        radius: float | None = None,
        labels: Tensor | None = None,
        weights: Weights = "uniform",
        scale: float | None = None,
        symmetric: bool = False,
        graph: Graphs | None = None,
        norm: Literal["l1", "l2"] = "l2",
        smoothing: float = 1e-3,
    ) -> None:
        super().__init__(neighbours, radius, labels, weights, scale, symmetric, graph)
        if norm not in ("l1", "l2"):
            raise unknown_name("norm", norm, ("l1", "l2"))
        if not smoothing > 0:
            raise InputError(f"the smoothing of {type(self).__name__} is positive, got {smoothing}")
        self.norm, self.smoothing = norm, float(smoothing)
        self.majoriser_is_fixed = norm == "l2"

    def _rest(self, graph: NeighbourGraph) -> Edges:
        return Edges(graph)

    def _item_energy(self, piece: Edges, flow: Tensor) -> Tensor:
        return self._shared_energy(piece, flow[None])[0]

    def _shared_energy(self, piece: Edges, flow: Tensor) -> Tensor:
        change = piece.moved(flow).norm(dim=2) - piece.lengths
        cost = (
            change.square()
            if self.norm == "l2"
            else smoothed_norm(change[..., None], self.smoothing * piece.mean_length)
        )
        return (piece.weights * cost).sum(1)

    def majoriser(self, x: Any) -> Springs:
        """An edge goes on in the direction that it has: ``(|e'| - |e|)^2 <= |e' - |e| u|^2`` for every unit vector u."""
        edges = tuple(piece.edges for piece in self.pieces)
        if self.norm == "l2":
            return Springs(edges, tuple(2 * piece.weights for piece in self.pieces))
        flow, shared = first_flow(x, None, repr(self)).detach(), len(self.pieces) == 1
        strengths = []
        for k, piece in enumerate(self.pieces):
            change = piece.moved(flow if shared else flow[k : k + 1]).norm(dim=2) - piece.lengths
            strength = (
                piece.weights / (change.square() + (self.smoothing * piece.mean_length) ** 2).sqrt()
            )
            strengths.append(strength if shared else strength[0])
        return Springs(edges, tuple(strengths))

    def __repr__(self) -> str:
        return super().__repr__()[:-1] + f", norm={self.norm!r})"
