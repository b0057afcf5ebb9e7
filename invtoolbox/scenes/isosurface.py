"""Surfaces out of fields by marching cubes: of any volume, of the density of a scene of voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.errors import InputError
from invtoolbox.scenes.mesh import Mesh
from invtoolbox.scenes.splats import HARMONIC_0
from invtoolbox.scenes.voxels import Voxels


def isosurface(
    values: Tensor,
    level: float = 0.5,
    low: Sequence[float] = (0.0, 0.0, 0.0),
    high: Sequence[float] | None = None,
    *,
    colors: Tensor | None = None,
    known: Tensor | None = None,
    closed: bool = False,
) -> Mesh:
    """The surface at which a field that is interpolated between nodes takes a value, by marching cubes.

    Faces turn counter-clockwise seen from where the values are below the level: out of an occupancy, a density, or minus a signed distance
    that is positive outside.

    Args:
        values: at the nodes, ``(X, Y, Z)``.
        level: the value.
        low, high: where the first and the last node lie; by default node ``(i, j, k)`` is at ``low + (i, j, k)``.
        colors: at the nodes, ``(X, Y, Z, 3)``; the mesh has them, interpolated.
        known: nodes that hold a value, bool ``(X, Y, Z)``; no surface passes between one that does and one that does not.
        closed: what reaches the border of the volume is closed there, within one node outside of it.

    Raises:
        InputError: shapes that do not fit, values that are not finite, a level that is nowhere taken.

    Source: Lewiner, Lopes, Vieira and Tavares, "Efficient implementation of marching cubes' cases with topological guarantees",
    Journal of Graphics Tools 8 (2003), as in scikit-image.

    >>> x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, 21)] * 3, indexing="ij")
    >>> ball = isosurface(-(x * x + y * y + z * z).sqrt(), -0.7, (-1, -1, -1), (1, 1, 1))
    >>> bool((ball.vertices.norm(dim=1) - 0.7).abs().max() < 0.01)
    True
    """
    from skimage.measure import marching_cubes

    if values.ndim != 3 or min(values.shape) < 2 or not values.is_floating_point():
        raise InputError(
            f"isosurface takes floating-point values (X, Y, Z), 2 nodes at least along each axis, got "
            f"{tuple(values.shape)} of {values.dtype}"
        )
    for name, extra, shape in (
        ("colors", colors, (*values.shape, 3)),
        ("known", known, tuple(values.shape)),
    ):
        if extra is not None and tuple(extra.shape) != shape:
            raise InputError(
                f"isosurface takes {name} {shape} with these values, got {tuple(extra.shape)}"
            )
    field = values.detach().double().cpu()
    mask = (
        torch.ones_like(field, dtype=torch.bool) if known is None else known.detach().cpu().bool()
    )
    if not bool(field[mask].isfinite().all()):
        raise InputError(
            f"{int((~field[mask].isfinite()).sum())} values of the field are NaN or infinite; leave them out with known="
        )
    below = min(level - 1.0, float(field[mask].min()) if bool(mask.any()) else level)
    field = torch.where(mask, field, below)
    pad = int(closed)
    if closed:
        field = functional.pad(field, (1,) * 6, value=below)
        mask = functional.pad(mask, (1,) * 6, value=True)
    if not float(field.min()) < level < float(field.max()):
        raise InputError(
            f"the field lies between {float(values.min()):g} and {float(values.max()):g}, and is nowhere {level:g}; choose "
            "another level"
        )
    places, faces, _, _ = marching_cubes(field.numpy(), level, gradient_direction="ascent")
    if known is not None:
        places, faces = _between_known(places, faces, mask.numpy())
        if not len(faces):
            raise InputError(f"no surface at {level:g} lies between nodes that hold a value")
    index = torch.from_numpy(np.ascontiguousarray(places)).double() - pad
    first = torch.tensor(list(low), dtype=torch.float64)
    nodes = torch.tensor(values.shape, dtype=torch.float64)
    cell = (
        torch.ones(3, dtype=torch.float64)
        if high is None
        else (torch.tensor(list(high), dtype=torch.float64) - first) / (nodes - 1)
    )
    tints = None if colors is None else _at(colors.detach().float().cpu(), index)
    return Mesh(
        (first + index * cell).to(values.dtype),
        torch.from_numpy(np.ascontiguousarray(faces)).long(),
        tints,
    )


def voxel_surface(scene: Voxels, alpha: float = 0.5, item: int = 0) -> Mesh:
    """The surface of a scene of voxels, where its density would stop a share of the light within one cell, in the world of the scene.

    Args:
        scene: as `priors.VoxelGrid` decodes it.
        alpha: that share, between 0 and 1.
        item: of the batch.

    Colours of vertices are those of the constant harmonic, the mean over directions before the sigmoid.

    Raises:
        InputError: where the density nowhere reaches that value, or is nowhere below it.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha is between 0 and 1, got {alpha}")
    space = scene.space
    density = -math.log1p(-alpha) / (
        max(space.cell) * space.scale
    )  # softplus of the raw value; the field is interpolated raw
    level = math.log(math.expm1(density)) if density < 30 else density
    raw, tints = scene.density[item : item + 1], scene.colour[item : item + 1, :, 0]
    least = min(float(raw.min()), level - 1.0)
    grid = space.spread(raw, least)[0]
    colors = torch.sigmoid(HARMONIC_0 * space.spread(tints)[0])
    return isosurface(
        grid,
        level,
        space.low,
        space.high,
        colors=colors if colors.shape[-1] == 3 else None,
        closed=True,
    )


def _between_known(
    places: np.ndarray, faces: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The faces all of whose vertices lie on edges between two known nodes, and these vertices."""
    # A vertex lies on an edge of the grid: its two ends are the same but for one coordinate.
    low, high = np.floor(places).astype(int), np.ceil(places).astype(int)
    sound = known[tuple(low.T)] & known[tuple(high.T)]
    faces = faces[sound[faces].all(1)]
    used, renumbered = np.unique(faces, return_inverse=True)
    return places[used], renumbered.reshape(faces.shape)


def _at(grid: Tensor, index: Tensor) -> Tensor:
    """A grid ``(X, Y, Z, 3)`` interpolated at places in units of nodes ``(N, 3)``, those outside at the border."""
    shape = torch.tensor(grid.shape[:3])
    place = (2 * index / (shape - 1) - 1).float().flip(1)  # grid_sample takes (z, y, x)
    seen = functional.grid_sample(
        grid.movedim(3, 0)[None], place[None, None, None], align_corners=True, padding_mode="border"
    )
    return seen[0, :, 0, 0].T.contiguous()
