"""As rigid as possible: neighbouring points turn and move together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.kernels.rotations import Neighbourhoods
from invtoolbox.priors.explicit.graph_prior import GraphPrior
from invtoolbox.priors.flow_points import first_flow, like_points
from invtoolbox.priors.majoriser import Springs
from invtoolbox.scenes.neighbour_graph import NeighbourGraph


class _Rest(Neighbourhoods):
    """The neighbourhoods of a graph at rest, whose weights add up to 1."""

    def __init__(self, graph: NeighbourGraph) -> None:
        super().__init__(
            graph.edges,
            graph.weights / graph.weights.sum().clamp_min(1e-30),
            graph.vectors,
            len(graph),
        )

    def __len__(self) -> int:
        return self.count


class ARAP(GraphPrior):
    r"""``R(x) = 1/W sum_ij w_ij |(p'_i - p'_j) - R_i (p_i - p_j)|^2``, ``p' = p + x``, W the sum of the weights.

    The mean over the edges of a graph of neighbours, in square metres: its root is by how much a neighbour strays, as a rule,
    from where the turning of the neighbourhood would take it. ``R_i`` is the rotation that fits the neighbourhood of i best,
    so a rigid motion costs nothing, be it large; stretching, shearing and tearing do: a uniform scale s costs ``(s - 1)^2`` times the
    mean square of the edges. The gradient is exact with ``R_i`` held fixed, since it is a minimum over ``R_i``. Not convex.

    With ``R_i`` held fixed it is a quadratic that lies above and touches: minimising this and finding the rotations anew are the
    global and the local step of the paper, which `solvers.LocalGlobal` alternates.

    Source: Sorkine and Alexa, "As-rigid-as-possible surface modeling", SGP 2007. The control nodes of SC-GS (Huang et al., CVPR 2024)
    are moved by the same energy with uniform weights and 10 neighbours, the default here.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph: the edges; see `GraphPrior`. For meshes give
            ``graph=NeighbourGraph.of_mesh(vertices, faces)``, for displacements of voxels ``graph=NeighbourGraph.of_grid(shape, ...)``.
            With the paper's signed cotangents, ``of_mesh(..., "cotangent")``, the energy is negative for some shapes of a mesh with
            obtuse triangles, and least for one of these, not for that at rest.

    >>> import invtoolbox as it
    >>> p = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = it.priors.ARAP(neighbours=6).bind(p)
    >>> from invtoolbox.scenes.rigid import rotation
    >>> turn = rotation(torch.tensor([0.0, 0.0, 1.0]))
    >>> bool(prior.energy(p @ turn.T + 5 - p) < 1e-10), bool(prior.energy(0.1 * p) > 1e-4)
    (True, True)
    """

    majoriser_is_fixed = True

    def _rest(self, graph: NeighbourGraph) -> _Rest:
        return _Rest(graph)

    def _item_energy(self, piece: _Rest, flow: Tensor) -> Tensor:
        return piece.energy(flow[None])[0]

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

    def majoriser(self, x: Any) -> Springs:
        edges = tuple(torch.stack([piece.owners, piece.neighbours]).long() for piece in self.pieces)
        return Springs(edges, tuple(2 * piece.weights for piece in self.pieces))
