"""Reader of MATLAB files of versions 5 and 7.3: plain arrays, as sinograms, images or k-space."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from invtoolbox.core.checks import decoding, require_plausible, sniff
from invtoolbox.core.trust import unpacked_budget
from invtoolbox.datasets.volumes.arrays import Arrays
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError

#: Types of elements and of numbers, classes of arrays, and the flag of complex ones, in version 5.
_MATRIX, _COMPRESSED, _COMPLEX = 14, 15, 0x800
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # fmt: skip
_CLASSES = dict(zip(range(6, 16), ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")))


class Matlab(Arrays):
    """Data set from the numeric arrays of a `.mat` file; see `Arrays`.

    In MATLAB the items come last, ``(rows, columns, channel, items)``, and the axes are turned.
    Complex arrays of three axes are k-space, ``(rows, columns, coils)``: one item. Structs, cells
    and text are left out.
    """

    @staticmethod
    def _load(path: Path) -> dict[str, np.ndarray]:
        kind = sniff(path)
        if kind not in ("mat5", "mat7.3"):
            raise InputError(f"{path}: not a MATLAB file of version 5 or 7.3; save it with -v7")
        with decoding(path, "MATLAB"):
            variables = _variables(path) if kind == "mat5" else _variables_of_hdf5(path)
            return {name: turn(array) for name, array in variables if array is not None}


def matlab_names(path: Path) -> list[str]:
    """Return the names of the variables of a MATLAB file of version 5 or 7.3."""
    with decoding(path, "MATLAB"):
        if sniff(path) == "mat5":
            return [name for name, _ in _variables(path)]
        with open_hdf5(path) as file:
            return list(file)


def _variables(path: Path) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield the variables of a file of version 5; None in place of what is no array of numbers.

    On damaged bytes SciPy's reader ends the process or asks for any memory.

    Format: mathworks.com/help/pdf_doc/matlab/matfile_format.pdf, "MAT-File Level 5".
    """
    content = np.memmap(path, np.uint8, "r").data
    order = "<" if bytes(content[126:128]) == b"IM" else ">"
    for kind, body in _elements(content[128:], order):
        if kind == _COMPRESSED:
            most = min(unpacked_budget(path), sys.maxsize)
            body = memoryview(zlib.decompressobj().decompress(body, most))
            kind, body = next(_elements(body, order))
        if kind != _MATRIX:
            continue
        flags, shape, name, *rest = _elements(body, order)
        bits = int(np.frombuffer(flags[1], f"{order}u4")[0])
        array = None
        if (dtype := _CLASSES.get(bits & 0xFF)) is not None:
            # Numbers are stored in the smallest type that holds them.
            parts = [np.frombuffer(blob, order + _NUMBERS[kind]) for kind, blob in rest]
            array = parts[0].astype(dtype)
            if bits & _COMPLEX:
                array = array + 1j * parts[1].astype(dtype)
            array = array.reshape(np.frombuffer(shape[1], f"{order}i4"), order="F")
        yield bytes(name[1]).decode("latin1"), array


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and the bytes of every element."""
    place = 0
    while place + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        place += 8
        if kind >> 16:  # a small element: its bytes are in place of its size
            yield kind & 0xFFFF, content[place - 4 : place - 4 + min(kind >> 16, 4)]
            continue
        if not kind or place + size > len(content):
            raise InputError(
                "truncated, a variable ends behind the file or has no type; save it again"
            )
        yield kind, content[place : place + size]
        place += size + (0 if kind == _COMPRESSED else -size % 8)


def _variables_of_hdf5(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the numeric arrays of a file of version 7.3, whose axes are stored in reverse."""
    with open_hdf5(path) as file:
        for name, stored in file.items():
            kind = getattr(stored, "dtype", np.dtype(object))
            is_complex = kind.names == ("real", "imag")
            if (is_complex or kind.kind in "biuf") and "MATLAB_empty" not in stored.attrs:
                require_plausible(path, stored.shape or (1,), kind)
                values = np.asarray(stored).T
                yield name, values["real"] + 1j * values["imag"] if is_complex else values


def turn(array: np.ndarray) -> np.ndarray:
    """Put the axes of an array of MATLAB into the order of this package.

    >>> turn(np.zeros((4, 5, 3))).shape, turn(np.zeros((4, 5, 3), complex)).shape
    ((3, 4, 5), (1, 3, 4, 5))
    """
    if array.ndim < 3:
        return array
    turned = np.moveaxis(array, (0, 1), (-2, -1))
    turned = turned.transpose(*reversed(range(array.ndim - 2)), -2, -1)
    return turned[None] if array.ndim == 3 and np.iscomplexobj(array) else turned
