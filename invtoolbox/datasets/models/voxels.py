"""Reader and writer of voxels as one safetensors file: values of the kept nodes and their grid."""

from __future__ import annotations

import json
import os

from invtoolbox.core.checks import reading
from invtoolbox.datasets.output import Written, write_bytes
from invtoolbox.errors import InputError
from invtoolbox.geometry.voxels import Voxels, VoxelSpace

_FORMAT = "invtoolbox voxels 1"


def write_voxels(
    path: str | os.PathLike[str], voxels: Voxels, item: int = 0, overwrite: bool = False
) -> Written:
    """Write one scene of a batch: raw densities and colors of the kept nodes, and the box.

    The values are stored exactly. The file is written completely or not at all. Its tensors are
    ``density (rows)``, ``color (rows, bases, channels)`` and, if not all cells are occupied,
    ``clearance`` of `VoxelSpace`. Shape, low, high and scale are stored in the metadata.

    Args:
        path: path of the file.
        voxels: voxels of a batch of scenes.
        item: index of the scene.
        overwrite: replace an existing file.

    >>> import tempfile, torch
    >>> space = VoxelSpace.box(3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> voxels = Voxels(torch.zeros(1, 27), torch.zeros(1, 27, 1, 3), space)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_voxels(folder + "/scene.safetensors", voxels)
    ...     read_voxels(folder + "/scene.safetensors").space.shape
    (3, 3, 3)
    """
    from safetensors.torch import save

    space = voxels.space
    tensors = {"density": voxels.density[item], "color": voxels.color[item]}
    if space.clearance is not None:
        tensors["clearance"] = space.clearance
    grid = {"shape": space.shape, "low": space.low, "high": space.high, "scale": space.scale}
    content = save(
        {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()},
        metadata={"format": _FORMAT, "space": json.dumps(grid)},
    )
    return Written(write_bytes(path, content, overwrite))


def read_voxels(path: str | os.PathLike[str]) -> Voxels:
    """Read the voxels of a file as one scene.

    Raises:
        InputError: for a file that was not written by `write_voxels`.
    """
    from safetensors import safe_open

    with reading(path, "voxels") as path:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if meta.get("format") != _FORMAT or not {"density", "color"} <= set(tensors):
            raise InputError(
                f"{path} is a safetensors file, but holds no voxels; give a file of write_voxels"
            )
        grid = json.loads(meta["space"])
        space = VoxelSpace(
            tuple(grid["shape"]), tuple(grid["low"]), tuple(grid["high"]), grid["scale"]
        )
        if "clearance" in tensors:
            space = space.keep_cells(tensors["clearance"] == 0)
        if len(tensors["density"]) != space.rows or len(tensors["color"]) != space.rows:
            raise InputError(
                f"{path} holds {len(tensors['density'])} nodes, but its grid keeps {space.rows}; "
                "write it again"
            )
        return Voxels(tensors["density"][None], tensors["color"][None], space)
