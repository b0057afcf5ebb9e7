"""Gaussians as PLY files in the layout of the original splats, which viewers and other trainers read and write.

Of every Gaussian: x, y, z; normals, which are 0; ``f_dc_0`` to ``f_dc_2``, the constant harmonic of each colour; ``f_rest_0`` and so on,
the others, all of red, then all of green, then all of blue; opacity as its logit; ``scale_0`` to ``scale_2`` as logarithms; ``rot_0`` to
``rot_3``, the quaternion w x y z.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.output import Written
from invtoolbox.datasets.ply import read_ply
from invtoolbox.datasets.ply_stream import ply_stream
from invtoolbox.errors import InputError
from invtoolbox.scenes.splats import Splats


def read_splats(path: str | os.PathLike[str]) -> Splats:
    """The Gaussians of a PLY file, or of an SPZ file through the extra ``[spz]`` (`read_spz`), as one scene.

    Raises:
        InputError: for a file that is no PLY file, that has not these properties, or a number of harmonics of no whole degree.
    """
    if Path(path).suffix.lower() == ".spz":
        from invtoolbox.datasets.splat_spz import read_spz

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
        from invtoolbox.datasets.splat_spz import write_spz

        return write_spz(path, splats, item, overwrite)
    if splats.degree is None:
        raise InputError(
            f"{path}: the layout of the original splats holds spherical harmonics, and these Gaussians have plain colours"
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
