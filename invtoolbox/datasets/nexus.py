"""NeXus: tomography in the NXtomo layout, as synchrotrons in Europe write it.

NeXus application definition NXtomo; Koennecke et al., "The NeXus data format", Journal of Applied Crystallography 48, 2015.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from invtoolbox.datasets.detector_rows import DetectorRows
from invtoolbox.datasets.files import decoding, require_file, require_plausible
from invtoolbox.datasets.hdf5_open import open_hdf5
from invtoolbox.datasets.scan_geometry import ScanGeometry
from invtoolbox.errors import InputError

# What a frame is, in `image_key`.
_PROJECTION, _FLAT, _DARK = 0, 1, 2
_METRES = {"m": 1e3, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}


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
                None if geometry is not None else _angles(self.path, group, shape[0])[self._views]
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


def _angles(path: Any, group: Any, frames: int) -> np.ndarray:
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
