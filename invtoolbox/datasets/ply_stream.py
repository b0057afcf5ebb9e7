"""A PLY cloud written piece by piece, for clouds that are larger than memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from invtoolbox.datasets.output import writing
from invtoolbox.errors import InputError

#: What PLY calls the types that NumPy writes so.
PROPERTY_NAMES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}
# Room for the number of points, which is known in the end.
_DIGITS = 12

Append = Callable[[Mapping[str, np.ndarray]], None]


@contextmanager
def ply_stream(
    path: str | os.PathLike[str], fields: Mapping[str, str], overwrite: bool = False
) -> Iterator[Append]:
    """A function that adds points to a binary PLY file, which takes its place under `path` when the block ends without an error.

    Args:
        fields: the type of each property by its name, as NumPy writes types: ``{"x": "f4", "red": "u1"}``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ply_stream(folder + "/a.ply", {"x": "f4"}) as append:
    ...         append({"x": np.zeros(2)})
    ...         append({"x": np.ones(1)})
    ...     open(folder + "/a.ply", "rb").read().splitlines()[2]
    b'element vertex 3           '
    """
    unknown = [kind for kind in fields.values() if kind not in PROPERTY_NAMES]
    if unknown or not fields:
        what = f"PLY has no type {unknown[0]!r}" if unknown else "a cloud needs fields"
        raise InputError(f"{path}: {what}; use {', '.join(PROPERTY_NAMES)}")
    dtype = np.dtype([(name, "<" + kind) for name, kind in fields.items()])
    properties = "".join(
        f"property {PROPERTY_NAMES[kind]} {name}\n" for name, kind in fields.items()
    )
    head = b"ply\nformat binary_little_endian 1.0\nelement vertex "
    count = 0
    with writing(path, overwrite) as stream:
        stream.write(head + b" " * _DIGITS + f"\n{properties}end_header\n".encode("ascii"))

        def append(columns: Mapping[str, np.ndarray]) -> None:
            nonlocal count
            sizes = {len(columns[name]) for name in fields if name in columns}
            if set(columns) != set(fields) or len(sizes) != 1:
                raise InputError(
                    f"{path}: a piece has {', '.join(columns) or 'nothing'}; expected {', '.join(fields)}, of one length"
                )
            table = np.empty(sizes.pop(), dtype)
            for name in fields:
                table[name] = columns[name]
            stream.write(table.tobytes())
            count += len(table)

        yield append
        stream.seek(len(head))
        # Blanks behind the number: readers split the line at them.
        stream.write(str(count).ljust(_DIGITS).encode("ascii"))
        stream.seek(0, os.SEEK_END)
