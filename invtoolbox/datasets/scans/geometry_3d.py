"""The geometry of a 3D scan. Its file is described in `invtoolbox.datasets.scans.geometry_file`."""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from invtoolbox.datasets.scans.scan_geometry import (
    ScanGeometry,
    angle_table,
    angle_unit,
    count,
    length,
    number,
    read_angles,
    read_numbers,
    toml,
)
from invtoolbox.datasets.volumes.volume import Grid
from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.operators.base import LinearOperator

KINDS_3D = ("cone", "parallel3d")

Vector = tuple[float, float, float]
#: Fields that only a cone beam has, and those that say with the angles where source and panel stand.
_OF_A_CONE = ("source_origin", "source_detector", "pitch", "axis_shift", "source_shift", "curved")
_OF_A_TRAJECTORY = (
    "source_origin",
    "source_detector",
    "detector_spacing",
    "detector_shift",
    "pitch",
    "tilt",
    "axis_shift",
    "source_shift",
    "detector_rotation",
)
#: Angles, which a file writes in the unit of its `[angles]`.
_ANGLES = ("tilt", "detector_rotation")
#: Steps between views that are larger than this, in an angle of more than two turns, are taken for degrees.
_LARGE_STEP = 0.2


@dataclass(frozen=True)
class Geometry3D(ScanGeometry):
    """A 3D cone or parallel beam scan, in the words of `invtoolbox.operators.ConeBeam` and `ParallelBeam3D`, whose conventions hold.

    Measurements are ``(view, panel row, panel column)``. All lengths are in one unit (`length_unit`, a name only), all angles in
    radians.

    Args:
        kind: "cone" or "parallel3d".
        detector_shape: (rows, columns) of the panel.
        volume_shape: (slices, rows, columns) of the reconstruction.
        angles: one a view; or `vectors`.
        vectors: 12 numbers a view, as ASTRA's ``cone_vec`` and ``parallel3d_vec``: source (or direction of the rays), centre of the
            panel, from a cell to its neighbour in the row, and in the column; (x, y, z) each. They stand for angles, distances,
            spacing, shifts and rotations.
        voxel_size: one length, or three (slice, row, column).
        detector_spacing: one length, or two (between rows, between columns).
        source_origin, source_detector, detector_shift, pitch, tilt, curved, axis_shift, source_shift, detector_rotation: those of the
            operators, one for all views; what differs from view to view is given as `vectors`.

    Raises:
        InputError: for numbers that cannot be a scan: those of the operators, and fields that do not go together.

    >>> g = Geometry3D("cone", (4, 6), (4, 5, 5), angles=(0.0, 1.0), source_origin=20.0, source_detector=30.0)
    >>> g.projections_shape, g.axis_column
    ((2, 4, 6), 2.5)
    """

    axes: ClassVar[int] = 3
    kind: str
    detector_shape: tuple[int, int]
    volume_shape: tuple[int, int, int]
    angles: tuple[float, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    voxel_size: Vector | float = 1.0
    detector_spacing: tuple[float, float] | float = 1.0
    source_origin: float | None = None
    source_detector: float | None = None
    detector_shift: tuple[float, float] = (0.0, 0.0)
    pitch: float = 0.0
    tilt: float = 0.0
    axis_shift: float = 0.0
    source_shift: Vector = (0.0, 0.0, 0.0)
    detector_rotation: Vector = (0.0, 0.0, 0.0)
    curved: bool = False
    length_unit: str = "mm"

    def __post_init__(self) -> None:
        if self.kind not in KINDS_3D:
            raise InputError(
                f"geometry: kind is {self.kind!r}; it must be one of {', '.join(KINDS_3D)}"
            )
        # Lists, NumPy numbers and integers are welcome; what is stored is plain, so that == and hash work.
        self._set(
            "volume_shape",
            tuple(
                count("volume_shape", n) for n in _several("volume_shape", self.volume_shape, (3,))
            ),
        )
        self._set(
            "detector_shape",
            tuple(
                count("detector_shape", n)
                for n in _several("detector_shape", self.detector_shape, (2,))
            ),
        )
        for name, sizes in (("voxel_size", 3), ("detector_spacing", 2)):
            given = getattr(self, name)
            several = (
                [given] * sizes
                if not isinstance(given, (list, tuple))
                else _several(name, given, (sizes,))
            )
            self._set(name, tuple(length(name, v) for v in several))
        for name, size in (("detector_shift", 2), ("source_shift", 3), ("detector_rotation", 3)):
            self._set(
                name, tuple(number(name, v) for v in _several(name, getattr(self, name), (size,)))
            )
        for name in ("pitch", "tilt", "axis_shift"):
            self._set(name, number(name, getattr(self, name)))
        for name in ("source_origin", "source_detector"):
            if getattr(self, name) is not None:
                self._set(name, length(name, getattr(self, name)))
        if not isinstance(self.curved, bool):
            raise InputError(f"geometry: curved is {self.curved!r}; it must be true or false")
        self._set("angles", tuple(number("an angle", a) for a in self.angles))
        self._set(
            "vectors", tuple(tuple(number("a vector", v) for v in row) for row in self.vectors)
        )
        self._check_fields()
        self._check_angles()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about what the panel does not see: the operator that is used says it once
            try:
                self.operator()
            except InputError as error:
                raise InputError(f"geometry: {error}") from None

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_fields(self) -> None:
        given = [
            f.name for f in dataclasses.fields(self) if getattr(self, f.name) != self._default(f)
        ]
        if self.kind != "cone":
            wrong = [name for name in _OF_A_CONE if name in given]
            if wrong:
                raise InputError(
                    f"geometry: {wrong[0]} belongs to a cone beam; leave it out or set kind = 'cone'"
                )
        if self.vectors:
            wrong = [name for name in ("angles", *_OF_A_TRAJECTORY) if name in given]
            if wrong:
                raise InputError(
                    f"geometry: {wrong[0]} and vectors are both given; vectors say all about source and panel, so give one"
                )
            if any(len(row) != 12 for row in self.vectors):
                bad = next(k for k, row in enumerate(self.vectors) if len(row) != 12)
                raise InputError(
                    f"geometry: view {bad} of vectors has {len(self.vectors[bad])} numbers; each has 12: source, centre of "
                    "the panel, u and v, (x, y, z) each"
                )
            return
        if not self.angles:
            raise InputError("geometry: there are no angles; give at least one, or vectors")
        for name in ("source_origin", "source_detector") if self.kind == "cone" else ():
            if name not in given:
                raise InputError(
                    f"geometry: a cone beam needs {name}; give the distance from the source"
                )

    def _default(self, field: Any) -> Any:
        """What a field holds where nothing was given."""
        sizes = {"voxel_size": 3, "detector_spacing": 2}
        return (1.0,) * sizes[field.name] if field.name in sizes else field.default

    def _check_angles(self) -> None:
        largest = max(map(abs, self.angles), default=0.0)
        steps = [abs(b - a) for a, b in pairwise(self.angles)]
        # A helix has many turns, with small steps.
        helix = self.pitch != 0 and bool(steps) and statistics.median(steps) <= _LARGE_STEP
        if largest > 4 * math.pi + 1e-3 and not helix:
            raise InputError(
                f"geometry: the largest angle is {largest:g} radians, which looks like degrees; convert with math.radians, or "
                'say unit = "degrees" in the geometry file'
            )
        turned = max(map(abs, (self.tilt, *self.detector_rotation)))
        if turned > math.pi:
            raise InputError(
                f"geometry: tilt and detector_rotation are radians, at most pi, got {turned:g}; in a file they are in the "
                "unit of [angles]"
            )

    @property
    def view_count(self) -> int:
        return len(self.vectors) or len(self.angles)

    @property
    def columns(self) -> int:
        return self.detector_shape[1]

    @property
    def projections_shape(self) -> tuple[int, int, int]:
        """The shape of the measurements: (views, panel rows, panel columns)."""
        return self.view_count, *self.detector_shape

    @property
    def axis_column(self) -> float:
        """The panel column, counted from 0 at the centre of the first, that sees the axis of rotation where nothing else is shifted."""
        assert isinstance(self.detector_spacing, tuple)
        return (self.columns - 1) / 2 - self.detector_shift[0] / self.detector_spacing[1]

    def check_measured(self, shape: tuple[int, ...], source: str) -> None:
        if len(shape) != 5 or tuple(shape[-3:]) != self.projections_shape:
            views, rows, columns = self.projections_shape
            found = "x".join(map(str, shape[2:]))
            raise InputError(
                f"{source}: the measurements are {found}, but the geometry has {views} views of a panel with {rows} rows and "
                f"{columns} columns ({views}x{rows}x{columns}: view, panel row, panel column); transpose them or correct the "
                "geometry"
            )

    def with_views(self, chosen: slice) -> Self:
        return dataclasses.replace(self, angles=self.angles[chosen], vectors=self.vectors[chosen])

    def with_axis_column(self, column: float) -> Self:
        if self.vectors or self.axis_shift or any(self.detector_rotation):
            raise InputError(
                "geometry: the column of the axis says where the panel is only without vectors, axis_shift and "
                "detector_rotation; change these instead"
            )
        assert isinstance(self.detector_spacing, tuple)
        shift = ((self.columns - 1) / 2 - column) * self.detector_spacing[1]
        return dataclasses.replace(self, detector_shift=(shift, self.detector_shift[1]))

    def grid(self) -> Grid:
        """Where the voxels of the reconstruction lie: world coordinates, the origin at the centre of the volume."""
        assert isinstance(self.voxel_size, tuple)
        slices, rows, columns = (
            -(n - 1) / 2 * size for n, size in zip(self.volume_shape, self.voxel_size)
        )
        return Grid(self.voxel_size, (columns, rows, slices), unit=self.length_unit)

    def operator(self) -> LinearOperator:
        """The forward operator of this scan: `invtoolbox.operators.ConeBeam`, `ParallelBeam3D` or `VectorScan`."""
        import torch

        from invtoolbox import operators

        if self.vectors:
            return operators.VectorScan(
                self.volume_shape,
                np.array(self.vectors),
                self.detector_shape,
                self.voxel_size,
                parallel=self.kind != "cone",
                curved=self.curved,
            )
        angles = torch.tensor(self.angles, dtype=torch.float64)
        if self.kind != "cone":
            return operators.ParallelBeam3D(
                self.volume_shape,
                angles,
                self.detector_shape,
                self.voxel_size,
                self.detector_spacing,
                self.detector_shift,
                self.tilt,
                self.detector_rotation,
            )
        return operators.ConeBeam(
            self.volume_shape,
            angles,
            self.detector_shape,
            self.source_origin,
            self.source_detector,
            self.voxel_size,
            self.detector_spacing,
            self.detector_shift,
            self.pitch,
            self.tilt,
            self.curved,
            self.axis_shift,
            self.source_shift,
            self.detector_rotation,
        )

    def to_toml(self) -> str:
        table, turned = {}, {name: getattr(self, name) for name in _ANGLES}
        if self.angles:
            table = angle_table(self.angles)
            unit = angle_unit(table)
            written = {name: _scaled(value, 1 / unit) for name, value in turned.items()}
            if any(_scaled(value, unit) != turned[name] for name, value in written.items()):
                table, written = {"unit": "radians", "values": self.angles}, turned
            turned = written
        lines = []
        for field in dataclasses.fields(self):
            value = turned.get(field.name, getattr(self, field.name))
            if field.name != "angles" and value != self._default(field):
                lines.append(f"{field.name} = {toml(value)}")
        lines += (
            ["", "[angles]", *(f"{key} = {toml(value)}" for key, value in table.items())]
            if table
            else []
        )
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_mapping(entries: Mapping[str, Any], folder: Path | None = None) -> Geometry3D:
        """The scan that the fields of a file describe, already known by name."""
        settings = dict(entries)
        if "angles" in entries:
            settings["angles"] = read_angles(entries["angles"], folder)
            unit = angle_unit(entries["angles"])
            for name in _ANGLES:
                if name in settings:
                    values = settings[name]
                    several = isinstance(values, (list, tuple))
                    turned = _scaled(
                        tuple(number(name, v) for v in (values if several else [values])), unit
                    )
                    settings[name] = turned if several else turned[0]
        if "vectors" in entries:
            settings["vectors"] = _vectors(entries["vectors"], folder)
        return Geometry3D(**settings)


def _vectors(given: Any, folder: Path | None) -> Any:
    if isinstance(given, str):
        array = read_numbers(given, folder, "the vectors")
        if array.ndim != 2 or array.shape[1] != 12:
            raise InputError(
                f"geometry: the vectors in {given} have shape {array.shape}; expected (views, 12), as ASTRA's cone_vec and "
                "parallel3d_vec: source, centre of the panel, u and v, (x, y, z) each"
            )
        return tuple(map(tuple, array.tolist()))
    if (
        not isinstance(given, (list, tuple))
        or not given
        or not all(isinstance(row, (list, tuple)) for row in given)
    ):
        raise InputError(
            "geometry: vectors is the path of a .npy or text file, or a list of 12 numbers a view"
        )
    return given


def _scaled(value: Any, factor: float) -> Any:
    """Angles in another unit, as `math.radians` would give them."""
    return tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor


def _several(name: str, value: Any, sizes: tuple[int, ...]) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) not in sizes:
        raise InputError(
            f"geometry: {name} is {value!r}; give a list of {' or '.join(map(str, sizes))} numbers"
        )
    return value
