"""As-rigid-as-possible deformation of a grid of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.core.reductions import sum_items
from invtoolbox.geometry.rotations import fit_rotation
from invtoolbox.priors.motion.displacement import DisplacementPrior


class GridARAP(DisplacementPrior):
    r"""Deviation of a displacement field from local rotations, a sum over pixels.

    ``R(u) = 1/4 sum_i min_{R_i} sum_j |(x_j + u_j - x_i - u_i) - R_i (x_j - x_i)|^2 / |x_j - x_i|^2``
    over the neighbours j of pixel i along the axes, with a rotation ``R_i`` of its own (Sorkine and
    Alexa 2007; `ARAP` for points). For small displacements it acts like `LinearElastic` with
    Poisson's ratio 0. Unlike linear strain it is 0 for rotations by any angle. A stretch e along one
    axis costs ``e^2 / 2`` per pixel.

    Args:
        spacing: distance of neighbours along every axis, 1 by default; a problem with an
            `ImageWarp` takes the spacing of that.

    >>> rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    >>> quarter = torch.stack([-columns - rows, rows - columns])[None]  # a turn by 90 degrees
    >>> float(GridARAP().energy(quarter))
    0.0
    """

    is_convex = False
    usual_strength = 0.5

    def energy(self, x: Tensor) -> Tensor:
        edges = self._edges(x)
        return _deviation(edges, _rotations([edge.detach() for edge in edges], x))

    def _edges(self, x: Tensor) -> list[Tensor]:
        """Return the moved edges along every axis over their length, one less than pixels."""
        lengths = self.lengths(tuple(x.shape[1:]))
        edges = []
        for k, length in enumerate(lengths):
            unit = x.new_zeros(x.shape[1])
            unit[k] = 1.0
            edges.append(x.diff(dim=k + 2) / length + unit.view(-1, *[1] * (x.ndim - 2)))
        return edges


def _rotations(edges: list[Tensor], like: Tensor) -> Tensor:
    """Return the rotation of every pixel that fits its edges best, ``(batch, d, d, *space)``."""
    sums = []
    for k, edge in enumerate(edges):
        total = torch.zeros_like(like)
        total.narrow(k + 2, 0, edge.shape[k + 2]).add_(edge)
        total.narrow(k + 2, 1, edge.shape[k + 2]).add_(edge)
        sums.append(total)
    # S = sum_j e'_ij e_ij^T over the neighbours j, for edges e of length 1 along the axes.
    S = torch.stack(sums, 2)
    if len(edges) == 2:  # the angle that maximizes tr(R^T S)
        c, s = S[:, 0, 0] + S[:, 1, 1], S[:, 1, 0] - S[:, 0, 1]
        length = torch.hypot(c, s)
        turned = length > 0
        c = torch.where(turned, c / torch.where(turned, length, 1.0), 1.0)
        s = torch.where(turned, s / torch.where(turned, length, 1.0), 0.0)
        return torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1)
    S = S.movedim((1, 2), (-2, -1)).contiguous()
    return fit_rotation(S).movedim((-2, -1), (1, 2))


def _deviation(edges: list[Tensor], rotations: Tensor) -> Tensor:
    """Return a quarter of the squared distances of edges from turned edges, ``(batch,)``."""
    total = edges[0].new_zeros(len(edges[0]))
    for k, edge in enumerate(edges):
        turned = rotations[:, :, k]
        for start in (0, 1):
            end = turned.narrow(k + 2, start, edge.shape[k + 2])
            total = total + 0.25 * sum_items((edge - end).square())
    return total
