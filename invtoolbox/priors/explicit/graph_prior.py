"""What priors of rigidity have in common: a graph of neighbours, made of the points of a problem or given."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.explicit.flow_prior import FlowPrior
from invtoolbox.priors.flow_points import labels_of
from invtoolbox.scenes.neighbour_graph import NeighbourGraph, Weights

if TYPE_CHECKING:
    from invtoolbox.problem import Problem

#: One graph for every item, or one an item.
Graphs = NeighbourGraph | tuple[NeighbourGraph, ...]


class GraphPrior(FlowPrior):
    """A prior of the flow of points, ``(batch, N, 3)``, or of a grid's voxels, ``(batch, 3, *space)``, along the edges of a
    `NeighbourGraph`.

    Args:
        neighbours: of every point; None takes all within the radius.
        radius: neighbours further away are left out, in the unit of the points.
        labels: whole numbers, ``(N,)`` or ``(batch, N)``; edges stay within a label, and points of a negative one are free.
        weights: of the edges, ``"uniform"`` or ``"gaussian"`` with the standard deviation ``scale`` (the median length of
            the edges where not given).
        scale: see there.
        symmetric: whether a neighbour of a point has that point as its neighbour too.
        graph: what neighbours whom, in place of all of the above; its positions are the points at rest. A tuple of graphs: one an item.
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
        self.neighbours, self.radius, self.labels, self.weights_of_edges = (
            neighbours,
            radius,
            labels,
            weights,
        )
        self.scale, self.symmetric = scale, symmetric
        self.graphs = () if graph is None else graph if isinstance(graph, tuple) else (graph,)
        if graph is not None and labels is not None:
            raise InputError(f"{type(self).__name__} takes a graph= or labels= for one, not both")

    @abstractmethod
    def _rest(self, graph: NeighbourGraph) -> Any:
        """What is kept of an item's points at rest: something with a length of N."""

    def prepare(self, problem: Problem, solve: Any) -> Self:
        if self.graphs and getattr(problem.operator, "points", None) is None:
            return self.bind(
                torch.stack([graph.positions.to(problem.first) for graph in self.graphs])
            )
        return super().prepare(problem, solve)

    def _own_items(self) -> int:
        return max(super()._own_items(), len(self.graphs))

    def _piece(self, points: Tensor, item: int) -> Any:
        if self.graphs:
            if len(self.graphs) > 1 and item >= len(self.graphs):
                raise InputError(
                    f"{type(self).__name__} has graphs of {len(self.graphs)} items, and the problem moves more"
                )
            graph = self.graphs[item if len(self.graphs) > 1 else 0]
            if len(graph) != len(points):
                raise InputError(
                    f"the graph of {type(self).__name__} has {len(graph)} points, and the problem moves {len(points)}"
                )
            return self._rest(graph.to(points.device).to(points.dtype))
        return self._rest(
            NeighbourGraph.of_points(
                points,
                self.neighbours,
                self.radius,
                labels_of(self.labels, item),
                self.weights_of_edges,
                self.scale,
                self.symmetric,
            )
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({'graph' if self.graphs else f'neighbours={self.neighbours}'})"
        )
