"""Gaussians as SPZ files (Niantic's compressed splats), through the package gsply."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.files import decoding, require_file
from invtoolbox.datasets.output import Written, writing
from invtoolbox.environment import how_to_get
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.scenes.splats import Splats

#: What half a turn about x does to the real spherical harmonics of degrees 1 to 3: each keeps its value or changes its sign.
_HALF_TURN = (-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1)
#: Positions are stored in 24 bits, so many of them behind the point at most.
_MOST_BITS = 20


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

    Numbers are rounded: positions to 24 bits, logarithms of scales to 1/16, opacities and colours to 8 bits, harmonics to 1/128.

    Raises:
        InputError: for plain colours, which SPZ does not hold, and positions beyond its range.
        MissingDependency: gsply is not installed.
    """
    if splats.degree is None:
        raise InputError(
            f"{path}: SPZ holds spherical harmonics, and these Gaussians have plain colours"
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
