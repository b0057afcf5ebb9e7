"""Reader and writer of raw volumes: bytes without a header, described by a small TOML file.

The file ``volume.raw`` is described by ``volume.toml`` (or ``volume.raw.toml``) in the same
folder::

    shape = [93, 64, 64]              # slices, rows, columns; columns vary fastest in the file
    dtype = "uint16"                  # int8 to int64, uint8 to uint64, float16 to float64
    byte_order = "little"             # or "big"; needed for more than one byte
    offset = 0                        # optional: bytes before the first value
    voxel_size = [1.5, 3.2, 3.2]      # optional: along slices, rows and columns
    length_unit = "mm"                # optional
    units = "HU"                      # optional: of the values
    file = "volume.raw"               # optional: name of the raw file in the same folder
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import map_slices_of_file, require_bytes, require_file
from invtoolbox.core.guards import check_choice
from invtoolbox.core.trust import named_file
from invtoolbox.datasets.output import Written, write_pair
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.volume import Volume, check_voxel_size, grid_to_write, slices_of
from invtoolbox.errors import InputError, check_name
from invtoolbox.geometry.grids import Grid

_TYPES = (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
_FIELDS = ("shape", "dtype", "byte_order", "offset", "voxel_size", "length_unit", "units", "file")
# Largest size in bytes of a TOML file that describes a raw volume; a larger file is something else.
_LONGEST_SIDECAR = 2**16


class Raw(Volume):
    """Data set of the slices of a raw volume, which a TOML file in the same folder describes.

    The raw file is mapped, never read as a whole. The docstring of the module
    `invtoolbox.datasets.volumes.raw` lists the fields of the TOML file.

    Args:
        path: path of the raw file or of the TOML file.
        geometry: geometry of the scan, if the slices are sinograms.
        items: "slices" or "volume".

    Raises:
        InputError: if there is no TOML file, if a field is missing or unknown, or if the number of
            bytes does not fit.
    """

    format_name = "raw"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        items: str = "slices",
    ) -> None:
        path = require_file(path)
        sidecar = path if path.suffix.lower() == ".toml" else sidecar_of(path)
        if sidecar is None:
            raise InputError(
                f"{path}: no file describes these bytes; write {path.with_suffix('.toml').name} in "
                "the same folder with shape, dtype and byte_order"
            )
        fields = read_sidecar(sidecar)
        data = path if path != sidecar else _data_file(sidecar, fields)
        shape, self._dtype = _shape(sidecar, fields), _dtype(sidecar, fields)
        self._offset = fields.get("offset", 0)
        if isinstance(self._offset, bool) or not isinstance(self._offset, int) or self._offset < 0:
            raise InputError(
                f"{sidecar}: offset is {self._offset!r}; give the number of bytes before the first "
                "value"
            )
        require_bytes(data, self._offset, shape, self._dtype)
        size = check_voxel_size(sidecar, fields.get("voxel_size", (1.0, 1.0, 1.0)))
        unit = fields.get("length_unit", "mm" if "voxel_size" in fields else "voxel")
        super().__init__(
            data,
            shape,
            Grid(size, unit=str(unit)),
            str(fields.get("units", "as stored")),
            items=items,
            geometry=geometry,
        )

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        return map_slices_of_file(self.path, self._offset, self.shape, self._dtype, start, stop)


def write_raw(
    path: str | os.PathLike[str],
    volume: Any,
    voxel_size: Any = None,
    units: str = "as stored",
    overwrite: bool = False,
) -> Written:
    """Write a volume as raw bytes (little-endian, in its own type) and the TOML file for `Raw`.

    The TOML file is written last. If both files are replaced, the TOML file is removed first, so
    that it never describes other bytes.

    Args:
        path: path of the raw file.
        volume: tensor, array or `Volume`, ``(slices, rows, columns)``.
        voxel_size: sizes of a voxel along slices, rows and columns; by default those of a `Volume`.
        units: unit of the values of a tensor or an array.
        overwrite: replace existing files.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_raw(folder + "/x.raw", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    ...     Raw(folder + "/x.raw").slices(1, 2)[0, 0]
    memmap([12, 13, 14, 15], dtype=int16)
    """
    path = Path(path).expanduser()
    sidecar = path.with_suffix(".toml")
    shape, dtype, pages = slices_of(path, volume)
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    grid, has_grid = grid_to_write(path, volume, voxel_size), isinstance(volume, Volume)
    lines = [
        f"shape = {list(shape)}",
        f'dtype = "{dtype.name}"',
        'byte_order = "little"',
        f"file = {json.dumps(path.name)}",
        *([f"voxel_size = {list(grid.voxel_size)}"] if has_grid or voxel_size is not None else []),
        *([f"length_unit = {json.dumps(grid.unit)}"] if has_grid else []),
        f"units = {json.dumps(volume.units if has_grid else units)}",
    ]
    text = ("\n".join(lines) + "\n").encode()
    stored = (np.ascontiguousarray(page, dtype.newbyteorder("<")).tobytes() for page in pages)
    write_pair(sidecar, path, lambda size: text, stored, overwrite)
    return Written(path)


def sidecar_of(path: Path) -> Path | None:
    """Return the path of the TOML file that describes a raw file, or None."""
    for candidate in (path.with_name(path.name + ".toml"), path.with_suffix(".toml")):
        if candidate != path and candidate.is_file() and "shape" in _peek(candidate):
            return candidate
    return None


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read the fields of the TOML file of a raw volume; an unknown field is an error."""
    fields = _peek(path, strict=True)
    for key in fields:
        check_name(f"field of {path.name}", key, _FIELDS)
    missing = [k for k in ("shape", "dtype") if k not in fields]
    if missing:
        raise InputError(
            f"{path}: {', '.join(missing)} is missing; a raw volume needs shape and dtype"
        )
    return fields


def _peek(path: Path, strict: bool = False) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST_SIDECAR:
            raise InputError(
                f"{path}: too long for the description of a raw volume; see "
                "invtoolbox.datasets.volumes.raw for an example"
            )
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        if strict:
            raise InputError(
                f"{path}: not a TOML file ({' '.join(str(error).split())[:120]}); see "
                "invtoolbox.datasets.volumes.raw for an example"
            ) from None
        return {}


def _data_file(sidecar: Path, fields: dict[str, Any]) -> Path:
    name = fields.get("file")
    if name is None:
        candidates = [sidecar.with_suffix(suffix) for suffix in (".raw", ".bin", ".vol", "")]
        files = [file for file in candidates if file.is_file() and file != sidecar]
        if len(files) != 1:
            raise InputError(f"{sidecar}: the field file is missing; give the name of the raw file")
        return files[0]
    if not isinstance(name, str) or not named_file(sidecar.parent, name, sidecar).is_file():
        raise InputError(
            f"{sidecar}: file is {name!r}, but its folder has no such file; correct the name"
        )
    return sidecar.parent / name


def _shape(path: Path, fields: dict[str, Any]) -> tuple[int, int, int]:
    shape = fields["shape"]
    if isinstance(shape, list) and len(shape) == 2:
        shape = [1, *shape]
    if (
        not isinstance(shape, list)
        or len(shape) != 3
        or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape)
    ):
        raise InputError(
            f"{path}: shape is {fields['shape']!r}; give three positive whole numbers: slices, "
            "rows, columns"
        )
    return shape[0], shape[1], shape[2]


def _dtype(path: Path, fields: dict[str, Any]) -> np.dtype:
    name, order = fields["dtype"], fields.get("byte_order")
    check_choice(str(path), _TYPES, dtype=name)
    dtype = np.dtype(str(name))
    if dtype.itemsize > 1 and order not in ("little", "big"):
        raise InputError(
            f'{path}: byte_order is {order!r}; set "little" or "big" (a guess would often be wrong)'
        )
    return dtype.newbyteorder("<" if order in ("little", None) else ">")
