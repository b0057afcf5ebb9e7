"""Sparse systems of points that are factorized once and solved often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.sparse_graph import connected_components


@dataclass(frozen=True, eq=False)
class Graph:
    """A symmetric system ``(M v)_i = d_i v_i + sum_e c_e (v_i - v_j)`` of N points.

    Some points are held at 0.

    Attributes:
        diagonal: the d, ``(N,)``.
        edges: edges of each part of the sum, ``(2, E)``; an edge from i to j acts on both.
        strengths: the c of each part, ``(E,)``.
        free: which points are not held, ``(N,)``.
    """

    diagonal: Tensor
    edges: tuple[Tensor, ...]
    strengths: tuple[Tensor, ...]
    free: Tensor

    def same_as(self, other: Graph) -> bool:
        return (
            torch.equal(self.diagonal, other.diagonal)
            and torch.equal(self.free, other.free)
            and all(a is b or torch.equal(a, b) for a, b in zip(self.edges, other.edges))
            and all(a is b or torch.equal(a, b) for a, b in zip(self.strengths, other.strengths))
        )


#: Largest size in bytes of the inverses on a GPU, 4,000 points of one system, and the number of solves
#: with the same factors before they are computed: an inverse costs as much as a solve per point.
_LARGEST_INVERSE, _FEW = 8 * 4000**2, 10


class Factors:
    """Sparse LU factors on the CPU.

    SuperLU factorizes in the order of the least degree, without pivoting, because the systems are
    positive definite. This is not a tensor: each item of a batch has the number of its factor,
    ``which`` in `solve`.

    For tensors on a GPU, a solve on the CPU costs two copies, for which the GPU waits. If all inverses
    together take at most 128 MB (4,000 points of one system), they are computed after ten solves, and
    the GPU multiplies by them.
    """

    def __init__(self, systems: list[Graph]) -> None:
        self._factors = [_factorize(system) for system in systems]
        self._like = systems[0].diagonal
        self._solves = 0
        self._inverses: Tensor | None = None

    def _known_inverses(self) -> Tensor | None:
        """Return the inverses of the systems, or None on a CPU, and before they pay."""
        self._solves += 1
        size = 8 * len(self._factors) * len(self._like) ** 2
        is_worth_it = self._solves > _FEW and size <= _LARGEST_INVERSE
        if self._inverses is None and is_worth_it and self._like.device.type != "cpu":
            every = range(len(self._factors))
            self._inverses = torch.stack([self._invert(k, self._like) for k in every])
        return self._inverses

    def _invert(self, number: int, like: Tensor) -> Tensor:
        """Return the inverse of a system in float64, with zeros for the points that are held."""
        factor, free = self._factors[number]
        inverse = torch.zeros(len(like), len(like), dtype=torch.float64)
        index = free.cpu()
        # Symmetric up to rounding, and made symmetric.
        columns = torch.from_numpy(factor.solve(np.eye(len(index))))
        inverse[index[:, None], index] = 0.5 * (columns + columns.T)
        return inverse.to(like.device)

    def solve(self, right: Tensor, which: Tensor) -> Tensor:
        """Return ``M^-1 right`` for right-hand sides ``(batch, N, c)``, 0 at held points."""
        inverses = self._known_inverses()
        if inverses is not None and len(inverses) == 1:
            return (inverses @ right.double()).to(right.dtype)
        if inverses is not None and 8 * len(right) * right.shape[1] ** 2 <= _LARGEST_INVERSE:
            return (inverses[which] @ right.double()).to(right.dtype)
        out = torch.zeros_like(right)
        numbers = which.tolist()
        for number in dict.fromkeys(numbers):
            factor, free = self._factors[number]
            items = [k for k, factor_number in enumerate(numbers) if factor_number == number]
            is_shared = len(items) == len(numbers)
            free_right = (right if is_shared else right[items]).index_select(1, free)
            # One column per item and coordinate.
            columns = free_right.transpose(0, 1).flatten(1).double().cpu().numpy()
            # Column by column, the rounding of an item does not depend on the batch.
            solved = (
                torch.from_numpy(factor.solve(np.asfortranarray(columns)))
                .to(right)
                .unflatten(1, (len(items), -1))
                .transpose(0, 1)
            )
            if is_shared:
                out.index_copy_(1, free, solved)
            else:
                out[items] = torch.zeros_like(out[items]).index_copy_(1, free, solved)
        return out


def group_equal(systems: list[Graph]) -> tuple[list[Graph], list[int]]:
    """Return the distinct systems, and for each system the number of its equal among them."""
    different: list[Graph] = []
    which = []
    for system in systems:
        number = next(
            (k for k, graph in enumerate(different) if graph is system or graph.same_as(system)),
            len(different),
        )
        if number == len(different):
            different.append(system)
        which.append(number)
    return different, which


def _factorize(system: Graph) -> tuple[Any, Tensor]:
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import splu

    n = len(system.diagonal)
    ends = torch.cat(system.edges, 1)
    i, j = ends.cpu().numpy().astype(np.int32)  # SciPy 1.11 factorizes no others
    c = np.concatenate([s.double().cpu().numpy() for s in system.strengths])
    free, diagonal = system.free.cpu().numpy(), system.diagonal.double().cpu().numpy()
    # M_ii = d_i + sum of the c of its edges, M_ij = -c.
    entries = diagonal + np.bincount(i, c, n) + np.bincount(j, c, n)
    # Parts without a connection to an observation are not determined. A little stiffness, which
    # only slows them, makes the system definite.
    label = connected_components(ends.cpu(), n).numpy()
    held = np.bincount(label[(diagonal > 0) | ~free], minlength=n) > 0
    entries += np.where(held[label], 0.0, 1e-8 * (np.abs(entries).mean() or 1.0))
    place = np.arange(n, dtype=np.int32)
    rows, columns = np.concatenate([place, i, j]), np.concatenate([place, j, i])
    matrix = coo_array((np.concatenate([entries, -c, -c]), (rows, columns)), shape=(n, n)).tocsr()
    # Held points are 0, so their rows and columns are left out.
    inside = matrix[free][:, free].tocsc()
    # Minimum degree on A^T + A and no pivoting: SuperLU as a sparse Cholesky factorization.
    factor = splu(
        inside, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return factor, system.free.nonzero()[:, 0]
