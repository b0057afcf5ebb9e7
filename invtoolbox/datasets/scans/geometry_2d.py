"""Geometry of a 2D scan; `invtoolbox.datasets.scans.geometry_file` describes its file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.scans.scan_geometry import (
    ScanGeometry,
    angle_table,
    check_count,
    check_flag,
    check_length,
    check_number,
    format_tables,
    read_angles,
)
from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.operators.base import LinearOperator


@dataclass(frozen=True, repr=False)
class Geometry(ScanGeometry):
    """Geometry of a 2D parallel or fan beam scan.

    It consists of plain numbers that are checked and can be compared, and it is written to a TOML
    file and read from it. All lengths are in one unit (`length_unit`, a name only), all angles in
    radians.

    The conventions are the same as in `invtoolbox.operators.ParallelBeam` and `FanBeam`. The centre
    of detector element ``i`` lies at
    ``(i - (num_detectors - 1) / 2) * detector_spacing + detector_shift`` along the detector. The
    axis of rotation is therefore seen at column
    ``(num_detectors - 1) / 2 - detector_shift / detector_spacing``.

    Args:
        kind: "parallel" or "fan".
        angles: angle of each view.
        num_detectors: number of detector elements.
        image_shape: numbers of rows and columns of the reconstruction.
        pixel_size: side of a pixel of the reconstruction.
        detector_spacing: distance between the centres of neighbouring detector elements.
        detector_shift: shift of the detector along itself.
        source_origin: distance from the source to the axis of rotation; fan beam only.
        source_detector: distance from the source to the detector; fan beam only.
        curved: whether the detector is an arc around the source; fan beam only.
        length_unit: name of the unit of length.

    Raises:
        InputError: for numbers that cannot be a scan: angles that look like degrees, a source
            inside the image, a detector that does not see the image.

    >>> import math
    >>> g = Geometry("parallel", angles=(0.0, math.pi / 2), num_detectors=5, image_shape=(4, 4))
    >>> g.sinogram_shape, g.axis_column
    ((2, 5), 2.0)
    """

    axes: ClassVar[int] = 2
    kind: str
    angles: tuple[float, ...]
    num_detectors: int
    image_shape: tuple[int, int]
    pixel_size: float = 1.0
    detector_spacing: float = 1.0
    detector_shift: float = 0.0
    source_origin: float | None = None
    source_detector: float | None = None
    curved: bool = False
    length_unit: str = "mm"

    def __post_init__(self) -> None:
        # Lists, NumPy numbers and integers are accepted. They are stored as plain numbers, so that
        # == and hash work.
        object.__setattr__(self, "angles", tuple(float(a) for a in self.angles))
        image_shape = tuple(check_count("image_shape", n) for n in self.image_shape)
        object.__setattr__(self, "image_shape", image_shape)
        for name, check in (
            ("num_detectors", check_count),
            ("pixel_size", check_length),
            ("detector_spacing", check_length),
            ("source_origin", check_length),
            ("source_detector", check_length),
            ("detector_shift", check_number),
        ):
            value = getattr(self, name)
            if value is not None or name in ("num_detectors", "detector_shift"):
                object.__setattr__(self, name, check(name, value))
        check_choice("a 2D geometry", ("parallel", "fan"), kind=self.kind)
        if len(self.image_shape) != 2:
            raise InputError(
                f"geometry: image_shape is {self.image_shape}; give two sizes, rows and columns"
            )
        check_flag("curved", self.curved)
        self._check_angles()
        self._check_source()
        self._check_field_of_view()

    def _check_angles(self) -> None:
        if not self.angles:
            raise InputError("geometry: there are no angles; give at least one")
        bad = [i for i, a in enumerate(self.angles) if not math.isfinite(a)]
        if bad:
            raise InputError(
                f"geometry: angle {bad[0]} is {self.angles[bad[0]]}; angles must be finite numbers"
            )
        largest = max(abs(a) for a in self.angles)
        # Angles of more than ten turns are a helical scan or, far more often, degrees.
        if largest > 20 * math.pi or (
            largest > 4 * math.pi and all(a == int(a) for a in self.angles)
        ):
            raise InputError(
                f"geometry: the largest angle is {largest:g} radians, which looks like degrees; "
                'convert with math.radians, or set unit = "degrees" in the geometry file'
            )

    def _check_source(self) -> None:
        if self.kind == "parallel":
            if self.source_origin is not None or self.source_detector is not None or self.curved:
                raise InputError(
                    "geometry: source_origin, source_detector and curved belong to a fan beam; "
                    "leave them out or set kind = 'fan'"
                )
            return
        if self.source_origin is None or self.source_detector is None:
            missing = "source_origin" if self.source_origin is None else "source_detector"
            raise InputError(
                f"geometry: a fan beam needs {missing}; give the distance from the source"
            )
        if self.source_detector < self.source_origin:
            raise InputError(
                f"geometry: source_detector ({self.source_detector:g}) is less than "
                f"source_origin ({self.source_origin:g}); it is measured from the source, past "
                "the origin"
            )
        if self.source_origin <= self.image_radius:
            raise InputError(
                "geometry: the source turns inside the image (source_origin "
                f"{self.source_origin:g}, image half diagonal {self.image_radius:g}); check "
                "pixel_size and the length units"
            )

    def _check_field_of_view(self) -> None:
        width = self.num_detectors * self.detector_spacing
        low, high = self.detector_shift - width / 2, self.detector_shift + width / 2
        shadow = self.image_radius
        if self.kind == "fan":
            assert self.source_origin is not None and self.source_detector is not None
            shadow *= self.source_detector / math.sqrt(self.source_origin**2 - self.image_radius**2)
        if low >= shadow or high <= -shadow:
            raise InputError(
                f"geometry: the detector covers {low:g} to {high:g} and the image casts its "
                f"shadow on {-shadow:g} to {shadow:g}, so no ray meets the image; check "
                "detector_shift"
            )
        if 2 * shadow < self.detector_spacing:
            raise InputError(
                f"geometry: the whole image casts a shadow {2 * shadow:g} wide, less than one "
                f"detector element ({self.detector_spacing:g}); pixel_size and detector_spacing "
                "need one unit"
            )

    @property
    def image_radius(self) -> float:
        """Half the diagonal of the image, in `length_unit`."""
        return 0.5 * self.pixel_size * math.hypot(*self.image_shape)

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """Shape of one sinogram: (angles, detector elements)."""
        return len(self.angles), self.num_detectors

    @property
    def axis_column(self) -> float:
        """Detector column that sees the axis, counted from 0 at the centre of the first column."""
        return (self.num_detectors - 1) / 2 - self.detector_shift / self.detector_spacing

    @property
    def view_count(self) -> int:
        return len(self.angles)

    @property
    def columns(self) -> int:
        return self.num_detectors

    def check_measured(self, shape: tuple[int, ...], source: str) -> None:
        if tuple(shape[-2:]) != self.sinogram_shape:
            rows, columns = self.sinogram_shape
            raise InputError(
                f"{source}: the sinogram has {shape[-2]} rows and {shape[-1]} "
                f"columns, but the geometry has {rows} angles and {columns} detector elements; "
                "transpose the sinogram or correct the geometry"
            )

    def with_views(self, chosen: slice) -> Self:
        return dataclasses.replace(self, angles=self.angles[chosen])

    def with_axis_column(self, column: float) -> Self:
        return dataclasses.replace(
            self, detector_shift=((self.num_detectors - 1) / 2 - column) * self.detector_spacing
        )

    def operator(self) -> LinearOperator:
        """Build the forward operator, `invtoolbox.operators.ParallelBeam` or `FanBeam`."""
        import torch

        from invtoolbox import operators

        angles = torch.tensor(self.angles, dtype=torch.float64)
        if self.kind == "parallel":
            return operators.ParallelBeam(
                image_shape=self.image_shape,
                angles=angles,
                num_detectors=self.num_detectors,
                pixel_size=self.pixel_size,
                detector_spacing=self.detector_spacing,
                detector_shift=self.detector_shift,
            )
        assert self.source_origin is not None and self.source_detector is not None
        return operators.FanBeam(
            image_shape=self.image_shape,
            angles=angles,
            num_detectors=self.num_detectors,
            source_origin=self.source_origin,
            source_detector=self.source_detector,
            pixel_size=self.pixel_size,
            detector_spacing=self.detector_spacing,
            detector_shift=self.detector_shift,
            curved=self.curved,
        )

    def to_toml(self) -> str:
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "angles" and getattr(self, field.name) is not None
        }
        return format_tables(values, angle_table(self.angles))

    @staticmethod
    def from_mapping(entries: Mapping[str, Any], folder: Path | None = None) -> Geometry:
        """Build the geometry from the fields of a file, whose names have been checked."""
        settings = dict(entries)
        settings["angles"] = read_angles(entries["angles"], folder)
        if not isinstance(settings["image_shape"], (list, tuple)):
            raise InputError("geometry: image_shape must be a list of two sizes, rows and columns")
        return Geometry(**settings)
