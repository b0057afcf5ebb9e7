"""HDF5 files of plain arrays: what `write_hdf5` and a saved solution hold, and the default signal of a NeXus file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from invtoolbox.datasets.arrays import items_first
from invtoolbox.datasets.files import decoding, require_file, require_plausible
from invtoolbox.datasets.hdf5_open import open_hdf5
from invtoolbox.datasets.measurement import Measurement, as_tensor, checked_index
from invtoolbox.datasets.scan_geometry import ScanGeometry, axes_of_item
from invtoolbox.errors import InputError

# Names under which a file holds what is looked for, in the order of preference.
_NAMES = ("y", "sinogram", "projections", "measurements", "x", "image", "volume", "data")
# Links that are followed from a NeXus default; a damaged file may link in a circle.
_DEEPEST = 4


class Hdf5:
    """A data set from an array in an HDF5 file; an item is read when it is asked for.

    The first axis counts the items, as in `Arrays`, and so do ``items="volume"`` and the geometry of a 3D scan. Of several
    arrays, `name` is read: by default one of the known names (``y``, ``sinogram``, ``projections``, ``measurements``, ``x``,
    ``image``, ``volume``, ``data``) at the root, the signal that a NeXus file names as its default, or the only array of two
    or more axes.

    Raises:
        InputError: no array of numbers, several without a known name, an array larger than the file can hold.
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
        with decoding(self.path, "HDF5"), open_hdf5(self.path) as file:
            self._name = _choose(self.path, file, name)
            data = file[self._name]
            axes = axes_of_item(self.path, items, geometry)
            self._shape, dtype = items_first(self.path, data, self._name, axes)
            require_plausible(self.path, self._shape[1:], dtype)
            self._is_one = data.ndim == axes

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: int) -> Measurement:
        index = checked_index(index, len(self))
        with decoding(self.path, "HDF5"), open_hdf5(self.path) as file:
            data = file[self._name]
            array = np.asarray(data[()] if self._is_one else data[index])
            units = data.attrs.get("units", file.attrs.get("units", "as stored"))
        y = as_tensor(array.reshape(self._shape[1:]))[None]
        return Measurement(
            y,
            self.geometry,
            meta={
                "source": str(self.path),
                "item": index,
                "name": self._name,
                "units": units.decode() if isinstance(units, bytes) else str(units),
            },
        )


def _choose(path: Any, file: Any, name: str | None) -> str:
    import h5py

    def is_array(node: Any) -> bool:
        return isinstance(node, h5py.Dataset) and node.ndim >= 2 and node.dtype.kind in "biufc"

    root = [key for key, node in list(file.items()) if is_array(node)]
    if name is not None:
        if name not in file or not is_array(file[name]):
            raise InputError(
                f"{path}: no array {name!r} of numbers with two or more axes; there is {', '.join(root) or 'none'} at "
                "the root"
            )
        return name
    for known in _NAMES:
        if known in root:
            return known
    node, depth = file, 0
    while isinstance(node, h5py.Group) and depth < _DEEPEST:
        key = node.attrs.get("signal", node.attrs.get("default"))
        key = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
        if not isinstance(key, str) or key not in node:
            break
        node, depth = node[key], depth + 1
    if is_array(node):
        return str(node.name)
    if len(root) == 1:
        return root[0]
    raise InputError(
        f"{path}: {'several arrays' if root else 'no array'} of numbers with two or more axes at the root "
        f"({', '.join(root or list(file)[:8]) or 'nothing'}); say which with name="
    )
