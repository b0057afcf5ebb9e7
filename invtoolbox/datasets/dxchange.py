"""Scientific Data Exchange (DXchange) HDF5: parallel-beam scans of synchrotrons, one sinogram a detector row.

De Carlo et al., "Scientific data exchange: a schema for HDF5-based storage of raw and analyzed data", Journal
of Synchrotron Radiation 21, 2014.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from invtoolbox.datasets.detector_rows import DetectorRows, line_integrals
from invtoolbox.datasets.files import decoding, require_file, require_plausible
from invtoolbox.datasets.hdf5_open import open_hdf5
from invtoolbox.datasets.scan_geometry import ScanGeometry
from invtoolbox.errors import InputError

__all__ = ["DataExchange", "line_integrals"]


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
