"""Writer of OME-Zarr images of version 0.5, which napari, Fiji and neuroglancer open.

Source: Moore et al., "OME-Zarr: a cloud-optimized bioimaging file format", Histochemistry and Cell
Biology 160, 2023; the specification at ngff.openmicroscopy.org.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.environment import optional_package
from invtoolbox.datasets.output import Written, writing_folder
from invtoolbox.datasets.volumes.volume import grid_to_write, slices_of
from invtoolbox.errors import InputError

#: Names of units of length in OME-Zarr, and the largest numbers of voxels of a chunk and per side.
UNITS = {
    "mm": "millimeter",
    "um": "micrometer",
    "nm": "nanometer",
    "cm": "centimeter",
    "m": "meter",
}
_CHUNK, _SIDE = 2**22, 128


def write_ome_zarr(
    path: str | os.PathLike[str], volume: Any, voxel_size: Any = None, overwrite: bool = False
) -> Written:
    """Write a volume as an OME-Zarr folder of one scale, slice by slice and in its own type.

    The slope and the intercept of a `Volume` with a `scale` are attributes of the array.

    Args:
        path: path of the folder, which ends in `.zarr`.
        volume: tensor, array or `Volume`, ``(slices, rows, columns)``.
        voxel_size: sizes of a voxel in mm along slices, rows and columns; by default those of a
            `Volume`, else 1.
        overwrite: replace an existing folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_ome_zarr(folder + "/x.zarr", np.zeros((3, 4, 5), np.uint8)).path
    ...     sorted(file.name for file in path.iterdir())
    ['0', 'zarr.json']
    """
    zarr = optional_package("zarr", "OME-Zarr needs zarr, which is not installed;", "scanners")
    path = Path(path).expanduser()
    if path.exists() and not overwrite:
        raise InputError(f"{path}: this folder exists; choose another, or pass overwrite=True")
    if path.exists() and not (path / "zarr.json").is_file():
        raise InputError(f"{path}: this is no Zarr folder, and is not replaced; choose another")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    shape, dtype, pages = slices_of(path, volume)
    grid = grid_to_write(path, volume, voxel_size)
    unit = {"unit": UNITS[grid.unit]} if grid.unit in UNITS else {}
    # The origin is in the order of the axes; directions have no place in this version.
    places = [
        {"type": "scale", "scale": list(grid.voxel_size)},
        {"type": "translation", "translation": list(grid.origin[::-1])},
    ]
    multiscale = {
        "name": path.stem,
        "axes": [{"name": name, "type": "space", **unit} for name in "zyx"],
        "datasets": [{"path": "0", "coordinateTransformations": places}],
    }
    sides = (min(_SIDE, shape[1]), min(_SIDE, shape[2]))
    depth = max(min(_CHUNK // (shape[1] * shape[2]), _SIDE, shape[0]), 1)
    scale = getattr(volume, "scale", None)
    with writing_folder(path) as hidden:
        group = zarr.create_group(str(hidden), zarr_format=3)
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
        array = group.create_array(
            "0",
            shape=shape,
            chunks=(depth, *sides),
            dtype=dtype,
            dimension_names=["z", "y", "x"],
            attributes={"slope": scale[0], "intercept": scale[1]} if scale else {},
        )
        block: list[np.ndarray] = []
        for number, page in enumerate(pages, 1):
            block.append(np.asarray(page))
            if len(block) == depth or number == shape[0]:
                array[number - len(block) : number] = np.stack(block)
                block = []
    return Written(path)
