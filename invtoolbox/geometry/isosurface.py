"""Meshes from fields by marching cubes: of volumes, of scenes of voxels, and of fused depths.

`isosurface` extracts the surface of a volume, `voxel_surface` that of a scene of voxels, and
`fuse_depth` fuses depths of many views into a truncated signed distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.gaussians import HARMONIC_0
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.rigid import transform
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


def fuse_depth(
    cameras: Cameras,
    depth: Tensor,
    voxel_size: float,
    *,
    colors: Tensor | None = None,
    mask: Tensor | None = None,
    truncation: float | None = None,
    largest_depth: float = math.inf,
    box: tuple[Sequence[float], Sequence[float]] | None = None,
) -> FusedDepth:
    r"""Fuse depths of several views into a truncated signed distance.

    A view that sees a node at the depth z, in a pixel of depth d, contributes
    ``min(1, (d - z) / truncation)`` if this is above -1; the grid holds the mean. Every view counts
    the same. Depths may be measured, or rendered: ``fuse_depth(...).mesh()`` is then the mesh of a
    scene of Gaussians or voxels.

    Source: Curless and Levoy, "A volumetric method for building complex models from range images",
    SIGGRAPH 1996.

    Args:
        cameras: C cameras.
        depth: depth along the camera's z, in the unit of the poses, ``(C, 1, height, width)`` or
            ``(C, height, width)``; 0 or NaN if unknown.
        voxel_size: distance between nodes, in this unit.
        colors: pictures, ``(C, 3, height, width)``, for colored meshes.
        mask: mask of the pixels that count, 1 or 0, of the shape of `depth`.
        truncation: truncation of the distance, four voxels by default; it should be below the
            thickness of objects with two sides, and above the noise of the depths.
        largest_depth: depths beyond this one are unknown.
        box: corners ``(low, high)`` of the grid; by default it contains all points of the depths.

    Raises:
        InputError: if shapes do not fit, if no depth is known, or if the grid would have too many
            nodes.

    >>> from invtoolbox.geometry.cameras import look_at
    >>> views = look_at(torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, 3.0]]), size=(16, 16))
    >>> depth = torch.full((2, 1, 16, 16), 2.5)  # a slab half a unit to either side of 0
    >>> wall = fuse_depth(views, depth, 0.1).mesh()
    >>> [round(float(z), 3) for z in wall.vertices[:, 2].aminmax()]
    [-0.5, 0.5]
    """
    cameras.require_pinholes("fuse_depth")
    depth = _check_depth(cameras, depth, colors, mask, voxel_size, largest_depth)
    truncation = 4 * voxel_size if truncation is None else truncation
    check_range("fuse_depth", "(0, inf]", truncation=truncation)
    low, shape = _grid(cameras, depth, voxel_size, truncation, box)
    # Sums are stored block by block, (blocks, nodes of a block), so that a view touches only the
    # blocks that it may see.
    blocks = [math.ceil(n / _BLOCK) for n in shape]
    nodes = _BLOCK**3
    count = math.prod(blocks)
    total, weight, tint_weight = (torch.zeros(count, nodes) for _ in range(3))
    tint = torch.zeros(count, nodes, 0 if colors is None else 3)
    inner = torch.cartesian_prod(*[torch.arange(_BLOCK)] * 3).float() * voxel_size
    corners = torch.cartesian_prod(*(torch.arange(n) for n in blocks)).float() * (
        _BLOCK * voxel_size
    ) + torch.tensor(low)
    for k in range(len(cameras)):
        reached = _find_blocks(cameras, k, depth[k], corners, voxel_size, truncation)
        for chunk in reached.split(2048):
            local = transform(
                cameras.world_to_camera[k], (corners[chunk][:, None] + inner).flatten(0, 1)
            )
            z = local[:, 2]
            u, v = _pixels(cameras.intrinsics[k], local)
            height, width = depth.shape[1:]
            inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
            row = torch.where(inside, v, 0).long() * width + torch.where(inside, u, 0).long()
            # The distance is measured along z of the camera, not across the surface. Farther than the
            # truncation behind the surface, a view gives no value.
            d = depth[k].flatten()[row]
            share = (d - z) / truncation
            counts = (inside & (d > 0) & (share > -1)).view(-1, nodes)
            share = share.clamp(max=1).view(-1, nodes)
            total[chunk] += torch.where(counts, share, 0)
            weight[chunk] += counts
            if colors is not None:
                # Only nodes within the truncation of the surface show its color.
                near = counts & (share < 1)
                tint[chunk] += torch.where(
                    near[..., None], colors[k].flatten(1).T[row].view(-1, nodes, 3), 0
                )
                tint_weight[chunk] += near
    distance = torch.where(weight > 0, total / weight.clamp(min=1), 1.0)
    mean = tint / tint_weight.clamp(min=1)[..., None]
    return FusedDepth(
        _join_blocks(distance, blocks, shape),
        _join_blocks(weight, blocks, shape),
        None if colors is None else _join_blocks(mean, blocks, shape),
        low,
        float(voxel_size),
    )


#: Number of nodes along a side of a block; a view skips blocks that no ray of it can reach.
_BLOCK = 8

#: Grids of more nodes than this are refused: five numbers per node are 10 GB.
_MOST_NODES = 2**29


@dataclass(frozen=True, eq=False)
class FusedDepth:
    """Grid of truncated signed distances, positive in front of the surface.

    Node ``(i, j, k)`` lies at ``low + voxel_size (i, j, k)`` in the world of the cameras.

    Attributes:
        distance: mean over the views of the distance along their z in units of the truncation, from
            -1 to 1, ``(X, Y, Z)``; 1 for nodes that no view has seen.
        weight: number of views in which a node lies in front of the surface, or behind it by at
            most the truncation, ``(X, Y, Z)``.
        colors: mean color over the views that see the surface there, ``(X, Y, Z, 3)``, or None.
        low: position of the first node.
        voxel_size: distance between nodes, in the unit of the poses.
    """

    distance: Tensor
    weight: Tensor
    colors: Tensor | None
    low: tuple[float, float, float]
    voxel_size: float

    def mesh(self, least_weight: float = 1.0) -> Mesh:
        """Extract the surface between nodes that at least ``least_weight`` views have seen.

        The mesh is in the frame and the unit of the cameras, with colors if the grid has colors.

        Raises:
            InputError: if there is no surface.
        """
        shape = torch.tensor(self.distance.shape) - 1
        high = [low + self.voxel_size * int(n) for low, n in zip(self.low, shape)]
        return isosurface(
            -self.distance,
            0.0,
            self.low,
            high,
            colors=self.colors,
            known=self.weight >= least_weight,
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


def _check_depth(
    cameras: Cameras,
    depth: Tensor,
    colors: Tensor | None,
    mask: Tensor | None,
    voxel_size: float,
    largest: float,
) -> Tensor:
    """Return depths ``(C, height, width)``, 0 if unknown, after checking all arguments."""
    size = (len(cameras), *cameras.size)
    flat = [
        None if t is None else (t[:, 0] if t.ndim == 4 and t.shape[1] == 1 else t)
        for t in (depth, mask)
    ]
    fits = all(t is None or tuple(t.shape) == size for t in flat)
    if not fits or (colors is not None and tuple(colors.shape) != (size[0], 3, *size[1:])):
        got = ", ".join("none" if t is None else str(tuple(t.shape)) for t in (depth, mask, colors))
        raise InputError(
            f"fuse_depth takes depths (and a mask) ({size[0]}, 1, {size[1]}, {size[2]}) and colors "
            f"with 3 channels for these cameras, got {got}"
        )
    check_range("fuse_depth", "(0, inf]", voxel_size=voxel_size)
    plain = depth.reshape(size).detach().float().cpu().nan_to_num(0.0, posinf=0.0, neginf=0.0)
    counts = (plain > 0) & (plain <= largest)
    if flat[1] is not None:
        counts = counts & (flat[1].cpu() > 0)
    if not bool(counts.any()):
        raise InputError("no pixel has a depth that is known and counts")
    return torch.where(counts, plain, 0)


def _grid(
    cameras: Cameras,
    depth: Tensor,
    voxel_size: float,
    truncation: float,
    box: tuple[Sequence[float], Sequence[float]] | None,
) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Return the position of the first node, and the number of nodes along each axis."""
    if box is None:
        ends = []
        for k in range(len(cameras)):
            origins, directions = cameras[k].rays()
            # Rays have z = 1 in the camera: origin + depth * direction is the measured point.
            measured = depth[k] > 0
            if bool(measured.any()):
                points = (origins[0] + depth[k][..., None] * directions[0])[measured]
                ends += [points.amin(0), points.amax(0)]
        first = torch.stack(ends).amin(0) - truncation
        last = torch.stack(ends).amax(0) + truncation
    else:
        first, last = (torch.tensor(list(corner), dtype=torch.float32) for corner in box)
    if first.shape != (3,) or last.shape != (3,) or not bool((last > first).all()):
        raise InputError(f"the box must be two corners of three numbers, low below high, got {box}")
    # The last nodes lie on the upper corner or beyond it.
    shape = [math.ceil(float(side) / voxel_size) + 1 for side in last - first]
    if math.prod(shape) > _MOST_NODES:
        raise InputError(
            f"a grid of {shape[0]} x {shape[1]} x {shape[2]} nodes is too large; take larger "
            "voxels, give box=, or leave out distant points with largest_depth="
        )
    x, y, z = map(float, first)
    return (x, y, z), (shape[0], shape[1], shape[2])


def _pixels(K: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
    # (u, v) = K (X, Y, Z) / Z; points behind the camera are sorted out by the caller.
    image = local @ K.to(local).T
    z = torch.where(image[:, 2] > 0, image[:, 2], 1.0)
    return image[:, 0] / z, image[:, 1] / z


def _find_blocks(
    cameras: Cameras, k: int, depth: Tensor, corners: Tensor, voxel_size: float, truncation: float
) -> Tensor:
    """Find the blocks that may lie in the picture and are not beyond all of its depths."""
    # The ball around the nodes of a block.
    half = 0.5 * (_BLOCK - 1) * voxel_size
    radius = half * math.sqrt(3)
    local = transform(cameras.world_to_camera[k], corners + half)
    z = local[:, 2]
    within = (z > -radius) & (z < float(depth.max()) + truncation + radius)
    # The ball is compared with the four planes through the camera and the sides of the picture. The
    # corners turn clockwise in the picture, so the normals ray_k x ray_(k+1) point inwards.
    height, width = depth.shape
    sides = torch.tensor([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    rays = torch.linalg.solve(
        cameras.intrinsics[k].cpu().float(), torch.cat([sides, torch.ones(4, 1)], 1).T
    ).T
    normals = torch.linalg.cross(rays, rays.roll(-1, 0))
    normals = normals / normals.norm(dim=1, keepdim=True)
    return (within & (local @ normals.T > -radius).all(1)).nonzero()[:, 0]


def _join_blocks(values: Tensor, blocks: list[int], shape: tuple[int, int, int]) -> Tensor:
    """Join blocks to a grid, ``(blocks, nodes, ...) -> (X, Y, Z, ...)``."""
    # (bx, by, bz, x, y, z) to (bx, x, by, y, bz, z), then the margin of the last blocks is cut off.
    trailing = values.shape[2:]
    grid = values.view(*blocks, *[_BLOCK] * 3, *trailing).permute(
        0, 3, 1, 4, 2, 5, *range(6, 6 + len(trailing))
    )
    return grid.reshape(*(n * _BLOCK for n in blocks), *trailing)[
        : shape[0], : shape[1], : shape[2]
    ].contiguous()
