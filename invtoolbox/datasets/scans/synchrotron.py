"""Readers of synchrotron scans: parallel-beam counts with flat and dark fields in HDF5.

`DataExchange` reads the layout of Scientific Data Exchange (DXchange), and `NXtomo` reads the
layout NXtomo of NeXus, which synchrotrons in Europe write. Both give one sinogram per detector row.

Sources: De Carlo et al., "Scientific data exchange: a schema for HDF5-based storage of raw and
analyzed data", Journal of Synchrotron Radiation 21, 2014. NeXus application definition NXtomo;
Koennecke et al., "The NeXus data format", Journal of Applied Crystallography 48, 2015.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import decoding, require_file, require_keys, require_plausible
from invtoolbox.core.trust import is_trusting
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.center_of_rotation import center_of_rotation
from invtoolbox.datasets.scans.geometry_2d import Geometry
from invtoolbox.datasets.scans.geometry_3d import Geometry3D
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError

# Number of rows from which the axis is found: more rows cost time and add little.
_ROWS_FOR_AXIS = 8
# If a larger share of the values is unusable, the flat or dark field does not belong to the data.
_LARGEST_UNUSABLE_SHARE = 0.1
# Values of `image_key` in NXtomo: the kinds of a frame.
_PROJECTION, _FLAT, _DARK = 0, 1, 2
# Millimetres per unit of length.
_MILLIMETRES = {"m": 1e3, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}


def line_integrals(
    counts: np.ndarray,
    white: np.ndarray,
    dark: np.ndarray,
    source: str = "counts",
    starved_counts: float | None = None,
) -> tuple[np.ndarray, tuple[int, ...], int]:
    """Compute the line integrals ``-log((counts - dark) / (white - dark))``, all of them finite.

    Args:
        counts: counts of one detector row, ``(views, columns)``.
        white: mean flat field, ``(columns,)``.
        dark: mean dark field, ``(columns,)``.
        source: name of the data for error messages.
        starved_counts: counts above the dark field that a starved ray gets; by default those of the
            smallest positive transmission.

    Returns:
        the line integrals, the dead columns (interpolated from their neighbours), and the number of
        starved rays (set to the smallest positive transmission); see `DetectorRows`.

    >>> counts, white = np.array([[50.0, 25.0]]), np.full(2, 100.0)
    >>> line_integrals(counts, white, dark=np.zeros(2))[0].round(3)
    array([[0.693, 1.386]])
    """
    bad = np.argwhere(~np.isfinite(counts))
    if bad.size:
        raise InputError(
            f"{source}: {len(bad)} of {counts.size} counts are NaN or infinite, the first at view "
            f"{bad[0, 0]}, column {bad[0, 1]}; repair them"
        )
    alive = white > dark
    if (~alive).mean() > _LARGEST_UNUSABLE_SHARE:
        raise InputError(
            f"{source}: the flat field is not above the dark field in {(~alive).sum()} of "
            f"{alive.size} columns; check that data_white and data_dark are not swapped"
        )
    transmission = (counts - dark) / np.where(alive, white - dark, 1.0)
    if (~alive).any():
        columns = np.arange(alive.size)
        transmission = np.stack(
            [np.interp(columns, columns[alive], view[alive]) for view in transmission]
        )
    starved = transmission <= 0
    if starved.mean() > _LARGEST_UNUSABLE_SHARE:
        raise InputError(
            f"{source}: {starved.sum()} of {starved.size} counts are not above the dark field; "
            "check the dark field"
        )
    if starved.any():
        least: Any = transmission[~starved].min()
        if starved_counts is not None:
            least = starved_counts / np.where(alive, white - dark, 1.0)
        transmission = np.where(starved, least, transmission)
    return -np.log(transmission), tuple(np.flatnonzero(~alive).tolist()), int(starved.sum())


class DetectorRows(ABC):
    """Data set with one sinogram per detector row of a parallel-beam scan.

    A row is read when its item is accessed. Counts become line integrals by
    ``y = -log((data - dark) / (white - dark))`` with the means of flat and dark fields over their
    frames. Two kinds of values have no logarithm:

    - A detector element is dead if its flat field is not above its dark field. Its column is
      interpolated from its neighbours (`meta["dead_columns"]` lists these columns).
    - A ray is starved if its count is at or below the dark field. It is set to the smallest
      positive transmission of its sinogram, which is the largest attenuation that was measured
      (`meta["starved_rays"]` counts these rays).

    More than 10 % of either kind is an error. With the geometry of a 3D scan, all rows are one item
    ``(views, rows, columns)``.
    """

    format_name: str
    path: Path
    geometry: ScanGeometry
    _rows: int

    @abstractmethod
    def _counts(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read the counts of a detector row and the means of its flat and dark fields.

        Counts have shape ``(views, columns)``, the means have shape ``(columns,)``.
        """

    def __len__(self) -> int:
        return 1 if isinstance(self.geometry, Geometry3D) else self._rows

    def __getitem__(self, index: int) -> Measurement:
        row = check_index(index, len(self))
        if isinstance(self.geometry, Geometry3D):
            return self._projections(self.geometry)
        assert isinstance(self.geometry, Geometry)
        sinogram, dead, starved = self._sinogram(row)
        return Measurement(
            y=as_tensor(sinogram)[None, None],
            geometry=self.geometry,
            meta={
                "source": str(self.path),
                "row": row,
                "units": "1 (line integral of the attenuation)",
                "image_units": f"1/{self.geometry.length_unit}",
                "center_column": self.geometry.axis_column,
                "dead_columns": dead,
                "starved_rays": starved,
            },
        )

    def _projections(self, geometry: Geometry3D) -> Measurement:
        """Read all rows as the views of a panel."""
        first, dead, starved = self._sinogram(0)
        y = np.empty((len(first), self._rows, first.shape[1]), dtype=np.float32)
        y[:, 0] = first
        dead_cells = len(dead)
        for row in range(1, self._rows):
            y[:, row], dead, starved_in_row = self._sinogram(row)
            dead_cells, starved = dead_cells + len(dead), starved + starved_in_row
        return Measurement(
            y=as_tensor(y)[None, None],
            geometry=geometry,
            meta={
                "source": str(self.path),
                "units": "1 (line integral of the attenuation)",
                "image_units": f"1/{geometry.length_unit}",
                "dead_cells": dead_cells,
                "starved_rays": starved,
            },
        )

    def _set_geometry(
        self,
        geometry: ScanGeometry | None,
        angles: np.ndarray | None,
        columns: int,
        center: float | None,
        pixel_size: float | None,
    ) -> None:
        """Set the given geometry, or find the geometry from the angles of the file."""
        with decoding(self.path, self.format_name):
            if geometry is None:
                assert angles is not None
                geometry = self._find_geometry(angles, columns, center, pixel_size)
            self.geometry = geometry

    def _find_geometry(
        self, angles: np.ndarray, columns: int, center: float | None, pixel_size: float | None
    ) -> Geometry:
        """Return the geometry of the scan; the axis of rotation is found if it is not given.

        The image is the square that all views see.
        """
        if center is None:
            count = min(self._rows, _ROWS_FOR_AXIS)
            rows = [int(r) for r in np.linspace(0, self._rows - 1, count).round()]
            center = center_of_rotation(np.stack([self._sinogram(row)[0] for row in rows]), angles)
        spacing = 1.0 if pixel_size is None else pixel_size
        reaches = (center + 0.5, columns - 0.5 - center)
        # Half a turn covers a circle that reaches to the nearer end of the detector; a full turn
        # covers a circle that reaches to the farther end.
        full_turn = np.ptp(angles) > 2 * np.pi * (1 - 1.5 / angles.size)
        size = max(2 * round(max(reaches) if full_turn else min(reaches)), 1)
        return Geometry(
            kind="parallel",
            angles=tuple(angles),
            num_detectors=columns,
            image_shape=(size, size),
            pixel_size=spacing,
            detector_spacing=spacing,
            detector_shift=((columns - 1) / 2 - center) * spacing,
            length_unit="pixel" if pixel_size is None else "mm",
        )

    def _sinogram(self, row: int) -> tuple[np.ndarray, tuple[int, ...], int]:
        """Return the line integrals, dead columns and number of starved rays of a detector row."""
        with decoding(self.path, self.format_name):
            counts, white, dark = self._counts(row)
        return line_integrals(counts, white, dark, f"{self.path}, row {row}")


class DataExchange(DetectorRows):
    """Data set with one sinogram per detector row of `/exchange/data` in DXchange HDF5.

    Counts become line integrals with `data_white` and `data_dark`, as described in `DetectorRows`:

    - ``y = -log((data - data_dark) / (data_white - data_dark))``;
    - dead columns are interpolated from their neighbours;
    - starved rays are set to the smallest positive transmission of their sinogram.

    The axis of rotation is found from the data (`center_of_rotation`) unless `center` or a whole
    `geometry` is given. The image is the square around the axis that all views see. The file has no
    pixel size, so lengths are in detector pixels unless `pixel_size` is given.

    Args:
        path: path of the HDF5 file.
        geometry: geometry of the scan; it replaces the description in the file.
        center: column that sees the axis of rotation, counted from 0 at the centre of the first
            column.
        pixel_size: size of a detector pixel at the object, in mm.
    """

    format_name = "DXchange HDF5"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        center: float | None = None,
        pixel_size: float | None = None,
    ) -> None:
        self.path, self._trusted = require_file(path), is_trusting()
        with decoding(self.path, self.format_name), open_hdf5(self.path) as file:
            require_keys(
                f"{self.path}: no dataset",
                [f"/exchange/{name}" for name in ("data", "data_white", "data_dark")],
                file,
                "a DXchange file holds data, data_white, data_dark and theta under /exchange",
            )
            exchange = file["exchange"]
            views, self._rows, columns = _projections_shape(self.path, exchange["data"])
            for name in ("data_white", "data_dark"):
                if exchange[name].ndim != 3 or exchange[name].shape[1:] != (self._rows, columns):
                    raise InputError(
                        f"{self.path}: /exchange/{name} has shape {exchange[name].shape}; "
                        f"expected (frames, {self._rows}, {columns}) as in /exchange/data"
                    )
                require_plausible(self.path, (exchange[name].shape[0], columns), np.float64)
            require_plausible(self.path, (views, columns), np.float64)
            angles = None
            if geometry is None:
                angles = _read_angles(self.path, exchange, "theta", views)
        self._set_geometry(geometry, angles, columns, center, pixel_size)

    def _counts(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with open_hdf5(self.path, self._trusted) as file:
            exchange = file["exchange"]
            return (
                np.asarray(exchange["data"][:, row], dtype=np.float64),
                np.asarray(exchange["data_white"][:, row], dtype=np.float64).mean(axis=0),
                np.asarray(exchange["data_dark"][:, row], dtype=np.float64).mean(axis=0),
            )


class NXtomo(DetectorRows):
    """Data set with one sinogram per detector row of an NXtomo entry.

    `instrument/detector/image_key` marks frames as projections (0), flat fields (1) and dark fields
    (2); other frames are left out. `sample/rotation_angle` gives the angles. The axis of rotation
    is found from the data (`center_of_rotation`) unless `center` or a whole `geometry` is given.
    The pixel size is the detector's `x_pixel_size` if the file has it.

    Args:
        path: path of the HDF5 file.
        geometry: geometry of the scan; it replaces the description in the file.
        center: column that sees the axis of rotation, counted from 0 at the centre of the first
            column.
        pixel_size: size of a detector pixel at the object, in mm.
        entry: name of the entry, for a file that holds several.
    """

    format_name = "NeXus"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        center: float | None = None,
        pixel_size: float | None = None,
        entry: str | None = None,
    ) -> None:
        self.path, self._trusted = require_file(path), is_trusting()
        with decoding(self.path, self.format_name), open_hdf5(self.path) as file:
            names = entries(file)
            if entry is None and len(names) != 1:
                raise InputError(
                    f"{self.path}: no entry with instrument/detector/data and image_key; NXtomo "
                    "needs both"
                    if not names
                    else f"{self.path}: several entries ({', '.join(names)}); name one with entry="
                )
            self._entry = names[0] if entry is None else entry
            if self._entry not in names:
                raise InputError(
                    f"{self.path}: no NXtomo entry {entry!r}; the entries are "
                    f"{', '.join(names) or 'none'}"
                )
            group = file[self._entry]
            detector = group["instrument/detector"]
            shape, key = detector["data"].shape, np.asarray(detector["image_key"][()]).ravel()
            if len(shape) != 3 or key.shape != shape[:1]:
                raise InputError(
                    f"{self.path}: data has shape {shape} and image_key {key.shape}; expected "
                    "(frames, rows, columns) and one key per frame"
                )
            self._rows, columns = shape[1], shape[2]
            require_plausible(self.path, (shape[0], columns), np.float64)
            self._views, self._flats, self._darks = (
                np.flatnonzero(key == k) for k in (_PROJECTION, _FLAT, _DARK)
            )
            for frames, name, number in (
                (self._views, "projections", 0),
                (self._flats, "flat fields", 1),
                (self._darks, "dark fields", 2),
            ):
                if not frames.size:
                    raise InputError(
                        f"{self.path}: no {name} (image_key {number}) among {shape[0]} frames; "
                        "line integrals need projections, flat and dark fields"
                    )
            angles = None
            if geometry is None:
                angles = _read_angles(self.path, group, "sample/rotation_angle", shape[0], True)
                angles = angles[self._views]
            pixel_size = pixel_size if pixel_size is not None else _pixel_size(detector)
        self._set_geometry(geometry, angles, columns, center, pixel_size)

    def _counts(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with open_hdf5(self.path, self._trusted) as file:
            frames = np.asarray(
                file[self._entry]["instrument/detector/data"][:, row], dtype=np.float64
            )
        return (
            frames[self._views],
            frames[self._flats].mean(axis=0),
            frames[self._darks].mean(axis=0),
        )


def entries(file: Any) -> list[str]:
    """Return the names of the NXtomo groups of an open HDF5 file, at most two levels down."""
    import h5py

    paths = []
    for name, group in list(file.items()):
        inner = list(group.items()) if isinstance(group, h5py.Group) else []
        for path, candidate in [(name, group), *((f"{name}/{k}", g) for k, g in inner)]:
            if isinstance(candidate, h5py.Group) and all(
                f"instrument/detector/{key}" in candidate for key in ("data", "image_key")
            ):
                paths.append(path)
    return paths


def _projections_shape(path: Any, data: Any) -> tuple[int, int, int]:
    axes = _text(data.attrs.get("axes", "theta:y:x"))
    if axes != "theta:y:x" or data.ndim != 3:
        raise InputError(
            f"{path}: /exchange/data has {data.ndim} axes named {axes!r}; only theta:y:x "
            "(views, rows, columns) is read, transpose it"
        )
    return data.shape  # type: ignore[no-any-return]


def _read_angles(path: Any, group: Any, name: str, count: int, flatten: bool = False) -> np.ndarray:
    """Read one angle per frame in radians; the dataset names its unit, degrees by default."""
    label = f"{group.name}/{name}"
    if name not in group:
        raise InputError(f"{path}: no dataset {label}; pass a geometry with the angles")
    angles = np.asarray(group[name][()], dtype=np.float64)
    angles = angles.ravel() if flatten else angles
    if angles.shape != (count,):
        raise InputError(
            f"{path}: {label} has shape {angles.shape}, but there are {count} frames; pass a "
            "geometry with the angles"
        )
    unit = _text(group[name].attrs.get("units", "degrees"))
    if not unit.startswith(("deg", "rad")):
        raise InputError(
            f"{path}: {label} is in {unit!r}; expected degrees or radians, pass a geometry"
        )
    return np.radians(angles) if unit.startswith("deg") else angles


def _pixel_size(detector: Any) -> float | None:
    """Return the width of a detector pixel in mm, or None if its unit is missing or unknown."""
    if "x_pixel_size" not in detector:
        return None
    data = detector["x_pixel_size"]
    scale = _MILLIMETRES.get(_text(data.attrs.get("units", "m")))
    size = float(np.asarray(data[()], dtype=np.float64).ravel()[0])
    return size * scale if scale is not None and np.isfinite(size) and size > 0 else None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
