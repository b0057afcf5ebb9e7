"""The support of an object from rays that miss it: rays at its edge are tangents."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.operators.tomography.scan_2d import Scan2D


def ray_support(A: Any, y: Tensor, empty: float | Tensor) -> Tensor:
    """Return 1 at pixels through which no empty ray runs, and 0 elsewhere.

    A pixel is outside if the weight of its empty rays is at least half its mean weight per view.
    Pixels without rays are inside.

    Args:
        A: operator of rays.
        y: its measurements, ``(batch, 1, view, *detector)``.
        empty: measurement up to which a ray is empty, a number or one per item.

    Returns:
        The support, ``(batch, 1, *space)``.

    >>> import invtoolbox as it
    >>> A = it.operators.ParallelBeam((4, 4), [0.0], 4)
    >>> ray_support(A, torch.tensor([[[[0.0, 3.0, 2.0, 0.0]]]]), 0.1)[0, 0, 0]
    tensor([0., 1., 1., 0.])
    """
    if not isinstance(A, LinearOperator) or not isinstance(y, Tensor) or y.ndim < 4:
        raise InputError(f"a support needs an operator of rays, and {A!r} is none")
    weight = A.adjoint(torch.ones_like(y))
    outside = A.adjoint((y <= expand(empty, y)).to(y))
    return ((outside < 0.5 * weight / y.shape[2]) | (weight <= 0)).to(y)


def disc_support(A: Any, y: Tensor, empty: float | Tensor) -> Tensor:
    """Return 1 inside the disc that fits the tangent rays, and 0 elsewhere.

    The first and the last ray of a view that is not empty touch the object. If the object is a
    disc with center c and radius r, the distance of such a ray to the origin, along its normal n,
    is ``n c - r`` or ``n c + r``. All tangents give c and r by least squares, also on a short arc.

    Args:
        A: 2D scan.
        y: its measurements, ``(batch, 1, view, detector)``.
        empty: measurement up to which a ray is empty, a number or one per item.

    Returns:
        The support, ``(batch, 1, row, column)``; pixels within half a pixel of the disc are inside.

    Raises:
        InputError: for another operator, and if fewer than three tangents are measured.

    >>> import invtoolbox as it
    >>> A = it.operators.ParallelBeam((32, 32), torch.linspace(0, 0.5, 9), 48)
    >>> across = torch.arange(32.0) - 15.5
    >>> disc = ((across - 2) ** 2 + across[:, None] ** 2 < 81).float()[None, None]
    >>> support = disc_support(A, A(disc), 1.0)
    >>> bool((support >= disc).all()), float(support.sum() / disc.sum()) < 1.3
    (True, True)
    """
    return torch.stack([_pixels_in(A, fit) for fit in _fit_discs(A, y, empty)]).to(y)[:, None]


def disc_misfit(A: Any, y: Tensor, empty: float | Tensor) -> Tensor:
    """Return how far tangent rays lie from the disc that fits them best, ``(batch,)``.

    It is the root mean square of the distances, in units of the distance of neighbouring rays. An
    object that is a disc gives a fraction of 1.

    Args:
        A: 2D scan.
        y: its measurements, ``(batch, 1, view, detector)``.
        empty: measurement up to which a ray is empty, a number or one per item.

    Raises:
        InputError: in the cases of `disc_support`.

    >>> import invtoolbox as it
    >>> A = it.operators.ParallelBeam((32, 32), torch.linspace(0, 1.5, 19), 48)
    >>> disc, square = torch.zeros(2, 1, 1, 32, 32)
    >>> square[..., 8:24, 8:24] = 1
    >>> disc[0, 0] = torch.hypot(torch.arange(32) - 15.5, torch.arange(32)[:, None] - 15.5) < 9
    >>> float(disc_misfit(A, A(disc), 1.0)) < 0.5 < float(disc_misfit(A, A(square), 1.0))
    True
    """
    return torch.stack([fit.misfit for fit in _fit_discs(A, y, empty)])


class _Disc(NamedTuple):
    """Disc that fits tangent rays, lengths from the centre of the image."""

    left: Tensor
    bottom: Tensor
    radius: Tensor
    misfit: Tensor


def _fit_discs(A: Any, y: Tensor, empty: float | Tensor) -> list[_Disc]:
    if not isinstance(A, Scan2D) or not isinstance(y, Tensor):
        raise InputError(f"the disc of tangent rays needs a scan of a 2D image, and {A!r} is none")
    angles, shift = (
        p.detach().double().expand(len(y), *p.shape[-1:]) if p.ndim else p.detach().double()
        for p in (A.angles, A.detector_shift)
    )
    levels = torch.as_tensor(empty, dtype=y.dtype, device=y.device).expand(len(y))
    discs = []
    for k, item in enumerate(y):
        item_shift = shift[k][:, None] if shift.ndim else shift
        discs.append(
            _fit_disc(
                A, item[0].detach().double(), angles[k][:, None], item_shift, float(levels[k])
            )
        )
    return discs


def _fit_disc(A: Scan2D, y: Tensor, angles: Tensor, shift: Tensor, empty: float) -> _Disc:
    """Return the disc of one sinogram ``(view, detector)``."""
    (x, up), (across, along) = A._lines(angles, shift)
    x, up, across, along, _ = torch.broadcast_tensors(x, up, across, along, y)
    normals = torch.stack([along, -across]) / torch.hypot(across, along)
    offsets = x * normals[0] + up * normals[1]  # signed distance of every ray to the origin
    full = y > empty
    cells = torch.arange(y.shape[1], device=y.device)
    rows, goals = [], []
    for step in (-1, 1):
        # The outermost full cell of each view, and its empty neighbour.
        edge = torch.where(full, step * cells, -(len(cells) + 1)).amax(1) * step
        beyond = edge + step
        views = (full.any(1) & (beyond >= 0) & (beyond < len(cells))).nonzero().squeeze(1)
        edge, beyond = edge[views], beyond[views]
        # The tangent lies where the measurement crosses the level.
        share = (empty - y[views, beyond]) / (y[views, edge] - y[views, beyond])
        at = torch.lerp(offsets[views, beyond], offsets[views, edge], share)
        sign = (offsets[views, beyond] - offsets[views, edge]).sign()
        rows.append(torch.cat([normals[:, views, edge].T, sign[:, None]], 1))
        goals.append(at)
    # Least squares for n c + sign r = offset of the tangent.
    system, goal = torch.cat(rows), torch.cat(goals)
    if len(system) < 3:
        raise InputError(
            f"the sinogram holds {len(system)} tangent rays, and a disc needs 3: the detector must "
            "see both edges of the object; check empty="
        )
    solution = torch.linalg.lstsq(system, goal[:, None]).solution.squeeze(1)
    distance = (system @ solution - goal).square().mean().sqrt()
    left, bottom, radius = solution
    return _Disc(left, bottom, radius, distance / offsets.diff(dim=1).abs().median())


def _pixels_in(A: Scan2D, disc: _Disc) -> Tensor:
    """Return 1 at the pixels in a disc, ``(row, column)``."""
    left, bottom, radius, _ = disc
    (height, width), (row, column) = A.image_shape, A.pixel_size
    x = (torch.arange(width).to(left) - (width - 1) / 2) * column
    up = ((height - 1) / 2 - torch.arange(height).to(left)) * row
    distance = ((x - left).square() + (up[:, None] - bottom).square()).sqrt()
    return distance <= radius + 0.5 * min(row, column)
