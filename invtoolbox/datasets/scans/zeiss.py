"""Readers of Zeiss (Xradia) files, compound containers of Microsoft's OLE: `.txrm` and `.txm`.

`Txrm` reads projections, and `Txm` reads the slices of a volume. The source looks along ``y``, and
the object turns anticlockwise by `Angles`, as in the reader of the Core Imaging Library: columns
run along ``x``, rows along ``z``. Source: the names of the streams in the readers of DXchange and
of the Core Imaging Library.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import decoding, require_file, require_plausible
from invtoolbox.core.environment import optional_package
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.scans.scanner import Poses, ScannerScan
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid

#: Types of the values by the number in `DataType`.
_TYPES: dict[int, np.dtype] = {5: np.dtype("<u2"), 10: np.dtype("<f4")}
#: Number of pictures per folder `ImageData`.
_PER_FOLDER = 100


class Streams:
    """Named streams of a compound container.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        need = f"{path}: Zeiss files need olefile, which is not installed;"
        self.path = path
        self._ole = optional_package("olefile", need, "scanners").OleFileIO(str(path))

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *error: object) -> None:
        self._ole.close()

    def __contains__(self, name: str) -> bool:
        return bool(self._ole.exists(name))

    def names(self) -> list[str]:
        """Return the names of all streams."""
        return ["/".join(parts) for parts in self._ole.listdir()]

    def array(self, name: str, dtype: Any, count: int | None = None) -> np.ndarray:
        """Return the first values of a stream, or all of them.

        Args:
            name: name of the stream.
            dtype: type of the values.
            count: number of values.
        """
        if name not in self:
            raise InputError(f"{self.path}: no stream {name}; export the file again")
        content = self._ole.openstream(name).read()
        size = np.dtype(dtype).itemsize
        if len(content) < (count or 1) * size:
            raise InputError(
                f"{self.path}: truncated, {name} has {len(content):,} bytes and needs "
                f"{(count or 1) * size:,}; export it again"
            )
        return np.frombuffer(content, dtype, len(content) // size if count is None else count)

    def number(self, name: str, dtype: Any = "<f4", default: float | None = None) -> float:
        """Return the first value of a stream, or the default if there is no such stream."""
        if default is not None and name not in self:
            return default
        return float(self.array(name, dtype, 1)[0])


class Txm(Volume):
    """Data set of the slices of a Zeiss volume, or of the pictures of a scan as they are stored.

    Args:
        path: path of the `.txm` file.
        geometry: geometry of the scan, if the slices are measurements.
        items: "slices" or "volume".
    """

    format_name = "Zeiss"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        items: str = "slices",
    ) -> None:
        path = require_file(path)
        with decoding(path, self.format_name), Streams(path) as file:
            shape = tuple(
                int(file.number(f"ImageInfo/{name}", "<i4"))
                for name in ("NoOfImages", "ImageHeight", "ImageWidth")
            )
            self._dtype = _type(path, file.number("ImageInfo/DataType", "<i4"))
            if min(shape) < 1:
                raise InputError(
                    f"{path}: it declares {shape} slices, rows and columns; export it again"
                )
            require_plausible(path, shape, self._dtype)
            names = set(file.names())
            missing = next((k for k in range(shape[0]) if _picture(k) not in names), None)
            if missing is not None:
                raise InputError(
                    f"{path}: truncated, of {shape[0]} pictures number {missing + 1} is missing; "
                    "export it again"
                )
            size = file.number("ImageInfo/PixelSize", default=0.0) / 1000
        grid = Grid((size,) * 3) if 0 < size < math.inf else Grid(unit="voxel")
        super().__init__(path, shape, grid, "as stored", items=items, geometry=geometry)  # type: ignore[arg-type]

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        _, rows, columns = self.shape
        with Streams(self.path) as file:
            pages = [
                file.array(_picture(k), self._dtype, rows * columns) for k in range(start, stop)
            ]
        return np.stack(pages).reshape(stop - start, rows, columns)


class Txrm(ScannerScan):
    """Data set of one item, the projections of a Zeiss Xradia microscope.

    The white level is the picture in `ReferenceData`, or the mean of those in `MultiReferenceData`.
    Pictures are moved by `X-Shifts` and `Y-Shifts`, rounded to whole cells; `CenterShift` places
    the axis of rotation.

    Args:
        path: path of the `.txrm` file.
        geometry: geometry of the pictures as they are stored; it replaces the geometry in the file.
        white: white level, for a file without references.
    """

    format_name = "Zeiss"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        white: float | None = None,
    ) -> None:
        pictures = Txm(path)
        path, views = pictures.path, pictures.shape[0]
        with decoding(path, self.format_name), Streams(path) as file:
            poses, notes = _poses(file, views)
            reference = _reference(file, pictures.shape[1:]) if white is None else white
            shifts = np.zeros((2, views))
            for k, axis in enumerate("XY"):
                if f"Alignment/{axis}-Shifts" in file:
                    shifts[k] = file.array(f"Alignment/{axis}-Shifts", "<f4", views)
        if not (np.abs(shifts) < max(pictures.shape[1:])).all():
            raise InputError(
                f"{path}: a shift of a picture is larger than the picture; export it again"
            )
        moves = shifts.round().astype(np.int64).T
        if moves.any():
            notes += (
                f"pictures are moved by up to {np.abs(moves).max()} whole cells, as the file says",
            )
        super().__init__(
            path, pictures, geometry or poses, reference, notes, moves if moves.any() else None
        )


def _poses(file: Streams, views: int) -> tuple[Poses, tuple[str, ...]]:
    cell = file.number("ImageInfo/PixelSize") / 1000
    angles = np.radians(file.array("ImageInfo/Angles", "<f4", views).astype(np.float64))
    is_ultra = any("ConfigZonePlates" in name for name in file.names())
    parallel = file.number("ImageInfo/XrayGeometry", "<i4", 0 if is_ultra else 1) != 1
    center = file.number("ReconSettings/CenterShift", default=math.nan)
    center = file.number("AutoRecon/CenterShift", default=center)
    notes: tuple[str, ...] = (
        "the file does not name the side from which pictures are seen; rows are taken upwards",
    )
    if math.isnan(center):
        center, notes = 0.0, (*notes, "the file has no centre of rotation; the middle is assumed")
    if parallel:
        pose = [[0, 1, 0], [center * cell, 0, 0], [cell, 0, 0], [0, 0, cell]]
        return Poses.circle(pose, -angles, True), notes
    # Distances have a sign in the coordinates of the stage.
    near, rest = (abs(file.number(f"ImageInfo/{n}toRADistance")) for n in ("S", "D"))
    if not near > 0:
        raise InputError(
            f"{file.path}: the distance from the source to the axis is 0; export it again"
        )
    cell *= (near + rest) / near
    pose = [[0, -near, 0], [center * cell, rest, 0], [cell, 0, 0], [0, 0, cell]]
    return Poses.circle(pose, -angles), notes


def _reference(file: Streams, panel: tuple[int, int]) -> np.ndarray:
    for folder in ("ReferenceData", "MultiReferenceData"):
        names = [
            n
            for n in file.names()
            if n.lower().startswith(f"{folder}/image".lower()) and n.count("/") == 1
        ]
        if names:
            dtype = _type(file.path, file.number(f"{folder}/DataType", "<i4", 10))
            pages = [file.array(name, dtype, panel[0] * panel[1]) for name in names]
            return np.mean(pages, 0, dtype=np.float64).reshape(panel)
    raise InputError(
        f"{file.path}: no reference picture, so the white level is unknown; apply the reference in the "
        "microscope's program, or pass white="
    )


def _type(path: Path, number: float) -> np.dtype:
    if number not in _TYPES:
        raise InputError(
            f"{path}: values of the type {number:g} are not read; export 16 bits or float32"
        )
    return _TYPES[int(number)]


def _picture(number: int) -> str:
    return f"ImageData{number // _PER_FOLDER + 1}/Image{number + 1}"
