"""What the formats of synchrotrons share: counts with flat and dark fields, one sinogram a detector row.

Scientific Data Exchange (DXchange) HDF5: parallel-beam scans of synchrotrons, one sinogram a detector row.

De Carlo et al., "Scientific data exchange: a schema for HDF5-based storage of raw and analyzed data", Journal
of Synchrotron Radiation 21, 2014.

NeXus: tomography in the NXtomo layout, as synchrotrons in Europe write it.

NeXus application definition NXtomo; Koennecke et al., "The NeXus data format", Journal of Applied Crystallography 48, 2015.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import decoding, require_file, require_plausible
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.center_of_rotation import center_of_rotation
from invtoolbox.datasets.scans.geometry_2d import Geometry
from invtoolbox.datasets.scans.geometry_3d import Geometry3D
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError

# Rows that take part in finding the axis: more cost time and add little.
_ROWS_FOR_AXIS = 8
# Beyond this share of unusable values the flat or dark field does not belong to the data.
_LARGEST_UNUSABLE_SHARE = 0.1


__all__ = ["DataExchange", "line_integrals"]


# What a frame is, in `image_key`.
_PROJECTION, _FLAT, _DARK = 0, 1, 2
_METRES = {"m": 1e3, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}


def line_integrals(
    counts: np.ndarray, white: np.ndarray, dark: np.ndarray, source: str = "counts"
) -> tuple[np.ndarray, tuple[int, ...], int]:
    """``-log((counts - dark) / (white - dark))`` of counts (views, columns), with nothing left undefined.

    Returns the line integrals, the dead columns (interpolated from their neighbours), and the number of
    starved rays (set to the smallest positive transmission); see `DataExchange`.

    >>> line_integrals(np.array([[50.0, 25.0]]), white=np.full(2, 100.0), dark=np.zeros(2))[0].round(3)
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
        transmission = np.where(starved, transmission[~starved].min(), transmission)
    return -np.log(transmission), tuple(np.flatnonzero(~alive).tolist()), int(starved.sum())


class DetectorRows(ABC):
    """A data set with one sinogram for each detector row of a parallel-beam scan; rows are read when they are asked for.

    Counts become line integrals by ``y = -log((data - dark) / (white - dark))`` with the means of flat and dark fields
    over their frames. Two kinds of values have no logarithm, and are treated so:

    - a detector element whose flat field is not above its dark field is dead: its column is interpolated from
      its neighbours (`meta["dead_columns"]`);
    - a count at or below the dark field (a starved ray) takes the smallest positive transmission of its
      sinogram, the largest attenuation that was measured (`meta["starved_rays"]` counts them).

    More than 10 % of either is an error. With the geometry of a 3D scan all rows are one item, ``(views, rows, columns)``.
    """

    format_name: str
    path: Path
    geometry: ScanGeometry
    _rows: int

    @abstractmethod
    def _counts(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts ``(views, columns)`` of a detector row, and the means ``(columns,)`` of its flat and dark fields."""

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
        """All rows together, as the views of a panel."""
        first, dead, starved = self._sinogram(0)
        y = np.empty((len(first), self._rows, first.shape[1]), dtype=np.float32)
        y[:, 0] = first
        dead_cells = len(dead)
        for row in range(1, self._rows):
            y[:, row], dead, more = self._sinogram(row)
            dead_cells, starved = dead_cells + len(dead), starved + more
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

    def _find_geometry(
        self, angles: np.ndarray, columns: int, center: float | None, pixel_size: float | None
    ) -> Geometry:
        """The scan about the axis that is given or found, and the square of the image that all views see."""
        if center is None:
            count = min(self._rows, _ROWS_FOR_AXIS)
            rows = [int(r) for r in np.linspace(0, self._rows - 1, count).round()]
            center = center_of_rotation(np.stack([self._sinogram(row)[0] for row in rows]), angles)
        spacing = 1.0 if pixel_size is None else pixel_size
        reaches = (center + 0.5, columns - 0.5 - center)
        # Half a turn sees whole what the shorter side of the detector reaches; a full turn, what the longer
        # one does.
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
        """Line integrals (views, columns) of a detector row, its dead columns, and its number of starved
        rays."""
        with decoding(self.path, self.format_name):
            counts, white, dark = self._counts(row)
        return line_integrals(counts, white, dark, f"{self.path}, row {row}")


class DataExchange(DetectorRows):
    """A data set with one sinogram for each detector row of `/exchange/data`.

    Counts become line integrals with `data_white` and `data_dark`, as `DetectorRows` says. The axis of rotation is found
    from the data (`center_of_rotation`) unless `center`, a column counted from 0 at the centre of the first, or a whole
    `geometry` is given. The image is the square about the axis that all views see. The file has no pixel size, so lengths
    are in detector pixels unless `pixel_size` is given.

    Args:
        path: the HDF5 file.
        geometry: replaces everything that the file says about the scan.
        center: the column that sees the axis of rotation.
        pixel_size: the detector pixel in mm, seen at the object.
    """

    format_name = "DXchange HDF5"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        center: float | None = None,
        pixel_size: float | None = None,
    ) -> None:
        self.path = require_file(path)
        with decoding(self.path, "DXchange HDF5"), open_hdf5(self.path) as file:
            exchange = _exchange(self.path, file)
            views, self._rows, columns = _projections_shape(self.path, exchange["data"])
            for name in ("data_white", "data_dark"):
                if exchange[name].ndim != 3 or exchange[name].shape[1:] != (self._rows, columns):
                    raise InputError(
                        f"{self.path}: /exchange/{name} has shape {exchange[name].shape}; "
                        f"expected (frames, {self._rows}, {columns}) as in /exchange/data"
                    )
                require_plausible(self.path, (exchange[name].shape[0], columns), np.float64)
            require_plausible(self.path, (views, columns), np.float64)
            angles = None if geometry is not None else _angles(self.path, exchange, views)
        if geometry is not None:
            self.geometry = geometry
            return
        assert angles is not None
        with decoding(self.path, "DXchange HDF5"):
            self.geometry = self._find_geometry(angles, columns, center, pixel_size)

    def _counts(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with open_hdf5(self.path) as file:
            exchange = file["exchange"]
            return (
                np.asarray(exchange["data"][:, row], dtype=np.float64),
                np.asarray(exchange["data_white"][:, row], dtype=np.float64).mean(axis=0),
                np.asarray(exchange["data_dark"][:, row], dtype=np.float64).mean(axis=0),
            )


class NXtomo(DetectorRows):
    """A data set with one sinogram for each detector row of an NXtomo entry.

    `instrument/detector/image_key` says which frames are projections (0), flat fields (1) and dark fields (2); others are
    left out. `sample/rotation_angle` gives the angles. The axis of rotation is found from the data (`center_of_rotation`)
    unless `center` or a whole `geometry` is given; the pixel size is the detector's `x_pixel_size` where there is one.

    Args:
        path: the HDF5 file.
        geometry: replaces everything that the file says about the scan.
        center: the column that sees the axis of rotation.
        pixel_size: the detector pixel in mm, seen at the object.
        entry: the name of the entry, where a file holds several.
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
        self.path = require_file(path)
        with decoding(self.path, "NeXus"), open_hdf5(self.path) as file:
            found = entries(file)
            if entry is None and len(found) != 1:
                raise InputError(
                    f"{self.path}: no entry with instrument/detector/data and image_key, as NXtomo has them"
                    if not found
                    else f"{self.path}: several entries ({', '.join(found)}); name one with entry="
                )
            self._entry = found[0] if entry is None else entry
            if self._entry not in found:
                raise InputError(
                    f"{self.path}: no NXtomo entry {entry!r}; there is {', '.join(found) or 'none'}"
                )
            group = file[self._entry]
            detector = group["instrument/detector"]
            shape, key = detector["data"].shape, np.asarray(detector["image_key"][()]).ravel()
            if len(shape) != 3 or key.shape != shape[:1]:
                raise InputError(
                    f"{self.path}: data has shape {shape} and image_key {key.shape}; expected (frames, rows, columns) "
                    "and one key a frame"
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
                        f"{self.path}: no {name} (image_key {number}) among {shape[0]} frames; line integrals need "
                        "projections, flat and dark fields"
                    )
            angles = (
                None
                if geometry is not None
                else _nexus_angles(self.path, group, shape[0])[self._views]
            )
            pixel_size = pixel_size if pixel_size is not None else _pixel_size(detector)
        if geometry is not None:
            self.geometry = geometry
            return
        assert angles is not None
        with decoding(self.path, "NeXus"):
            self.geometry = self._find_geometry(angles, columns, center, pixel_size)

    def _counts(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with open_hdf5(self.path) as file:
            frames = np.asarray(
                file[self._entry]["instrument/detector/data"][:, row], dtype=np.float64
            )
        return (
            frames[self._views],
            frames[self._flats].mean(axis=0),
            frames[self._darks].mean(axis=0),
        )


def entries(file: Any) -> list[str]:
    """The groups of an open HDF5 file, at most two levels down, that are laid out as NXtomo."""
    import h5py

    found = []
    for name, group in list(file.items()):
        for path, candidate in [
            (name, group),
            *(
                (f"{name}/{k}", g)
                for k, g in (list(group.items()) if isinstance(group, h5py.Group) else [])
            ),
        ]:
            if (
                isinstance(candidate, h5py.Group)
                and "instrument/detector/data" in candidate
                and ("instrument/detector/image_key" in candidate)
            ):
                found.append(path)
    return found


def _exchange(path: Any, file: Any) -> Any:
    missing = [n for n in ("data", "data_white", "data_dark") if f"exchange/{n}" not in file]
    if missing:
        raise InputError(
            f"{path}: no dataset {', '.join('/exchange/' + n for n in missing)}; a DXchange "
            "file holds data, data_white, data_dark and theta under /exchange"
        )
    return file["exchange"]


def _projections_shape(path: Any, data: Any) -> tuple[int, int, int]:
    axes = data.attrs.get("axes", "theta:y:x")
    axes = axes.decode() if isinstance(axes, bytes) else str(axes)
    if axes != "theta:y:x" or data.ndim != 3:
        raise InputError(
            f"{path}: /exchange/data has {data.ndim} axes named {axes!r}; only theta:y:x "
            "(views, rows, columns) is read, transpose it"
        )
    return data.shape  # type: ignore[no-any-return]


def _angles(path: Any, exchange: Any, views: int) -> np.ndarray:
    if "theta" not in exchange:
        raise InputError(f"{path}: no dataset /exchange/theta; pass a geometry with the angles")
    theta = np.asarray(exchange["theta"][:], dtype=np.float64)
    if theta.shape != (views,):
        raise InputError(
            f"{path}: /exchange/theta has shape {theta.shape}, but /exchange/data has {views} views"
        )
    units = exchange["theta"].attrs.get("units", "degrees")
    units = units.decode() if isinstance(units, bytes) else str(units)
    if units.startswith("deg"):
        return np.radians(theta)
    if units.startswith("rad"):
        return theta
    raise InputError(
        f"{path}: /exchange/theta is in {units!r}; expected degrees or radians, pass a geometry"
    )


def _nexus_angles(path: Any, group: Any, frames: int) -> np.ndarray:
    if "sample/rotation_angle" not in group:
        raise InputError(f"{path}: no sample/rotation_angle; pass a geometry with the angles")
    data = group["sample/rotation_angle"]
    angles = np.asarray(data[()], dtype=np.float64).ravel()
    if angles.shape != (frames,):
        raise InputError(
            f"{path}: rotation_angle has {angles.size} values for {frames} frames; it needs one a frame"
        )
    unit = _text(data.attrs.get("units", "degrees"))
    if unit.startswith("deg"):
        return np.radians(angles)
    if unit.startswith("rad"):
        return angles
    raise InputError(
        f"{path}: rotation_angle is in {unit!r}; expected degrees or radians, pass a geometry"
    )


def _pixel_size(detector: Any) -> float | None:
    """The width of a detector pixel in mm, where the file says it in a unit that is known."""
    if "x_pixel_size" not in detector:
        return None
    data = detector["x_pixel_size"]
    scale = _METRES.get(_text(data.attrs.get("units", "m")))
    size = float(np.asarray(data[()], dtype=np.float64).ravel()[0])
    return size * scale if scale is not None and np.isfinite(size) and size > 0 else None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
