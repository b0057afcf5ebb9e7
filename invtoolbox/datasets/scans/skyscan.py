"""Reader of Bruker (SkyScan) scans: a `.log` file next to its TIFF pictures.

The source looks along ``y``, ``z`` points upwards, and the object turns anticlockwise seen from
above if `Rotation Direction` is CC. Pictures are seen from the camera towards the source: columns
run along ``-x``, rows along ``-z``. `Optical Axis (line)` is counted from the last row, as in
TIGRE's reader.
"""

from __future__ import annotations

import os

import numpy as np

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.datasets.scans.ini_file import Ini, check_panel, numbered, read_ini
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.scans.scanner import Poses, ScannerScan
from invtoolbox.datasets.volumes.tiff import TiffStack
from invtoolbox.errors import InputError

#: Distance of the source in mm from which the rays count as parallel.
_FAR = 1e5


class SkyScan(ScannerScan):
    """Data set of one item, the projections of a Bruker SkyScan scanner.

    The white level is `Reference Intensity`, or the largest number of the depth. The size of a cell
    at the object is `Image Pixel Size`, or follows from the camera's.

    Args:
        path: path of the `.log` file.
        geometry: geometry of the pictures as they are stored; it replaces the geometry in the file.
    """

    format_name = "SkyScan"

    def __init__(self, path: str | os.PathLike[str], geometry: ScanGeometry | None = None) -> None:
        path = require_file(path)
        with decoding(path, self.format_name):
            ini = read_ini(path)
            if ini.number("number of horizontal offset positions", 1) > 1:
                raise InputError(
                    f"{path}: a scan at several horizontal positions; stitch its pictures first"
                )
            poses, notes = _poses(ini)
            white = ini.number("reference intensity", 0.0)
            if not white:
                white = 2.0 ** ini.number("depth (bits)", 16.0)
                notes += (f"the file has no white level; {white:g} is assumed",)
            files = numbered(path.parent, ini.get("filename prefix", ""))
            pictures = TiffStack(path.parent, files=files)
            check_panel(path, pictures, ini, ("number of rows", "number of columns"))
            super().__init__(path, pictures, geometry or poses, white, notes)


def _poses(ini: Ini) -> tuple[Poses, tuple[str, ...]]:
    near = ini.number("object to source (mm)", _FAR)
    far = ini.number("camera to source (mm)", near)
    parallel = near >= _FAR
    growth = 1.0 if parallel else far / near
    camera = ini.number("camera pixel size (um)", 0.0) * int((ini.get("camera binning") or "1")[0])
    cell = ini.number("image pixel size (um)", camera / growth) * growth / 1000
    step = ini.number("rotation step (deg)")
    angles = ini.number("scanning start angle", 0.0) + step * np.arange(
        ini.count("number of files")
    )
    direction = ini.get("rotation direction", "").upper()
    notes: tuple[str, ...] = ()
    if direction not in ("CC", "CW"):
        notes += ("the file has no direction of rotation; anticlockwise is assumed",)
    # The optical axis is a line counted from the last row.
    rows = ini.count("number of rows")
    shift = ini.number("optical axis (line)", rows / 2) - rows / 2
    if "optical axis (line)" not in ini:
        notes += ("the file has no optical axis; the middle row is assumed",)
    if ini.number("postalignment", 0.0):
        notes += (
            f"the file shifts the axis by {ini['postalignment']} columns, to a side that it does not "
            "name; if edges are double, give the column of the axis",
        )
    pose = np.array(
        [
            [0.0, 1.0, 0.0] if parallel else [0.0, -near, 0.0],
            [0.0, 0.0 if parallel else far - near, -shift * cell],
            [-cell, 0.0, 0.0],
            [0.0, 0.0, -cell],
        ]
    )
    # The object turns anticlockwise, so the source turns clockwise.
    sign = 1 if direction == "CW" else -1
    return Poses.circle(pose, np.radians(sign * angles), parallel), notes
