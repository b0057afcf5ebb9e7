"""The scanning geometry that travels with a sinogram, and its small TOML file.

A geometry file says everything that the numbers of a sinogram do not::

    kind = "fan"                  # or "parallel"
    num_detectors = 560
    detector_spacing = 0.2
    pixel_size = 0.148
    image_shape = [512, 512]
    source_origin = 410.66        # fan beam only
    source_detector = 553.74      # fan beam only
    detector_shift = 0.0          # optional, as are `curved` and `length_unit`
    length_unit = "mm"

    [angles]
    unit = "degrees"              # or "radians"; there is no default, because guessing goes wrong
    start = 0.0
    stop = 360.0
    count = 721                   # stop is included, unless endpoint = false
    # values = [0.0, 0.5, 1.0]    # or every angle, instead of start, stop and count
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.datasets.files import require_file
from invtoolbox.errors import InputError, unknown_name

if TYPE_CHECKING:
    from invtoolbox.operators.base import LinearOperator

_ANGLE_FIELDS = ("unit", "start", "stop", "count", "endpoint", "values")


@dataclass(frozen=True)
class Geometry:
    """A 2D parallel or fan beam scan: plain numbers, checked, comparable, written to and read from TOML.

    All lengths are in one unit (`length_unit`, a name only), all angles in radians. The conventions are those
    of `invtoolbox.operators.ParallelBeam` and `FanBeam`: the centre of detector element ``i`` lies at ``(i -
    (num_detectors - 1) / 2) * detector_spacing + detector_shift`` along the detector, so the axis of rotation
    is seen at column ``(num_detectors - 1) / 2 - detector_shift / detector_spacing``.

    Raises `InputError` for numbers that cannot be a scan: angles that look like degrees, a source inside the
    image, a detector that does not see the image.

    >>> import math
    >>> g = Geometry("parallel", angles=(0.0, math.pi / 2), num_detectors=5, image_shape=(4, 4))
    >>> g.sinogram_shape, g.axis_column
    ((2, 5), 2.0)
    """

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
        # Lists, NumPy numbers and integers are welcome; what is stored is plain, so that == and hash work.
        object.__setattr__(self, "angles", tuple(float(a) for a in self.angles))
        object.__setattr__(self, "image_shape", tuple(_count("image_shape", n) for n in self.image_shape))
        object.__setattr__(self, "num_detectors", _count("num_detectors", self.num_detectors))
        for name in ("pixel_size", "detector_spacing", "source_origin", "source_detector"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _length(name, value))
        object.__setattr__(self, "detector_shift", _number("detector_shift", self.detector_shift))
        if self.kind not in ("parallel", "fan"):
            raise InputError(f"geometry: kind is {self.kind!r}; it must be 'parallel' or 'fan'")
        if len(self.image_shape) != 2:
            raise InputError(f"geometry: image_shape is {self.image_shape}; give two sizes, rows and columns")
        if not isinstance(self.curved, bool):
            raise InputError(f"geometry: curved is {self.curved!r}; it must be true or false")
        self._check_angles()
        self._check_source()
        self._check_field_of_view()

    def _check_angles(self) -> None:
        if not self.angles:
            raise InputError("geometry: there are no angles; give at least one")
        bad = [i for i, a in enumerate(self.angles) if not math.isfinite(a)]
        if bad:
            raise InputError(f"geometry: angle {bad[0]} is {self.angles[bad[0]]}; angles must be finite "
                             "numbers")
        largest = max(abs(a) for a in self.angles)
        # A scan of more than ten turns is a helical one or, far more often, degrees.
        if largest > 20 * math.pi or (largest > 4 * math.pi and all(a == int(a) for a in self.angles)):
            raise InputError(f"geometry: the largest angle is {largest:g} radians, which looks like degrees; "
                             "convert with math.radians, or say unit = \"degrees\" in the geometry file")

    def _check_source(self) -> None:
        if self.kind == "parallel":
            if self.source_origin is not None or self.source_detector is not None or self.curved:
                raise InputError("geometry: source_origin, source_detector and curved belong to a fan beam; "
                                 "leave them out or set kind = 'fan'")
            return
        if self.source_origin is None or self.source_detector is None:
            missing = "source_origin" if self.source_origin is None else "source_detector"
            raise InputError(f"geometry: a fan beam needs {missing}; give the distance from the source")
        if self.source_detector < self.source_origin:
            raise InputError(f"geometry: source_detector ({self.source_detector:g}) is less than "
                             f"source_origin ({self.source_origin:g}); it is measured from the source, past "
                             "the origin")
        if self.source_origin <= self.image_radius:
            raise InputError("geometry: the source turns inside the image (source_origin "
                             f"{self.source_origin:g}, image half diagonal {self.image_radius:g}); check "
                             "pixel_size and the length units")

    def _check_field_of_view(self) -> None:
        width = self.num_detectors * self.detector_spacing
        low, high = self.detector_shift - width / 2, self.detector_shift + width / 2
        shadow = self.image_radius
        if self.kind == "fan":
            assert self.source_origin is not None and self.source_detector is not None
            shadow *= self.source_detector / math.sqrt(self.source_origin**2 - self.image_radius**2)
        if low >= shadow or high <= -shadow:
            raise InputError(f"geometry: the detector covers {low:g} to {high:g} and the image casts its "
                             f"shadow on {-shadow:g} to {shadow:g}, so no ray meets the image; check "
                             "detector_shift")
        if 2 * shadow < self.detector_spacing:
            raise InputError(f"geometry: the whole image casts a shadow {2 * shadow:g} wide, less than one "
                             f"detector element ({self.detector_spacing:g}); pixel_size and detector_spacing "
                             "need one unit")

    @property
    def image_radius(self) -> float:
        """Half the diagonal of the image, in `length_unit`."""
        return 0.5 * self.pixel_size * math.hypot(*self.image_shape)

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """The shape of one sinogram: (angles, detector elements)."""
        return len(self.angles), self.num_detectors

    @property
    def axis_column(self) -> float:
        """The detector column, counted from 0 at the centre of the first, that sees the axis of rotation."""
        return (self.num_detectors - 1) / 2 - self.detector_shift / self.detector_spacing

    def operator(self) -> LinearOperator:
        """The forward operator of this scan, `invtoolbox.operators.ParallelBeam` or `FanBeam`."""
        import torch

        from invtoolbox import operators

        angles = torch.tensor(self.angles, dtype=torch.float64)
        if self.kind == "parallel":
            return operators.ParallelBeam(
                image_shape=self.image_shape, angles=angles, num_detectors=self.num_detectors,
                pixel_size=self.pixel_size, detector_spacing=self.detector_spacing,
                detector_shift=self.detector_shift)
        assert self.source_origin is not None and self.source_detector is not None
        return operators.FanBeam(
            image_shape=self.image_shape, angles=angles, num_detectors=self.num_detectors,
            source_origin=self.source_origin, source_detector=self.source_detector,
            pixel_size=self.pixel_size, detector_spacing=self.detector_spacing,
            detector_shift=self.detector_shift, curved=self.curved)

    def to_toml(self) -> str:
        """The text of a geometry file that `from_mapping` reads back to an equal geometry."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "angles" or value is None:
                continue
            lines.append(f"{field.name} = {_toml(value)}")
        lines += ["", "[angles]", *(f"{key} = {_toml(value)}" for key, value in self._angle_table().items())]
        return "\n".join(lines) + "\n"

    def _angle_table(self) -> dict[str, Any]:
        """The shortest table that gives back the same angles to the last bit."""
        count = len(self.angles)
        degrees = [round(math.degrees(a), 9) for a in (self.angles[0], self.angles[-1])]
        for unit, (start, stop) in (("degrees", degrees), ("radians", (self.angles[0], self.angles[-1]))):
            table = {"unit": unit, "start": start, "stop": stop, "count": count}
            if count > 2 and _angles(table) == self.angles:
                return table
        return {"unit": "radians", "values": self.angles}

    def write(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the geometry file, atomically, and never over another one unless told to."""
        from invtoolbox.datasets.output import write_bytes

        return write_bytes(path, self.to_toml().encode(), overwrite)


def read_geometry(path: str | os.PathLike[str]) -> Geometry:
    """Read a geometry file (see the top of this module for its fields)."""
    path = require_file(path)
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error}); see invtoolbox.datasets.geometry "
                         "for an example") from None
    try:
        return geometry_from_mapping(entries)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def geometry_from_mapping(entries: Mapping[str, Any]) -> Geometry:
    """The geometry that a mapping of the file's fields describes.

    >>> geometry_from_mapping({"kind": "parallel", "num_detectors": 3, "image_shape": [2, 2],
    ...                        "angles": {"unit": "degrees", "values": [0, 90]}}).angles
    (0.0, 1.5707963267948966)
    """
    fields = {f.name: f for f in dataclasses.fields(Geometry)}
    for key in entries:
        if key not in fields:
            raise unknown_name("geometry field", key, fields)
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in entries:
            raise InputError(f"geometry: the field {name!r} is missing; add it")
    settings = dict(entries)
    settings["angles"] = _angles(entries["angles"])
    if not isinstance(settings["image_shape"], (list, tuple)):
        raise InputError("geometry: image_shape must be a list of two sizes, rows and columns")
    return Geometry(**settings)


def _angles(table: Any) -> tuple[float, ...]:
    """The angles in radians that an `[angles]` table describes."""
    if not isinstance(table, Mapping):
        raise InputError('geometry: angles must be a table with a unit, for example '
                         '[angles] unit = "degrees", start = 0, stop = 180, count = 181')
    for key in table:
        if key not in _ANGLE_FIELDS:
            raise unknown_name("field of [angles]", key, _ANGLE_FIELDS)
    unit = table.get("unit")
    if unit not in ("degrees", "radians"):
        raise InputError(f"geometry: the unit of the angles is {unit!r}; say unit = \"degrees\" or "
                         "\"radians\"")
    if "values" in table:
        if len(table) > 2:
            raise InputError("geometry: give either the values of the angles or start, stop and count, not "
                             "both")
        if not isinstance(table["values"], (list, tuple)):
            raise InputError("geometry: the values of the angles must be a list of numbers")
        values = tuple(_number("an angle", v) for v in table["values"])
    else:
        missing = [k for k in ("start", "stop", "count") if k not in table]
        if missing:
            raise InputError(f"geometry: [angles] lacks {', '.join(missing)}; give start, stop and count, or "
                             "values")
        start, stop = _number("start", table["start"]), _number("stop", table["stop"])
        endpoint = table.get("endpoint", True)
        if not isinstance(endpoint, bool):
            raise InputError(f"geometry: endpoint is {endpoint!r}; it must be true or false")
        values = _evenly_spaced(start, stop, _count("count", table["count"]), endpoint)
    return tuple(math.radians(v) for v in values) if unit == "degrees" else values


def _evenly_spaced(start: float, stop: float, count: int, endpoint: bool) -> tuple[float, ...]:
    parts = count - 1 if endpoint else count
    if parts <= 0:
        return (start,)
    # start + i * step would miss `stop` by rounding.
    return tuple(start + (stop - start) * (i / parts) for i in range(count))


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or not math.isfinite(float(value)):
        raise InputError(f"geometry: {name} is {value!r}; it must be a finite number")
    return float(value)


def _length(name: str, value: Any) -> float:
    if _number(name, value) <= 0:
        raise InputError(f"geometry: {name} is {value!r}; it must be greater than zero")
    return float(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise InputError(f"geometry: {name} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON escapes as TOML does, but for the delete character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return repr(value)
