"""Reader of Nikon Metrology (X-Tek) scans: a `.xtekct` file and a folder of TIFF pictures.

The source looks along ``y``, ``z`` points upwards, and the object turns clockwise from the angle
``180 - InitialAngle`` degrees in steps of ``AngularStep``, as in the reader of the Core Imaging
Library. Pictures are seen from the panel towards the source: columns run along ``-x``, rows along
``-z``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import decoding, require_file, require_keys
from invtoolbox.core.trust import named_file
from invtoolbox.datasets.scans.ini_file import Ini, check_panel, numbered, read_ini
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.scans.scanner import Poses, ScannerScan
from invtoolbox.datasets.volumes.tiff import TiffStack

_KEYS = (
    *("Projections", "WhiteLevel", "InitialAngle", "AngularStep", "SrcToObject", "SrcToDetector"),
    *("DetectorPixelsX", "DetectorPixelsY", "DetectorPixelSizeX", "DetectorPixelSizeY"),
)


class XTek(ScannerScan):
    """Data set of one item, the projections of a Nikon or X-Tek scanner.

    The axis of rotation is placed by `ObjectOffsetX`, `ObjectRoll` and `ObjectTilt`, or by
    `CentreOfRotationTop` and `CentreOfRotationBottom`. Measured angles of a `.ang` or `_ctdata.txt`
    file are used if they agree with the steps to within one step.

    Args:
        path: path of the `.xtekct` file.
        geometry: geometry of the pictures as they are stored; it replaces the geometry in the file.
    """

    format_name = "Nikon"

    def __init__(self, path: str | os.PathLike[str], geometry: ScanGeometry | None = None) -> None:
        path = require_file(path)
        with decoding(path, self.format_name):
            ini = read_ini(path)
            require_keys(f"{path}: the file lacks", map(str.lower, _KEYS), ini, "export it again")
            poses, notes = _poses(path, ini)
            folder = named_file(path.parent, ini.get("inputfoldername") or ".", path)
            pictures = TiffStack(folder, files=numbered(folder, ini.get("name", "")))
            check_panel(path, pictures, ini, ("detectorpixelsy", "detectorpixelsx"))
            super().__init__(path, pictures, geometry or poses, ini.number("whitelevel"), notes)


def _poses(path: Path, ini: Ini) -> tuple[Poses, tuple[str, ...]]:
    near, far = ini.number("srctoobject"), ini.number("srctodetector")
    wide, tall = ini.number("detectorpixelsizex"), ini.number("detectorpixelsizey")
    top, bottom = ini.number("centreofrotationtop", 0.0), ini.number("centreofrotationbottom", 0.0)
    # Top and bottom are lengths at the panel.
    offset = ini.number("objectoffsetx", (top + bottom) / 2 * near / far)
    height = ini.number("detectorpixelsy") * tall
    roll = np.radians(ini.number("objectroll", -np.degrees(np.arctan2(top - bottom, height))))
    tilt = np.radians(ini.number("objecttilt", 0.0))
    right, down = np.array([-1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0])
    shift = [ini.number(f"detectoroffset{axis}", 0.0) for axis in "xy"]
    panel = np.array([0.0, far, 0.0]) + shift[0] * right + shift[1] * down
    axis = [np.sin(roll), np.sin(tilt) * np.cos(roll), np.cos(tilt) * np.cos(roll)]
    foot = np.array([-offset, near, 0.0])
    pose = np.array([-foot, panel - foot, right * wide, down * tall]) @ _to_z(np.array(axis)).T
    angles, notes = _angles(path, ini)
    if any(shift):
        notes += (
            "DetectorOffsetX and Y move the panel along the columns and rows of the pictures",
        )
    # The object turns by 180 - angle degrees, so the source turns the other way.
    return Poses.circle(pose, np.radians(angles - 180)), notes


def _angles(path: Path, ini: Ini) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return InitialAngle + AngularStep k in degrees, or the measured angles close to them."""
    step = ini.number("angularstep")
    angles = ini.number("initialangle") + step * np.arange(ini.count("projections"))
    for file in sorted([*path.parent.glob("*_ctdata.txt"), *path.parent.glob("*.ang")]):
        text = file.read_text(encoding="utf-8", errors="replace").replace(",", ".")
        # A number of the view, and its angle: "12<tab>-7.2" or "12: -7.2".
        rows = re.findall(r"^\s*\d+\s*:?\s+([-+]?[\d.]+(?:[eE][-+]?\d+)?)", text, re.MULTILINE)
        try:
            measured = np.array(rows[-len(angles) :], dtype=np.float64)
        except ValueError:
            measured = np.empty(0)
        for sign in (1, -1) if measured.shape == angles.shape else ():
            away = (sign * measured - angles + 180) % 360 - 180
            if (np.abs(away) <= abs(step)).all():
                return angles + away, (f"the angles are those of {file.name}",)
        return angles, (f"{file.name} does not agree with AngularStep and is not used",)
    return angles, ()


def _to_z(unit: np.ndarray) -> np.ndarray:
    """Return the shortest rotation of a unit vector near z to z, by Rodrigues' formula."""
    x, y, z = unit
    skew: Any = np.array([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])
    return np.eye(3) + skew + skew @ skew / (1 + z)
