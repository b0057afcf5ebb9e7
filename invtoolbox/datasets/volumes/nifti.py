"""Reader and writer of NIfTI-1 and NIfTI-2 (.nii, .nii.gz, .hdr with .img).

NIfTI is the format of neuroimaging; nibabel decodes the header.
"""

from __future__ import annotations

import gzip
import io
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import (
    decoding,
    map_slices_of_file,
    require_bytes,
    require_file,
    require_plausible,
    sniff,
)
from invtoolbox.core.environment import optional_package
from invtoolbox.core.trust import refuse_padding
from invtoolbox.datasets.output import Written, writing
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.volume import Volume, grid_to_write, slices_of, type_to_write
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid

#: In NIfTI, x grows to the patient's right and y to the front; in DICOM and in `Grid`, x grows to
#: the left and y to the back.
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNITS = {"meter": "m", "mm": "mm", "micron": "um", "unknown": "mm"}
_NAMES = {"m": "meter", "mm": "mm", "um": "micron"}
_CHUNK = 2**20
# Version 1 stores sizes as numbers of 16 bits.
_LARGEST_SIZE = 32767


class Nifti(Volume):
    """Data set of the slices of a NIfTI volume, with the file's slope and intercept applied.

    The file's first axis is the axis of columns, its third axis is the axis of slices. Nothing is
    rotated; `grid` gives the positions of the voxels in the patient. A fourth axis counts frames.
    Uncompressed files are mapped. To read a slice of a `.nii.gz`, everything before the slice must
    be decompressed, so decompress large files first.

    Args:
        path: path of the file.
        geometry: geometry of the scan, if the slices are measurements.
        items: "slices" or "volume".

    Raises:
        InputError: for colors, complex numbers or more than four axes, a damaged header, or missing
            bytes.
        MissingDependency: if nibabel is not installed.
    """

    format_name = "NIfTI"
    #: Number of leading axes that may be longer than 1.
    most_axes = 4

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        items: str = "slices",
    ) -> None:
        path = require_file(path)
        if sniff(path) != "nifti":
            raise InputError(
                f"{path}: the first bytes are not those of a NIfTI file; export it again"
            )
        with decoding(path, "NIfTI"):
            header = _header(path)
            shape, dtype = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
            unit = str(header.get_xyzt_units()[0])
            slope, intercept = header.get_slope_inter()
            self._offset = int(header.get_data_offset())
            pair = not header.is_single
            self.intent = int(header["intent_code"])
            self.intent_name = header["intent_name"].item().decode("latin-1")
        if (
            len(shape) < 2
            or any(n < 1 for n in shape)
            or any(n != 1 for n in shape[self.most_axes :])
            or dtype.kind not in "iuf"
        ):
            raise InputError(
                f"{path}: an array of shape {shape} and type {dtype}; only volumes of real "
                "numbers, and series of volumes, are read"
            )
        self._data = path
        if pair:
            self._data = next(
                (p for p in (path.with_suffix(".img"), path.with_suffix(".img.gz")) if p.is_file()),
                path,
            )
            if self._data == path:
                raise InputError(
                    f"{path}: a header whose values are in {path.with_suffix('.img').name}, but "
                    "its folder has no such file; put the two files into one folder"
                )
        elif self._offset < 348:
            raise InputError(
                f"{path}: the header places its values at byte {self._offset}, within the header; "
                "fetch it again"
            )
        columns, rows, slices = [*shape[:3], 1][:3]
        frames = math.prod(shape[3:])
        self._whole, self._dtype = (frames * slices, rows, columns), dtype
        self._packed = _is_packed(self._data)
        if self._packed:
            require_plausible(self._data, self._whole, dtype)
        else:
            require_bytes(self._data, self._offset, self._whole, dtype)
        scale = (1.0, 0.0) if slope is None else (float(slope), float(intercept or 0.0))
        self._scale = None if scale == (1.0, 0.0) else scale
        matrix = FLIP @ affine
        matrix[:, :3] = matrix[:, 2::-1]  # the axes of the file are column, row, slice
        with decoding(path, "NIfTI"):
            grid = Grid.from_affine(matrix, _UNITS.get(unit, unit))
        super().__init__(
            path,
            (slices, rows, columns),
            grid,
            units="as stored" if self._scale is None else "rescaled as the file says",
            frames=frames,
            items=items,
            geometry=geometry,
        )

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        first, last = frame * self.shape[0] + start, frame * self.shape[0] + stop
        if self._packed:
            array = _unpack(self._data, self._offset, self._whole, self._dtype, first, last)
        else:
            array = map_slices_of_file(
                self._data, self._offset, self._whole, self._dtype, first, last
            )
        # In double precision, as the reference reader does.
        return array if self._scale is None else array * self._scale[0] + self._scale[1]


def write_nifti(
    path: str | os.PathLike[str], volume: Any, voxel_size: Any = None, overwrite: bool = False
) -> Written:
    """Write a volume as `.nii`, or compressed as `.nii.gz`, slice by slice and in its own type.

    Args:
        path: path of the file; the ending `.gz` compresses it.
        volume: tensor, array or `Volume`, ``(slices, rows, columns)``.
        voxel_size: sizes of a voxel in mm along slices, rows and columns; by default those of a
            `Volume`, else 1. The place and the orientation of a `Volume` are kept.
        overwrite: replace an existing file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    ...     _ = write_nifti(folder + "/x.nii.gz", volume, voxel_size=(2, 1, 1))
    ...     Nifti(folder + "/x.nii.gz").grid.voxel_size
    (2.0, 1.0, 1.0)
    """
    check_available()
    path = Path(path).expanduser()
    shape, dtype, pages = slices_of(path, volume)
    dtype, grid = type_to_write(dtype), grid_to_write(path, volume, voxel_size)
    start = start_of_file(shape[::-1], dtype, grid, getattr(volume, "scale", None))
    with writing(path, overwrite) as file:
        write_packed(path, file, itertools.chain([start], _bytes(pages, dtype)))
    return Written(path)


def start_of_file(
    sizes: Sequence[int],
    dtype: np.dtype,
    grid: Grid,
    scale: tuple[float, float] | None = None,
    intent: str = "none",
) -> bytes:
    """Return the header of a NIfTI file and the gap up to its values.

    Args:
        sizes: sizes of the axes, columns first.
        dtype: type of the values.
        grid: positions of the voxels.
        scale: slope and intercept of the values.
        intent: meaning of the values, in the words of nibabel.
    """
    nibabel = _nibabel()
    matrix = FLIP @ grid.affine()
    matrix[:, :3] = matrix[:, 2::-1]
    large = max(sizes) > _LARGEST_SIZE
    header = (nibabel.Nifti2Header if large else nibabel.Nifti1Header)(endianness="<")
    header.set_data_shape(sizes)
    header.set_data_dtype(dtype)
    header.set_sform(matrix, code="scanner")
    header.set_qform(matrix, code="scanner")
    header.set_xyzt_units(_NAMES.get(grid.unit, "unknown"))
    header.set_slope_inter(*(scale or (1, 0)))
    header.set_intent(intent)
    offset = 544 if large else 352
    header.set_data_offset(offset)
    start = io.BytesIO()
    header.write_to(start)
    return start.getvalue().ljust(offset, b"\0")


def write_packed(path: Path, file: Any, blocks: Iterable[bytes]) -> None:
    """Write blocks of bytes to a stream, compressed if the name of the file ends with .gz."""
    if not path.name.lower().endswith(".gz"):
        file.writelines(blocks)
        return
    # Without time and name in the compressed file, the same volume gives the same bytes.
    with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        packed.writelines(blocks)


def check_available() -> None:
    """Raise a `MissingDependency` without nibabel, before a result for NIfTI is computed."""
    _nibabel()


def _bytes(pages: Iterable[Any], dtype: np.dtype) -> Iterator[bytes]:
    return (np.ascontiguousarray(page, dtype).tobytes() for page in pages)


def _header(path: Path) -> Any:
    nibabel = _nibabel()
    with gzip.open(path, "rb") if _is_packed(path) else path.open("rb") as stream:
        head: bytes = stream.read(540)
    version_2 = head[4:8] in (b"n+2\0", b"ni2\0")
    single = (head[4:8] if version_2 else head[344:348])[1:2] == b"+"
    module = nibabel.nifti2 if version_2 else nibabel.nifti1
    cls = getattr(module, f"Nifti{2 if version_2 else 1}{'' if single else 'Pair'}Header")
    # Only the header block is decoded; extensions that may follow are not read.
    return cls(head[: 540 if version_2 else 348])


def _is_packed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _unpack(
    path: Path, offset: int, shape: tuple[int, int, int], dtype: np.dtype, start: int, stop: int
) -> np.ndarray:
    """Decompress slices of an array.

    If they are the last slices, the file must end with them, and its checksum is verified.
    """
    refuse_padding(path)
    slice_bytes = shape[1] * shape[2] * dtype.itemsize
    size = (stop - start) * slice_bytes
    with gzip.open(path, "rb") as stream:
        before = offset + start * slice_bytes
        while before and (skipped := len(stream.read(min(before, _CHUNK)))):
            before -= skipped
        content = bytearray()
        while len(content) < size and (chunk := stream.read(min(size - len(content), _CHUNK))):
            content += chunk
        surplus = stop == shape[0] and stream.read(1) != b""
    if len(content) < size or surplus:
        raise InputError(
            f"{path}: truncated or damaged, it holds {'more' if surplus else 'fewer'} values than "
            f"the {shape} that its header declares; fetch it again"
        )
    return np.frombuffer(bytes(content), dtype).reshape(stop - start, shape[1], shape[2])


def _nibabel() -> Any:
    return optional_package(
        "nibabel", "NIfTI files need nibabel, which is not installed;", "medical"
    )
