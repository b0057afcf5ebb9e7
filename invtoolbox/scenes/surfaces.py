"""How the surface lies around each point of a lidar sweep: normals from neighbourhoods that are wide enough to show one."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.kernels.nearest import Tree

#: Neighbours that are looked at, the fewest first.
_NEIGHBOURS = (8, 16, 32, 64)


def normals(points: Tensor, neighbours: Tensor, roundness: float = 0.2) -> tuple[Tensor, Tensor]:
    """The normal of the surface at each point, and how thin the surface is there.

    A lidar samples a surface along a few lines. The nearest neighbours of a point lie on one of them and show no normal, and a
    registration that takes them for a surface holds the lines together, which stand still while the object moves. So the
    neighbourhood grows (8, 16, 32, 64 points) until its second variance is at least ``roundness`` of the first.

    Args:
        points: ``(M, 3)``.
        neighbours: the points nearest to each one that is asked for, nearest first, ``(rows, k)`` with k up to 64.

    Returns:
        Unit vectors ``(rows, 3)``, and the thickness ``(rows,)``: the least variance over the second one, between 0 (a plane) and 1.
    """
    count, most = neighbours.shape
    normal, thickness = points.new_zeros(count, 3), points.new_ones(count)
    left = torch.arange(count, device=points.device)
    steps = [k for k in _NEIGHBOURS if k < most] + [most]
    for k in steps:
        near = points[neighbours[left, :k]].to(torch.float64)
        near = near - near.mean(1, keepdim=True)
        variances, axis = _variances(near.transpose(1, 2) @ near / k)
        enough = (variances[:, 1] > roundness * variances[:, 2]) | (k == steps[-1])
        done = left[enough]
        normal[done] = axis[enough].to(points)
        thin = variances[enough, 0].clamp_min(0) / variances[enough, 1].clamp_min(1e-12)
        thickness[done] = thin.clamp(0, 1).to(points)
        left = left[~enough]
        if not len(left):
            break
    return normal, thickness


def covariances(points: Tensor, times: Tensor | None = None, time_scale: float = 8.0, along: float = 0.02,
                rows: Tensor | None = None) -> Tensor:
    """How each point may lie off the surface it stands for, ``(M, 3, 3)``: 1 along it and ``along`` across (or more, where it is thick).

    The covariances of generalised ICP (Segal, Haehnel and Thrun 2009) with the variance along the surface as the unit.

    Args:
        points: ``(M, 3)``, a whole sweep: parts of one would show no surface at their borders.
        times: when they were measured, seconds ``(M,)``; neighbours are looked for in time too, a second counting as
            ``time_scale`` metres.
        rows: the points that are asked for; all by default.
    """
    tree = Tree(in_time(points, times, time_scale))
    asked = tree.points if rows is None else tree.points[rows]
    normal, thickness = normals(points, tree.neighbours(asked, _NEIGHBOURS[-1]))
    across = thickness.clamp_min(along)[:, None, None]
    outer = normal[:, :, None] * normal[:, None, :]
    return torch.eye(3, dtype=points.dtype, device=points.device) + (across - 1) * outer


def in_time(points: Tensor, times: Tensor | None, time_scale: float) -> Tensor:
    """Points with their time as a fourth coordinate, ``(..., N, 3), (..., N) -> (..., N, 4)``; themselves without times."""
    if times is None:
        return points
    return torch.cat([points, (time_scale * times.to(points)).expand(points.shape[:-1])[..., None]], -1)


def _variances(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of symmetric ``(n, 3, 3)``, the least first, and a unit vector of the least, in closed form.

    The roots of the characteristic polynomial by the cosine (Smith 1961); the vector is orthogonal to the rows of A less its least
    eigenvalue, of which the pair that is the least parallel is taken. Many times as fast as a factorisation each.
    """
    third = matrices.diagonal(dim1=1, dim2=2).mean(1)
    free = matrices - third[:, None, None] * torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    size = (free.square().sum((1, 2)) / 6).sqrt().clamp_min(torch.finfo(matrices.dtype).tiny ** 0.25)
    angle = (torch.linalg.det(free / size[:, None, None]) / 2).clamp(-1, 1).arccos() / 3
    turns = angle[:, None] + 2 * torch.pi / 3 * torch.tensor([1.0, 2.0, 0.0], dtype=angle.dtype, device=angle.device)
    values = third[:, None] + 2 * size[:, None] * turns.cos()
    a, b, c = (matrices - values[:, :1, None] * torch.eye(3, dtype=matrices.dtype, device=matrices.device)).unbind(1)
    candidates = torch.stack([torch.linalg.cross(a, b), torch.linalg.cross(b, c), torch.linalg.cross(c, a)], 1)
    lengths = candidates.norm(dim=2)
    best = lengths.argmax(1)
    rows = torch.arange(len(best), device=best.device)
    vector, length = candidates[rows, best], lengths[rows, best]
    upright = torch.tensor([0.0, 0.0, 1.0], dtype=vector.dtype, device=vector.device)
    return values, torch.where(length[:, None] > 0, vector / length.clamp_min(torch.finfo(length.dtype).tiny)[:, None], upright)
