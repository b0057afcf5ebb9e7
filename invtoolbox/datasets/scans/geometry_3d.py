"""Geometry of a 3D scan; `invtoolbox.datasets.scans.geometry_file` describes its file."""

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

from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.scans.scan_geometry import (
    ScanGeometry,
    angle_table,
    angle_unit,
    check_count,
    check_flag,
    check_length,
    check_number,
    format_tables,
    read_angles,
    read_numbers,
)
from invtoolbox.errors import InputError, naming
from invtoolbox.geometry.grids import Grid

if TYPE_CHECKING:
    from invtoolbox.operators.base import LinearOperator

KINDS_3D = ("cone", "parallel3d")

Vector = tuple[float, float, float]
#: Fields that only a cone beam has, and fields that, together with the angles, define the positions
#: of the source and the panel.
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
#: Fields that are angles; a file has them in the unit of its `[angles]`.
_ANGLES = ("tilt", "detector_rotation")
#: Largest median step between views, in radians, of a helix of more than two turns. Angles with
#: larger steps are probably degrees.
_LARGE_STEP = 0.2


@dataclass(frozen=True, repr=False)
class Geometry3D(ScanGeometry):
    """Geometry of a 3D cone or parallel beam scan.

    Its fields and conventions are those of `invtoolbox.operators.ConeBeam` and `ParallelBeam3D`.
    Measurements have the shape ``(view, panel row, panel column)``. All lengths are in one unit
    (`length_unit`, a name only), all angles in radians.

    Args:
        kind: "cone" or "parallel3d".
        detector_shape: numbers of rows and columns of the panel.
        volume_shape: numbers of slices, rows and columns of the reconstruction.
        angles: angle of each view; an alternative is `vectors`.
        vectors: 12 numbers per view in the order of ASTRA's ``cone_vec`` and ``parallel3d_vec``:
            source (or direction of the rays), centre of the panel, vector from a cell to its
            neighbour in the row, and vector to its neighbour in the column, each as (x, y, z). They
            replace angles, distances, spacing, shifts and rotations.
        voxel_size: one length, or three lengths (slice, row, column).
        detector_spacing: one length, or two lengths (between rows, between columns).
        source_origin: distance from the source to the axis of rotation, as in the operators; one
            value for all views, as for the arguments below. Values that differ between views are
            given as `vectors`.
        source_detector: distance from the source to the panel, as in the operators.
        detector_shift: shift of the panel along its rows and along its columns, as in the
            operators.
        pitch: rise of a helix per turn, as in the operators.
        tilt: tilt of the axis of rotation (laminography), as in the operators.
        axis_shift: shift of the axis of rotation from the central ray, as in the operators.
        source_shift: shift of the source along ``u``, ``v`` and the central ray, as in the
            operators.
        detector_rotation: rotation of the panel about ``u``, about ``v`` and in its plane, as in
            the operators.
        curved: whether the panel is an arc around the source, as in the operators.
        length_unit: name of the unit of length.

    Raises:
        InputError: for numbers that the operators refuse, and for fields that do not fit together.

    >>> g = Geometry3D("cone", (4, 6), (4, 5, 5), angles=(0.0, 1.0),
    ...                source_origin=20.0, source_detector=30.0)
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
        check_choice("a 3D geometry", KINDS_3D, kind=self.kind)
        # Lists, NumPy numbers and integers are accepted. They are stored as plain numbers, so that
        # == and hash work.
        for name, size, check in (
            ("volume_shape", 3, check_count),
            ("detector_shape", 2, check_count),
            ("voxel_size", 3, check_length),
            ("detector_spacing", 2, check_length),
            ("detector_shift", 2, check_number),
            ("source_shift", 3, check_number),
            ("detector_rotation", 3, check_number),
        ):
            value = getattr(self, name)
            if check is check_length and not isinstance(value, (list, tuple)):
                value = [value] * size
            self._set(name, tuple(check(name, v) for v in _check_list(name, value, size)))
        for name in ("pitch", "tilt", "axis_shift"):
            self._set(name, check_number(name, getattr(self, name)))
        for name in ("source_origin", "source_detector"):
            if getattr(self, name) is not None:
                self._set(name, check_length(name, getattr(self, name)))
        check_flag("curved", self.curved)
        self._set("angles", tuple(check_number("an angle", a) for a in self.angles))
        rows = (tuple(check_number("a vector", v) for v in row) for row in self.vectors)
        self._set("vectors", tuple(rows))
        self._check_fields()
        self._check_angles()
        with warnings.catch_warnings(), naming("geometry"):
            # The operator that is used warns once about parts that the panel does not see.
            warnings.simplefilter("ignore")
            self.operator()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_fields(self) -> None:
        changed = [
            f.name for f in dataclasses.fields(self) if getattr(self, f.name) != self._default(f)
        ]
        if self.kind != "cone":
            wrong = [name for name in _OF_A_CONE if name in changed]
            if wrong:
                raise InputError(
                    f"geometry: {wrong[0]} belongs to a cone beam; leave it out or set kind = "
                    "'cone'"
                )
        if self.vectors:
            wrong = [name for name in ("angles", *_OF_A_TRAJECTORY) if name in changed]
            if wrong:
                raise InputError(
                    f"geometry: {wrong[0]} and vectors are both given; vectors define the source "
                    "and the panel completely, so give only one of them"
                )
            for k, row in enumerate(self.vectors):
                if len(row) != 12:
                    raise InputError(
                        f"geometry: view {k} of vectors has {len(row)} numbers; each view has 12: "
                        "source, centre of the panel, u and v, (x, y, z) each"
                    )
            return
        if not self.angles:
            raise InputError("geometry: there are no angles; give at least one, or vectors")
        for name in ("source_origin", "source_detector") if self.kind == "cone" else ():
            if name not in changed:
                raise InputError(
                    f"geometry: a cone beam needs {name}; give the distance from the source"
                )

    def _default(self, field: Any) -> Any:
        """Return the value of a field that was not given."""
        sizes = {"voxel_size": 3, "detector_spacing": 2}
        return (1.0,) * sizes[field.name] if field.name in sizes else field.default

    def _check_angles(self) -> None:
        largest = max(map(abs, self.angles), default=0.0)
        steps = [abs(b - a) for a, b in pairwise(self.angles)]
        # A helix has many turns, with small steps.
        helix = self.pitch != 0 and bool(steps) and statistics.median(steps) <= _LARGE_STEP
        if largest > 4 * math.pi + 1e-3 and not helix:
            raise InputError(
                f"geometry: the largest angle is {largest:g} radians, which looks like degrees; "
                'convert with math.radians, or set unit = "degrees" in the geometry file'
            )
        turned = max(map(abs, (self.tilt, *self.detector_rotation)))
        if turned > math.pi:
            raise InputError(
                f"geometry: tilt and detector_rotation are radians, at most pi, got {turned:g}; in "
                "a file they are in the unit of [angles]"
            )

    @property
    def view_count(self) -> int:
        return len(self.vectors) or len(self.angles)

    @property
    def columns(self) -> int:
        return self.detector_shape[1]

    @property
    def projections_shape(self) -> tuple[int, int, int]:
        """Shape of the measurements: (views, panel rows, panel columns)."""
        return self.view_count, *self.detector_shape

    @property
    def axis_column(self) -> float:
        """Panel column that sees the axis, counted from 0 at the centre of the first column.

        It is exact if only `detector_shift` moves the panel.
        """
        assert isinstance(self.detector_spacing, tuple)
        return (self.columns - 1) / 2 - self.detector_shift[0] / self.detector_spacing[1]

    def check_measured(self, shape: tuple[int, ...], source: str) -> None:
        if len(shape) != 5 or tuple(shape[-3:]) != self.projections_shape:
            views, rows, columns = self.projections_shape
            sizes = "x".join(map(str, shape[2:]))
            raise InputError(
                f"{source}: the measurements are {sizes}, but the geometry has {views} views of a "
                f"panel with {rows} rows and {columns} columns ({views}x{rows}x{columns}: view, "
                "panel row, panel column); transpose them or correct the geometry"
            )

    def with_views(self, chosen: slice) -> Self:
        return dataclasses.replace(self, angles=self.angles[chosen], vectors=self.vectors[chosen])

    def with_axis_column(self, column: float) -> Self:
        if self.vectors or self.axis_shift or any(self.detector_rotation):
            raise InputError(
                "geometry: the column of the axis determines the position of the panel only "
                "without vectors, axis_shift and detector_rotation; change these instead"
            )
        assert isinstance(self.detector_spacing, tuple)
        shift = ((self.columns - 1) / 2 - column) * self.detector_spacing[1]
        return dataclasses.replace(self, detector_shift=(shift, self.detector_shift[1]))

    def grid(self) -> Grid:
        """Return the voxel grid of the reconstruction in world coordinates.

        The origin is the centre of the volume.
        """
        assert isinstance(self.voxel_size, tuple)
        slices, rows, columns = (
            -(n - 1) / 2 * size for n, size in zip(self.volume_shape, self.voxel_size)
        )
        return Grid(self.voxel_size, (columns, rows, slices), unit=self.length_unit)

    def operator(self) -> LinearOperator:
        """Build the forward operator of this scan.

        It is an `invtoolbox.operators.ConeBeam`, `ParallelBeam3D` or `VectorScan`.
        """
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
                voxel_size=self.voxel_size,
                detector_spacing=self.detector_spacing,
                detector_shift=self.detector_shift,
                tilt=self.tilt,
                detector_rotation=self.detector_rotation,
            )
        return operators.ConeBeam(
            self.volume_shape,
            angles,
            self.detector_shape,
            source_origin=self.source_origin,
            source_detector=self.source_detector,
            voxel_size=self.voxel_size,
            detector_spacing=self.detector_spacing,
            detector_shift=self.detector_shift,
            pitch=self.pitch,
            tilt=self.tilt,
            curved=self.curved,
            axis_shift=self.axis_shift,
            source_shift=self.source_shift,
            detector_rotation=self.detector_rotation,
        )

    def to_toml(self) -> str:
        table, rotations = {}, {name: getattr(self, name) for name in _ANGLES}
        if self.angles:
            table = angle_table(self.angles)
            unit = angle_unit(table)
            written = {name: _scale(value, 1 / unit) for name, value in rotations.items()}
            if any(_scale(value, unit) != rotations[name] for name, value in written.items()):
                table, written = {"unit": "radians", "values": self.angles}, rotations
            rotations = written
        values = {}
        for field in dataclasses.fields(self):
            value = rotations.get(field.name, getattr(self, field.name))
            if field.name != "angles" and value != self._default(field):
                values[field.name] = value
        return format_tables(values, table)

    @staticmethod
    def from_mapping(entries: Mapping[str, Any], folder: Path | None = None) -> Geometry3D:
        """Build the geometry from the fields of a file, whose names have been checked."""
        settings = dict(entries)
        if "angles" in entries:
            settings["angles"] = read_angles(entries["angles"], folder)
            unit = angle_unit(entries["angles"])
            for name in _ANGLES:
                if name in settings:
                    values = settings[name]
                    several = isinstance(values, (list, tuple))
                    values = tuple(check_number(name, v) for v in (values if several else [values]))
                    radians = _scale(values, unit)
                    settings[name] = radians if several else radians[0]
        if "vectors" in entries:
            settings["vectors"] = _read_vectors(entries["vectors"], folder)
        return Geometry3D(**settings)


def _read_vectors(vectors: Any, folder: Path | None) -> Any:
    if isinstance(vectors, str):
        array = read_numbers(vectors, folder, "the vectors")
        if array.ndim != 2 or array.shape[1] != 12:
            raise InputError(
                f"geometry: the vectors in {vectors} have shape {array.shape}; expected (views, 12), "
                "as ASTRA's cone_vec and parallel3d_vec: source, centre of the panel, u and v, "
                "(x, y, z) each"
            )
        return tuple(map(tuple, array.tolist()))
    if (
        not isinstance(vectors, (list, tuple))
        or not vectors
        or not all(isinstance(row, (list, tuple)) for row in vectors)
    ):
        raise InputError(
            "geometry: vectors must be the path of a .npy or text file, or a list of 12 numbers "
            "per view"
        )
    return vectors


def _scale(value: Any, factor: float) -> Any:
    """Convert angles to another unit, with the same rounding as `math.radians`."""
    return tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor


def _check_list(name: str, value: Any, size: int) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != size:
        raise InputError(f"geometry: {name} is {value!r}; give a list of {size} numbers")
    return value
