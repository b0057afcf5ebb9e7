"""Surface normals of lidar points, from neighbourhoods that are wide enough to show a surface."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.geometry.rigid import own_axes
from invtoolbox.kernels.points.nearest import Tree

#: Number of neighbours of a point that are taken as a piece of its surface.
_NEIGHBOURS = 16
#: Sides of the cells that keep one point each while the neighbourhoods grow, metres; 0 keeps all
#: points.
_CELLS = (0.0, 0.2, 0.5)
#: Smallest ratio of the second variance of a neighbourhood to the first.
_ROUNDNESS = 0.2
#: Length in metres that one second counts as in the search for neighbours.
_SECOND = 8.0


@dataclass(frozen=True, eq=False)
class Surface:
    """Points on a surface, with a search tree and the covariance of each point.

    Attributes:
        points: points, ``(M, 3)``.
        tree: tree of the points; their times, if given, are further coordinates.
        covariances: covariances of the points, ``(M, 3, 3)``; see `covariances`.
    """

    points: Tensor
    tree: Tree
    covariances: Tensor

    @classmethod
    def of(
        cls,
        points: Tensor,
        times: Tensor | None = None,
        along: float = 0.02,
        thickest: float = 1.0,
    ) -> Surface:
        """Build the tree and the covariances of points; see `covariances`."""
        return cls(
            points,
            Tree(append_times(points, times)),
            covariances(points, times, along, thickest=thickest),
        )


def covariances(
    points: Tensor,
    times: Tensor | None = None,
    along: float = 0.005,
    rows: Tensor | None = None,
    thickest: float = 1.0,
) -> Tensor:
    """Compute the covariance of each point about its surface, ``(M, 3, 3)``.

    The variance is 1 along the surface, and ``along`` across it, or more if the surface is thick.
    These are the covariances of generalized ICP (Segal, Haehnel and Thrun 2009) with the variance
    along the surface as the unit; the thickness is the ratio of the smallest to the second
    variance.

    Args:
        points: points, ``(M, 3)``, a whole sweep: parts of a sweep would show no surface at their
            borders.
        times: times of measurement, seconds ``(M,)``; neighbours are then also sought in time.
        along: smallest variance across the surface.
        rows: numbers of the points to compute; all points by default.
        thickest: largest variance across the surface. The neighbourhood of a point of a small body is
            all of the body, which is as thick as it is wide, and still has a surface.
    """
    # C = I + (s - 1) n n^T: variance s along the normal and 1 across it.
    normal, thickness = normals(points, times, rows)
    across = thickness.clamp(along, thickest)[:, None, None]
    outer = normal[:, :, None] * normal[:, None, :]
    return torch.eye(3, dtype=points.dtype, device=points.device) + (across - 1) * outer


def normals(
    points: Tensor,
    times: Tensor | None = None,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the normal of the surface at each point, and the thickness of the surface.

    A lidar samples a surface along a few lines. The nearest neighbours of a point lie on one line
    and show no normal. A registration that takes them for a surface holds the lines together, which
    stand still while the object moves. So the neighbourhood grows, by thinning the cloud to one
    point per cell of 0.2 and of 0.5 m, until the second variance of its 16 points is at least
    a fifth of the first.

    Args:
        points: see `covariances`.
        times: see `covariances`.
        rows: see `covariances`.

    Returns:
        Unit vectors ``(M, 3)``, and the thickness ``(M,)``: the ratio of the smallest variance to
        the second, between 0 (a plane) and 1.
    """
    cloud = append_times(points, times)
    asked, place = (cloud, points) if rows is None else (cloud[rows], points[rows])
    normal, thickness = torch.zeros_like(place), place.new_ones(len(place))
    pending = torch.arange(len(place), device=points.device)
    for side in _CELLS:
        thinned = _thin(cloud, side)
        nearest = Tree(cloud[thinned]).neighbours(asked[pending], _NEIGHBOURS)
        offsets = points[thinned][nearest].double()
        # Covariance of the neighbours; the normal is its eigenvector of the smallest variance.
        offsets = offsets - offsets.mean(1, keepdim=True)
        variances, axis = _variances(offsets.transpose(1, 2) @ offsets / offsets.shape[1])
        enough = (variances[:, 1] > _ROUNDNESS * variances[:, 2]) | (side == _CELLS[-1])
        done = pending[enough]
        normal[done] = axis[enough].to(points)
        # Rounding can make the variance of a plane negative.
        ratio = variances[enough, 0].clamp_min(0) / variances[enough, 1].clamp_min(1e-12)
        thickness[done] = ratio.clamp(0, 1).to(points)
        pending = pending[~enough]
        if not len(pending):
            break
    return normal, thickness


def append_times(points: Tensor, times: Tensor | None) -> Tensor:
    """Append the times as a fourth coordinate, ``(..., N, 3), (..., N) -> (..., N, 4)``.

    Without times the points are returned unchanged.
    """
    if times is None:
        return points
    # Distances then are sqrt(|dp|^2 + (_SECOND dt)^2).
    scaled = (_SECOND * times.to(points)).expand(points.shape[:-1])
    return torch.cat([points, scaled[..., None]], -1)


def _thin(cloud: Tensor, side: float) -> Tensor:
    """Return the rows of the first point in each cell; all rows if the side is 0.

    The cells lie along the points' own axes.
    """
    if side == 0:
        return torch.arange(len(cloud), device=cloud.device)
    turned = cloud[:, :3].double() @ own_axes(cloud).T
    places = torch.cat([turned, cloud[:, 3:].double()], 1)
    # The number of a cell in C order. Of equal keys, the stable sort keeps the first point first.
    cells = places.div(side).floor().long()
    cells = cells - cells.min(0).values
    key = torch.zeros_like(cells[:, 0])
    for axis, size in enumerate((cells.max(0).values + 1).tolist()):
        key = key * size + cells[:, axis]
    order = key.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = key[order][1:] != key[order][:-1]
    return order[first]


def _variances(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Compute eigenvalues of symmetric ``(n, 3, 3)``, ascending, and the first eigenvector.

    The eigenvalues are the roots of the characteristic polynomial by the cosine (Smith 1961). The
    vector is orthogonal to the rows of A minus its smallest eigenvalue; of the three pairs of rows
    the least parallel is used. This is many times as fast as a factorisation of each matrix.
    """
    # With m = tr(A) / 3, K = A - m I, p = sqrt(tr(K^2) / 6) and cos(3 phi) = det(K / p) / 2, the
    # eigenvalues are m + 2 p cos(phi + 2 pi k / 3), here ascending for k = 1, 2, 0.
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
    eigenvalues = third[:, None] + 2 * size[:, None] * turns.cos()
    a, b, c = (
        matrices
        - eigenvalues[:, :1, None] * torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    ).unbind(1)
    # Rows a, b, c of A - lambda I span the plane across the eigenvector.
    candidates = torch.stack(
        [torch.linalg.cross(a, b), torch.linalg.cross(b, c), torch.linalg.cross(c, a)], 1
    )
    lengths = candidates.norm(dim=2)
    best = lengths.argmax(1)
    rows = torch.arange(len(best), device=best.device)
    vector, length = candidates[rows, best], lengths[rows, best]
    # Equal eigenvalues determine no vector.
    upright = torch.tensor([0.0, 0.0, 1.0], dtype=vector.dtype, device=vector.device)
    return eigenvalues, torch.where(
        length[:, None] > 0,
        vector / length.clamp_min(torch.finfo(length.dtype).tiny)[:, None],
        upright,
    )
