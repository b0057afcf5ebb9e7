"""Projections that a scanner wrote: base class of the readers, and geometry from lab coordinates.

A reader gives the poses of source and panel of every view, as they stand in the laboratory, in
ASTRA's order: source (or direction of the rays), centre of the panel, and the vectors from a stored
cell to its neighbours in the row and in the column. `place` turns the pictures so that ``v`` points
along the axis of rotation, and expresses the poses by the fields of a `Geometry3D`. Pictures are
only turned, never mirrored, so the volume has the handedness of the object.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.core.guards import check_range
from invtoolbox.datasets.measurement import Measurement
from invtoolbox.datasets.scans.geometry_3d import Geometry3D
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.scans.synchrotron import line_integrals
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid

#: Number of values that are corrected at a time, in float64.
_CHUNK = 2**21
#: Relative differences of poses below this are rounding errors; files hold six digits.
_CLOSE = 1e-5
#: Largest rotation of a panel in its plane, in radians, that rows across the axis still describe.
_LARGEST_TURN = 0.3
#: Transmission of a ray without counts, in counts: half of one.
_STARVED = 0.5


@dataclasses.dataclass(frozen=True)
class Poses:
    """Source and panel of every view, in millimetres, as the pictures are stored.

    Attributes:
        vectors: poses, ``(V, 12)``, in ASTRA's order; the axis of rotation is ``z``.
        parallel: whether the rays of a view are parallel.
    """

    vectors: np.ndarray
    parallel: bool = False

    @staticmethod
    def circle(pose: Any, angles: Any, parallel: bool = False) -> Poses:
        """Return the poses that a first pose takes when it turns about ``z``.

        Args:
            pose: source (or ray), centre of the panel, u and v, ``(4, 3)``, at angle 0.
            angles: angles in radians, anticlockwise seen from positive ``z``.
            parallel: whether the rays of a view are parallel.

        >>> Poses.circle(np.eye(4, 3), [np.pi / 2]).vectors[0, :3].round() + 0.0
        array([0., 1., 0.])
        """
        cos, sin = np.cos(angles), np.sin(angles)
        x, y, z = np.asarray(pose, dtype=np.float64).T
        turned = [np.outer(cos, x) - np.outer(sin, y), np.outer(sin, x) + np.outer(cos, y)]
        vectors = np.stack([*turned, np.broadcast_to(z, turned[0].shape)], 2)
        return Poses(vectors.reshape(len(cos), 12), parallel)


class ScannerScan(Volume):
    """Data set of one item, the projections of a scanner; it is read in parts by `slices`.

    Counts become line integrals by ``y = -log(counts / white)``. A ray without counts gets half a
    count. Cells whose white level is not above 0 are interpolated from their neighbours.

    Args:
        path: file that describes the scan.
        pictures: the pictures as they are stored, ``(views, rows, columns)``.
        geometry: poses of the pictures; or a geometry that replaces them, for pictures as stored.
        white: counts without an object, one number or ``(rows, columns)``; None if the pictures
            hold line integrals.
        notes: sentences about what the file does not say.
        moves: shift of every picture in whole cells, (along the rows, along the columns),
            ``(views, 2)``; the cells that enter repeat the edge.

    Attributes:
        notes: sentences about what the file does not say.
    """

    format_name = "scan"

    def __init__(
        self,
        path: Path,
        pictures: Volume,
        geometry: Poses | ScanGeometry,
        white: Any,
        notes: tuple[str, ...] = (),
        moves: np.ndarray | None = None,
    ) -> None:
        self._pictures, self._steps, self._moves = pictures, (1, 1), moves
        views = len(geometry.vectors) if isinstance(geometry, Poses) else geometry.view_count
        if views != pictures.shape[0]:
            raise InputError(
                f"{path}: {views} views are described, but there are {pictures.shape[0]} pictures in "
                f"{pictures.path}; fetch the missing files or correct the number"
            )
        if isinstance(geometry, Poses):
            geometry, self._steps, more = place(geometry, pictures.shape[1:])
            notes = (*notes, *more)
        self._white = None if white is None else np.asarray(white, dtype=np.float64)
        if self._white is not None and self._white.ndim == 0:
            check_range(str(path), "(0, inf)", white=float(self._white))
        self.notes = notes
        super().__init__(
            path,
            pictures.shape,
            Grid(unit="voxel"),
            "1 (line integral of the attenuation)",
            geometry=geometry,
        )

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        return self._integrals(start, stop)[0]

    def volume(self, frame: int = 0) -> Measurement:
        y, dead, starved = self._integrals(0, self.shape[0])
        facts = {"dead_cells": dead, "starved_rays": starved}
        measured = torch.from_numpy(y)[None, None]
        return Measurement(measured, self.geometry, meta=self._meta(frame) | facts)

    def _meta(self, frame: int) -> dict[str, Any]:
        assert self.geometry is not None
        return {
            "source": str(self.path),
            "units": self.units,
            "image_units": f"1/{self.geometry.length_unit}",
            "notes": self.notes,
        }

    def part(self, views: slice, rows: slice) -> np.ndarray:
        return self._integrals(views.start, views.stop, rows)[0]

    def _integrals(
        self, start: int, stop: int, rows: slice = slice(None)
    ) -> tuple[np.ndarray, int, int]:
        """Return line integrals of some views and rows, and the numbers of dead cells and starved rays."""
        _, height, columns = self.shape
        flip_rows, flip_columns = self._steps
        # Rows are counted as they are read; moved pictures need all stored rows.
        stored = np.arange(height)[::flip_rows][rows]
        low, high = 0, height
        if self._moves is None:
            low, high = int(np.min(stored)), int(np.max(stored)) + 1
        y = np.empty((stop - start, len(stored), columns), dtype=np.float32)
        dead = starved = 0
        step = max(_CHUNK // ((high - low) * columns), 1)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            pictures = self._pictures.slices(first, last)[:, low:high]
            values = np.asarray(pictures, dtype=np.float64)
            if self._white is not None:
                white = np.broadcast_to(self._white, (height, columns))[low:high].ravel()
                flat, cells, rays = line_integrals(
                    values.reshape(last - first, -1), white, 0 * white, str(self.path), _STARVED
                )
                values = flat.reshape(values.shape)
                dead, starved = len(cells), starved + rays
            if self._moves is not None:
                for k, (across, along) in enumerate(self._moves[first:last]):
                    i = np.clip(np.arange(height) - along, 0, height - 1)
                    j = np.clip(np.arange(columns) - across, 0, columns - 1)
                    values[k] = values[k][i[:, None], j]
            y[first - start : last - start] = values[:, stored - low, ::flip_columns]
        return y, dead, starved


def place(
    poses: Poses, panel: tuple[int, int]
) -> tuple[Geometry3D, tuple[int, int], tuple[str, ...]]:
    """Return the geometry of poses, the steps (+1 or -1) along stored rows and columns, and notes.

    The volume is the field of view: cubes of the size of a cell at the axis, as many slices as the
    panel has rows, and the cylinder that every view sees, or the views of a full turn together.

    Args:
        poses: the poses.
        panel: numbers of rows and columns of the pictures.

    >>> pose = [[0, -20, 0], [0, 10, 0], [-3, 0, 0], [0, 0, -3]]
    >>> geometry, steps, _ = place(Poses.circle(pose, [0.0, 0.1]), (4, 6))
    >>> geometry.source_origin, geometry.volume_shape, steps
    (20.0, (4, 6, 6), (-1, -1))
    """
    if not np.isfinite(poses.vectors).all() or not len(poses.vectors):
        raise InputError("the poses of source and panel hold NaN or infinite values, or are none")
    s, d, u, v = (table.copy() for table in np.split(poses.vectors, 4, 1))
    down = np.median(v[:, 2]) < 0
    v = -v if down else v
    # Seen from the source, u, v and the central ray of a panel are left-handed: u x v = -n.
    ahead = s if poses.parallel else d - s
    mirrored = not poses.parallel and np.median((np.cross(u, v) * ahead).sum(1)) > 0
    u = -u if mirrored else u
    steps = (-1 if down else 1, -1 if mirrored else 1)
    wide, tall = np.linalg.norm(u, axis=1), np.linalg.norm(v, axis=1)
    normal = np.cross(v, u)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    if (length <= 1e-6 * (wide * tall)[:, None]).any():
        raise InputError("the two axes of a panel are parallel or zero; correct the vectors")
    normal /= length
    if poses.parallel:
        near = far = np.ones(len(s))
    else:
        near, far = -(s * normal).sum(1), ((d - s) * normal).sum(1)
        if (near <= 0).any() or (far < near).any():
            raise InputError(
                "the axis of rotation does not lie between source and panel; check the distances"
            )
    # The height of the axis that the middle row sees becomes the volume's centre.
    height = d[:, 2] if poses.parallel else s[:, 2] + (d[:, 2] - s[:, 2]) * near / far
    notes: tuple[str, ...] = ()
    rise = float(height.mean())
    size = [_plain(float(side.mean() * (near / far).mean()), 9) for side in (tall, wide)]
    if np.ptp(height) < size[0] / 2 and abs(rise) > 1e-6 * size[0]:
        notes = (f"the volume's centre lies at z = {rise:.6g} mm, the height that the panel sees",)
        for table in (d,) if poses.parallel else (s, d):
            table[:, 2] -= rise
    # The column, from the panel's middle, that sees the axis: s + (0 - s) P / S - d along u.
    foot = -d if poses.parallel else s - s * (far / near)[:, None] - d
    offset = (foot * u).sum(1) / wide**2
    turned = np.arctan2(-normal[:, 0], normal[:, 1])
    edge = np.abs(offset) + panel[1] / 2 if _closed(turned) else panel[1] / 2 - np.abs(offset)
    across = max(2 * round(float(edge.min())), 1)
    fields: dict[str, Any] = {
        "kind": "parallel3d" if poses.parallel else "cone",
        "detector_shape": panel,
        "volume_shape": (panel[0], across, across),
        "voxel_size": (size[0], size[1], size[1]),
    }
    circle = _circle(s, d, u, v, turned, poses.parallel)
    if circle is None:
        return Geometry3D(**fields, vectors=np.concatenate([s, d, u, v], 1).tolist()), steps, notes
    return Geometry3D(**fields, **circle), steps, notes


def _closed(angles: np.ndarray) -> bool:
    """Return whether angles cover a full turn without a gap."""
    ordered = np.unique((angles % (2 * np.pi)).round(6))
    gaps = np.diff(ordered, append=ordered[0] + 2 * np.pi)
    return bool(np.max(gaps) <= 2.5 * np.median(gaps))


def _circle(
    s: np.ndarray, d: np.ndarray, u: np.ndarray, v: np.ndarray, turned: np.ndarray, parallel: bool
) -> dict[str, Any] | None:
    """Return the fields of a circle around the object; None if the poses do not form one."""
    poses = zip(np.stack([s, d, u, v], 1), turned)
    back = np.stack([Poses.circle(pose, [-t]).vectors[0].reshape(4, 3) for pose, t in poses])
    source, middle, right, up = first = back.mean(0)
    scale = np.array([np.abs(first[:2]).max()] * 2 + [np.abs(first[2:]).max()] * 2)
    spacing = (_plain(np.linalg.norm(up)), _plain(np.linalg.norm(right)))
    right, up = right / spacing[1], up / spacing[0]
    # The panel's normal lies in the plane x = 0, so the panel is turned about u, then in its plane.
    normal = np.cross(up, right)
    about_u = float(np.arctan2(-normal[2], normal[1]))
    lifted = np.array([0.0, np.sin(about_u), np.cos(about_u)])
    in_plane = float(np.arctan2(right @ lifted, right[0]))
    ray = source / np.linalg.norm(source)
    if (
        (np.abs(back - first) > _CLOSE * scale[:, None]).any()
        or abs(in_plane) > _LARGEST_TURN
        or abs(right @ up) > _CLOSE
        or (parallel and np.abs(np.cross(ray, normal)).max() > _CLOSE)
    ):
        return None

    def clean(length: float, unit: float = float(scale[0])) -> float:
        return 0.0 if abs(length) < 1e-9 * unit else _plain(length)

    angles = np.unwrap(turned)
    angles = turned if np.ptp(angles) > 4 * np.pi else angles
    fields = {
        "angles": tuple((angles + 0.0).tolist()),
        "detector_spacing": spacing,
        "detector_rotation": (0.0 if parallel else clean(about_u, 1), 0.0, clean(in_plane, 1)),
    }
    if parallel:
        shift = (clean(middle[0], spacing[1]), clean(middle @ lifted, spacing[0]))
        return fields | {"tilt": clean(about_u, 1), "detector_shift": shift}
    return fields | {
        "source_origin": clean(-source[1]),
        "source_detector": clean(middle[1] - source[1]),
        "axis_shift": clean(-source[0]),
        "source_shift": (0.0, clean(source[2]), 0.0),
        "detector_shift": (clean(middle[0] - source[0]), clean(middle[2])),
    }


def _plain(length: Any, digits: int = 12) -> float:
    """Return a length without the last digits, which are rounding errors of the rotation."""
    return float(f"{float(length):.{digits}g}") + 0.0
