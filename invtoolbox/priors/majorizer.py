"""Quadratics above a prior, which majorization-minimization descends."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from invtoolbox.core.settings import Settings
from invtoolbox.geometry.displacements import as_points, like_points


class Majorizer(Settings, ABC):
    r"""The curvature H of a quadratic that touches a prior R at x and lies above it.

    .. math::

        R(u) \le R(x) + \langle \nabla R(x), u - x \rangle
                 + \tfrac12 \langle u - x, H (u - x) \rangle.

    A step to the minimum of the right-hand side, or any step that decreases it, never increases R.
    """

    @abstractmethod
    def product(self, v: Tensor) -> Tensor:
        """Return ``H v`` for every item of the batch."""


class Springs(Majorizer):
    r"""Springs along edges: ``<v, H v> = sum_e c_e |v_i - v_j|^2`` over edges e from i to j.

    The nodes are points, or voxels in the order of their grid.

    Args:
        edges: ``(2, E)``, one tensor for all items or one per item.
        strengths: the c of the edges, ``(E,)`` for each tensor of edges; ``(batch, E)`` if items
            share the edges only.
        lengths: lengths of the edges at rest, ``(E,)`` for each tensor of edges, if the prior has a
            shape at rest.

    >>> springs = Springs((torch.tensor([[0], [1]]),), (torch.tensor([2.0]),))
    >>> springs.product(torch.tensor([[[1.0, 0, 0], [0, 0, 0]]]))
    tensor([[[ 2.,  0.,  0.],
             [-2.,  0.,  0.]]])
    """

    def __init__(
        self,
        edges: tuple[Tensor, ...],
        strengths: tuple[Tensor, ...],
        lengths: tuple[Tensor, ...] = (),
    ) -> None:
        self.edges, self.strengths, self.lengths = edges, strengths, lengths

    @property
    def is_shared(self) -> bool:
        """Whether all items have the same edges and strengths."""
        return len(self.edges) == 1 and self.strengths[0].ndim == 1

    def item(self, k: int) -> tuple[Tensor, Tensor]:
        """Return edges and strengths of an item, ``(2, E)`` and ``(E,)``."""
        place = k if len(self.edges) > 1 else 0
        strengths = self.strengths[place]
        return self.edges[place], strengths if strengths.ndim == 1 else strengths[k]

    def rounding(self) -> Tensor:
        """Return the size of rounding errors of the gradient, ``(1,)`` or ``(batch,)``.

        At rest the forces ``c_e |e|`` along the edges cancel up to their last digits.
        """
        forces = [(c * e).norm(dim=-1).flatten() for c, e in zip(self.strengths, self.lengths)]
        total = torch.cat(forces) if forces else self.strengths[0].new_zeros(1)
        return 32 * torch.finfo(total.dtype).eps * total

    def product(self, v: Tensor) -> Tensor:
        points = as_points(v)
        if len(self.edges) == 1:
            return like_points(_product(self.edges[0], self.strengths[0], points), v)
        forces = [_product(*self.item(k), points[k : k + 1]) for k in range(len(points))]
        return like_points(torch.cat(forces), v)


def _product(edges: Tensor, strengths: Tensor, v: Tensor) -> Tensor:
    i, j = edges
    # The edge e from i to j pulls with c_e (v_i - v_j) at i, and with its opposite at j.
    force = strengths.to(v.dtype)[..., None] * (v.index_select(1, i) - v.index_select(1, j))
    return torch.zeros_like(v).index_add(1, i, force).index_add(1, j, -force)
