"""Gaussians as PLY files in the layout of the original splats, which viewers and other trainers read and write.

Of every Gaussian: x, y, z; normals, which are 0; ``f_dc_0`` to ``f_dc_2``, the constant harmonic of each color; ``f_rest_0`` and so on,
the others, all of red, then all of green, then all of blue; opacity as its logit; ``scale_0`` to ``scale_2`` as logarithms; ``rot_0`` to
``rot_3``, the quaternion w x y z.

Gaussians as SPZ files (Niantic's compressed splats), through the package gsply.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.core.environment import how_to_get
from invtoolbox.datasets.output import Written, writing
from invtoolbox.datasets.sweeps.ply import ply_stream, read_ply
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry.gaussians import Splats

#: What half a turn about x does to the real spherical harmonics of degrees 1 to 3: each keeps its value or changes its sign.
_HALF_TURN = (-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1)
#: Positions are stored in 24 bits, so many of them behind the point at most.
_MOST_BITS = 20


def read_splats(path: str | os.PathLike[str]) -> Splats:
    """The Gaussians of a PLY file, or of an SPZ file through the extra ``[spz]`` (`read_spz`), as one scene.

    Raises:
        InputError: for a file that is no PLY file, that has not these properties, or a number of harmonics of no whole degree.
    """
    if Path(path).suffix.lower() == ".spz":
        pass

        return read_spz(path)
    table = read_ply(path)
    rest = sorted(
        (name for name in table if name.startswith("f_rest_")),
        key=lambda name: int(name.removeprefix("f_rest_")),
    )
    wanted = [
        "x",
        "y",
        "z",
        *(f"f_dc_{k}" for k in range(3)),
        "opacity",
        *(f"scale_{k}" for k in range(3)),
    ]
    wanted += [f"rot_{k}" for k in range(4)]
    missing = [name for name in wanted if name not in table]
    if missing or len(rest) not in (0, 9, 24, 45):
        what = (
            f"the vertices have no {missing[0]}"
            if missing
            else f"there are {len(rest)} f_rest values, expected 0, 9, 24 or 45"
        )
        raise InputError(
            f"{path}: {what}; the file holds no Gaussians in the layout of the original splats"
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
    """Write the Gaussians of one scene of a batch, those of opacity 0 left out, whole or not at all; as SPZ where the name ends so.

    >>> import tempfile
    >>> x = Splats.of_points(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), 0.1, 0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_splats(folder + "/scene.ply", x)
    ...     read_splats(folder + "/scene.ply")
    Splats of 1 scenes, 2 Gaussians each, degree 0
    """
    if Path(path).suffix.lower() == ".spz":
        pass

        return write_spz(path, splats, item, overwrite)
    if splats.degree is None:
        raise InputError(
            f"{path}: the layout of the original splats holds spherical harmonics, and these Gaussians have plain colors"
        )
    there = splats.opacities[item] > 1e-6
    means, quats, scales, opacities, colors = (
        t[item][there].detach().double().cpu()
        for t in (splats.means, splats.quats, splats.scales, splats.opacities, splats.colors)
    )
    parts = {
        "xyz": means,
        "normal": torch.zeros_like(means),
        "f_dc_": colors[:, 0],
        "f_rest_": colors[:, 1:].transpose(1, 2).flatten(1),
        "opacity": torch.logit(opacities, 1e-7)[:, None],
        "scale_": scales.log(),
        "rot_": torch.nn.functional.normalize(quats, dim=1),
    }
    table: dict[str, np.ndarray] = {}
    for name, values in parts.items():
        words = {"xyz": ("x", "y", "z"), "normal": ("nx", "ny", "nz"), "opacity": ("opacity",)}.get(
            name
        )
        words = words if words is not None else tuple(f"{name}{k}" for k in range(values.shape[1]))
        table |= {word: values[:, k].numpy() for k, word in enumerate(words)}
    with ply_stream(path, dict.fromkeys(table, "f4"), overwrite) as append:
        append(table)
    return Written(Path(path).expanduser())


def read_spz(path: str | os.PathLike[str]) -> Splats:
    """The Gaussians of a file, as one scene.

    SPZ has y up and z backward, where the PLY files of splats have y down and z forward: scenes are turned by half a turn about x, as
    Niantic's own converter does, so that both formats give the same Gaussians.

    Raises:
        InputError: for a file that is none of this kind, or damaged.
        MissingDependency: gsply is not installed.
    """
    file = require_file(path)
    package = _gsply()
    with decoding(file, "SPZ"):
        found = package.read_spz(str(file))
        means, scales, quats, opacities, constant = (
            torch.from_numpy(np.array(getattr(found, name), dtype=np.float32))
            for name in ("means", "scales", "quats", "opacities", "sh0")
        )
        count = len(means)
        stored = np.zeros((count, 0, 3)) if found.shN is None else np.asarray(found.shN)
        others = torch.from_numpy(
            np.array(stored, dtype=np.float32).reshape(count, stored.size // max(3 * count, 1), 3)
        )
    turned = _turned(means, quats, others)
    colors = torch.cat([constant[:, None], turned[2]], 1)
    return Splats(
        turned[0][None],
        turned[1][None],
        scales.exp()[None],
        opacities.reshape(count).sigmoid()[None],
        colors[None],
    )


def write_spz(
    path: str | os.PathLike[str], splats: Splats, item: int = 0, overwrite: bool = False
) -> Written:
    """Write the Gaussians of one scene of a batch, those of opacity 0 left out; about a tenth of the size of a PLY file.

    Numbers are rounded: positions to 24 bits, logarithms of scales to 1/16, opacities and colors to 8 bits, harmonics to 1/128.

    Raises:
        InputError: for plain colors, which SPZ does not hold, and positions beyond its range.
        MissingDependency: gsply is not installed.
    """
    if splats.degree is None:
        raise InputError(
            f"{path}: SPZ holds spherical harmonics, and these Gaussians have plain colors"
        )
    there = splats.opacities[item] > 1e-6
    means, quats, scales, opacities, colors = (
        t[item][there].detach().float().cpu()
        for t in (splats.means, splats.quats, splats.scales, splats.opacities, splats.colors)
    )
    if not len(means) or not bool(means.isfinite().all()):
        raise InputError(
            f"{path}: a scene of {len(means)} Gaussians that show, with finite places, is needed"
        )
    bits = min(_MOST_BITS, 22 - math.ceil(math.log2(max(float(means.abs().max()), 1e-6))))
    if bits < 1:
        raise InputError(
            f"{path}: positions reach {float(means.abs().max()):g}, and SPZ holds up to 2,097,152; make the scene smaller"
        )
    means, quats, others = _turned(
        means, torch.nn.functional.normalize(quats, dim=1), colors[:, 1:]
    )
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
    with writing(
        path, overwrite
    ) as stream:  # gsply writes by name: a neighbour, whose bytes go where they belong
        aside = file.with_name(f".{file.name}.part.spz")
        try:
            package.write_spz(str(aside), table, version=3, fractional_bits=bits)
            stream.write(aside.read_bytes())
        finally:
            aside.unlink(missing_ok=True)
    return Written(file)


def _turned(means: Tensor, quats: Tensor, harmonics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Half a turn about x: its own inverse."""
    signs = torch.tensor(_HALF_TURN[: harmonics.shape[1]], dtype=harmonics.dtype)
    flip = means.new_tensor([1.0, -1.0, -1.0])
    # R becomes F R F with F = diag(1, -1, -1): its axis turns, its angle stays; the ellipsoid itself is symmetric under F.
    return (
        means * flip,
        quats * quats.new_tensor([1.0, 1.0, -1.0, -1.0]),
        harmonics * signs[:, None],
    )


def _gsply() -> Any:
    try:
        import gsply
    except ImportError as error:
        raise MissingDependency(
            f"SPZ files need gsply; install it with {how_to_get('spz')}"
        ) from error
    return gsply
