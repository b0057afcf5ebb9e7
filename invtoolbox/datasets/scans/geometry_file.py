"""Reader of the geometry file, a small TOML file that describes how a scan was made.

The file of a 2D scan, for a sinogram ``(view, detector cell)``::

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
    # file = "angles.txt"         # or a .npy or text file of the angles, in the same folder

The file of a 3D scan, for projections ``(view, panel row, panel column)``. Its fields are the
arguments of `invtoolbox.operators.ConeBeam` and `ParallelBeam3D`::

    kind = "cone"                       # or "parallel3d"
    volume_shape = [256, 256, 256]      # slices, rows, columns
    voxel_size = 0.1                    # or three: slice, row, column
    detector_shape = [300, 400]         # rows, columns of the panel
    detector_spacing = 0.2              # or two: between rows, between columns
    source_origin = 100.0               # cone beam only
    source_detector = 250.0             # cone beam only; from the source to the panel
    # all fields below are optional
    detector_shift = [1.5, 0.0]         # along the rows (u) and along the columns (v) of the panel
    tilt = 30.0                         # laminography; in the unit of [angles]
    detector_rotation = [0.0, 0.0, 0.2] # about u, about v, in plane; in the unit of [angles]
    pitch = 40.0                        # rise of a helix per turn; cone beam only
    axis_shift = 0.0                    # from the central ray to the axis; cone beam only
    source_shift = [0.0, 0.0, 0.0]      # along u, v and the central ray; cone beam only
    curved = false                      # true: panel on an arc around the source; cone beam only
    # vectors = "poses.npy"             # 12 numbers per view in ASTRA's order, instead of angles,
                                        # distances, spacing and shifts

    [angles]                            # as above
    unit = "degrees"
    start = 0.0
    stop = 360.0
    count = 720
    endpoint = false
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invtoolbox.core.checks import require_file
from invtoolbox.core.trust import named_file
from invtoolbox.datasets.scans.geometry_2d import Geometry
from invtoolbox.datasets.scans.geometry_3d import KINDS_3D, Geometry3D
from invtoolbox.errors import InputError, naming, unknown_name


def read_geometry(path: str | os.PathLike[str]) -> Geometry | Geometry3D:
    """Read a geometry file; the docstring of this module lists its fields.

    Files that it names are relative to its folder.
    """
    path = require_file(path)
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}: not a TOML file ({error}); see invtoolbox.datasets.scans.geometry_file "
            "for an example"
        ) from None
    table = entries.get("angles")
    for name in (table.get("file") if isinstance(table, dict) else None, entries.get("vectors")):
        if isinstance(name, str):
            named_file(path.parent, name, path)
    with naming(path):
        return geometry_from_mapping(entries, path.parent)


def geometry_from_mapping(
    entries: Mapping[str, Any], folder: Path | None = None
) -> Geometry | Geometry3D:
    """Build the geometry that a mapping of the fields of a geometry file describes.

    Args:
        entries: fields of the file.
        folder: folder of the files that the fields name.

    >>> angles = {"unit": "degrees", "values": [0, 90]}
    >>> geometry_from_mapping({"kind": "parallel", "num_detectors": 3, "image_shape": [2, 2],
    ...                        "angles": angles}).angles
    (0.0, 1.5707963267948966)
    >>> geometry_from_mapping({"kind": "parallel3d", "volume_shape": [2, 4, 4],
    ...                        "detector_shape": [2, 7], "angles": angles}).projections_shape
    (2, 2, 7)
    """
    cls = Geometry3D if entries.get("kind") in KINDS_3D else Geometry
    kind = entries.get("kind", "parallel")
    if cls is Geometry and kind not in ("parallel", "fan"):
        raise InputError(
            f"geometry: kind is {kind!r}; it must be 'parallel' or 'fan' in 2D, 'cone' or "
            "'parallel3d' in 3D"
        )
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in entries:
        if key not in fields:
            opposite = Geometry if cls is Geometry3D else Geometry3D
            if key in {f.name for f in dataclasses.fields(opposite)}:
                raise InputError(
                    f"geometry: the field {key!r} belongs to a {opposite.axes}D scan, but kind is {kind!r}, "
                    f"which has {', '.join(fields)}"
                )
            raise unknown_name("geometry field", key, fields)
    table = entries.get("angles")
    if isinstance(table, Mapping):
        for key in table:
            if key in fields:
                raise InputError(
                    f"geometry: the field {key!r} is in the table [angles]; move it above the line "
                    "[angles]"
                )
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in entries:
            raise InputError(f"geometry: the field {name!r} is missing; add it")
    if cls is Geometry3D and "angles" not in entries and "vectors" not in entries:
        raise InputError("geometry: the field 'angles' is missing; add it, or vectors")
    return cls.from_mapping(entries, folder)


def check_is_2d(geometry: Any, what: str) -> Geometry:
    """Return the geometry, or raise an error unless it describes a 2D scan."""
    if geometry is None:
        raise InputError(f"{what} needs the geometry of the scan, and this measurement has none")
    if not isinstance(geometry, Geometry):
        kind = getattr(geometry, "kind", None)
        subject = "k-space" if kind is None else f"a 3D scan ({kind!r})"
        raise InputError(f"{what} is for sinograms of 2D scans, but this is {subject}")
    return geometry
