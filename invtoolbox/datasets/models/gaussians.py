"""Readers and writers of Gaussians and voxels.

Gaussians are PLY files, SPZ files through the package gsply, or SPLAT files. Voxels are one
safetensors file with the values of the kept nodes and their grid.

PLY files have the layout of the original splats, which viewers and other trainers read and write.
A Gaussian has these properties:

- ``x``, ``y``, ``z``: its centre;
- ``nx``, ``ny``, ``nz``: normals, which are 0;
- ``f_dc_0`` to ``f_dc_2``: constant harmonic of each color;
- ``f_rest_0`` and so on: the other harmonics, all of red, then all of green, then all of blue;
- ``opacity``: logit of the opacity;
- ``scale_0`` to ``scale_2``: logarithms of the scales;
- ``rot_0`` to ``rot_3``: quaternion w, x, y, z.

SPZ files are Niantic's compressed splats. SPLAT files are those of viewers for the web; they are
written alone.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import reading
from invtoolbox.core.environment import optional_package
from invtoolbox.core.trust import check_unpacked
from invtoolbox.datasets.output import Written, write_bytes, writing
from invtoolbox.datasets.ply import ply_stream, read_ply
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import HARMONIC_0, Splats
from invtoolbox.geometry.voxels import Voxels, VoxelSpace

#: Properties that every vertex needs.
_NEEDED = (
    *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
#: Effect of half a turn about x on the real spherical harmonics of degrees 1 to 3: each keeps its
#: value or changes its sign.
_HALF_TURN = (-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1)
#: Largest number of fractional bits among the 24 bits of a position.
_MOST_BITS = 20


def read_splats(path: str | os.PathLike[str]) -> Splats:
    """Read the Gaussians of a PLY or SPZ file as one scene.

    SPZ files need the extra ``[spz]`` (`read_spz`).

    Raises:
        InputError: if the file is not a PLY file, if a property is missing, or if the number of
            harmonics does not belong to a whole degree.
    """
    if Path(path).suffix.lower() == ".spz":
        return read_spz(path)
    table = read_ply(path)
    rest = sorted(
        (name for name in table if name.startswith("f_rest_")),
        key=lambda name: int(name.removeprefix("f_rest_")),
    )
    missing = [name for name in _NEEDED if name not in table]
    if missing or len(rest) not in (0, 9, 24, 45):
        fault = (
            f"the vertices have no {missing[0]}"
            if missing
            else f"there are {len(rest)} f_rest values, expected 0, 9, 24 or 45"
        )
        raise InputError(
            f"{path}: {fault}; the file does not have the layout of the original splats"
        )

    def columns(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([table[name] for name in names], 1).astype(np.float32))

    constant = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    others = [columns(*rest).unflatten(1, (3, -1)).transpose(1, 2)] if rest else []
    return Splats(
        columns("x", "y", "z")[None],
        columns("rot_0", "rot_1", "rot_2", "rot_3")[None],
        columns("scale_0", "scale_1", "scale_2").exp()[None],
        columns("opacity")[:, 0].sigmoid()[None],
        torch.cat([constant, *others], 1)[None],
    )


def write_splats(
    path: str | os.PathLike[str], splats: Splats, item: int = 0, overwrite: bool = False
) -> Written:
    """Write the Gaussians of one scene of a batch as PLY, or as ``.spz`` or ``.splat``.

    Gaussians of opacity 0 are left out. The file is written completely or not at all.

    Args:
        path: path of the file.
        splats: Gaussians of a batch of scenes.
        item: index of the scene.
        overwrite: replace an existing file.

    >>> import tempfile
    >>> x = Splats.of_points(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), 0.1, 0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_splats(folder + "/scene.ply", x)
    ...     read_splats(folder + "/scene.ply")
    Splats of 1 scenes, 2 Gaussians each, degree 0
    """
    writers = {".spz": write_spz, ".splat": write_splat}
    if (suffix := Path(path).suffix.lower()) in writers:
        return writers[suffix](path, splats, item, overwrite)
    if splats.degree is None:
        raise InputError(
            f"{path}: PLY files of splats hold spherical harmonics, and these Gaussians have plain "
            "colors; write Gaussians with harmonics"
        )
    means, quats, scales, opacities, colors = _select_visible(splats, item, torch.float64)
    parameters = {
        "xyz": means,
        "normal": torch.zeros_like(means),
        "f_dc_": colors[:, 0],
        "f_rest_": colors[:, 1:].transpose(1, 2).flatten(1),
        "opacity": torch.logit(opacities, 1e-7)[:, None],
        "scale_": scales.log(),
        "rot_": torch.nn.functional.normalize(quats, dim=1),
    }
    table: dict[str, np.ndarray] = {}
    names = {"xyz": ("x", "y", "z"), "normal": ("nx", "ny", "nz"), "opacity": ("opacity",)}
    for name, values in parameters.items():
        numbered = tuple(f"{name}{k}" for k in range(values.shape[1]))
        table |= {word: values[:, k].numpy() for k, word in enumerate(names.get(name, numbered))}
    with ply_stream(path, dict.fromkeys(table, "f4"), overwrite) as append:
        append(table)
    return Written(Path(path).expanduser())


def read_spz(path: str | os.PathLike[str]) -> Splats:
    """Read the Gaussians of an SPZ file as one scene.

    In SPZ, y is up and z is backward; in PLY files of splats, y is down and z is forward. Scenes
    are therefore rotated by half a turn about x, as in Niantic's own converter, so that both
    formats give the same Gaussians.

    Raises:
        InputError: if the file is not an SPZ file, or damaged.
        MissingDependency: if gsply is not installed.
    """
    with reading(path, "SPZ") as file:
        package = _gsply()
        check_unpacked(file)
        gaussians = package.read_spz(str(file))
        means, scales, quats, opacities, constant = (
            torch.from_numpy(np.array(getattr(gaussians, name), dtype=np.float32))
            for name in ("means", "scales", "quats", "opacities", "sh0")
        )
        count = len(means)
        stored = np.zeros((count, 0, 3)) if gaussians.shN is None else np.asarray(gaussians.shN)
        others = torch.from_numpy(
            np.array(stored, dtype=np.float32).reshape(count, stored.size // max(3 * count, 1), 3)
        )
    means, quats, others = _rotate_half_turn(means, quats, others)
    return Splats(
        means[None],
        quats[None],
        scales.exp()[None],
        opacities.reshape(count).sigmoid()[None],
        torch.cat([constant[:, None], others], 1)[None],
    )


def write_spz(
    path: str | os.PathLike[str], splats: Splats, item: int = 0, overwrite: bool = False
) -> Written:
    """Write the Gaussians of one scene of a batch as SPZ, about a tenth of the size of a PLY file.

    Gaussians of opacity 0 are left out. Numbers are rounded: positions to 24 bits, logarithms of
    scales to 1/16, opacities and colors to 8 bits, harmonics to 1/128.

    Args:
        path: path of the file.
        splats: Gaussians of a batch of scenes.
        item: index of the scene.
        overwrite: replace an existing file.

    Raises:
        InputError: for plain colors, which SPZ does not support, and positions beyond its range.
        MissingDependency: if gsply is not installed.
    """
    if splats.degree is None:
        raise InputError(
            f"{path}: SPZ holds spherical harmonics, and these Gaussians have plain colors; write "
            "Gaussians with harmonics"
        )
    means, quats, scales, opacities, colors = _select_visible(splats, item, torch.float32)
    if not len(means) or not bool(means.isfinite().all()):
        raise InputError(
            f"{path}: the scene has {len(means)} visible Gaussians; SPZ needs at least one, and "
            "finite positions"
        )
    bits = min(_MOST_BITS, 22 - math.ceil(math.log2(max(float(means.abs().max()), 1e-6))))
    if bits < 1:
        raise InputError(
            f"{path}: positions reach {float(means.abs().max()):g}, but SPZ holds at most "
            "2,097,152; make the scene smaller"
        )
    quats = torch.nn.functional.normalize(quats, dim=1)
    means, quats, others = _rotate_half_turn(means, quats, colors[:, 1:])
    package = _gsply()
    table = package.GSData(
        means=means.numpy(),
        scales=scales.log().numpy(),
        quats=quats.numpy(),
        shN=others.contiguous().numpy(),
        opacities=torch.logit(opacities, 1e-6).numpy(),
        sh0=colors[:, 0].contiguous().numpy(),
    )
    file = Path(path).expanduser()
    with writing(path, overwrite) as stream:
        # gsply writes to a path, not to a stream: its temporary file is copied into the stream.
        temporary = file.with_name(f".{file.name}.part.spz")
        try:
            package.write_spz(str(temporary), table, version=3, fractional_bits=bits)
            stream.write(temporary.read_bytes())
        finally:
            temporary.unlink(missing_ok=True)
    return Written(file)


def write_splat(
    path: str | os.PathLike[str], splats: Splats, item: int = 0, overwrite: bool = False
) -> Written:
    """Write the Gaussians of one scene of a batch as SPLAT, 32 bytes each.

    A Gaussian has its centre and its scales as float32, and, as bytes, red, green, blue and opacity
    (255 is 1), and the unit quaternion w, x, y, z (128 is 0, and 128 more or less is 1). Colors do
    not depend on the direction. The largest and most opaque Gaussians come first, so that a viewer
    shows them while it still loads the others. Gaussians of opacity 0 are left out.

    Source: https://github.com/antimatter15/splat

    Args:
        path: path of the file.
        splats: Gaussians of a batch of scenes.
        item: index of the scene.
        overwrite: replace an existing file.

    >>> import tempfile
    >>> x = Splats.of_points(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), 0.1, 0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_splat(folder + "/scene.splat", x).path.stat().st_size
    64
    """
    means, quats, scales, opacities, colors = _select_visible(splats, item, torch.float32)
    plain = colors if splats.degree is None else 0.5 + HARMONIC_0 * colors[:, 0]
    turns = 128 + 128 * torch.nn.functional.normalize(quats, dim=1)
    levels = torch.cat([255 * plain, 255 * opacities[:, None], turns], 1)
    numbers = torch.cat([means, scales], 1).numpy().astype("<f4").view(np.uint8)
    rows = np.concatenate([numbers, levels.round().clamp(0, 255).byte().numpy()], 1)
    order = (scales.prod(1) * opacities).argsort(descending=True, stable=True)
    return Written(write_bytes(path, rows[order.numpy()].tobytes(), overwrite))


def _select_visible(splats: Splats, item: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the parameters of the Gaussians of one scene whose opacity is not 0, on the CPU."""
    visible = splats.opacities[item] > 1e-6
    return tuple(
        t[item][visible].detach().to(dtype).cpu()
        for t in (splats.means, splats.quats, splats.scales, splats.opacities, splats.colors)
    )


def _rotate_half_turn(
    means: Tensor, quats: Tensor, harmonics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate Gaussians by half a turn about x, which is its own inverse."""
    signs = torch.tensor(_HALF_TURN[: harmonics.shape[1]], dtype=harmonics.dtype)
    flip = means.new_tensor([1.0, -1.0, -1.0])
    # R becomes F R F with F = diag(1, -1, -1): its axis is rotated and its angle does not change.
    # The ellipsoid itself is symmetric under F.
    return (
        means * flip,
        quats * quats.new_tensor([1.0, 1.0, -1.0, -1.0]),
        harmonics * signs[:, None],
    )


def _gsply() -> Any:
    return optional_package("gsply", "SPZ files need gsply; install it with", "spz")


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
