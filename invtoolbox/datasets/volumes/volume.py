"""Base class of the readers of volumes."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from invtoolbox.core.checks import decoding
from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid, Vector


class Volume(ABC):
    """Data set of the slices of a volume, or of whole volumes.

    A slice is read when its item is accessed. An item's `y` is ``(1, 1, rows, columns)``. It is
    ``(1, 1, slices, rows, columns)`` with ``items="volume"`` and with the geometry of a 3D scan,
    whose views are the slices. If a file holds several frames (of time), their slices follow one
    another. Values are float32, rescaled if the file defines a scale.

    Attributes:
        path: path of the file or folder.
        shape: shape ``(slices, rows, columns)`` of one frame.
        frames: number of frames.
        grid: positions of the voxels.
        units: unit of the values.
        scale: slope and intercept that a writer states for stored whole numbers; None for values
            that are written as they are.
    """

    format_name: str
    scale: tuple[float, float] | None = None

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        grid: Grid,
        units: str,
        frames: int = 1,
        items: str = "slices",
        geometry: ScanGeometry | None = None,
    ) -> None:
        check_choice(self, ("slices", "volume"), items=items)
        self.path, self.shape, self.frames, self.grid, self.units = path, shape, frames, grid, units
        # The slices of a 3D scan are its views, and all of them are one item.
        self.items = "volume" if geometry is not None and geometry.axes == 3 else items
        self.geometry = geometry

    def __repr__(self) -> str:
        sizes = " x ".join(f"{h:g}" for h in self.grid.voxel_size)
        frames = f", {self.frames} frames" if self.frames > 1 else ""
        return (
            f"{type(self).__name__}({self.path.name}: {self.shape[0]} slices of {self.shape[1]} x "
            f"{self.shape[2]}{frames}, voxels of {sizes} {self.grid.unit}, {len(self)} items)"
        )

    @abstractmethod
    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        """Read slices of a frame, ``(stop - start, rows, columns)``; they may be mapped."""

    def __len__(self) -> int:
        return self.frames * (self.shape[0] if self.items == "slices" else 1)

    def __getitem__(self, index: int) -> Measurement:
        index = check_index(index, len(self))
        if self.items == "volume":
            return self.volume(index)
        frame, number = divmod(index, self.shape[0])
        y = as_tensor(self.slices(number, number + 1, frame))[None]
        return Measurement(y, self.geometry, meta={**self._meta(frame), "slice": number})

    def slices(self, start: int = 0, stop: int | None = None, frame: int = 0) -> np.ndarray:
        """Read the slices ``start`` to ``stop - 1`` of one frame, ``(slices, rows, columns)``.

        No other slices are read.
        """
        stop = self.shape[0] if stop is None else stop
        if not 0 <= start < stop <= self.shape[0] or not 0 <= frame < self.frames:
            raise InputError(
                f"{self.path}: slices {start} to {stop} of frame {frame} do not exist; there are "
                f"{self.shape[0]} slices in each of {self.frames} frames"
            )
        with decoding(self.path, self.format_name):
            array = self._read(frame, start, stop)
        if array.shape != (stop - start, *self.shape[1:]):
            raise InputError(
                f"{self.path}: its slices have shape {array.shape[1:]}, but {self.shape[1:]} is "
                "declared; export it again"
            )
        return array

    def part(self, views: slice, rows: slice) -> np.ndarray:
        """Read some rows of some slices of the first frame, ``(slices, rows, columns)``.

        Args:
            views: the slices, from start to stop.
            rows: the rows.
        """
        return self.slices(views.start, views.stop)[:, rows]

    def volume(self, frame: int = 0) -> Measurement:
        """Read all slices of a frame as one item, ``(1, 1, slices, rows, columns)``."""
        y = as_tensor(self.slices(frame=frame))[None, None]
        return Measurement(y, self.geometry, meta=self._meta(frame))

    def _meta(self, frame: int) -> dict[str, Any]:
        size = self.grid.voxel_size
        return {
            "source": str(self.path),
            "units": self.units,
            "frame": frame,
            "voxel_size": size,
            "pixel_size": size[1:],
            "grid": self.grid,
        }


class VolumeInMemory(Volume):
    """Volume from an array and the grid of its voxels, for writing.

    For example, ``it.datasets.write("x.nii.gz", VolumeInMemory(x, grid))`` writes a NIfTI file.

    Args:
        values: tensor or array ``(slices, rows, columns)``; leading axes of length one are dropped.
        grid: positions of the voxels.
        units: unit of the values.

    >>> VolumeInMemory(np.zeros((1, 2, 3, 4)), Grid()).shape
    (2, 3, 4)
    """

    format_name = "array"

    def __init__(self, values: Any, grid: Grid, units: str = "as stored") -> None:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        shape, _, _ = slices_of("a volume in memory", array)
        self._array = array.reshape(shape)
        super().__init__(Path("array"), shape, grid, units)

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        return self._array[start:stop]


def slices_of(path: Any, x: Any) -> tuple[tuple[int, int, int], np.dtype, Iterator[np.ndarray]]:
    """Return the shape, the type and an iterator over the slices of a volume to be written.

    Args:
        path: path of the output, for error messages.
        x: a tensor, an array (which may be mapped) or a `Volume`; leading axes of length one are
            dropped.
    """
    if isinstance(x, Volume):
        if x.frames != 1:
            raise InputError(
                f"{path}: {x.path} holds {x.frames} frames; write them one by one, "
                "volume.slices(frame=k)"
            )
        first = x.slices(0, 1)
        return x.shape, first.dtype, (x.slices(k, k + 1)[0] for k in range(x.shape[0]))
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asanyarray(x)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: an array of shape {array.shape} and type {array.dtype} is not one volume of "
            "real numbers; give (slices, rows, columns)"
        )
    return (array.shape[0], array.shape[1], array.shape[2]), array.dtype, iter(array)


def grid_to_write(path: Any, volume: Any, voxel_size: Any) -> Grid:
    """Return the grid of a volume to be written, with the given voxel size if there is one.

    An array without a grid has voxels of size 1 mm.
    """
    grid = volume.grid if isinstance(volume, Volume) else Grid()
    if voxel_size is None:
        return grid
    return dataclasses.replace(grid, voxel_size=check_voxel_size(path, voxel_size))


def type_to_write(dtype: np.dtype) -> np.dtype:
    """Return the little-endian type in which NIfTI and MetaImage store values of a type.

    They have no boolean and no half-precision values, which become uint8 and float32.
    """
    code = dtype.str[1:]
    return np.dtype({"b1": "u1", "f2": "f4"}.get(code, code)).newbyteorder("<")


def join_first(words: Sequence[str], most: int = 8) -> str:
    """Join words with commas; after the first few, only the number of further words follows."""
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + rest


def check_voxel_size(path: Any, size: Any) -> Vector:
    """Return three positive lengths, or raise an `InputError` that names the file."""
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 3
        or any(isinstance(s, bool) or not isinstance(s, (int, float)) for s in size)
        or not all(math.isfinite(s) and s > 0 for s in size)
    ):
        raise InputError(
            f"{path}: voxel_size is {size!r}; give three positive lengths, along slices, rows and "
            "columns"
        )
    return float(size[0]), float(size[1]), float(size[2])
