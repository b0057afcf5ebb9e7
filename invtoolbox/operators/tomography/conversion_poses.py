"""Conversion of the vectors of every view, as in other packages, to the simplest scan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from invtoolbox.errors import InputError
from invtoolbox.operators.tomography.cone_beam import ConeBeam, VectorScan
from invtoolbox.operators.tomography.fan_beam import FanBeam
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam, ParallelBeam3D
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.operators.tomography.scan_3d import Scan3D

#: Relative differences below this are rounding errors (other packages store angles in float32).
_CLOSE = 1e-5


@dataclass(frozen=True)
class Grid:
    """Grid of a volume or an image.

    Attributes:
        shape: shape (slices, rows, columns), or (rows, columns).
        cell: size of a cell along the same axes.
        centre: position of the centre, (x, y[, z]).
    """

    shape: tuple[int, ...]
    cell: tuple[float, ...]
    centre: tuple[float, ...]


def scan_of(
    vectors: Any, grid: Grid, panel: tuple[int, int], parallel: bool, curved: bool = False
) -> Scan3D:
    """Convert vectors to a `ConeBeam` or `ParallelBeam3D` if possible, else to a `VectorScan`.

    The views of the former lie on a circle or a helix around the volume.

    Args:
        vectors: vectors, (V, 12), source or direction, centre of the panel, u, v.
        grid: grid of the volume.
        panel: shape (rows, columns) of the panel.
        parallel: whether the rays of a view are parallel.
        curved: whether the panel is an arc around the source.
    """
    s, d, u, v = (
        np.array(columns, dtype=np.float64)
        for columns in np.split(np.asarray(vectors, dtype=np.float64), 4, axis=1)
    )
    d -= grid.centre
    if not parallel:
        s -= grid.centre
    upright = None if curved else _upright(u, v)
    convert = _parallel if parallel else _circle
    scan = None if upright is None else convert(s, d, upright, grid, panel)
    if scan is None:
        table = np.concatenate([s, d, u, v], 1)
        return VectorScan(grid.shape, table, panel, grid.cell, parallel, curved)
    return scan


#: Angles, spacing of the cells, and the directions u and n of upright panels.
_Upright = tuple[Any, tuple[float, float], Any, Any]


def _parallel(
    r: Any, d: Any, upright: _Upright, grid: Grid, panel: tuple[int, int]
) -> Scan3D | None:
    angles, spacing, across, _ = upright
    direction = r / np.linalg.norm(r, axis=1, keepdims=True)
    if not (_same((direction * across).sum(1), 0.0, 1.0) and _same(direction[:, 2], 0.0, 1.0)):
        return None
    shift = np.stack([(d * across).sum(1), d[:, 2]], 1)
    return ParallelBeam3D(grid.shape, angles, panel, grid.cell, spacing, _one(shift, _scale(grid)))


def _circle(s: Any, d: Any, upright: _Upright, grid: Grid, panel: tuple[int, int]) -> Scan3D | None:
    angles, spacing, across, ahead = upright
    arm = d - s
    # Distances along the central ray, the axis from it along u, and the height of the source.
    near, far, axis, rise = -(s * ahead).sum(1), (arm * ahead).sum(1), -(s * across).sum(1), s[:, 2]
    scale = float(np.abs(far).max())
    if (
        not all(_same(values, values[0], scale) for values in (near, far, axis))
        or near[0] <= 0
        or far[0] < near[0]
    ):
        return None
    pitch, height, angles = _helix(angles, rise, scale)
    if pitch is None:
        return None
    shift = np.stack([(arm * across).sum(1), arm[:, 2] + height], 1)
    return ConeBeam(
        grid.shape,
        angles,
        panel,
        source_origin=float(near.mean()),
        source_detector=float(far.mean()),
        voxel_size=grid.cell,
        detector_spacing=spacing,
        detector_shift=_one(shift, scale),
        pitch=pitch,
        axis_shift=_clean(float(axis.mean()), scale),
        source_shift=(0.0, height, 0.0),
    )


def _upright(u: Any, v: Any) -> _Upright | None:
    """Return angles, spacing, and the directions u and n of upright panels; ``None`` for others."""
    wide, tall = np.linalg.norm(u, axis=1), np.linalg.norm(v, axis=1)
    across = u / wide[:, None]
    if not (
        _same(wide, wide[0], wide[0])
        and _same(tall, tall[0], tall[0])
        and _same(v[:, :2] / tall[:, None], 0.0, 1.0)
        and _same(across[:, 2], 0.0, 1.0)
        and bool((v[:, 2] > 0).all())
    ):
        return None
    angles = np.arctan2(across[:, 1], across[:, 0])
    ahead = np.stack([-across[:, 1], across[:, 0], np.zeros_like(angles)], 1)
    return angles, (float(tall.mean()), float(wide.mean())), across, ahead


def _helix(angles: Any, rise: Any, scale: float) -> tuple[float | None, float, Any]:
    """Return pitch, height at angle 0, and unwrapped angles.

    The pitch is ``None`` for other rises.
    """
    if _same(rise, rise[0], scale):
        return 0.0, _clean(float(rise.mean()), scale), angles
    turned = np.unwrap(angles)
    slope, height = np.polyfit(turned, rise, 1)
    if not _same(slope * turned + height, rise, scale):
        return None, 0.0, angles
    # Whole turns are arbitrary: the helix should pass the volume's middle near angle 0.
    turns = round(height / (2 * math.pi * slope))
    pitch = 2 * math.pi * slope
    return pitch, _clean(float(height - pitch * turns), scale), turned + 2 * math.pi * turns


def scan_of_2d(vectors: Any, grid: Grid, detectors: int, parallel: bool) -> Scan2D:
    """Convert vectors to a `ParallelBeam` or `FanBeam`; y points upwards.

    Args:
        vectors: vectors, (V, 6), source or direction, centre of the detector, u.
        grid: grid of the image.
        detectors: number of detector cells.
        parallel: whether the rays of a view are parallel.

    Raises:
        InputError: if the views cannot be expressed by these scans.
    """
    s, d, u = (
        np.array(columns, dtype=np.float64)
        for columns in np.split(np.asarray(vectors, dtype=np.float64), 3, axis=1)
    )
    d -= grid.centre
    width = np.linalg.norm(u, axis=1)
    across = u / width[:, None]
    angles = np.arctan2(across[:, 1], across[:, 0])
    ahead = np.stack([-across[:, 1], across[:, 0]], 1)
    remedy = "use a volume of one slice, whose views may stand anywhere (it.operators.VectorScan)"
    if not _same(width, width[0], width[0]):
        raise InputError(
            "the width of the cells differs from view to view, which a 2D scan does not support; "
            f"{remedy}"
        )
    if parallel:
        direction = s / np.linalg.norm(s, axis=1, keepdims=True)
        if not _same((direction * across).sum(1), 0.0, 1.0):
            raise InputError(
                "the detector is not perpendicular to the rays, which a 2D scan does not support; "
                f"{remedy}"
            )
        shift = _one((d * across).sum(1), _scale(grid))
        return ParallelBeam(grid.shape, angles, detectors, grid.cell, float(width.mean()), shift)
    s -= grid.centre
    arm = d - s
    near, far = -(s * ahead).sum(1), (arm * ahead).sum(1)
    scale = float(np.abs(far).max())
    if not (
        _same(near, near[0], scale)
        and _same(far, far[0], scale)
        and _same((s * across).sum(1), 0.0, scale)
    ):
        raise InputError(
            "the source does not turn on a circle around the image's centre, facing it straight; "
            f"{remedy}"
        )
    if near[0] <= 0 or far[0] < near[0]:
        raise InputError(
            "the detector is reversed, or is nearer to the source than the centre: flip its cells, "
            "or the image's rows"
        )
    return FanBeam(
        grid.shape,
        angles,
        detectors,
        source_origin=float(near.mean()),
        source_detector=float(far.mean()),
        pixel_size=grid.cell,
        detector_spacing=float(width.mean()),
        detector_shift=_one((arm * across).sum(1), scale),
    )


def refuse_items(A: Any) -> None:
    """Raise an `InputError` if the geometry differs per item: other packages support only one."""
    if getattr(A, "items", None) is not None:
        raise InputError(
            f"{A} has a different geometry for every item of the batch; convert "
            "A.select(torch.tensor([k])) item by item"
        )


def plain_scan(
    A: Any, package: str, allowed: tuple[str, ...] = (), per_view: bool = False
) -> dict[str, Any]:
    """Return the angles, distances and ``allowed`` parameters of a scan as NumPy arrays.

    The scan is circular or helical. If all views share a value, its array has no axis of views.

    Raises:
        InputError: if a parameter that ``package`` does not support is not zero, or if a parameter
            other than the angles differs from view to view.
    """
    refuse_items(A)
    arrays: dict[str, Any] = {}
    for name, value in A.parameters().items():
        array = value.detach().double().cpu().numpy()
        if name == "angles":
            arrays[name] = array
        elif name in ("source_origin", "source_detector", *allowed):
            arrays[name] = _one(array, float(np.abs(array).max()) or 1.0)
            if not per_view and np.ndim(arrays[name]) == array.ndim:
                raise InputError(
                    f"{package} has one {name} for all views, but {A} has another in every view"
                )
        elif np.any(array != 0):
            raise InputError(
                f"{package} does not support the {name} of {A}; convert its vectors instead "
                "(to_astra)"
            )
    return arrays


def _one(values: Any, scale: float) -> Any:
    """Return the first row without rounding errors if all rows are equal."""
    return np.vectorize(_clean)(values[0], scale) if _same(values, values[:1], scale) else values


def _clean(value: float, scale: float) -> float:
    return 0.0 if abs(value) < 1e-9 * scale else float(value)


def _scale(grid: Grid) -> float:
    return max(n * size for n, size in zip(grid.shape, grid.cell))


def _same(values: Any, other: Any, scale: float) -> bool:
    return bool(np.all(np.abs(values - other) <= _CLOSE * scale))
