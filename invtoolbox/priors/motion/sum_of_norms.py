"""Values of points that fall into few groups: convex clustering."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.core.sparse_graph import connected_components
from invtoolbox.errors import InputError
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.operators.base import LinearOperator
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.images.sparsity import GroupL1


class GraphDifferences(LinearOperator):
    """Weighted differences of the values of neighbours, ``(channel, N) -> (channel, E)``.

    ``(K x)_e = w_e (x_i - x_j)`` for the edge e from i to j.

    Args:
        graph: graph of the N points, with the weights of its E edges.
        channels: number of channels of a value.

    >>> graph = NeighbourGraph.of_points(torch.tensor([[0.0, 0, 0], [1, 0, 0]]), 1)
    >>> GraphDifferences(graph)(torch.tensor([[[5.0, 3.0]]]))
    tensor([[[ 2., -2.]]])
    """

    channelwise = True

    def __init__(self, graph: NeighbourGraph, channels: int = 1) -> None:
        self.graph = graph
        self.domain_shape = (channels, len(graph))
        self.range_shape = (channels, graph.edges.shape[1])

    def _forward(self, x: Tensor) -> Tensor:
        i, j = self.graph.edges
        return self.graph.weights.to(x.dtype) * (x.index_select(-1, i) - x.index_select(-1, j))

    def _adjoint(self, y: Tensor) -> Tensor:
        weighted = self.graph.weights.to(y.dtype) * y
        # The transposed differences of one matrix per item; its sums have a fixed order.
        columns = weighted.flatten(0, 1).T.contiguous()
        return self.graph.differences.T(columns).T.view(*y.shape[:2], -1).contiguous()

    def __repr__(self) -> str:
        return f"GraphDifferences({len(self.graph)} points, {self.range_shape[1]} edges)"


class SumOfNorms(ExplicitPrior):
    r"""Sum of the norms of differences between neighbours, ``R(x) = sum_e w_e |x_i - x_j|_2``.

    The norm is over the channels of a point, and not squared, so that most neighbours get exactly
    equal values: with the values themselves as measurements this is convex clustering (sum-of-norms
    clustering). The number of groups follows from the weight. `groups` returns them.

    Sources: Lindsten, Ohlsson and Ljung, SSP 2011; Hocking, Joulin, Bach and Vert, "Clusterpath",
    ICML 2011.

    Args:
        graph: graph of the points, whose weights are the w. Every edge that it lists counts; a
            symmetric graph lists a pair twice.

    Raises:
        InputError: if the image is not ``(batch, channel, N)``.

    >>> import invtoolbox as it
    >>> points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    >>> prior = SumOfNorms(NeighbourGraph.of_points(points, radius=1.5, neighbours=2))
    >>> values = torch.tensor([[[0.0, 0.2, 5.0, 5.2]]])
    >>> A = it.operators.Identity((1, 4))
    >>> x = it.solve(it.Problem(values, A), prior, regularization=0.2, progress=False).x
    >>> prior.groups(x, 0.05)
    tensor([[0, 0, 1, 1]])
    """

    is_convex = True
    is_smooth = False

    def __init__(self, graph: NeighbourGraph) -> None:
        self.graph = graph

    def energy(self, x: Tensor) -> Tensor:
        return GroupL1().energy(self._differences(x)(x))

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        return GraphDifferences(self.graph), GroupL1()

    def groups(self, x: Tensor, tolerance: float) -> Tensor:
        """Return the number of the group of each point, int64 ``(batch, N)``.

        Points belong together if a chain of neighbours connects them whose values differ by at most
        the tolerance.

        Args:
            x: values, ``(batch, channel, N)``.
            tolerance: largest difference, in the unit of the values.
        """
        self._differences(x)
        edges = self.graph.edges
        jumps = (x[..., edges[0]] - x[..., edges[1]]).norm(dim=1)
        return torch.stack(
            [connected_components(edges[:, jump <= tolerance], len(self.graph)) for jump in jumps]
        )

    def _differences(self, x: Tensor) -> GraphDifferences:
        if x.ndim != 3 or x.shape[2] != len(self.graph):
            raise InputError(
                f"SumOfNorms of {len(self.graph)} points takes values (batch, channel, "
                f"{len(self.graph)}), got {tuple(x.shape)}"
            )
        return GraphDifferences(self.graph, x.shape[1])

    def __repr__(self) -> str:
        return f"SumOfNorms({len(self.graph)} points, {self.graph.edges.shape[1]} edges)"
