"""NumPy files: plain arrays, as sinograms with a geometry or as images without one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from invtoolbox.datasets.files import decoding, require_file
from invtoolbox.datasets.geometry import Geometry
from invtoolbox.datasets.measurement import Measurement, as_tensor, checked_index
from invtoolbox.errors import InputError

# Names under which an archive holds its measurements, in the order of preference.
_MEASUREMENT_NAMES = ("y", "sinogram", "measurements")


class Arrays:
    """A data set from a `.npy` file or a `.npz` archive; objects are never unpickled.

    The first axis counts the items: ``(rows, columns)`` is one item, ``(items, rows, columns)`` are as many
    with one channel, ``(items, channel, *space)`` are as many. With a geometry, rows are angles and columns
    detector elements. Of an archive, the array `name` is read, by default ``y``, ``sinogram`` or the only
    array of two or more axes; ``reference`` (in the layout above) and ``noise_std`` (a number, or one an
    item) go with it.
    """

    def __init__(self, path: str | os.PathLike[str], geometry: Geometry | None = None,
                 name: str | None = None) -> None:
        self.path = require_file(path)
        self.geometry = geometry
        arrays = _load(self.path)
        chosen = _choose(self.path, arrays, name)
        self.array = _items_first(self.path, arrays[chosen], chosen)
        self.reference = None
        if "reference" in arrays and chosen != "reference":
            self.reference = _items_first(self.path, arrays["reference"], "reference")
            if len(self.reference) != len(self.array):
                raise InputError(f"{self.path}: {len(self.array)} items but {len(self.reference)} "
                                 "references; give one a measurement")
        self.noise_std = _noise(self.path, arrays, len(self.array))

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Measurement:
        index = checked_index(index, len(self))
        return Measurement(
            y=as_tensor(self.array[index])[None], geometry=self.geometry,
            reference=None if self.reference is None else as_tensor(self.reference[index])[None],
            noise_std=None if self.noise_std is None else float(self.noise_std[index]),
            meta={"source": str(self.path), "item": index, "units": "as stored"})


def _load(path: Path) -> dict[str, np.ndarray]:
    with decoding(path, "NumPy"):
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"y": loaded}
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
            raise InputError(f"{path}: no array {name!r} of numbers with two or more axes; there is "
                             f"{', '.join(numeric) or 'none'}")
        return name
    for known in _MEASUREMENT_NAMES:
        if known in numeric:
            return known
    others = [k for k in numeric if k != "reference"]
    if len(others) != 1:
        shapes = ", ".join(f"{k} {a.dtype} {a.shape}" for k, a in arrays.items()) or "nothing"
        raise InputError(f"{path}: needs one array of numbers with two or more axes, found {shapes}; save it "
                         "under the name y")
    return others[0]


def _items_first(path: Path, array: np.ndarray, name: str) -> np.ndarray:
    """The array as (items, channel, *space)."""
    if array.size == 0:
        raise InputError(f"{path}: the array {name} of shape {array.shape} is empty; write it again")
    if array.ndim == 3 and array.shape[-1] in (3, 4) and min(array.shape[:2]) > 4:
        raise InputError(f"{path}: the array {name} of shape {array.shape} looks like a picture with its "
                         "colours last; save it as (1, channel, rows, columns)")
    if array.ndim == 2:
        return array[None, None]
    return array[:, None] if array.ndim == 3 else array


def _noise(path: Path, arrays: dict[str, np.ndarray], items: int) -> np.ndarray | None:
    if "noise_std" not in arrays:
        return None
    noise = arrays["noise_std"]
    if noise.dtype.kind not in "iuf" or noise.size not in (1, items) or not (noise > 0).all():
        raise InputError(f"{path}: noise_std of shape {noise.shape} must be one positive number, or one an "
                         f"item ({items})")
    return np.broadcast_to(noise.reshape(-1), (items,))
