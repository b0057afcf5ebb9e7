"""NumPy files: plain arrays, as sinograms with a geometry or as images without one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import decoding, require_bytes, require_file, sniff
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry, axes_of_item
from invtoolbox.errors import InputError

# Names under which an archive holds its measurements, in the order of preference.
_MEASUREMENT_NAMES = ("y", "sinogram", "projections", "measurements")


class Arrays:
    """A data set from a `.npy` file, which is mapped, or a `.npz` archive; objects are never unpickled.

    The first axis counts the items: ``(rows, columns)`` is one item, ``(items, rows, columns)`` are as many
    with one channel, ``(items, channel, *space)`` are as many. With a geometry, rows are angles and columns
    detector elements. With the geometry of a 3D scan, or with ``items="volume"``, an item has one axis more:
    ``(views, panel rows, panel columns)`` or ``(slices, rows, columns)`` is one.

    Of an archive, the array `name` is read, by default ``y``, ``sinogram``, ``projections`` or the only
    array of two or more axes; ``reference`` (in the layout above) and ``noise_std`` (a number, or one an
    item) go with it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        name: str | None = None,
        items: str = "slices",
    ) -> None:
        self.path = require_file(path)
        self.geometry = geometry
        axes = axes_of_item(self.path, items, geometry)
        arrays = _load(self.path)
        chosen = _choose(self.path, arrays, name)
        self.array = _with_axes(self.path, arrays[chosen], chosen, axes)
        self.reference = None
        if "reference" in arrays and chosen != "reference":
            self.reference = _with_axes(self.path, arrays["reference"], "reference", axes)
            if len(self.reference) != len(self.array):
                raise InputError(
                    f"{self.path}: {len(self.array)} items but {len(self.reference)} "
                    "references; give one a measurement"
                )
        self.noise_std = _noise(self.path, arrays, len(self.array))

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Measurement:
        index = check_index(index, len(self))
        return Measurement(
            y=as_tensor(self.array[index])[None],
            geometry=self.geometry,
            reference=None if self.reference is None else as_tensor(self.reference[index])[None],
            noise_std=None if self.noise_std is None else float(self.noise_std[index]),
            meta={"source": str(self.path), "item": index, "units": "as stored"},
        )


def items_first(
    path: Path, array: Any, name: str, axes: int = 2
) -> tuple[tuple[int, ...], np.dtype]:
    """The shape (items, channel, *space) of an array in a file, with that many axes of space, and its type; the array is not read."""
    shape = tuple(int(n) for n in array.shape)
    if 0 in shape:
        raise InputError(f"{path}: the array {name} of shape {shape} is empty; write it again")
    if len(shape) < axes:
        raise InputError(
            f"{path}: the array {name} of shape {shape} has {len(shape)} axes; a 3D scan has three (view, panel row, panel "
            "column), and so has a volume (slice, row, column)"
        )
    if axes == 2 and len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 4:
        raise InputError(
            f"{path}: the array {name} of shape {shape} looks like a picture with its "
            "colors last; save it as (1, channel, rows, columns)"
        )
    if len(shape) == axes:
        return (1, 1, *shape), array.dtype
    return ((shape[0], 1, *shape[1:]) if len(shape) == axes + 1 else shape), array.dtype


def _load(path: Path) -> dict[str, np.ndarray]:
    with decoding(path, "NumPy"):
        if sniff(path) == "npy":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            if mapped.size:
                require_bytes(path, int(mapped.offset), mapped.shape or (1,), mapped.dtype)
            return {"y": mapped}
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise InputError(
                f"{path}: neither a .npy file nor a .npz archive; save it again with NumPy"
            )
        arrays = {}
        with loaded:
            for key in loaded.files:
                try:
                    arrays[key] = loaded[key]
                except ValueError as error:
                    if "pickle" not in str(error).lower():
                        raise
                    # An array of objects: left out here, and named below if nothing else is there.
        return arrays


def _choose(path: Path, arrays: dict[str, np.ndarray], name: str | None) -> str:
    numeric = [k for k, a in arrays.items() if a.ndim >= 2 and a.dtype.kind in "biufc"]
    if name is not None:
        if name not in numeric:
            raise InputError(
                f"{path}: no array {name!r} of numbers with two or more axes; there is "
                f"{', '.join(numeric) or 'none'}"
            )
        return name
    for known in _MEASUREMENT_NAMES:
        if known in numeric:
            return known
    others = [k for k in numeric if k != "reference"]
    if len(others) != 1:
        shapes = ", ".join(f"{k} {a.dtype} {a.shape}" for k, a in arrays.items()) or "nothing"
        raise InputError(
            f"{path}: needs one array of numbers with two or more axes, found {shapes}; save it "
            "under the name y"
        )
    return others[0]


def _with_axes(path: Path, array: np.ndarray, name: str, axes: int) -> np.ndarray:
    return array.reshape(items_first(path, array, name, axes)[0])


def _noise(path: Path, arrays: dict[str, np.ndarray], items: int) -> np.ndarray | None:
    if "noise_std" not in arrays:
        return None
    noise = arrays["noise_std"]
    if noise.dtype.kind not in "iuf" or noise.size not in (1, items) or not (noise > 0).all():
        raise InputError(
            f"{path}: noise_std of shape {noise.shape} must be one positive number, or one an "
            f"item ({items})"
        )
    return np.broadcast_to(noise.reshape(-1), (items,))
