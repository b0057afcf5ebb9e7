"""Compute the energy of as-rigid-as-possible motion.

The energy is the misfit of the best rotations of the neighbourhoods of a graph. The kernels are
``rotation_fit.cpp`` and ``rotation_gradient.cpp``, each one pass over the edges, with one task per
point and item.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel


@dataclass
class RotationArguments:
    """Arguments of the kernels: the fit writes energies, the gradient writes slopes."""

    moved: Tensor  # displacements d, (batch, N, 3)
    starts: Tensor  # first edge that every point owns, (N + 1,) int32
    owners: Tensor  # point whose rotation an edge follows, (E,) int32
    tails: Tensor  # point that an edge starts at, (E,) int32
    heads: Tensor  # point that an edge leads to, (E,) int32
    departures: Tensor  # first entry of `departing` of every point, (N + 1,) int32
    departing: Tensor  # edges, sorted by the point that they start at, (E,) int32
    arrivals: Tensor  # first entry of `arriving` of every point, (N + 1,) int32
    arriving: Tensor  # edges, sorted by the point that they lead to, (E,) int32
    weights: Tensor  # (E,)
    vectors: Tensor  # (E, 3)
    turns: Tensor  # R - 1, (batch, N, 3, 3)
    count: int
    energies: Tensor | None = None  # (batch, N) float64
    slopes: Tensor | None = None  # (batch, N, 3)


@cache
def fit_kernel(dtype: torch.dtype) -> Kernel:
    """Return the kernel of the best rotations and of their energies, for points of a precision."""
    return native_kernel("points/rotation_fit.cpp", {"REAL": REAL[dtype]}, RotationArguments)


@cache
def gradient_kernel(dtype: torch.dtype) -> Kernel:
    """Return the kernel of half the gradient under fixed rotations, for points of a precision."""
    return native_kernel("points/rotation_gradient.cpp", {"REAL": REAL[dtype]}, RotationArguments)


class Neighbourhoods(Settings):
    r"""Edges of N points at rest.

    They are sorted by the point that owns them, and indexed by the points at both ends.

    Args:
        edges: the point that an edge starts at, and the point that it leads to, ``(2, E)``.
        weights: weights of the edges, ``(E,)``.
        vectors: vectors of the edges at rest, ``p_i - p_j``, ``(E, 3)``.
        count: number of points N.
        owners: the point whose rotation an edge follows, ``(E,)``; by default its start.

    Raises:
        InputError: if the shapes do not fit together.
    """

    def __init__(
        self,
        edges: Tensor,
        weights: Tensor,
        vectors: Tensor,
        count: int,
        owners: Tensor | None = None,
    ) -> None:
        if edges.shape != (2, len(weights)) or vectors.shape != (len(weights), 3):
            raise InputError(
                "neighbourhoods take edges (2, E), weights (E,) and vectors (E, 3), got "
                f"{tuple(edges.shape)}, {tuple(weights.shape)} and {tuple(vectors.shape)}"
            )
        owners = edges[0] if owners is None else owners
        order = owners.argsort(stable=True)
        self.count = count
        self.owners = owners[order].int().contiguous()
        self.tails, self.heads = edges[:, order].int().contiguous()
        self.weights, self.vectors = weights[order].contiguous(), vectors[order].contiguous()
        self.starts = _starts(owners, count)
        self.departing, self.arriving = (
            ends.argsort(stable=True).int() for ends in (self.tails, self.heads)
        )
        self.departures, self.arrivals = (_starts(ends, count) for ends in edges)

    def energy(self, moved: Tensor) -> Tensor:
        r"""Compute ``min_R sum_ij w_ij |e_ij + d_ij - R_o e_ij|^2``, ``(batch,)``.

        R_o is the rotation of the owner of the edge, and ``d_ij = d_i - d_j``. The derivative holds R fixed, which is
        exact; the second derivative holds R fixed too.

        Args:
            moved: displacements d of the points, ``(batch, N, 3)``.

        Raises:
            InputError: if the displacements have another shape.

        >>> edges = torch.tensor([[0, 1], [1, 0]])
        >>> vectors = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
        >>> pair = Neighbourhoods(edges, torch.ones(2), vectors, 2)
        >>> pair.energy(torch.tensor([[[0.5, 0, 0], [0, 0, 0]]]))  # at both ends, 0.5 longer
        tensor([0.5000])
        """
        if moved.ndim != 3 or tuple(moved.shape[1:]) != (self.count, 3):
            raise InputError(
                f"displacements of {self.count} points have the shape (batch, {self.count}, 3), "
                f"got {tuple(moved.shape)}"
            )
        return _Energy.apply(moved, self)

    def fit(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best rotations minus the identity, and the energy of each point.

        The shapes are ``(batch, N, 3, 3)`` and ``(batch, N)``, the energies in float64.
        """
        displacements = moved.detach().contiguous()
        turns = displacements.new_empty(*moved.shape[:2], 3, 3)
        # R_i maximizes <R_i, sum_j w_ij (e_ij + d_ij) e_ij^T>, which the kernel sums in float64.
        energies = displacements.new_empty(moved.shape[:2], dtype=torch.float64)
        arguments = self._arguments(displacements, turns)
        arguments.energies = energies
        launch(fit_kernel(moved.dtype), energies.numel(), arguments, work=500.0 * energies.numel())
        return turns, energies

    def pull(self, moved: Tensor, turns: Tensor) -> Tensor:
        """Return half the gradient of the energy under fixed rotations, ``(batch, N, 3)``.

        Args:
            moved: displacements, ``(batch, N, 3)``.
            turns: rotations minus the identity, ``(batch, N, 3, 3)``.
        """
        displacements = moved.detach().contiguous()
        slopes = torch.empty_like(displacements)
        # sum w (d - (R - 1) e) over the edges from a point, minus the sum over the edges to it.
        arguments = self._arguments(displacements, turns.contiguous())
        arguments.slopes = slopes
        tasks = moved.shape[0] * self.count
        launch(gradient_kernel(moved.dtype), tasks, arguments, work=200.0 * tasks)
        return slopes

    def _arguments(self, displacements: Tensor, turns: Tensor) -> RotationArguments:
        return RotationArguments(
            moved=displacements,
            starts=self.starts,
            owners=self.owners,
            tails=self.tails,
            heads=self.heads,
            departures=self.departures,
            departing=self.departing,
            arrivals=self.arrivals,
            arriving=self.arriving,
            weights=self.weights.to(displacements.dtype),
            vectors=self.vectors.to(displacements.dtype),
            turns=turns,
            count=self.count,
        )

    def laplacian(self, v: Tensor) -> Tensor:
        """Return ``sum_j w_ij (v_i - v_j)`` over the edges that start at i or lead to it.

        This is half the Hessian of the energy under fixed rotations, applied to ``v``
        ``(batch, N, 3)``.
        """
        i, j = self.tails.long(), self.heads.long()
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
        # R minimizes the energy, so its own derivative does not count (envelope theorem).
        displacements, turns = context.saved_tensors
        return 2 * gradients[0][:, None, None] * _Pull.apply(
            displacements, turns, context.graph
        ), None


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, moved: Tensor, turns: Tensor, graph: Neighbourhoods) -> Tensor:
        context.graph = graph
        return graph.pull(moved, turns)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # The derivative of `pull` in the displacements is symmetric.
        return context.graph.laplacian(gradients[0]), None, None


def _starts(index: Tensor, count: int) -> Tensor:
    starts = torch.zeros(count + 1, dtype=torch.int32, device=index.device)
    starts[1:] = torch.bincount(index, minlength=count).cumsum(0)
    return starts
