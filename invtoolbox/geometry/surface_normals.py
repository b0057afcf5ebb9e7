"""How the surface lies around each point of a lidar sweep: normals from neighbourhoods that are wide enough to show one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.kernels.points.nearest import Tree

#: Neighbours of a point that are taken for a piece of its surface.
_NEIGHBOURS = 16
#: Sides of the cells of which one point each is kept while the neighbourhoods grow, metres; 0 keeps all.
_THINNED = (0.0, 0.2, 0.5)


@dataclass(frozen=True, eq=False)
class Surface:
    """Points that lie on a surface, ready to be looked up: with a tree, and the covariance of each.

    Attributes:
        points: ``(M, 3)``.
        tree: of the points, with their times behind their coordinates where they have some.
        covariances: see `covariances`, ``(M, 3, 3)``.
    """

    points: Tensor
    tree: Tree
    covariances: Tensor

    @classmethod
    def of(
        cls,
        points: Tensor,
        times: Tensor | None = None,
        time_scale: float = 8.0,
        along: float = 0.02,
    ) -> Surface:
        return cls(
            points,
            Tree(in_time(points, times, time_scale)),
            covariances(points, times, time_scale, along),
        )

    @classmethod
    def of_points(
        cls, points: Tensor, times: Tensor | None = None, time_scale: float = 8.0
    ) -> Surface:
        """Points that stand for themselves: with it, `data_terms.PlaneToPlane` with ``along=1`` is the distance between points."""
        eye = torch.eye(3, dtype=points.dtype, device=points.device)
        return cls(points, Tree(in_time(points, times, time_scale)), eye.expand(len(points), 3, 3))


def covariances(
    points: Tensor,
    times: Tensor | None = None,
    time_scale: float = 8.0,
    along: float = 0.005,
    rows: Tensor | None = None,
) -> Tensor:
    """How each point may lie off the surface it stands for, ``(M, 3, 3)``: 1 along it and ``along`` across, or more where it is thick.

    The covariances of generalised ICP (Segal, Haehnel and Thrun 2009) with the variance along the surface as the unit; the thickness
    is the least variance over the second one.

    Args:
        points: ``(M, 3)``, a whole sweep: parts of one would show no surface at their borders.
        times: when they were measured, seconds ``(M,)``; neighbours are looked for in time too, a second counting as
            ``time_scale`` metres.
        rows: the points that are asked for; all by default.
    """
    normal, thickness = normals(points, times, time_scale, rows)
    across = thickness.clamp_min(along)[:, None, None]
    outer = normal[:, :, None] * normal[:, None, :]
    return torch.eye(3, dtype=points.dtype, device=points.device) + (across - 1) * outer


def normals(
    points: Tensor,
    times: Tensor | None = None,
    time_scale: float = 8.0,
    rows: Tensor | None = None,
    roundness: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """The normal of the surface at each point, and how thick the surface is there; arguments as `covariances`.

    A lidar samples a surface along a few lines. The nearest neighbours of a point lie on one of them and show no normal, and a
    registration that takes them for a surface holds the lines together, which stand still while the object moves. So the
    neighbourhood grows, by thinning the cloud to a point a cell of 0.2 and of 0.5 m, until the second variance of its 16 points
    is at least ``roundness`` of the first.

    Returns:
        Unit vectors ``(M, 3)``, and the thickness ``(M,)``: the least variance over the second one, between 0 (a plane) and 1.
    """
    cloud = in_time(points, times, time_scale)
    asked, place = (cloud, points) if rows is None else (cloud[rows], points[rows])
    normal, thickness = torch.zeros_like(place), place.new_ones(len(place))
    left = torch.arange(len(place), device=points.device)
    for side in _THINNED:
        kept = _thinned(cloud, side)
        near = points[kept][Tree(cloud[kept]).neighbours(asked[left], _NEIGHBOURS)].double()
        near = near - near.mean(1, keepdim=True)
        variances, axis = _variances(near.transpose(1, 2) @ near / near.shape[1])
        enough = (variances[:, 1] > roundness * variances[:, 2]) | (side == _THINNED[-1])
        done = left[enough]
        normal[done] = axis[enough].to(points)
        thickness[done] = (
            (variances[enough, 0].clamp_min(0) / variances[enough, 1].clamp_min(1e-12))
            .clamp(0, 1)
            .to(points)
        )
        left = left[~enough]
        if not len(left):
            break
    return normal, thickness


def _thinned(cloud: Tensor, side: float) -> Tensor:
    """Rows of one point a cell, the first of each; all rows where the side is 0."""
    if side == 0:
        return torch.arange(len(cloud), device=cloud.device)
    cells = cloud.div(side).floor().long()
    cells = cells - cells.min(0).values
    key = torch.zeros_like(cells[:, 0])
    for axis, size in enumerate((cells.max(0).values + 1).tolist()):
        key = key * size + cells[:, axis]
    order = key.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = key[order][1:] != key[order][:-1]
    return order[first]


def in_time(points: Tensor, times: Tensor | None, time_scale: float) -> Tensor:
    """Points with their time as a fourth coordinate, ``(..., N, 3), (..., N) -> (..., N, 4)``; themselves without times."""
    if times is None:
        return points
    return torch.cat(
        [points, (time_scale * times.to(points)).expand(points.shape[:-1])[..., None]], -1
    )


def _variances(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of symmetric ``(n, 3, 3)``, the least first, and a unit vector of the least, in closed form.

    The roots of the characteristic polynomial by the cosine (Smith 1961); the vector is orthogonal to the rows of A less its least
    eigenvalue, of which the pair that is the least parallel is taken. Many times as fast as a factorisation each.
    """
    third = matrices.diagonal(dim1=1, dim2=2).mean(1)
    free = matrices - third[:, None, None] * torch.eye(
        3, dtype=matrices.dtype, device=matrices.device
    )
    size = (
        (free.square().sum((1, 2)) / 6).sqrt().clamp_min(torch.finfo(matrices.dtype).tiny ** 0.25)
    )
    angle = (torch.linalg.det(free / size[:, None, None]) / 2).clamp(-1, 1).arccos() / 3
    turns = angle[:, None] + 2 * torch.pi / 3 * torch.tensor(
        [1.0, 2.0, 0.0], dtype=angle.dtype, device=angle.device
    )
    values = third[:, None] + 2 * size[:, None] * turns.cos()
    a, b, c = (
        matrices - values[:, :1, None] * torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    ).unbind(1)
    candidates = torch.stack(
        [torch.linalg.cross(a, b), torch.linalg.cross(b, c), torch.linalg.cross(c, a)], 1
    )
    lengths = candidates.norm(dim=2)
    best = lengths.argmax(1)
    rows = torch.arange(len(best), device=best.device)
    vector, length = candidates[rows, best], lengths[rows, best]
    upright = torch.tensor([0.0, 0.0, 1.0], dtype=vector.dtype, device=vector.device)
    return values, torch.where(
        length[:, None] > 0,
        vector / length.clamp_min(torch.finfo(length.dtype).tiny)[:, None],
        upright,
    )
