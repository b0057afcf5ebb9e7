"""Reader and writer of MetaImage (.mha, .mhd), the format of ITK and VTK.

A file has a text header and raw or zlib-compressed values.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import (
    map_slices_of_file,
    require_bytes,
    require_file,
    require_keys,
    require_plausible,
)
from invtoolbox.core.trust import named_file
from invtoolbox.datasets.output import Written, write_bytes, write_pair, writing
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.volume import Volume, grid_to_write, slices_of, type_to_write
from invtoolbox.errors import InputError, naming
from invtoolbox.geometry.grids import Grid

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_NAMES = {code: name for name, code in _TYPES.items() if name not in ("MET_LONG", "MET_ULONG")}
#: Fields of the slope and the intercept, in the words of DICOM; ITK keeps unknown fields.
_RESCALE = ("RescaleSlope", "RescaleIntercept")
_LONGEST_HEADER = 2**16
_CHUNK = 2**20


class MetaImage(Volume):
    """Data set of the slices of a MetaImage volume.

    The values follow the header or lie in a second file, raw or compressed. `DimSize` counts
    columns first, so an image of ``64 64 93`` has the shape ``(93, 64, 64)``. A fourth size counts
    frames. Raw values are mapped. Compressed values are decompressed up to the required slices, and
    only these slices are kept in memory.

    Args:
        path: path of the file, or of its header.
        geometry: geometry of the scan, if the slices are measurements.
        items: "slices" or "volume".

    Raises:
        InputError: for text values, several channels, values in several files, or sizes that do not
            fit the bytes.
    """

    format_name = "MetaImage"
    #: Whether a voxel may hold several numbers; they are then counted as columns.
    takes_vectors = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        items: str = "slices",
    ) -> None:
        path = require_file(path)
        header, length = _header(path)
        sizes = _numbers(path, header, "DimSize", int)
        if (
            not 2 <= len(sizes) <= 4
            or any(not 0 < n < 2**31 for n in sizes)
            or header.get("NDims", str(len(sizes))) != str(len(sizes))
        ):
            raise InputError(
                f"{path}: DimSize is {header.get('DimSize')} with NDims {header.get('NDims')}; "
                "expected two to four positive sizes and their number"
            )
        self.channels = _numbers(path, header, "ElementNumberOfChannels", int)[0]
        if not 1 <= self.channels <= (4 if self.takes_vectors else 1):
            raise InputError(
                f"{path}: holds {self.channels} channels; export one channel per file, or read a "
                "displacement field with read_transform"
            )
        columns, rows, slices, frames = [*sizes, 1, 1][:4]
        columns *= self.channels
        self._dtype = _dtype(path, header)
        self._packed = _flag(path, header, "CompressedData")
        name = header["ElementDataFile"]
        self._data = path if name.upper() == "LOCAL" else _find_data(path, name)
        self._whole = (frames * slices, rows, columns)
        self._offset = _offset(path, header, self._data, length, self._whole, self._dtype)
        if self._packed:
            require_plausible(self._data, self._whole, self._dtype)
        else:
            require_bytes(self._data, self._offset, self._whole, self._dtype)
        super().__init__(
            path,
            (slices, rows, columns),
            _grid(path, header, len(sizes)),
            "as stored",
            frames=frames,
            items=items,
            geometry=geometry,
        )

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        first, last = frame * self.shape[0] + start, frame * self.shape[0] + stop
        if not self._packed:
            return map_slices_of_file(
                self._data, self._offset, self._whole, self._dtype, first, last
            )
        size = self.shape[1] * self.shape[2] * self._dtype.itemsize  # bytes of a slice
        bits = _unpack(self._data, self._offset, first * size, last * size, self._whole[0] * size)
        return np.frombuffer(bits, self._dtype).reshape(last - first, *self.shape[1:])


def write_metaimage(
    path: str | os.PathLike[str],
    volume: Any,
    voxel_size: Any = None,
    compress: bool = False,
    overwrite: bool = False,
) -> Written:
    """Write a volume as `.mha` (one file) or `.mhd` (a header, and values in `.raw` or `.zraw`).

    Args:
        path: path of the file; its ending chooses between one file and two files.
        volume: tensor, array or `Volume`, ``(slices, rows, columns)``, in a type of 8 to 64 bits.
        voxel_size: sizes of a voxel in mm along slices, rows and columns; by default those of a
            `Volume`, else 1.
        compress: compress the values with zlib.
        overwrite: replace existing files.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    ...     _ = write_metaimage(folder + "/x.mha", volume, compress=True)
    ...     MetaImage(folder + "/x.mha").slices(1, 2)[0, 0]
    array([12, 13, 14, 15], dtype=int16)
    """
    path = Path(path).expanduser()
    shape, dtype, pages = slices_of(path, volume)
    dtype, grid = type_to_write(dtype), grid_to_write(path, volume, voxel_size)
    scale: tuple[float, ...] = getattr(volume, "scale", None) or ()
    local = path.suffix.lower() != ".mhd"
    data = path.with_suffix(".zraw" if compress else ".raw")

    def header(packed: int | None) -> bytes:
        fields = [f"{key} = {number!r}" for key, number in zip(_RESCALE, scale)]
        name = "LOCAL" if local else data.name
        return start_of_file(shape, grid, dtype, packed, fields, name)

    values = (np.ascontiguousarray(page, dtype).tobytes() for page in pages)
    if local and not compress:
        with writing(path, overwrite) as stream:
            stream.write(header(None))
            stream.writelines(values)
        return Written(path)
    if local:
        # The header comes before the values and contains their compressed length.
        packed = b"".join(_pack(values))
        write_bytes(path, header(len(packed)) + packed, overwrite)
        return Written(path)
    write_pair(
        path,
        data,
        lambda size: header(size if compress else None),
        _pack(values) if compress else values,
        overwrite,
    )
    return Written(path)


def start_of_file(
    shape: Sequence[int],
    grid: Grid,
    dtype: np.dtype,
    packed: int | None = None,
    fields: Sequence[str] = (),
    name: str = "LOCAL",
) -> bytes:
    """Return the header of a MetaImage file.

    Args:
        shape: number of voxels along every axis, of an image or a volume.
        grid: positions of the voxels.
        dtype: little-endian type of the values.
        packed: number of compressed bytes, None for raw values.
        fields: further lines.
        name: name of the file of the values, or LOCAL.
    """
    spacing, origin, direction = grid.itk(len(shape))  # the fastest axis comes first
    lines = [
        "ObjectType = Image",
        f"NDims = {len(shape)}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {packed is not None}",
        *([f"CompressedDataSize = {packed}"] if packed is not None else []),
        "TransformMatrix = " + _join(direction.T.ravel()),
        "Offset = " + _join(origin),
        "ElementSpacing = " + _join(spacing),
        "DimSize = " + " ".join(map(str, shape[::-1])),
        *fields,
        f"ElementType = {_NAMES[dtype.str[1:]]}",
        f"ElementDataFile = {name}",
    ]
    return ("\n".join(lines) + "\n").encode()


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Read the fields of the header, and return the position of its end."""
    with path.open("rb") as stream:
        head = stream.read(_LONGEST_HEADER)
    fields: dict[str, str] = {}
    position = 0
    while position < len(head):
        end = head.find(b"\n", position)
        end = len(head) if end < 0 else end
        line = head[position:end].decode("latin-1").strip()
        position = end + 1
        key, sign, value = line.partition("=")
        if not line:
            continue
        if not sign:
            raise InputError(
                f"{path}: the line {line[:40]!r} of the header is not key = value; not a MetaImage "
                "file, or damaged"
            )
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    keys = ("DimSize", "ElementType", "ElementDataFile")
    require_keys(f"{path}: the header lacks", keys, fields, "not a MetaImage file, or truncated")
    if fields.get("ObjectType", "Image") != "Image":
        raise InputError(f"{path}: holds a {fields['ObjectType']}; only images are read")
    fields.setdefault("ElementNumberOfChannels", "1")
    if "BinaryData" in fields and not _flag(path, fields, "BinaryData"):
        raise InputError(f"{path}: its values are text; save them as binary data")
    return fields, position


def _dtype(path: Path, header: dict[str, str]) -> np.dtype:
    code = _TYPES.get(header["ElementType"])
    if code is None:
        raise InputError(
            f"{path}: ElementType is {header['ElementType']}; the types that can be read are "
            f"{', '.join(_TYPES)}"
        )
    big = _flag(path, header, "BinaryDataByteOrderMSB") or _flag(
        path, header, "ElementByteOrderMSB"
    )
    return np.dtype(code).newbyteorder(">" if big else "<")


def _offset(
    path: Path,
    header: dict[str, str],
    data: Path,
    length: int,
    shape: tuple[int, int, int],
    dtype: np.dtype,
) -> int:
    skip = _numbers(path, header, "HeaderSize", int)[0] if "HeaderSize" in header else 0
    if skip == -1:  # the values are the last bytes of the file
        return max(data.stat().st_size - shape[0] * shape[1] * shape[2] * dtype.itemsize, 0)
    if skip < 0:
        raise InputError(
            f"{path}: HeaderSize is {skip}; it must be a number of bytes, or -1 for values at the "
            "end"
        )
    return skip + (length if data == path else 0)


def _find_data(path: Path, name: str) -> Path:
    if name.upper() == "LIST" or "%" in name:
        raise InputError(
            f"{path}: its slices lie in several files ({name}); join them into one .raw file"
        )
    data = named_file(path.parent, name, path)
    if not data.is_file():
        raise InputError(
            f"{path}: the values are in {name}, but the folder of the header has no such file"
        )
    return data


def _grid(path: Path, header: dict[str, str], axes: int) -> Grid:
    def find(*names: str) -> list[float]:
        return next((_numbers(path, header, k, float) for k in names if k in header), [])

    spacing = find("ElementSpacing", "ElementSize")
    origin = find("Offset", "Position", "Origin")
    matrix = find("TransformMatrix", "Orientation", "Rotation")
    counts = (len(spacing) or axes, len(origin) or axes, len(matrix) or axes**2)
    if counts != (axes, axes, axes**2):
        raise InputError(
            f"{path}: ElementSpacing, Offset and TransformMatrix have {len(spacing)}, "
            f"{len(origin)} and {len(matrix)} numbers; {axes} axes need {axes}, {axes} and "
            f"{axes**2}"
        )
    d = min(axes, 3)
    # One row per axis of the image, columns first.
    direction = np.reshape(matrix or np.eye(axes), (axes, axes)).T[:d, :d]
    with naming(path):
        return Grid.from_itk((spacing or [1.0] * d)[:d], (origin or [0.0] * d)[:d], direction)


def _numbers(path: Path, header: dict[str, str], key: str, kind: Any) -> list[Any]:
    try:
        numbers = [kind(word) for word in header[key].split()]
    except ValueError:
        numbers = []
    if not numbers:
        raise InputError(f"{path}: {key} is {header[key][:60]!r}; expected numbers")
    return numbers


def _flag(path: Path, header: dict[str, str], key: str) -> bool:
    value = header.get(key, "False")
    if value.lower() not in ("true", "false", "1", "0"):
        raise InputError(f"{path}: {key} is {value[:20]!r}; expected True or False")
    return value.lower() in ("true", "1")


def _unpack(path: Path, offset: int, start: int, stop: int, total: int) -> bytes:
    """Decompress bytes ``start`` to ``stop - 1`` of a zlib stream; at most a chunk more is held.

    If they are the last bytes, the stream must end with them, which verifies its checksum too.
    """
    engine = zlib.decompressobj()
    content = bytearray()
    position, last = 0, stop == total
    with path.open("rb") as stream:
        stream.seek(offset)
        waiting = b""
        while position < stop or (last and not engine.eof):
            waiting = waiting or stream.read(_CHUNK)
            chunk = engine.decompress(waiting, _CHUNK)
            ended = not waiting and not chunk
            waiting = engine.unconsumed_tail
            content += chunk[max(start - position, 0) : max(stop - position, 0)]
            position += len(chunk)
            if ended or position > total or (engine.eof and position < stop):
                break
    if len(content) != stop - start or position > total or (last and not engine.eof):
        raise InputError(
            f"{path}: truncated or damaged, its compressed values have {position:,} bytes, but "
            f"{total:,} are declared; fetch or export it again"
        )
    return bytes(content)


def _pack(values: Iterator[bytes]) -> Iterator[bytes]:
    engine = zlib.compressobj(6)
    for slice_bytes in values:
        yield engine.compress(slice_bytes)
    yield engine.flush()


def _join(numbers: Any) -> str:
    return " ".join(repr(float(n)) for n in numbers)
