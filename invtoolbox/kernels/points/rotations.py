"""How far the neighbourhoods of a graph are from having turned: the energy of as-rigid-as-possible motion, in two passes over the edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.points.rotation_kernels import fit_kernel, pull_kernel


class Neighbourhoods(Settings):
    r"""The edges of N points at rest, by the point that they belong to, and by the one that they lead to.

    Args:
        edges: ``(2, E)``: the point that an edge belongs to, and its neighbour.
        weights: of the edges, ``(E,)``.
        vectors: of the edges at rest, ``p_i - p_j``, ``(E, 3)``.
        count: N.
    """

    def __init__(self, edges: Tensor, weights: Tensor, vectors: Tensor, count: int) -> None:
        if edges.shape != (2, len(weights)) or vectors.shape != (len(weights), 3):
            raise InputError(
                f"neighbourhoods take edges (2, E), weights (E,) and vectors (E, 3), got {tuple(edges.shape)}, "
                f"{tuple(weights.shape)} and {tuple(vectors.shape)}"
            )
        order = edges[0].argsort(stable=True)
        owners, neighbours = edges[0][order], edges[1][order]
        self.count = count
        self.owners, self.neighbours = owners.int().contiguous(), neighbours.int().contiguous()
        self.weights, self.vectors = weights[order].contiguous(), vectors[order].contiguous()
        self.starts = _starts(owners, count)
        self.arriving = neighbours.argsort(stable=True).int()
        self.arrivals = _starts(neighbours, count)

    def energy(self, moved: Tensor) -> Tensor:
        r"""``min_R sum_ij w_ij |e_ij + d_ij - R_i e_ij|^2`` of displacements ``(batch, N, 3)``, ``(batch,)``; d the edges of these.

        Each R_i is a rotation. The derivative is that with R held fixed, which is exact, and the second derivative holds R fixed too.

        >>> edges = torch.tensor([[0, 1], [1, 0]])
        >>> pair = Neighbourhoods(edges, torch.ones(2), torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]), 2)
        >>> pair.energy(torch.tensor([[[0.5, 0, 0], [0, 0, 0]]]))  # both ends see an edge that is longer by a half
        tensor([0.5000])
        """
        if moved.ndim != 3 or tuple(moved.shape[1:]) != (self.count, 3):
            raise InputError(
                f"displacements of {self.count} points have the shape (batch, {self.count}, 3), got {tuple(moved.shape)}"
            )
        energy: Tensor = _Energy.apply(moved, self)
        return energy

    def fit(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """The best rotations less the identity, ``(batch, N, 3, 3)``, and what they leave at each point, ``(batch, N)``, float64."""
        moved = moved.detach().contiguous()
        weights, vectors = self.weights.to(moved.dtype), self.vectors.to(moved.dtype)
        turns = moved.new_empty(*moved.shape[:2], 3, 3)
        energies = moved.new_empty(moved.shape[:2], dtype=torch.float64)
        tensors = [moved, self.starts, self.neighbours, weights, vectors, turns, energies]
        launch(
            fit_kernel(moved.dtype),
            moved.shape[0] * self.count,
            [
                address(t)
                for t in (self.starts, self.neighbours, weights, vectors, moved, turns, energies)
            ]
            + [self.count],
            tensors,
            work=500.0 * energies.numel(),
        )
        return turns, energies

    def pull(self, moved: Tensor, turns: Tensor) -> Tensor:
        """Half the slope of the squares in the displacements, under rotations (less the identity) that are held: ``(batch, N, 3)``."""
        moved, turns = moved.detach().contiguous(), turns.contiguous()
        weights, vectors = self.weights.to(moved.dtype), self.vectors.to(moved.dtype)
        slopes = torch.empty_like(moved)
        used = (
            self.starts,
            self.neighbours,
            self.arrivals,
            self.arriving,
            self.owners,
            weights,
            vectors,
            moved,
            turns,
            slopes,
        )
        launch(
            pull_kernel(moved.dtype),
            moved.shape[0] * self.count,
            [*map(address, used), self.count],
            [moved, *used],
            work=200.0 * moved.shape[0] * self.count,
        )
        return slopes

    def laplacian(self, v: Tensor) -> Tensor:
        """``sum_j w_ij (v_i - v_j)`` over the edges of i and those that lead to it: half the curvature of the squares."""
        i, j = self.owners.long(), self.neighbours.long()
        flow = self.weights.to(v.dtype)[:, None] * (v.index_select(-2, i) - v.index_select(-2, j))
        return torch.zeros_like(v).index_add(-2, i, flow).index_add(-2, j, -flow)


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, moved: Tensor, graph: Neighbourhoods) -> Tensor:
        turns, energies = graph.fit(moved)
        context.graph = graph
        context.save_for_backward(moved, turns)
        return energies.sum(1).to(moved.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        moved, turns = context.saved_tensors
        return 2 * gradients[0][:, None, None] * _Pull.apply(moved, turns, context.graph), None


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, moved: Tensor, turns: Tensor, graph: Neighbourhoods) -> Tensor:
        context.graph = graph
        return graph.pull(moved, turns)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return context.graph.laplacian(gradients[0]), None, None


def _starts(index: Tensor, count: int) -> Tensor:
    starts = torch.zeros(count + 1, dtype=torch.int32, device=index.device)
    starts[1:] = torch.bincount(index, minlength=count).cumsum(0)
    return starts
