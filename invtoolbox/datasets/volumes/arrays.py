"""Reader of NumPy files: arrays as sinograms if a geometry is given, as images otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import (
    decoding,
    open_arrays,
    require_bytes,
    require_file,
    sniff,
)
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry, axes_of_item
from invtoolbox.errors import InputError

# Names of the measurements in an archive, in the order of preference.
_MEASUREMENT_NAMES = ("y", "sinogram", "projections", "measurements", "kspace")


class Arrays:
    """Data set from a `.npy` file, which is mapped, or from a `.npz` archive.

    The first axis counts the items. The layouts are:

    - ``(rows, columns)``: one item;
    - ``(items, rows, columns)``: items with one channel;
    - ``(items, channel, *space)``: items with channels.

    With a geometry, rows are angles and columns are detector elements. With the geometry of a 3D
    scan or with ``items="volume"``, an item has one more axis: ``(views, panel rows, panel
    columns)`` or ``(slices, rows, columns)`` is one item.

    An archive may also hold ``reference``, in the layout of the measurements, and ``noise_std``, a
    number or one number per item. Objects are never unpickled.

    Args:
        path: path of the file.
        geometry: geometry of the scan, for measurements.
        name: name of the array in an archive; by default ``y``, ``sinogram``, ``projections``,
            ``measurements``, ``kspace`` or the only array of two or more axes.
        items: "slices" or "volume".
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
        arrays = self._load(self.path)
        name = _choose(self.path, arrays, name)
        self.array = arrays[name].reshape(layout(self.path, arrays[name], name, axes)[0])
        self.reference = None
        if "reference" in arrays and name != "reference":
            reference = arrays["reference"]
            self.reference = reference.reshape(layout(self.path, reference, "reference", axes)[0])
            if len(self.reference) != len(self.array):
                raise InputError(
                    f"{self.path}: {len(self.array)} items but {len(self.reference)} "
                    "references; give one reference per measurement"
                )
        self.noise_std = _noise(self.path, arrays, len(self.array))

    @staticmethod
    def _load(path: Path) -> dict[str, np.ndarray]:
        """Load the arrays of a file by name."""
        return _load(path)

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


def layout(path: Path, array: Any, name: str, axes: int = 2) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape ``(items, channel, *space)`` of an array in a file, and its type.

    The number of axes of space is `axes`. The array itself is not read.
    """
    shape = tuple(int(n) for n in array.shape)
    if 0 in shape:
        raise InputError(f"{path}: the array {name} of shape {shape} is empty; write it again")
    if len(shape) < axes:
        raise InputError(
            f"{path}: the array {name} of shape {shape} has {len(shape)} axes; a 3D scan has three "
            "(view, panel row, panel column), and so has a volume (slice, row, column)"
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
        loaded = open_arrays(path)
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
                    # An array of objects is left out. If no other array remains, `_choose` raises.
        return arrays


def _choose(path: Path, arrays: dict[str, np.ndarray], name: str | None) -> str:
    numeric = [k for k, a in arrays.items() if a.ndim >= 2 and a.dtype.kind in "biufc"]
    if name is not None:
        if name not in numeric:
            raise InputError(
                f"{path}: no array {name!r} of numbers with two or more axes; choose from "
                f"{', '.join(numeric) or 'nothing'}"
            )
        return name
    for usual_name in _MEASUREMENT_NAMES:
        if usual_name in numeric:
            return usual_name
    others = [k for k in numeric if k != "reference"]
    if len(others) != 1:
        shapes = ", ".join(f"{k} {a.dtype} {a.shape}" for k, a in arrays.items()) or "nothing"
        raise InputError(
            f"{path}: needs one array of numbers with two or more axes, found {shapes}; save it "
            "under the name y"
        )
    return others[0]


def _noise(path: Path, arrays: dict[str, np.ndarray], items: int) -> np.ndarray | None:
    if "noise_std" not in arrays:
        return None
    noise = arrays["noise_std"]
    if noise.dtype.kind not in "iuf" or noise.size not in (1, items) or not (noise > 0).all():
        raise InputError(
            f"{path}: noise_std of shape {noise.shape} must be one positive number, or one per "
            f"item ({items})"
        )
    return np.broadcast_to(noise.reshape(-1), (items,))
