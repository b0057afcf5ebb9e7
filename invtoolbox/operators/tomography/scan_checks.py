"""Checks of the arguments of scans, and of the geometry of a 3D scan."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.rays import Views
from invtoolbox.operators.tomography.filtered_backprojection import arc_weights

#: In angles of more than two turns, larger steps between views than this are taken for degrees.
_LARGE_STEP = 0.2


def positive(name: str, value: Any) -> float:
    """Return ``value`` as a positive, finite number; raise an `InputError` otherwise."""
    number = float(value)
    check_range("a scan", "(0, inf)", **{name: number})
    return number


def whole(name: str, value: Any) -> int:
    """Return ``value`` as a whole number of at least 1; raise an `InputError` otherwise."""
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value}")
    return int(value)


def shape_of(name: str, shape: Sequence[int], axes: tuple[str, ...]) -> tuple[int, Any]:
    """Split a shape into the number of channels (1 if not given) and the sizes along ``axes``."""
    sizes = tuple(shape) if isinstance(shape, (tuple, list, torch.Size, np.ndarray)) else (shape,)
    if len(sizes) not in (len(axes), len(axes) + 1):
        names = ", ".join(axes)
        raise InputError(
            f"{name} must be ({names}) or (channels, {names}), got "
            f"{sizes if len(sizes) > 1 else shape}"
        )
    channels, *space = (whole(f"every entry of {name}", n) for n in (1, *sizes)[-len(axes) - 1 :])
    return channels, tuple(space)


def lengths(name: str, value: float | Sequence[float], axes: tuple[str, ...]) -> Any:
    """Return one positive length per axis; a single length holds for all axes."""
    tensor = numbers(name, value).detach()
    values = tensor.expand(len(axes)).tolist() if tensor.ndim == 0 else tensor.tolist()
    if len(values) != len(axes):
        raise InputError(
            f"{name} must be one length or {len(axes)} of them ({', '.join(axes)}), got {value}"
        )
    return tuple(positive(name, v) for v in values)


def numbers(name: str, value: Any) -> Tensor:
    """Return numbers as a tensor; float64 if they were not given as a floating-point tensor."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else value.double()
    try:
        return torch.from_numpy(np.array(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} must be a number, or an array of numbers, got {value!r}"
        ) from error


def check_angles(angles: Any, helical: bool = False) -> Tensor:
    """Return angles in radians as a tensor (V,); refuse angles that look like degrees."""
    tensor = numbers("angles", angles)
    if tensor.ndim != 1 or tensor.numel() == 0:
        raise InputError(
            f"angles must have shape (views,) with at least one view, got {tuple(tensor.shape)}"
        )
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        raise InputError(
            f"angles must be finite: {int((~finite).sum())} of {tensor.numel()} are not, the first "
            f"at view {int((~finite).nonzero()[0])}"
        )
    plain = tensor.detach()
    largest = float(plain.abs().max())
    # A helix has many turns, with small steps.
    if largest > 4 * math.pi + 1e-3 and not (
        helical and len(plain) > 1 and float(plain.diff().abs().median()) <= _LARGE_STEP
    ):
        raise InputError(
            f"angles look like degrees (up to {largest:.4g}): pass torch.deg2rad(angles); radians "
            "of more than two turns can be given as angles % (2 * pi), or with steps of at most "
            f"{_LARGE_STEP} in a helix"
        )
    return tensor


def finite(name: str, value: Any) -> Tensor:
    """Return numbers as a tensor; raise an `InputError` unless all are finite."""
    tensor = numbers(name, value)
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{name} must be finite")
    return tensor


def positive_everywhere(name: str, value: Any) -> Tensor:
    """Return lengths as a tensor; raise an `InputError` unless all are positive."""
    tensor = numbers(name, value)
    check_range("a scan", "(0, inf)", **{name: tensor})
    return tensor


def seen_cells(views: Views, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project points (P, 3) onto the panel of every view.

    Returns:
        row and column, (V, P), counted from 0, and the depth in front of the source, (V, P). The
        depth is in units of the distance from the source to the panel's plane, and 1 for parallel
        beams.
    """
    rows, columns = views.panel
    # Point = detector + across u + along v + depth arm, and from the source for a cone.
    if views.parallel:
        solved = _solve(
            torch.stack([views.u, views.v, views.source], -1),
            points[None] - views.detector[:, None],
        )
        depth = torch.ones_like(solved[..., 0])
        across, along = solved[..., 0], solved[..., 1]
    else:
        arm = views.detector - views.source
        # The columns of a curved panel are angles between the central ray and a ray along u of its
        # length.
        wide = (
            arm.norm(dim=-1) / views.u.norm(dim=-1) if views.curved else torch.ones_like(arm[:, 0])
        )
        solved = _solve(
            torch.stack([views.u * wide[:, None], views.v, arm], -1),
            points[None] - views.source[:, None],
        )
        across, along, depth = solved.unbind(-1)
        if views.curved:
            across, along = (
                torch.atan2(across, depth) * wide[:, None],
                along / torch.hypot(across, depth),
            )
        else:
            across, along = across / depth, along / depth
    return along + (rows - 1) / 2, across + (columns - 1) / 2, depth


def _solve(matrices: Tensor, points: Tensor) -> Tensor:
    return torch.linalg.solve(matrices[:, None], points[..., None])[..., 0]


def half_size(views: Views) -> Tensor:
    """Return half the extent of the volume along (x, y, z)."""
    sizes = [n * size / 2 for n, size in zip(views.volume, views.voxel_size)]
    return views.source.new_tensor(sizes[::-1])


def check_view(name: str, views: Views) -> None:
    """Raise if no ray meets the volume or its centre is never seen; warn if it is cut off."""
    half = half_size(views)
    corners = (
        torch.tensor(
            list(itertools.product((-1.0, 1.0), repeat=3)), dtype=half.dtype, device=half.device
        )
        * half
    )
    if not views.parallel:
        inside = (views.source.abs() < half).all(1)
        if bool(inside.any()):
            raise InputError(
                f"the source of {name} lies inside the volume in view "
                f"{int(inside.nonzero()[0])}: it is at {_point(views.source[inside][0])}, but the "
                f"volume reaches {_point(half)}; check voxel_size and source_origin (one unit of "
                "length)"
            )
    _check_facing(name, views)
    rows, columns = views.panel
    row, column, depth = seen_cells(views, corners)
    ahead = (depth > 0).any(1)
    # These are bounding boxes of the projected corners; a volume that reaches next to the source
    # may project anywhere.
    behind = (depth <= 0).any(1)
    meets = ahead & (behind | _overlap(row, rows) & _overlap(column, columns))
    if not bool(meets.any()):
        raise InputError(
            f"no ray of {name} meets the volume: in view 0 the volume projects to rows "
            f"{_span(row[0])} and columns {_span(column[0])} of a panel of {rows} by {columns} "
            "cells; check detector_shift, detector_spacing and voxel_size (one unit of length)"
        )
    # Cell k reaches from k - 1/2 to k + 1/2.
    row, column, depth = seen_cells(views, torch.zeros_like(corners[:1]))
    centre = (depth > 0) & _within(row, rows) & _within(column, columns)
    if not bool(centre.any()):
        raise InputError(
            f"{name} never sees the centre of the volume: in view 0 it would be at row "
            f"{float(row[0, 0]):.1f} and column {float(column[0, 0]):.1f} of a panel of {rows} by "
            f"{columns} cells; check detector_shift (lengths, not cells)"
        )
    _warn_of_cut(name, views, half)


def _check_facing(name: str, views: Views) -> None:
    """Raise unless u, v and the direction to the panel's centre are linearly independent."""
    # The determinant of unit vectors is the volume that they span.
    arm = views.source if views.parallel else views.detector - views.source
    spans = torch.stack(
        [t / t.norm(dim=1, keepdim=True).clamp_min(1e-300) for t in (views.u, views.v, arm)], 2
    )
    edge_on = torch.linalg.det(spans).abs() < 1e-9
    if bool(edge_on.any()):
        raise InputError(
            f"the panel of {name} is seen edge-on, or its u and v are parallel, in view "
            f"{int(edge_on.nonzero()[0])}"
        )


def _warn_of_cut(name: str, views: Views, half: Tensor) -> None:
    rows, columns = views.panel
    inner = half[:2].min()
    around = torch.arange(16, dtype=half.dtype, device=half.device) * (math.pi / 8)
    rim = torch.stack([inner * around.cos(), inner * around.sin(), torch.zeros_like(around)], 1)
    _, column, _ = seen_cells(views, rim)
    # The slack is the width of a cell: a volume as wide as its panel is the common case.
    sides = (float(column.min()) < -1.5) + (float(column.max()) > columns + 0.5)
    # In a full turn, each side sees the object that the other one cuts off.
    turned = torch.atan2(views.u[:, 1], views.u[:, 0])
    if sides == 2 or (sides and not arc_weights(turned, 2 * math.pi).closed):
        warnings.warn(
            f"the field of view of {name} cuts the object off at the sides: the cylinder inside "
            f"the volume projects to columns {_span(column)} of {columns}",
            stacklevel=5,
        )
        return
    if float(views.source[:, 2].max() - views.source[:, 2].min()) > 1e-6 * float(half.max()):
        return  # a helix sees a part of the object at a time
    ends = torch.stack([torch.zeros_like(half), torch.zeros_like(half)])
    ends[:, 2] = torch.stack([-half[2], half[2]])
    row, _, _ = seen_cells(views, ends)
    if float(row.min()) < -1.5 or float(row.max()) > rows + 0.5:
        warnings.warn(
            f"the field of view of {name} cuts the object off above or below: the axis of rotation "
            f"projects to rows {_span(row)} of {rows}",
            stacklevel=5,
        )


def _overlap(places: Tensor, cells: int) -> Tensor:
    return (places.amax(1) > -0.5) & (places.amin(1) < cells - 0.5)


def _within(places: Tensor, cells: int) -> Tensor:
    return (places >= -0.5) & (places <= cells - 0.5)


def _span(places: Tensor) -> str:
    return f"{float(places.min()):.1f} to {float(places.max()):.1f}"


def _point(point: Tensor) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in point.tolist()) + ")"
