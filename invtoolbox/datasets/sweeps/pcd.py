"""Reader of PCD point clouds of the Point Cloud Library: ascii, binary and compressed by LZF."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from invtoolbox.core.checks import reading, require_keys
from invtoolbox.datasets.output import write_bytes
from invtoolbox.datasets.ply import read_ascii_table
from invtoolbox.datasets.sweeps.pcd_padding import place_fields
from invtoolbox.errors import InputError

_LONGEST_HEADER = 2**14
_KEYS = (
    "VERSION",
    "FIELDS",
    "SIZE",
    "TYPE",
    "COUNT",
    "WIDTH",
    "HEIGHT",
    "VIEWPOINT",
    "POINTS",
    "DATA",
)
# LZF decompresses three bytes to 264 at most.
_LARGEST_RATIO = 88


def read_pcd(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the fields of a PCD file: arrays ``(N,)`` by name.

    Fields of several numbers, and padding, are left out.

    Format: pointclouds.org/documentation/tutorials/pcd_file_format.html, version 0.7. A header of
    the Point Cloud Library may declare its padding wrongly; then the values decide
    (`pcd_padding.place_fields`).

    Raises:
        InputError: for a damaged header, too few values, or damaged compressed values.
    """
    return read_fields(path)[0]


def read_fields(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Read the fields of a PCD file as `read_pcd`, and notes on fields that the header misplaces."""
    readers = {"ascii": _read_ascii, "binary": _read_binary, "binary_compressed": _read_compressed}
    with reading(path, "PCD") as file:
        header = _read_header(file)
        columns = readers[header.encoding](file, header)
        fields = {
            name: array[:, 0]
            for (name, _, count), array in zip(header.columns, columns, strict=True)
            if count == 1 and name != "_"
        }
        if header.encoding == "ascii" or all(name != "_" for name, _, _ in header.columns):
            return fields, ()
        bytes_of_fields = [np.ascontiguousarray(array).view(np.uint8) for array in columns]
        records = np.concatenate(
            [field.reshape(header.points, -1) for field in bytes_of_fields], axis=1
        )
        return place_fields(records, header.columns, fields)


def write_pcd(
    path: str | os.PathLike[str],
    points: np.ndarray,
    scalars: Mapping[str, np.ndarray] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a cloud as binary PCD 0.7, completely or not at all.

    Args:
        path: path of the file.
        points: positions in metres, ``(N, 3)``, written as float32.
        scalars: further numbers of each point by name, ``(N,)`` each, in their own type.
        overwrite: replace an existing file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_pcd(folder + "/a.pcd", np.ones((2, 3)), {"sweep": np.arange(2)})
    ...     read_pcd(path)["sweep"]
    array([0, 1])
    """
    columns = {axis: np.asarray(points[:, k], "<f4") for k, axis in enumerate("xyz")}
    columns |= {name: np.asarray(column) for name, column in (scalars or {}).items()}
    table = np.empty(
        len(points), [(name, c.dtype.newbyteorder("<")) for name, c in columns.items()]
    )
    for name, column in columns.items():
        table[name] = column
    kinds = [column.dtype for column in columns.values()]
    rows = {
        "VERSION": ["0.7"],
        "FIELDS": columns,
        "SIZE": [kind.itemsize for kind in kinds],
        "TYPE": [kind.kind.upper() for kind in kinds],
        "COUNT": [1] * len(kinds),
        "WIDTH": [len(points)],
        "HEIGHT": [1],
        "VIEWPOINT": [0, 0, 0, 1, 0, 0, 0],
        "POINTS": [len(points)],
        "DATA": ["binary"],
    }
    head = "".join(f"{key} {' '.join(map(str, words))}\n" for key, words in rows.items())
    return write_bytes(path, head.encode() + table.tobytes(), overwrite)


def unpack_lzf(packed: bytes, size: int) -> bytes:
    """Decompress bytes of LZF (Lehmann's liblzf).

    The compressed bytes are runs of up to 32 bytes, stored unchanged, and copies of up to 264 bytes
    from up to 8 KiB before.

    Raises:
        InputError: if the result has another size, or if a copy begins before the first byte.

    >>> unpack_lzf(bytes([1]) + b"ab" + bytes([0b010_00000, 1]), 6)
    b'ababab'
    """
    out = bytearray()
    position, end = 0, len(packed)
    while position < end and len(out) <= size:
        control = packed[position]
        position += 1
        if control < 32:
            out += packed[position : position + control + 1]
            position += control + 1
            continue
        length = control >> 5
        if length == 7 and position < end:
            length += packed[position]
            position += 1
        if position >= end:
            break
        start = len(out) - ((control & 31) << 8) - packed[position] - 1
        position += 1
        length += 2
        if start < 0:
            raise InputError("the packed values refer to what lies before their beginning")
        if start + length <= len(out):
            out += out[start : start + length]
        else:
            # The copy overlaps its own output: the last bytes repeat.
            period = bytes(out[start:])
            out += (period * (length // len(period) + 1))[:length]
    if len(out) != size or position > end:
        raise InputError(f"the packed values unpack to {len(out):,} bytes instead of {size:,}")
    return bytes(out)


@dataclass(frozen=True)
class _Header:
    """Header of a PCD file.

    Attributes:
        columns: name, NumPy type and number of values of each column.
        points: number of points.
        encoding: "ascii", "binary" or "binary_compressed".
        start: position of the first value.
    """

    columns: tuple[tuple[str, str, int], ...]
    points: int
    encoding: str
    start: int

    @property
    def dtype(self) -> np.dtype:
        # Columns are numbered, because names may repeat: PCL pads with fields named "_".
        return np.dtype(
            [(f"{k}", kind, (count,)) for k, (_, kind, count) in enumerate(self.columns)]
        )


def _read_header(path: Path) -> _Header:
    with path.open("rb") as stream:
        head = stream.read(_LONGEST_HEADER)
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = head.find(b"\n", start)
        if end < 0:
            raise InputError(
                f"{path}: the header of the PCD file has no line DATA; fetch or export it again"
            )
        words = head[start:end].decode("ascii", errors="replace").split()
        start = end + 1
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in _KEYS:
            raise InputError(
                f"{path}: the header holds the line {' '.join(words)[:60]!r}, which PCD does not "
                "define; not a PCD file, or damaged"
            )
        header[words[0]] = words[1:]
    require_keys(
        f"{path}: the header lacks",
        ("FIELDS", "SIZE", "TYPE", "WIDTH", "DATA"),
        [key for key, words in header.items() if words],
        "fetch or export it again",
    )
    names, sizes, kinds = (
        header["FIELDS"],
        header["SIZE"],
        [kind.lower() for kind in header["TYPE"]],
    )
    counts = header.get("COUNT") or ["1"] * len(names)
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise InputError(
            f"{path}: FIELDS, SIZE, TYPE and COUNT of the header name {len(names)}, {len(sizes)}, "
            f"{len(kinds)} and {len(counts)} fields; export it again"
        )
    if any(
        f"{kind}{size}" not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")
        for kind, size in zip(kinds, sizes)
    ) or any(not count.isdigit() or not int(count) < 2**16 for count in counts):
        raise InputError(
            f"{path}: the header declares fields of sizes, types or counts that PCD does not "
            "define; export it again"
        )
    shape = [*header["WIDTH"][:1], *(header.get("HEIGHT") or ["1"])[:1]]
    if not all(word.isdigit() and len(word) < 12 for word in [*shape, *header.get("POINTS", [])]):
        raise InputError(
            f"{path}: WIDTH, HEIGHT and POINTS of the header must be whole numbers; export it again"
        )
    points = int(shape[0]) * int(shape[1])
    if header.get("POINTS") and int(header["POINTS"][0]) != points:
        raise InputError(
            f"{path}: the header declares {header['POINTS'][0]} points, but {shape[0]} times "
            f"{shape[1]}; export it again"
        )
    if header["DATA"][0] not in ("ascii", "binary", "binary_compressed"):
        raise InputError(
            f"{path}: values are encoded as {header['DATA'][0][:40]!r}; the encodings are ascii, "
            "binary and binary_compressed"
        )
    # PCL pads by fields of no bytes, and older writers count one number as 0.
    columns = tuple(
        (name, f"<{kind}{size}", max(int(count), 1))
        for name, size, kind, count in zip(names, sizes, kinds, counts)
        if name != "_" or int(count)
    )
    return _Header(columns, points, header["DATA"][0], start)


def _read_ascii(path: Path, header: _Header) -> list[np.ndarray]:
    width = sum(count for _, _, count in header.columns)
    if header.points * width > path.stat().st_size:
        raise _truncation_error(path, 0, header.points)
    table = read_ascii_table(path, header.start, header.points, width)
    if table.shape != (header.points, width):
        complete = len(table) if table.shape[1] == width else 0
        raise _truncation_error(path, complete, header.points)
    ends = np.cumsum([count for _, _, count in header.columns])
    fields = np.split(table, ends[:-1], axis=1)
    return [
        _convert(field, kind) for field, (_, kind, _) in zip(fields, header.columns, strict=True)
    ]


def _convert(values: np.ndarray, kind: str) -> np.ndarray:
    if np.dtype(kind).kind != "f" and not np.isfinite(values).all():
        raise InputError("a field of whole numbers holds a number that is not finite")
    return values.astype(kind)


def _read_binary(path: Path, header: _Header) -> list[np.ndarray]:
    dtype, size = header.dtype, path.stat().st_size - header.start
    if size >= header.points * (dtype.itemsize + 4) > 0:
        dtype = _aligned(path, header, size // header.points)
    complete = size // dtype.itemsize
    if complete < header.points:
        raise _truncation_error(path, max(complete, 0), header.points)
    table = np.fromfile(path, dtype=dtype, count=header.points, offset=header.start)
    return [np.ascontiguousarray(table[name]) for name in dtype.names or ()]


def _aligned(path: Path, header: _Header, stride: int) -> np.dtype:
    """Return the type of records that are longer than their fields.

    A record in the memory of PCL is x, y, z and padding, then the other fields, in blocks of 16
    bytes.
    """
    dtype, blocks = header.dtype, 16 * -(-(header.dtype.itemsize - 12) // 16) + 16
    has_places = [column[:2] for column in header.columns[:3]] == [(axis, "<f4") for axis in "xyz"]
    if not has_places or stride != blocks:
        raise InputError(
            f"{path}: records have {stride} bytes, and their fields {dtype.itemsize}; the header does "
            "not name the padding, so write the file again with pcl_convert_pcd_ascii_binary"
        )
    fields = {name: dtype.fields[name] for name in dtype.names or ()}  # type: ignore[index]
    places = [field[1] + (4 if field[1] >= 12 else 0) for field in fields.values()]
    kinds = [field[0] for field in fields.values()]
    return np.dtype(
        {"names": list(fields), "formats": kinds, "offsets": places, "itemsize": stride}
    )


def _read_compressed(path: Path, header: _Header) -> list[np.ndarray]:
    """Read compressed columns: two sizes, then column after column (not point after point)."""
    with path.open("rb") as stream:
        stream.seek(header.start)
        sizes = stream.read(8)
        packed = stream.read()
    expected = header.points * header.dtype.itemsize
    packed_size, size = (
        (int(n) for n in np.frombuffer(sizes, "<u4")) if len(sizes) == 8 else (0, -1)
    )
    if len(sizes) < 8 or len(packed) < packed_size:
        raise _truncation_error(path, 0, header.points)
    if size != expected or size > _LARGEST_RATIO * max(packed_size, 1):
        raise InputError(
            f"{path}: {header.points:,} points have {expected:,} bytes, but {size:,} are packed into "
            f"{packed_size:,}; the header is damaged, fetch or export it again"
        )
    content = unpack_lzf(packed[:packed_size], size)
    columns, start = [], 0
    for _, kind, count in header.columns:
        values = np.frombuffer(content, kind, header.points * count, start)
        columns.append(values.reshape(header.points, count))
        start += values.nbytes
    return columns


def _truncation_error(path: Path, complete: int, declared: int) -> InputError:
    return InputError(
        f"{path}: truncated, it holds {complete:,} of {declared:,} points; fetch or export it again"
    )
