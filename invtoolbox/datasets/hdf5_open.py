"""HDF5 files, looked through for damage over which the library would never come back."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError

# How much of either end of a file is looked through: strings lie with the other metadata, seldom between the data.
_REACH = 2**26
_COLLECTION = b"GCOL\x01\0\0\0"
_HEAD = 16


def open_hdf5(path: Path) -> Any:
    """The file, open for reading.

    Strings of attributes lie in collections (of the global heap, format specification III.E), as entries one after
    another. One of size zero keeps the library's loop on its place for ever, in compiled code that no signal ends; such
    files are refused here.
    """
    import h5py

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size = len(content)
        parts = [(0, size)] if size <= 2 * _REACH else [(0, _REACH), (size - _REACH, size)]
        for start, stop in parts:
            place = content.find(_COLLECTION, start, stop)
            while place >= 0:
                _check(path, content, place)
                place = content.find(_COLLECTION, place + 8, stop)
    return h5py.File(path, "r")


def _check(path: Path, content: mmap.mmap, start: int) -> None:
    length = int.from_bytes(content[start + 8 : start + 16], "little")
    end, place = start + length, start + _HEAD
    while place + _HEAD <= min(end, len(content)):
        index = int.from_bytes(content[place : place + 2], "little")
        size = int.from_bytes(content[place + 8 : place + 16], "little")
        # What is free (index 0) counts its own head, an entry does not and fills whole eights.
        step = size if index == 0 else _HEAD + (size + 7) // 8 * 8
        if step < _HEAD or place + step > end:
            raise InputError(
                f"{path}: damaged, the collection of strings at byte {start:,} has an entry of {size:,} bytes that does "
                "not fit; fetch or export it again"
            )
        place += step
