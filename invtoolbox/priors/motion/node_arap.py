"""As-rigid-as-possible energy from one time to the next, for the control nodes of a deformation."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.geometry.rotations import best_rotation
from invtoolbox.kernels.points.rotations import Neighbourhoods
from invtoolbox.priors.base import Problem
from invtoolbox.priors.majorizer import Majorizer
from invtoolbox.priors.motion.rigidity import GraphPrior, edge_shares
from invtoolbox.priors.settings import require_bound


class NodeARAP(GraphPrior):
    """As-rigid-as-possible energy between consecutive times.

    ``R(x) = 1/((T-1) W) sum_t sum_ij w_ij |e^{t+1}_ij - R^t_i e^t_ij|^2`` with the edges
    ``e^t_ij = p^t_i - p^t_j`` of the positions ``p^t = p + x^t``, x of shape ``(batch, T, N, 3)``.

    It is `ARAP` with the previous time as the state at rest: the body may change a little at a
    time, and its rotation is free. ``R^t_i`` is the rotation that fits best. It is held fixed in
    the derivative, which is exact. A motion that is rigid at every time costs nothing; a body that
    grows by a factor c per step costs ``(c - 1)^2`` times the mean square of its edges at each
    step.

    Source: the loss on the control nodes of Huang et al., "SC-GS", CVPR 2024, with its 10
    neighbours and even weights. Here the times are all consecutive pairs, in the paper two random
    ones.

    Args:
        neighbours, radius, labels, weights, scale, symmetric, graph: settings of the edges, see
            `GraphPrior`.

    >>> p = torch.rand(1, 20, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = NodeARAP(neighbours=6).bind(p)
    >>> there = torch.stack([0 * p, 0 * p + 1, 0 * p + 3], dim=1)
    >>> bool(prior.energy(there) < 1e-10)
    True
    """

    def _rest(self, graph: NeighbourGraph) -> Neighbourhoods:
        return _Nodes(graph.edges, edge_shares(graph), graph.vectors, len(graph), graph.owners)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        points = getattr(problem.operator, "points", None)
        if points is None and not self.graphs and not self.pieces:
            raise InputError(
                f"{self!r} needs nodes, and {problem.operator} has none; give it a graph="
            )
        return self if self.pieces and points is None else super().prepare(problem, solve)

    def energy(self, x: Any) -> Tensor:
        x = x[0] if isinstance(x, tuple) else x
        if len(self.pieces) > 1 and isinstance(x, Tensor) and len(x) == len(self.pieces):
            return torch.cat(
                [self.select(torch.tensor([k])).energy(x[k : k + 1]) for k in range(len(x))]
            )
        energy: Tensor = (self._residuals(x).square().sum(-1) * self._weights(x)).sum((1, 2))
        return energy / (x.shape[1] - 1)

    def majorizer(self, x: Any) -> Majorizer:
        return _FixedRotations(self, self._fit_rotations(x))

    def _item_energy(self, piece: Any, flow: Tensor) -> Tensor:
        raise InputError(f"{self!r} has the energy of motions, not of one flow")

    def _check(self, x: Any) -> Neighbourhoods:
        require_bound(self, self.pieces)
        if len(self.pieces) > 1:
            raise InputError(
                f"the nodes of {self!r} are shared by every item of the batch, "
                f"and here {len(self.pieces)} items have their own"
            )
        piece: Neighbourhoods = self.pieces[0]
        if (
            not isinstance(x, Tensor)
            or x.ndim != 4
            or x.shape[1] < 2
            or tuple(x.shape[2:]) != (piece.count, 3)
        ):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"{self!r} takes displacements of shape (batch, T, {piece.count}, 3) at T >= 2 "
                f"times, got {got}"
            )
        return piece

    def _weights(self, x: Tensor) -> Tensor:
        return self._check(x).weights.to(x.dtype)

    def _edges(self, x: Tensor) -> Tensor:
        piece = self._check(x)
        i, j = piece.tails.long(), piece.heads.long()
        return x.index_select(2, i) - x.index_select(2, j)

    def _fit_rotations(self, x: Tensor) -> Tensor:
        """Return the rotations from each time to the next, ``(batch, T - 1, N, 3, 3)``."""
        piece = self._check(x)
        with torch.no_grad():
            edges = self._edges(x) + piece.vectors.to(x.dtype)
            # R^t_i is the rotation nearest to sum_j w_ij e^{t+1}_ij (e^t_ij)^T.
            weighted = self._weights(x)[:, None] * edges[:, 1:]
            products = weighted[..., :, None] * edges[:, :-1][..., None, :]
            zeros = x.new_zeros(x.shape[0], x.shape[1] - 1, piece.count, 3, 3)
            return best_rotation(zeros.index_add(2, piece.owners.long(), products))

    def _residuals(self, x: Tensor, turns: Tensor | None = None) -> Tensor:
        """Return the residuals of the edges after the rotations, ``(batch, T - 1, E, 3)``.

        With given rotations, they are the residuals of the displacements alone.
        """
        piece = self._check(x)
        edges = self._edges(x)
        if turns is None:
            turns, edges = self._fit_rotations(x), edges + piece.vectors.to(x.dtype)
        by_edge = turns.index_select(2, piece.owners.long())
        return edges[:, 1:] - (by_edge @ edges[:, :-1, :, :, None]).squeeze(-1)


class _Nodes(Neighbourhoods):
    def __len__(self) -> int:
        return self.count


class _FixedRotations(Majorizer):
    """Curvature with the rotations held fixed."""

    def __init__(self, prior: NodeARAP, turns: Tensor) -> None:
        self.prior, self.turns = prior, turns

    def product(self, v: Tensor) -> Tensor:
        prior, steps = self.prior, v.shape[1] - 1
        with torch.enable_grad():
            free = v.detach().requires_grad_(True)
            energy = (
                prior._residuals(free, self.turns).square().sum(-1) * prior._weights(free)
            ).sum() / steps
            (product,) = torch.autograd.grad(energy, free)
        return product
