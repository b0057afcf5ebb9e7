"""Files of ITK's transforms: text (.tfm, .txt), MATLAB 4 (.mat, as ANTs writes) and HDF5 (.h5)."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import require_plausible
from invtoolbox.datasets.transforms.itk_parameters import Record
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError

_MOST_STEPS = 1000


def read_text(path: Path) -> list[Record]:
    """Read the lines ``Transform:``, ``Parameters:`` and ``FixedParameters:``."""
    records: list[Record] = []
    name = ""
    parameters: np.ndarray | None = None
    for line in path.read_bytes().decode("latin-1").splitlines():
        key, _, words = line.partition(":")
        if key == "Transform":
            if name:
                raise InputError(f"its {name} lacks FixedParameters: the file is damaged")
            name = words.strip()
            if name.startswith("CompositeTransform"):  # it has no parameters
                records.append(Record(name, np.zeros(0), np.zeros(0)))
                name = ""
        elif key == "Parameters" and name:
            parameters = _numbers(words)
        elif key == "FixedParameters" and name and parameters is not None:
            records.append(Record(name, parameters, _numbers(words)))
            name, parameters = "", None
        elif line.strip() and not line.startswith("#"):
            raise InputError(f"the line {line[:40]!r} belongs to no transform")
    if name:
        raise InputError(f"its {name} lacks parameters: the file is truncated")
    return records


def write_text(records: Sequence[Record]) -> bytes:
    """Return the bytes of a text file of ITK."""
    lines = ["#Insight Transform File V1.0"]
    for number, record in enumerate(records):
        lines += [f"#Transform {number}", f"Transform: {record.name}"]
        if len(record.parameters):  # a composite has none
            lines.append("Parameters: " + " ".join(map(repr, record.parameters.tolist())))
            lines.append("FixedParameters: " + " ".join(map(repr, record.fixed.tolist())))
    return ("\n".join(lines) + "\n").encode()


def read_matlab(path: Path) -> list[Record]:
    """Read pairs of matrices: parameters under the name of the class, and ``fixed``.

    Format: mathworks.com/help/pdf_doc/matlab/matfile_format.pdf, "MAT-File Level 4".
    """
    content = memoryview(path.read_bytes())
    matrices: list[tuple[str, np.ndarray]] = []
    while content:
        order = "<" if content[0] < 60 and not any(content[2:4]) else ">"
        kind, rows, columns, is_complex, length = struct.unpack_from(f"{order}5i", content)
        dtype = np.dtype({0: f"{order}f8", 10: f"{order}f4"}[kind % 1000])
        stop = 20 + length + rows * columns * dtype.itemsize
        if is_complex or min(rows, columns) < 0 or not 0 < length < 200 or stop > len(content):
            raise InputError("a matrix is complex, or larger than the file: not of ITK, or damaged")
        name = bytes(content[20 : 20 + length]).rstrip(b"\0").decode("latin-1")
        numbers = np.frombuffer(content[20 + length : stop], dtype)
        matrices.append((name, numbers.astype(dtype.newbyteorder("="))))
        content = content[stop:]
    if not matrices or any(name != "fixed" for name, _ in matrices[1::2]) or len(matrices) % 2:
        names = ", ".join(name[:40] for name, _ in matrices[:6])
        raise InputError(f"holds the matrices {names}; a transform of ITK is one, and fixed")
    return [Record(name, p, fixed[1]) for (name, p), fixed in zip(matrices[::2], matrices[1::2])]


def write_matlab(records: Sequence[Record]) -> bytes:
    """Return the bytes of a MATLAB 4 file of ITK, little-endian and in float64."""
    content = b""
    for record in records:
        for name, numbers in ((record.name, record.parameters), ("fixed", record.fixed)):
            text = name.encode() + b"\0"
            content += struct.pack("<5i", 0, len(numbers), 1, 0, len(text)) + text
            content += np.asarray(numbers, "<f8").tobytes()
    return content


def read_hdf5(path: Path) -> list[Record]:
    """Read the groups 0, 1, ... of the group TransformGroup."""
    with open_hdf5(path) as file:
        group = file.get("TransformGroup")
        names = sorted(group or (), key=int)
        if not 0 < len(names) <= _MOST_STEPS:
            raise InputError(
                "no transform of ITK is in the file; its group TransformGroup is missing or has no "
                "or too many entries"
            )
        return [_record(path, group[name]) for name in names]


def _record(path: Path, group: Any) -> Record:
    name = np.ravel(group["TransformType"][()])[0]
    name = name.decode("latin-1") if isinstance(name, bytes) else str(name)
    arrays = []
    for words in ("TransformParameters", "TransformFixedParameters"):
        # ITK 4 wrote these names without the first s.
        node = group.get(words) or group.get(words.replace("Transform", "Tranform", 1))
        if node is None and name.startswith("CompositeTransform"):
            arrays.append(np.zeros(0))
            continue
        if node is None or node.dtype.kind != "f" or node.ndim != 1:
            raise InputError(f"its {name[:60]} lacks {words}: the file is damaged")
        if node.size:
            require_plausible(path, node.shape, node.dtype)
        arrays.append(np.asarray(node[()]))
    return Record(name, arrays[0], arrays[1])


def write_hdf5(records: Sequence[Record]) -> bytes:
    """Return the bytes of an HDF5 file of ITK."""
    import h5py

    stream = io.BytesIO()
    text = h5py.string_dtype("ascii")
    with h5py.File(stream, "w") as file:
        for name, words in (("ITKVersion", "5.4.0"), ("HDFVersion", h5py.version.hdf5_version)):
            file.create_dataset(name, data=[words.encode()], dtype=text)
        for name in ("OSName", "OSVersion"):  # readers expect them
            file.create_dataset(name, data=[b"unknown"], dtype=text)
        for number, record in enumerate(records):
            group = file.create_group(f"TransformGroup/{number}")
            group.create_dataset("TransformType", data=[record.name.encode()], dtype=text)
            if record.name.startswith("CompositeTransform"):
                continue
            for name, numbers in (("Fixed", record.fixed), ("", record.parameters)):
                packing = {"compression": "gzip", "shuffle": True} if len(numbers) > 1000 else {}
                group.create_dataset(f"Transform{name}Parameters", data=numbers, **packing)
    return stream.getvalue()


def _numbers(words: str) -> np.ndarray:
    return np.array(words.split(), dtype=np.float64)


#: Reader and writer of every kind of file.
FILES: dict[str, tuple[Callable[[Path], list[Record]], Callable[[Sequence[Record]], bytes]]] = {
    "text": (read_text, write_text),
    "matlab": (read_matlab, write_matlab),
    "hdf5": (read_hdf5, write_hdf5),
}
