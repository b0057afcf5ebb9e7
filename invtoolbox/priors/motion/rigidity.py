"""Priors of rigidity on a graph of neighbours.

`ARAP` (as rigid as possible) favors neighbourhoods that rotate and move as one, and `Isometry` keeps
the distances between neighbours. `GraphPrior` is their base class: its graph is given, or made of
the points of the problem.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.geometry.displacements import like_points
from invtoolbox.geometry.neighbour_graph import NeighbourGraph, Weights
from invtoolbox.kernels.points.rotations import Neighbourhoods
from invtoolbox.priors.base import Problem
from invtoolbox.priors.majorizer import Springs
from invtoolbox.priors.motion.flow_prior import FlowPrior, first_flow, labels_of, smooth_norm

#: One graph for every item, or a tuple with one graph per item.
Graphs = NeighbourGraph | tuple[NeighbourGraph, ...]


class GraphPrior(FlowPrior):
    """Base class of priors of a flow along the edges of a `NeighbourGraph`.

    The flow is one of points, ``(batch, N, 3)``, or of the voxels of a grid,
    ``(batch, 3, *space)``.

    Args:
        neighbours: number of neighbours of every point; None takes all within the radius.
        radius: distance beyond which neighbours are left out, in the unit of the points.
        labels: whole numbers, ``(N,)`` or ``(batch, N)``; edges stay within a label, and points of
            a negative label are free.
        weights: weights of the edges, ``"uniform"`` or ``"gaussian"`` with the standard deviation
            ``scale``.
        scale: standard deviation of Gaussian weights; the median length of the edges by default.
        symmetric: whether a neighbour of a point has that point as its neighbour too.
        graph: graph that replaces all of the above; its positions are the points at rest. A tuple
            holds one graph per item.
    """

    def __init__(
        self,
        neighbours: int | None = 10,
        radius: float | None = None,
        labels: Tensor | None = None,
        weights: Weights = "uniform",
        scale: float | None = None,
        symmetric: bool = False,
        graph: Graphs | None = None,
    ) -> None:
        super().__init__()
        self.neighbours, self.radius, self.labels = neighbours, radius, labels
        self.weights_of_edges, self.scale, self.symmetric = weights, scale, symmetric
        self.graphs = () if graph is None else graph if isinstance(graph, tuple) else (graph,)
        if graph is not None and labels is not None:
            raise InputError(f"{type(self).__name__} takes graph= or labels=, not both")

    @abstractmethod
    def _rest(self, graph: NeighbourGraph) -> Any:
        """Return the data that is kept of an item's points at rest, an object of length N."""

    def prepare(self, problem: Problem, solve: Any) -> Self:
        if self.graphs and getattr(problem.operator, "points", None) is None:
            return self.bind(torch.stack([graph.positions.to(problem.y0) for graph in self.graphs]))
        return super().prepare(problem, solve)

    def _item_energy(self, piece: Any, flow: Tensor) -> Tensor:
        return self._shared_energy(piece, flow[None])[0]

    def _own_items(self) -> int:
        return max(super()._own_items(), len(self.graphs))

    def _piece(self, points: Tensor, item: int) -> Any:
        if self.graphs:
            if len(self.graphs) > 1 and item >= len(self.graphs):
                raise InputError(
                    f"{type(self).__name__} has graphs of {len(self.graphs)} items, "
                    "and the problem moves more"
                )
            graph = self.graphs[item if len(self.graphs) > 1 else 0]
            if len(graph) != len(points):
                raise InputError(
                    f"the graph of {type(self).__name__} has {len(graph)} points, "
                    f"and the problem moves {len(points)}"
                )
            return self._rest(graph.to(points.device).to(points.dtype))
        return self._rest(
            NeighbourGraph.of_points(
                points,
                neighbours=self.neighbours,
                radius=self.radius,
                labels=labels_of(self.labels, item),
                weights=self.weights_of_edges,
                scale=self.scale,
                symmetric=self.symmetric,
            )
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({'graph' if self.graphs else f'neighbours={self.neighbours}'})"
        )


class ARAP(GraphPrior):
    """As-rigid-as-possible energy of a flow x, a mean over the edges of a graph of neighbours.

    ``R(x) = 1/W sum_ij w_ij |(p'_i - p'_j) - R_i (p_i - p_j)|^2`` with ``p' = p + x`` and W the sum
    of the weights, in square metres. The root of R is the usual distance between a neighbour and
    the place to which the rotation of the neighbourhood would take it. ``R_i`` is the rotation that
    fits the neighbourhood of i best. So a rigid motion of any size costs nothing; stretching,
    shearing and tearing cost: a uniform scale s costs ``(s - 1)^2`` times the mean square of the
    edges. The gradient with ``R_i`` held fixed is exact, because the energy is a minimum over
    ``R_i``. The energy is not convex. The rims of a mesh have the rotation of the opposite vertex
    in place of ``R_i``.

    With ``R_i`` held fixed the energy is a quadratic that lies above R and touches it. Minimizing
    this quadratic and finding the rotations anew are the global and the local step of the paper,
    which `solvers.LocalGlobal` alternates.

    Source: Sorkine and Alexa, "As-rigid-as-possible surface modeling", SGP 2007. The control nodes
    of SC-GS (Huang et al., CVPR 2024) are moved by the same energy with uniform weights and 10
    neighbours, the default here.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph: settings of the edges, see
            `GraphPrior`. For meshes give ``graph=NeighbourGraph.of_mesh(vertices, faces,
            "spokes-and-rims")`` or ``"clamped"``, for displacements of voxels
            ``graph=NeighbourGraph.of_grid(shape, ...)``. With the paper's signed cotangents,
            ``of_mesh(..., "cotangent")``, the energy is negative for some shapes of a mesh with
            obtuse triangles, and is least for one of these shapes, not for the shape at rest.

    >>> import invtoolbox as it
    >>> p = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = it.priors.ARAP(neighbours=6).bind(p)
    >>> from invtoolbox.geometry.rigid import rotation
    >>> turn = rotation(torch.tensor([0.0, 0.0, 1.0]))
    >>> bool(prior.energy(p @ turn.T + 5 - p) < 1e-10), bool(prior.energy(0.1 * p) > 1e-4)
    (True, True)
    """

    majorizer_is_fixed = True

    def _rest(self, graph: NeighbourGraph) -> _Rest:
        return _Rest(graph)

    def _shared_energy(self, piece: _Rest, flow: Tensor) -> Tensor:
        return piece.energy(flow)

    def energy_and_gradient(
        self, x: Any, generator: Generator | None = None
    ) -> tuple[Tensor | None, Tensor]:
        if not isinstance(x, Tensor) or len(self.pieces) != 1:
            return super().energy_and_gradient(x, generator)
        flow = first_flow(x, len(self.pieces[0]), repr(self))
        turns, energies = self.pieces[0].fit(flow)
        return energies.sum(1).to(flow.dtype), like_points(2 * self.pieces[0].pull(flow, turns), x)

    def majorizer(self, x: Any) -> Springs:
        return Springs(
            tuple(torch.stack([piece.tails, piece.heads]).long() for piece in self.pieces),
            tuple(2 * piece.weights for piece in self.pieces),
            tuple(piece.lengths for piece in self.pieces),
        )


class Isometry(GraphPrior):
    """Penalty on changes of the distances between neighbours.

    ``R(x) = 1/W sum_ij w_ij rho(|p'_i - p'_j| - |p_i - p_j|)`` with ``p' = p + x`` and W the sum of
    the weights. ``rho(t) = t^2`` (``norm="l2"``), or ``|t|`` (``"l1"``) with its corner rounded,
    ``sqrt(t^2 + s^2) - s``. A rigid motion costs nothing, and neither does a reflection; a uniform
    scale c costs the mean of ``rho((c - 1) |p_i - p_j|)``. Distances to few neighbours leave a body
    floppy: in space a point needs at least six independent distances (Maxwell's count), so the
    default is 20. The energy is not convex.

    Source: ``L_iso`` of Luiten et al., "Dynamic 3D Gaussians", 3DV 2024, which uses ``norm="l1"``,
    20 neighbours and Gaussian weights.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph: settings of the edges, see
            `GraphPrior`.
        norm: norm of the change, ``"l1"`` or ``"l2"``.
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
        check_choice(self, ("l1", "l2"), norm=norm)
        check_range(self, "(0, inf]", smoothing=smoothing)
        self.norm, self.smoothing = norm, float(smoothing)
        self.majorizer_is_fixed = norm == "l2"

    def _rest(self, graph: NeighbourGraph) -> Edges:
        return Edges(graph)

    def _shared_energy(self, piece: Edges, flow: Tensor) -> Tensor:
        change = piece.move(flow).norm(dim=2) - piece.lengths
        cost = (
            change.square()
            if self.norm == "l2"
            else smooth_norm(change[..., None], self.smoothing * piece.mean_length)
        )
        return (piece.weights * cost).sum(1)

    def majorizer(self, x: Any) -> Springs:
        """Return the springs of a quadratic above the energy, in which edges keep their direction.

        ``(|e'| - |e|)^2 <= |e' - |e| u|^2`` holds for every unit vector u.
        """
        edges = tuple(piece.edges for piece in self.pieces)
        lengths = tuple(piece.lengths for piece in self.pieces)
        if self.norm == "l2":
            return Springs(edges, tuple(2 * piece.weights for piece in self.pieces), lengths)
        flow, shared = first_flow(x, None, repr(self)).detach(), len(self.pieces) == 1
        strengths = []
        for k, piece in enumerate(self.pieces):
            change = piece.move(flow if shared else flow[k : k + 1]).norm(dim=2) - piece.lengths
            # sqrt(t^2 + s^2) is concave in t^2, so its tangent lies above it: rho'(t) / t.
            strength = (
                piece.weights / (change.square() + (self.smoothing * piece.mean_length) ** 2).sqrt()
            )
            strengths.append(strength if shared else strength[0])
        return Springs(edges, tuple(strengths), lengths)

    def __repr__(self) -> str:
        return super().__repr__()[:-1] + f", norm={self.norm!r})"


class Edges(Settings):
    """Graph at rest: its edges with their lengths, and weights whose sum is 1."""

    def __init__(self, graph: NeighbourGraph) -> None:
        self.count, self.edges, self.vectors = len(graph), graph.edges, graph.vectors
        self.lengths = self.vectors.norm(dim=1)
        self.weights = edge_shares(graph)
        self.mean_length = self.lengths.mean() if len(self.lengths) else self.lengths.new_ones(())
        # A product with a fixed matrix: the derivative of index_select adds edge by edge, which
        # would take most of the time of a gradient.
        self.differences = graph.differences

    def __len__(self) -> int:
        return self.count

    def move(self, flow: Tensor) -> Tensor:
        """Return the edges ``(batch, E, 3)`` of points moved by a flow ``(batch, N, 3)``."""
        return self.vectors + self.differences(flow)


class _Rest(Neighbourhoods):
    """Neighbourhoods of a graph at rest, with weights whose sum is 1."""

    def __init__(self, graph: NeighbourGraph) -> None:
        super().__init__(graph.edges, edge_shares(graph), graph.vectors, len(graph), graph.owners)
        self.lengths = self.vectors.norm(dim=1)

    def __len__(self) -> int:
        return self.count


def edge_shares(graph: NeighbourGraph) -> Tensor:
    """Return the weights of the edges over their sum, which makes energies means over edges."""
    return graph.weights / graph.weights.sum().clamp_min(1e-30)
