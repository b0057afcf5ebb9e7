"""Scientific Data Exchange (DXchange) HDF5: parallel-beam scans of synchrotrons, one sinogram a detector row.

De Carlo et al., "Scientific data exchange: a schema for HDF5-based storage of raw and analyzed data", Journal
of Synchrotron Radiation 21, 2014.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from invtoolbox.datasets.center import center_of_rotation
from invtoolbox.datasets.files import decoding, require_file
from invtoolbox.datasets.geometry import Geometry
from invtoolbox.datasets.measurement import Measurement, as_tensor, checked_index
from invtoolbox.errors import InputError

# Rows that take part in finding the axis: more cost time and add little.
_ROWS_FOR_AXIS = 8
# Beyond this share of unusable values the flat or dark field does not belong to the data.
_LARGEST_UNUSABLE_SHARE = 0.1


class DataExchange:
    """A data set with one sinogram for each detector row of `/exchange/data`.

    Counts become line integrals by ``y = -log((data - dark) / (white - dark))`` with the means of
    `data_white` and `data_dark` over their frames. Two kinds of values have no logarithm, and are treated so:

    - a detector element whose flat field is not above its dark field is dead: its column is interpolated from
      its neighbours (`meta["dead_columns"]`);
    - a count at or below the dark field (a starved ray) takes the smallest positive transmission of its
      sinogram, the largest attenuation that was measured (`meta["starved_rays"]` counts them).

    More than 10 % of either is an error. The axis of rotation is found from the data (`center_of_rotation`)
    unless `center`, a column counted from 0 at the centre of the first, or a whole `geometry` is given. The
    image is the square about the axis that all views see. The file has no pixel size, so lengths are in
    detector pixels unless `pixel_size` is given.

    Args:
        path: the HDF5 file.
        geometry: replaces everything that the file says about the scan.
        center: the column that sees the axis of rotation.
        pixel_size: the detector pixel in mm, seen at the object.
    """

    def __init__(self, path: str | os.PathLike[str], geometry: Geometry | None = None,
                 center: float | None = None, pixel_size: float | None = None) -> None:
        self.path = require_file(path)
        with decoding(self.path, "DXchange HDF5"), _open(self.path) as file:
            exchange = _exchange(self.path, file)
            views, self._rows, columns = _projections_shape(self.path, exchange["data"])
            for name in ("data_white", "data_dark"):
                if exchange[name].ndim != 3 or exchange[name].shape[1:] != (self._rows, columns):
                    raise InputError(f"{self.path}: /exchange/{name} has shape {exchange[name].shape}; "
                                     f"expected (frames, {self._rows}, {columns}) as in /exchange/data")
            angles = None if geometry is not None else _angles(self.path, exchange, views)
        if geometry is not None:
            self.geometry = geometry
            return
        assert angles is not None
        with decoding(self.path, "DXchange HDF5"):
            self.geometry = self._find_geometry(angles, columns, center, pixel_size)

    def _find_geometry(self, angles: np.ndarray, columns: int, center: float | None,
                       pixel_size: float | None) -> Geometry:
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
            kind="parallel", angles=tuple(angles), num_detectors=columns, image_shape=(size, size),
            pixel_size=spacing, detector_spacing=spacing,
            detector_shift=((columns - 1) / 2 - center) * spacing,
            length_unit="pixel" if pixel_size is None else "mm")

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> Measurement:
        row = checked_index(index, len(self))
        sinogram, dead, starved = self._sinogram(row)
        return Measurement(
            y=as_tensor(sinogram)[None, None], geometry=self.geometry,
            meta={"source": str(self.path), "row": row, "units": "1 (line integral of the attenuation)",
                  "image_units": f"1/{self.geometry.length_unit}", "center_column": self.geometry.axis_column,
                  "dead_columns": dead, "starved_rays": starved})

    def _sinogram(self, row: int) -> tuple[np.ndarray, tuple[int, ...], int]:
        """Line integrals (views, columns) of a detector row, its dead columns, and its number of starved
        rays."""
        with decoding(self.path, "DXchange HDF5"), _open(self.path) as file:
            exchange = file["exchange"]
            counts = np.asarray(exchange["data"][:, row], dtype=np.float64)
            white = np.asarray(exchange["data_white"][:, row], dtype=np.float64).mean(axis=0)
            dark = np.asarray(exchange["data_dark"][:, row], dtype=np.float64).mean(axis=0)
        return line_integrals(counts, white, dark, f"{self.path}, row {row}")


def line_integrals(counts: np.ndarray, white: np.ndarray, dark: np.ndarray,
                   source: str = "counts") -> tuple[np.ndarray, tuple[int, ...], int]:
    """``-log((counts - dark) / (white - dark))`` of counts (views, columns), with nothing left undefined.

    Returns the line integrals, the dead columns (interpolated from their neighbours), and the number of
    starved rays (set to the smallest positive transmission); see `DataExchange`.

    >>> line_integrals(np.array([[50.0, 25.0]]), white=np.full(2, 100.0), dark=np.zeros(2))[0].round(3)
    array([[0.693, 1.386]])
    """
    bad = np.argwhere(~np.isfinite(counts))
    if bad.size:
        raise InputError(f"{source}: {len(bad)} of {counts.size} counts are NaN or infinite, the first at view "
                         f"{bad[0, 0]}, column {bad[0, 1]}; repair them")
    alive = white > dark
    if (~alive).mean() > _LARGEST_UNUSABLE_SHARE:
        raise InputError(f"{source}: the flat field is not above the dark field in {(~alive).sum()} of "
                         f"{alive.size} columns; check that data_white and data_dark are not swapped")
    transmission = (counts - dark) / np.where(alive, white - dark, 1.0)
    if (~alive).any():
        columns = np.arange(alive.size)
        transmission = np.stack([np.interp(columns, columns[alive], view[alive]) for view in transmission])
    starved = transmission <= 0
    if starved.mean() > _LARGEST_UNUSABLE_SHARE:
        raise InputError(f"{source}: {starved.sum()} of {starved.size} counts are not above the dark field; "
                         "check the dark field")
    if starved.any():
        transmission = np.where(starved, transmission[~starved].min(), transmission)
    return -np.log(transmission), tuple(np.flatnonzero(~alive).tolist()), int(starved.sum())


def _open(path: Any) -> Any:
    import h5py

    return h5py.File(path, "r")


def _exchange(path: Any, file: Any) -> Any:
    missing = [n for n in ("data", "data_white", "data_dark") if f"exchange/{n}" not in file]
    if missing:
        raise InputError(f"{path}: no dataset {', '.join('/exchange/' + n for n in missing)}; a DXchange "
                         "file holds data, data_white, data_dark and theta under /exchange")
    return file["exchange"]


def _projections_shape(path: Any, data: Any) -> tuple[int, int, int]:
    axes = data.attrs.get("axes", "theta:y:x")
    axes = axes.decode() if isinstance(axes, bytes) else str(axes)
    if axes != "theta:y:x" or data.ndim != 3:
        raise InputError(f"{path}: /exchange/data has {data.ndim} axes named {axes!r}; only theta:y:x "
                         "(views, rows, columns) is read, transpose it")
    return data.shape  # type: ignore[no-any-return]


def _angles(path: Any, exchange: Any, views: int) -> np.ndarray:
    if "theta" not in exchange:
        raise InputError(f"{path}: no dataset /exchange/theta; pass a geometry with the angles")
    theta = np.asarray(exchange["theta"][:], dtype=np.float64)
    if theta.shape != (views,):
        raise InputError(f"{path}: /exchange/theta has shape {theta.shape}, but /exchange/data has {views} "
                         "views")
    units = exchange["theta"].attrs.get("units", "degrees")
    units = units.decode() if isinstance(units, bytes) else str(units)
    if units.startswith("deg"):
        return np.radians(theta)
    if units.startswith("rad"):
        return theta
    raise InputError(f"{path}: /exchange/theta is in {units!r}; expected degrees or radians, pass a geometry")

