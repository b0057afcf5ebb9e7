"""Readers of HDF5 files: arrays, and blur kernels in a MATLAB 7.3 cell array.

`Hdf5` reads an array of a file from `write_hdf5`, of a saved solution, or the default signal of a
NeXus file. `BlurKernels` reads kernels in the form in which Levin et al. published theirs.
`open_hdf5` opens a file after a search for damage that would keep the HDF5 library in an endless
loop.

Source: Levin, Weiss, Durand, Freeman, "Understanding and evaluating blind deconvolution
algorithms", CVPR 2009.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import decoding, require_file, require_plausible
from invtoolbox.core.trust import MOST_MEMBERS, is_trusting, named_file
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry, axes_of_item
from invtoolbox.datasets.volumes.arrays import layout
from invtoolbox.errors import InputError

# Number of bytes at each end of a file that are searched: strings lie with the other metadata,
# seldom between the data.
_REACH = 2**26
_COLLECTION = b"GCOL\x01\0\0\0"
_HEAD = 16
# Names of the array to read, in the order of preference.
_NAMES = ("y", "sinogram", "projections", "measurements", "x", "image", "volume", "data")
# Largest number of links followed from a NeXus default; a damaged file may link in a circle.
_DEEPEST = 4


class Hdf5:
    """Data set from an array in an HDF5 file; an item is read when it is accessed.

    The first axis counts the items. The layouts, ``items="volume"`` and the geometry of a 3D scan
    have the same meaning as in `Arrays`.

    Args:
        path: path of the file.
        geometry: geometry of the scan, for measurements.
        name: name of the array. The default is an array at the root with one of the known names
            (``y``, ``sinogram``, ``projections``, ``measurements``, ``x``, ``image``, ``volume``,
            ``data``), the signal that a NeXus file names as its default, or the only array of two
            or more axes.
        items: "slices" or "volume".

    Raises:
        InputError: if there is no array of numbers, if there are several without a known name, or
            if an array is larger than the file can hold.
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
        self._trusted = is_trusting()
        with decoding(self.path, "HDF5"), open_hdf5(self.path) as file:
            self._name = _choose(self.path, file, name)
            data = file[self._name]
            axes = axes_of_item(self.path, items, geometry)
            self._shape, dtype = layout(self.path, data, self._name, axes)
            require_plausible(self.path, self._shape[1:], dtype)
            self._is_one = data.ndim == axes

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: int) -> Measurement:
        index = check_index(index, len(self))
        with decoding(self.path, "HDF5"), open_hdf5(self.path, self._trusted) as file:
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


class BlurKernels:
    """Data set of blur kernels for `invtoolbox.operators.Blur`.

    The kernels are the entries of the cell array `kernels` of a MATLAB 7.3 file. An item's `y` is
    ``(1, 1, rows, columns)``, nonnegative, with the sum 1. Items count from 0, so kernel 1 of the
    papers is item 0.
    """

    def __init__(self, path: str | os.PathLike[str], geometry: ScanGeometry | None = None) -> None:
        if geometry is not None:
            raise InputError(f"{path}: blur kernels have no scanning geometry; leave it out")
        import h5py

        self.path = require_file(path)
        self._kernels: list[np.ndarray] = []
        with decoding(self.path, "MATLAB 7.3"), open_hdf5(self.path) as file:
            if "kernels" not in file or file["kernels"].dtype != h5py.ref_dtype:
                raise InputError(
                    f"{self.path}: no cell array named kernels (found "
                    f"{', '.join(file) or 'nothing'}); give a file of blur kernels"
                )
            for reference in np.asarray(file["kernels"]).ravel():
                # MATLAB stores columns first.
                self._kernels.append(np.asarray(file[reference], dtype=np.float64).T)
        for number, kernel in enumerate(self._kernels):
            if (
                kernel.ndim != 2
                or not np.isfinite(kernel).all()
                or (kernel < 0).any()
                or kernel.sum() <= 0
            ):
                raise InputError(
                    f"{self.path}: kernel {number} is not a non-negative image with a positive sum"
                )

    def __len__(self) -> int:
        return len(self._kernels)

    def __getitem__(self, index: int) -> Measurement:
        index = check_index(index, len(self))
        kernel = self._kernels[index]
        return Measurement(
            y=as_tensor(kernel / kernel.sum())[None, None],
            meta={"source": str(self.path), "item": index, "units": "1 (sums to 1)"},
        )


def open_hdf5(path: Path, trusted: bool = False) -> Any:
    """Open a file for reading, after a check for damage that would cause an endless loop.

    A file whose links, virtual or external data lie in files outside of its folder is refused,
    unless it is trusted.

    Strings of attributes lie in collections (of the global heap, format specification III.E), as
    entries one after another. An entry of size zero keeps the loop of the HDF5 library at the same
    place forever, in compiled code that no signal ends. Such files are refused here.
    """
    import h5py

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size = len(content)
        ranges = [(0, size)] if size <= 2 * _REACH else [(0, _REACH), (size - _REACH, size)]
        for start, stop in ranges:
            position = content.find(_COLLECTION, start, stop)
            while position >= 0:
                _check_collection(path, content, position)
                position = content.find(_COLLECTION, position + 8, stop)
    file = h5py.File(path, "r")
    try:
        if not trusted and not is_trusting():
            _confine(path, file)
    except BaseException:
        file.close()
        raise
    return file


def _confine(path: Path, file: Any) -> None:
    """Refuse names of files outside of the folder of a file, and too many objects."""
    import h5py

    links: list[tuple[str, Any]] = []

    def collect(name: str, link: Any) -> bool | None:
        links.append((name, link))
        return True if len(links) > MOST_MEMBERS else None  # True ends the visit

    file.visititems_links(collect)
    if len(links) > MOST_MEMBERS:
        raise InputError(
            f"{path}: it holds more than {MOST_MEMBERS:,} objects; if you trust the file, pass "
            "trusted=True, or set INVTOOLBOX_TRUSTED=1"
        )
    named: list[Any] = []
    for name, link in links:
        node = file.get(name) if isinstance(link, h5py.HardLink) else None
        if isinstance(link, h5py.ExternalLink):
            named.append(link.filename)
        elif isinstance(node, h5py.Dataset):
            named += [entry[0] for entry in node.external or ()]
            if node.is_virtual:
                named += [source.file_name for source in node.virtual_sources()]
    for word in named:
        word = word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)
        if word != ".":  # the file itself
            named_file(path.parent, word, path)


def _check_collection(path: Path, content: mmap.mmap, start: int) -> None:
    length = int.from_bytes(content[start + 8 : start + 16], "little")
    end, position = start + length, start + _HEAD
    while position + _HEAD <= min(end, len(content)):
        index = int.from_bytes(content[position : position + 2], "little")
        size = int.from_bytes(content[position + 8 : position + 16], "little")
        # The size of free space (index 0) includes its head. The size of an entry excludes it, and
        # the entry fills a multiple of eight bytes.
        step = size if index == 0 else _HEAD + (size + 7) // 8 * 8
        if step < _HEAD or position + step > end:
            raise InputError(
                f"{path}: damaged, the collection of strings at byte {start:,} has an entry of "
                f"{size:,} bytes that does not fit; fetch or export it again"
            )
        position += step


def _choose(path: Any, file: Any, name: str | None) -> str:
    import h5py

    def is_array(node: Any) -> bool:
        return isinstance(node, h5py.Dataset) and node.ndim >= 2 and node.dtype.kind in "biufc"

    root = [key for key, node in list(file.items()) if is_array(node)]
    if name is not None:
        if name not in file or not is_array(file[name]):
            raise InputError(
                f"{path}: no array {name!r} of numbers with two or more axes; the root holds "
                f"{', '.join(root) or 'none'}"
            )
        return name
    for usual_name in _NAMES:
        if usual_name in root:
            return usual_name
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
        f"{path}: {'several arrays' if root else 'no array'} of numbers with two or more axes at "
        f"the root ({', '.join(root or list(file)[:8]) or 'nothing'}); choose one with name="
    )
