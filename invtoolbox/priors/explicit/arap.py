"""As rigid as possible: neighbouring points turn and move together."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.sparse_product import SparseProduct
from invtoolbox.priors.explicit.flow_prior import FlowPrior
from invtoolbox.priors.flow_points import labels_of
from invtoolbox.scenes.best_rotation import best_rotation
from invtoolbox.scenes.neighbour_graph import NeighbourGraph, Weights
from invtoolbox.settings import Settings


class _Rest(Settings):
    """A graph at rest, and what does not change while its points move."""

    def __init__(self, graph: NeighbourGraph) -> None:
        edges, n = graph.vectors, len(graph)
        ends = torch.arange(len(edges), device=edges.device).repeat_interleave(3)
        place = (3 * graph.edges[0][:, None] + torch.arange(3, device=edges.device)).flatten()
        self.count, self.differences = n, graph.differences
        #: One 3 by 3 matrix a point, transposed and stacked, to the edges it turns, ``M_i e_ij``: ``(3 N, 3) -> (E, 3)``.
        self.turned = SparseProduct(ends, place, edges.flatten(), (len(edges), 3 * n))
        self.weights = (graph.weights / graph.weights.sum().clamp_min(1e-30))[:, None]
        self.spread = self.turned.T(self.weights * edges)

    def __len__(self) -> int:
        return self.count


class ARAP(FlowPrior):
    r"""``R(x) = 1/W sum_ij w_ij |(p'_i - p'_j) - R_i (p_i - p_j)|^2``, ``p' = p + x``, W the sum of the weights.

    The mean over the edges of a graph of neighbours, in square metres: its root is by how much a neighbour strays, as a rule,
    from where the turning of the neighbourhood would take it. ``R_i`` is the rotation that fits the neighbourhood of i best,
    so a rigid motion costs nothing, be it large; stretching, shearing and tearing do. The gradient is exact with ``R_i`` held
    fixed, since it is a minimum over ``R_i``. Not convex.

    Source: Sorkine and Alexa, "As-rigid-as-possible surface modeling", SGP 2007.

    Args:
        neighbours: of every point; None takes all within the radius.
        radius: neighbours further away are left out; metres.
        labels: whole numbers, ``(N,)`` or ``(batch, N)``; edges stay within a label, and points of a negative one are free.
        weights: of the edges, ``"uniform"`` or ``"gaussian"`` with the standard deviation ``scale`` (the median length of
            the edges where not given).
        scale: see there; metres.
        symmetric: whether a neighbour of a point has that point as its neighbour too.
        graph: what neighbours whom, in place of all of the above; its positions are the points at rest.

    >>> import invtoolbox as it
    >>> p = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = it.priors.ARAP(neighbours=6).bind(p)
    >>> from invtoolbox.scenes.rigid import rotation
    >>> turn = rotation(torch.tensor([0.0, 0.0, 1.0]))
    >>> bool(prior.energy(p @ turn.T + 5 - p) < 1e-10), bool(prior.energy(0.1 * p) > 1e-4)
    (True, True)
    """

    def __init__(self, neighbours: int | None = 10, radius: float | None = None, labels: Tensor | None = None,
                 weights: Weights = "uniform", scale: float | None = None, symmetric: bool = False,
                 graph: NeighbourGraph | None = None) -> None:
        super().__init__()
        self.neighbours, self.radius, self.labels, self.weights_of_edges = neighbours, radius, labels, weights
        self.scale, self.symmetric, self.graph = scale, symmetric, graph
        if graph is not None and labels is not None:
            raise InputError("ARAP takes a graph= or labels= for one, not both")

    def _piece(self, points: Tensor, item: int) -> _Rest:
        if self.graph is not None:
            if len(self.graph) != len(points):
                raise InputError(f"the graph of ARAP has {len(self.graph)} points, and the problem moves {len(points)}")
            return _Rest(self.graph.to(points.device).to(points.dtype))
        return _Rest(NeighbourGraph.of_points(points, self.neighbours, self.radius, labels_of(self.labels, item), self.weights_of_edges,
                                              self.scale, self.symmetric))

    def _item_energy(self, piece: _Rest, flow: Tensor) -> Tensor:
        change = piece.differences(flow)  # of the edges
        with torch.no_grad():
            # S_i = sum_j w_ij (p'_i - p'_j) (p_i - p_j)^T, transposed and stacked.
            moved = (piece.spread + piece.turned.T(piece.weights * change)).view(-1, 3, 3)
            turn = best_rotation(moved.transpose(1, 2)) - torch.eye(3, dtype=flow.dtype, device=flow.device)
            expected = piece.turned(turn.transpose(1, 2).reshape(-1, 3))
        return (piece.weights * (change - expected).square()).sum()

    def __repr__(self) -> str:
        return "ARAP(graph)" if self.graph is not None else f"ARAP(neighbours={self.neighbours})"
