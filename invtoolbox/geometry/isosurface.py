"""Meshes from fields by marching cubes: of volumes and of scenes of voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import HARMONIC_0
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.voxels import Voxels


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
    """Extract the surface at which an interpolated field takes a value, by marching cubes.

    Faces turn counter-clockwise seen from the side of smaller values. So pass an occupancy, a
    density, or the negative of a signed distance that is positive outside.

    Args:
        values: values at the nodes, ``(X, Y, Z)``.
        level: value of the field on the surface.
        low: position of the first node.
        high: position of the last node; by default node ``(i, j, k)`` is at ``low + (i, j, k)``.
        colors: colors at the nodes, ``(X, Y, Z, 3)``; the mesh has them, interpolated.
        known: mask of the nodes that hold a value, bool ``(X, Y, Z)``; no surface passes between a
            known and an unknown node.
        closed: whether a surface that reaches the border of the volume is closed there, within one
            node outside of it.

    Raises:
        InputError: if shapes do not fit, if values are not finite, or if the field never takes the
            level.

    Source: Lewiner, Lopes, Vieira and Tavares, "Efficient implementation of marching cubes' cases
        with topological guarantees", Journal of Graphics Tools 8 (2003), as in scikit-image.

    >>> x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, 21)] * 3, indexing="ij")
    >>> ball = isosurface(-(x * x + y * y + z * z).sqrt(), -0.7, (-1, -1, -1), (1, 1, 1))
    >>> bool((ball.vertices.norm(dim=1) - 0.7).abs().max() < 0.01)
    True
    """
    from skimage.measure import marching_cubes

    if values.ndim != 3 or min(values.shape) < 2 or not values.is_floating_point():
        raise InputError(
            "isosurface takes floating-point values (X, Y, Z), at least 2 nodes along each axis, "
            f"got {tuple(values.shape)} of {values.dtype}"
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
            f"{int((~field[mask].isfinite()).sum())} values of the field are NaN or infinite; "
            "leave them out with known="
        )
    # Nodes without a value take one below the level, as does the margin that closes the surface.
    below = min(level - 1.0, float(field[mask].min()) if bool(mask.any()) else level)
    field = torch.where(mask, field, below)
    pad = int(closed)
    if closed:
        field = functional.pad(field, (1,) * 6, value=below)
        mask = functional.pad(mask, (1,) * 6, value=True)
    if not float(field.min()) < level < float(field.max()):
        raise InputError(
            f"the field lies between {float(values.min()):g} and {float(values.max()):g}, and is "
            f"nowhere {level:g}; choose another level"
        )
    # "ascent": the outer side of a face is that of smaller values.
    places, faces, _, _ = marching_cubes(field.numpy(), level, gradient_direction="ascent")
    if known is not None:
        places, faces = _select_known(places, faces, mask.numpy())
        if not len(faces):
            raise InputError(f"no surface at {level:g} lies between nodes that hold a value")
    # Vertices come in units of nodes of the padded grid: p = low + cell (index - pad).
    index = torch.from_numpy(np.ascontiguousarray(places)).double() - pad
    first = torch.tensor(list(low), dtype=torch.float64)
    nodes = torch.tensor(values.shape, dtype=torch.float64)
    cell = (
        torch.ones(3, dtype=torch.float64)
        if high is None
        else (torch.tensor(list(high), dtype=torch.float64) - first) / (nodes - 1)
    )
    tints = None if colors is None else _interpolate(colors.detach().float().cpu(), index)
    return Mesh(
        (first + index * cell).to(values.dtype),
        torch.from_numpy(np.ascontiguousarray(faces)).long(),
        tints,
    )


def voxel_surface(scene: Voxels, alpha: float = 0.5, item: int = 0) -> Mesh:
    """Extract the surface of a scene of voxels, in the world of the scene.

    On the surface, the density would stop the share ``alpha`` of the light within one cell. Colors
    of vertices are those of the constant harmonic, the mean over directions before the sigmoid.

    Args:
        scene: scene, as decoded by `priors.VoxelGrid`.
        alpha: the share, between 0 and 1.
        item: number of the batch item.

    Raises:
        InputError: if the density never reaches that value, or is never below it.
    """
    check_range("voxel_surface", "(0, 1)", alpha=alpha)
    space = scene.space
    # alpha = 1 - exp(-scale density length) over the longest edge of a cell, before the scale.
    density = -math.log1p(-alpha) / (max(space.cell) * space.scale)
    # The density is the softplus of the raw value, and the raw values are interpolated: the level is
    # the inverse log(exp(density) - 1), which is the density itself once exp(-density) rounds away.
    level = math.log(math.expm1(density)) if density < 30 else density
    # The grid outside of occupied cells is empty, below any level.
    raw, tints = scene.density[item : item + 1], scene.color[item : item + 1, :, 0]
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


def _select_known(
    places: np.ndarray, faces: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Select the faces whose vertices all lie on edges between known nodes, and the vertices."""
    # A vertex lies on an edge of the grid: the two ends differ in one coordinate only.
    low, high = np.floor(places).astype(int), np.ceil(places).astype(int)
    sound = mask[tuple(low.T)] & mask[tuple(high.T)]
    faces = faces[sound[faces].all(1)]
    used, renumbered = np.unique(faces, return_inverse=True)
    return places[used], renumbered.reshape(faces.shape)


def _interpolate(grid: Tensor, index: Tensor) -> Tensor:
    """Interpolate a grid ``(X, Y, Z, 3)`` at places ``(N, 3)`` in units of nodes.

    Places outside of the grid take the value at its border.
    """
    # grid_sample takes -1 at the first node and 1 at the last one (align_corners).
    shape = torch.tensor(grid.shape[:3])
    place = (2 * index / (shape - 1) - 1).float().flip(1)  # grid_sample takes (z, y, x)
    tints = functional.grid_sample(
        grid.movedim(3, 0)[None], place[None, None, None], align_corners=True, padding_mode="border"
    )
    return tints[0, :, 0, 0].T.contiguous()
