"""Readers of projections with a table of poses: RTK's `geometry.xml`, and a CSV of twelve numbers.

RTK turns a gantry about ``y`` (Rit et al., "The Reconstruction Toolkit (RTK)", Journal of Physics:
Conference Series 489, 2014). Its coordinates ``(x, y, z)`` become ``(x, -z, y)`` here, so that the
axis is ``z``. In the frame of a panel, which is turned by ``Rz(-a) Rx(-b) Ry(-g)`` with the
in-plane, out-of-plane and gantry angles a, b and g, the source is at the source's offset and the
isocentre's distance, and the panel's origin at the projection's offset.
"""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from invtoolbox.core.checks import decoding, require_file, sniff
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.scans.scanner import Poses, ScannerScan
from invtoolbox.datasets.volumes.metaimage import MetaImage
from invtoolbox.datasets.volumes.nifti import Nifti
from invtoolbox.datasets.volumes.tiff import SUFFIXES, TiffStack, is_stack, tiff_files
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError

_ROOT = "RTKThreeDCircularGeometry"
#: Settings of a view; settings that the file leaves out are 0. A parallel beam has no distance of
#: the panel.
_OF_A_VIEW = (
    *("SourceToIsocenterDistance", "SourceToDetectorDistance"),
    *("GantryAngle", "InPlaneAngle", "OutOfPlaneAngle"),
    *("ProjectionOffsetX", "ProjectionOffsetY", "SourceOffsetX", "SourceOffsetY"),
)
#: RTK's axes x, y and z in terms of ours.
_TO_OURS = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


class Rtk(ScannerScan):
    """Data set of one item, the projections of a geometry of the Reconstruction Toolkit.

    The stack is the only volume with one slice per view next to the file: MetaImage, NIfTI, a
    TIFF file with pages, or TIFF files. Its origin and spacing place the cells. Floating-point
    values are line integrals; whole numbers are counts, with the largest number of their type as
    white level, as in RTK.

    Args:
        path: path of the `.xml` file.
        geometry: geometry of the pictures as they are stored; it replaces the geometry in the file.
        stack: path of the projections.
    """

    format_name = "RTK"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        stack: str | os.PathLike[str] | None = None,
    ) -> None:
        path = require_file(path)
        with decoding(path, self.format_name):
            table = _read_views(path)
            pictures = _stack(path, len(table), stack)
            poses = _poses(path, table, pictures)
            white, notes = white_level(pictures)
        notes += (
            "RTK's axes x, y, z are x, z, -y of the volume, so that slices lie along its axis",
        )
        super().__init__(path, pictures, geometry or poses, white, notes)


class ViewTable(ScannerScan):
    """Data set of one item, TIFF pictures with a CSV file of twelve numbers per view.

    The numbers are x, y and z of the source, of the centre of the panel, and of the vectors from a
    cell to its neighbours in the row and in the column, in millimetres. The volume is centred at
    the origin, with slices along z. A line of names may come first.

    Args:
        path: path of the `.csv` file, or of its folder.
        geometry: geometry of the pictures as they are stored; it replaces the geometry in the file.
        white: white level of counts; the largest number of their type by default.
    """

    format_name = "CSV"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        white: float | None = None,
    ) -> None:
        path = require_file(path)
        with decoding(path, self.format_name):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            first = 1 if lines and any(c.isalpha() and c not in "eE" for c in lines[0]) else 0
            vectors = np.array(
                [line.replace(";", ",").split(",") for line in lines[first:] if line.strip()], float
            )
            if vectors.ndim != 2 or vectors.shape[1] != 12:
                raise InputError(
                    f"{path}: a table of shape {vectors.shape}; each view has 12 numbers: source, "
                    "centre of the panel, u and v, (x, y, z) each"
                )
            pictures = TiffStack(path.parent)
            level, notes = white_level(pictures)
        super().__init__(
            path, pictures, geometry or Poses(vectors), level if white is None else white, notes
        )


def white_level(pictures: Volume) -> tuple[float | None, tuple[str, ...]]:
    """Return the largest number of the type of counts, None for line integrals, and a note.

    Args:
        pictures: the projections.
    """
    dtype = pictures.slices(0, 1).dtype
    if dtype.kind not in "iu":
        return None, ("the projections are floating-point numbers and are taken as line integrals",)
    white = float(np.iinfo(dtype).max)
    return white, (f"the file has no white level; {white:g} is assumed",)


def _read_views(path: Path) -> np.ndarray:
    """Read the settings of every view, ``(V, 9)``; settings of the whole file come first in it."""
    if path.stat().st_size > 2**28:
        raise InputError(f"{path}: too long for a geometry; give the file of RTK")
    text = path.read_bytes()
    if b"<!ENTITY" in text:
        raise InputError(
            f"{path}: it declares entities, which a geometry does not need; write it anew"
        )
    root = ElementTree.fromstring(text)
    if root.tag != _ROOT:
        raise InputError(
            f"{path}: an XML file of {root.tag[:40]!r}, not of {_ROOT}; give RTK's file"
        )
    shared = dict.fromkeys(_OF_A_VIEW, 0.0)
    rows = []
    for element in root:
        if element.tag == "Projection":
            changes = {e.tag: float(e.text or "nan") for e in element if e.tag in shared}
            rows.append(list((shared | changes).values()))
        elif element.tag in shared:
            shared[element.tag] = float(element.text or "nan")
        elif element.tag == "RadiusCylindricalDetector" and float(element.text or 0):
            raise InputError(
                f"{path}: a cylindrical detector, which is not read; resample it to a plane"
            )
    if not rows:
        raise InputError(f"{path}: the geometry has no views; write it again")
    return np.array(rows, dtype=np.float64)


def _poses(path: Path, table: np.ndarray, pictures: Volume) -> Poses:
    near, far, gantry, in_plane, out_of_plane, *offsets = table.T
    g, a, b = (np.radians(-angle) for angle in (gantry, in_plane, out_of_plane))
    parallel = bool((far == 0).all())
    if not parallel and (far == 0).any():
        raise InputError(f"{path}: some views are parallel and some are not; split the file")
    panel_x, panel_y, source_x, source_y = offsets
    grid = pictures.grid
    if not np.allclose(grid.directions[1:], [[0, 1, 0], [1, 0, 0]], atol=1e-6):
        raise InputError(
            f"{path}: {pictures.path} has turned axes; write the stack without a direction"
        )
    _, tall, wide = grid.voxel_size
    rows, columns = pictures.shape[1:]
    # Stacks without coordinates are centred.
    corner = (
        grid.origin
        if isinstance(pictures, MetaImage | Nifti)
        else (-(columns - 1) / 2 * wide, -(rows - 1) / 2 * tall)
    )
    across = corner[0] + (columns - 1) / 2 * wide + panel_x
    along = corner[1] + (rows - 1) / 2 * tall + panel_y
    zero, one = np.zeros_like(near), np.ones_like(near)
    parts = [
        np.stack([zero, zero, one] if parallel else [source_x, source_y, near], 1),
        np.stack([across, along, zero if parallel else near - far], 1),
        np.stack([wide * one, zero, zero], 1),
        np.stack([zero, tall * one, zero], 1),
    ]
    turn = _rotation(a, 0, 1) @ _rotation(b, 1, 2) @ _rotation(g, 2, 0)
    # The frame of the panel is turned world: p' = R p, so p = R^T p'.
    world = [np.einsum("vji,vj->vi", turn, vectors) @ _TO_OURS.T for vectors in parts]
    return Poses(np.concatenate(world, 1), parallel)


def _rotation(angles: np.ndarray, first: int, second: int) -> np.ndarray:
    """Return rotations ``(V, 3, 3)`` that turn the first axis towards the second."""
    matrix = np.tile(np.eye(3), (len(angles), 1, 1))
    matrix[:, first, first] = matrix[:, second, second] = np.cos(angles)
    matrix[:, second, first] = np.sin(angles)
    matrix[:, first, second] = -np.sin(angles)
    return matrix


def _stack(path: Path, views: int, name: str | os.PathLike[str] | None) -> Volume:
    """Open the projections: the volume of the given path, or the only one with as many slices."""
    if name is not None:
        candidates = [Path(name).expanduser()]
    else:
        pages = [f for f in tiff_files(path.parent) if is_stack(f)]
        several = [path.parent] if not pages and is_stack(path.parent) else []
        files = sorted(
            f for f in path.parent.iterdir() if f.is_file() and f.suffix.lower() not in SUFFIXES
        )
        kinds = ("metaimage", "nifti")
        candidates = [
            *(f for f in files if f.stat().st_size and sniff(f) in kinds),
            *pages,
            *several,
        ]
    stacks = [_open_stack(file) for file in candidates]
    fitting = [stack for stack in stacks if stack.shape[0] == views]
    if len(fitting) != 1:
        sizes = ", ".join(f"{s.path.name} has {s.shape[0]}" for s in stacks[:4]) or "there is none"
        raise InputError(
            f"{path}: the geometry has {views} views and needs one stack of as many pictures next to "
            f"it ({sizes}); copy it there, or pass stack="
        )
    return fitting[0]


def _open_stack(path: Path) -> Volume:
    kind = "" if path.is_dir() else sniff(require_file(path))
    return {"metaimage": MetaImage, "nifti": Nifti}.get(kind, TiffStack)(path)
