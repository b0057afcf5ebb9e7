"""Raw volumes: bytes without a header, and a small TOML file beside them that says what they are.

``volume.raw`` is described by ``volume.toml`` (or ``volume.raw.toml``)::

    shape = [93, 64, 64]              # slices, rows, columns; the last one is the fastest in the file
    dtype = "uint16"                  # int8 to int64, uint8 to uint64, float16 to float64
    byte_order = "little"             # or "big"; needed for more than one byte
    offset = 0                        # optional: bytes before the first value
    voxel_size = [1.5, 3.2, 3.2]      # optional: along slices, rows and columns
    length_unit = "mm"                # optional
    units = "HU"                      # optional: of the values
    file = "volume.raw"               # optional: where the bytes are, beside this file
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import map_slices_of_file, require_bytes, require_file
from invtoolbox.datasets.output import Written, write_bytes, writing
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.volume import Grid, Volume, size_of_voxels, slices_of
from invtoolbox.errors import InputError, unknown_name

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
# A file of a few lines; what is longer is something else.
_LONGEST_SIDECAR = 2**16


class Raw(Volume):
    """A data set of the slices of a raw volume, which a TOML file beside it describes; mapped, never read whole.

    Args:
        path: the raw file or the TOML file.
        geometry: of slices that are sinograms.
        items: "slices" or "volume".

    Raises:
        InputError: no TOML file, a field that is missing or unknown, or a number of bytes that does not fit.
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
                f"{path}: nothing says what these bytes are; write {path.with_suffix('.toml').name} beside it with "
                "shape, dtype and byte_order"
            )
        fields = read_sidecar(sidecar)
        data = path if path != sidecar else _data_file(sidecar, fields)
        shape, self._dtype = _shape(sidecar, fields), _dtype(sidecar, fields)
        self._offset = fields.get("offset", 0)
        if isinstance(self._offset, bool) or not isinstance(self._offset, int) or self._offset < 0:
            raise InputError(
                f"{sidecar}: offset is {self._offset!r}; give the number of bytes before the first value"
            )
        require_bytes(data, self._offset, shape, self._dtype)
        size = (
            size_of_voxels(sidecar, fields["voxel_size"])
            if "voxel_size" in fields
            else (1.0, 1.0, 1.0)
        )
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
    """Write a volume as raw bytes (little-endian, in its own type) and the TOML file beside it, which `Raw` reads.

    The TOML file is written last, and removed first where both are replaced, so that it never describes other bytes.

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
    grid = volume.grid if isinstance(volume, Volume) else None
    size = (
        size_of_voxels(path, voxel_size)
        if voxel_size is not None
        else grid.voxel_size
        if grid
        else None
    )
    lines = [
        f"shape = {list(shape)}",
        f'dtype = "{dtype.name}"',
        'byte_order = "little"',
        f"file = {json.dumps(path.name)}",
    ]
    lines += [f"voxel_size = {list(size)}"] if size else []
    lines += [f"length_unit = {json.dumps(grid.unit)}"] if grid else []
    lines += [f"units = {json.dumps(volume.units if isinstance(volume, Volume) else units)}"]
    if not overwrite and sidecar.exists():
        raise InputError(
            f"{sidecar}: there is a file of that name already; choose another, or pass overwrite=True"
        )
    if overwrite:
        sidecar.unlink(missing_ok=True)
    with writing(path, overwrite) as stream:
        for page in pages:
            stream.write(np.ascontiguousarray(page, dtype.newbyteorder("<")).tobytes())
    write_bytes(sidecar, ("\n".join(lines) + "\n").encode(), overwrite)
    return Written(path)


def sidecar_of(path: Path) -> Path | None:
    """The TOML file that describes a raw file, if there is one."""
    for candidate in (path.with_name(path.name + ".toml"), path.with_suffix(".toml")):
        if candidate != path and candidate.is_file() and "shape" in _peek(candidate):
            return candidate
    return None


def read_sidecar(path: Path) -> dict[str, Any]:
    """The fields of such a file; unknown ones are named."""
    fields = _peek(path, strict=True)
    for key in fields:
        if key not in _FIELDS:
            raise unknown_name(f"field of {path.name}", key, _FIELDS)
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
                f"{path}: too long for the description of a raw volume; see invtoolbox.datasets.volumes.raw for an example"
            )
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        if strict:
            raise InputError(
                f"{path}: not a TOML file ({' '.join(str(error).split())[:120]}); see invtoolbox.datasets.volumes.raw for an "
                "example"
            ) from None
        return {}


def _data_file(sidecar: Path, fields: dict[str, Any]) -> Path:
    name = fields.get("file")
    if name is None:
        found = [
            p
            for p in (sidecar.with_suffix(s) for s in (".raw", ".bin", ".vol", ""))
            if p.is_file() and p != sidecar
        ]
        if len(found) != 1:
            raise InputError(
                f"{sidecar}: file is missing, the name of the file that holds the bytes"
            )
        return found[0]
    if not isinstance(name, str) or not (sidecar.parent / name).is_file():
        raise InputError(f"{sidecar}: file is {name!r}, and there is no such file beside it")
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
            f"{path}: shape is {fields['shape']!r}; give three positive whole numbers: slices, rows, columns"
        )
    return shape[0], shape[1], shape[2]


def _dtype(path: Path, fields: dict[str, Any]) -> np.dtype:
    name, order = fields["dtype"], fields.get("byte_order")
    if name not in _TYPES:
        raise InputError(f"{path}: dtype is {name!r}; choose one of {', '.join(_TYPES)}")
    dtype = np.dtype(str(name))
    if dtype.itemsize > 1 and order not in ("little", "big"):
        raise InputError(
            f'{path}: byte_order is {order!r}; say "little" or "big" (a guess would be wrong half of the time)'
        )
    return dtype.newbyteorder("<" if order in ("little", None) else ">")
