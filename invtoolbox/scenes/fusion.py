"""Depths of many views as one surface: truncated signed distances on a grid, and the mesh where they change sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.scenes.cameras import Cameras
from invtoolbox.scenes.isosurface import isosurface
from invtoolbox.scenes.mesh import Mesh
from invtoolbox.scenes.rigid import transform

#: Nodes a side of a block; a block that no ray of a view can reach is left alone by it.
_BLOCK = 8
#: More nodes than this are refused: five numbers each are 10 GB.
_MOST_NODES = 2**29


@dataclass(frozen=True, eq=False)
class FusedDepth:
    """A grid of truncated signed distances, positive in front of the surface.

    Node ``(i, j, k)`` lies at ``low + voxel_size (i, j, k)`` in the world of the cameras.

    Attributes:
        distance: mean over the views of the distance along their z in units of the truncation, from -1 to 1, ``(X, Y, Z)``; 1 where
            nothing was seen.
        weight: in how many views a node lies in front of the surface, or behind it by the truncation at most, ``(X, Y, Z)``.
        colors: mean over the views that see the surface there, ``(X, Y, Z, 3)``, or None.
        low: of the first node.
        voxel_size: from node to node, in the unit of the poses.
    """

    distance: Tensor
    weight: Tensor
    colors: Tensor | None
    low: tuple[float, float, float]
    voxel_size: float

    def mesh(self, least_weight: float = 1.0) -> Mesh:
        """The surface between nodes that so many views have seen, in the frame and the unit of the cameras, with colours where there are.

        Raises:
            InputError: where there is none.
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
    r"""Fuse depths into a truncated signed distance.

    A node x that a view sees at the depth z, in a pixel of depth d, gets ``min(1, (d - z) / truncation)`` from it, if that is above -1;
    the grid holds the mean. Every view counts the same. Depths may be measured, or those of a renderer: ``fuse_depth(...).mesh()`` is then
    the mesh of a scene of Gaussians or voxels.

    Source: Curless and Levoy, "A volumetric method for building complex models from range images", SIGGRAPH 1996.

    Args:
        cameras: C of them.
        depth: along the camera's z, in the unit of the poses, ``(C, 1, height, width)`` or ``(C, height, width)``; 0 or NaN where it is
            not known.
        voxel_size: from node to node, in this unit.
        colors: the pictures, ``(C, 3, height, width)``, for coloured meshes.
        mask: 1 where a pixel counts, like `depth`.
        truncation: four voxels by default; below the thickness of what is to have two sides, above the noise of the depths.
        largest_depth: what is farther is taken for unknown.
        box: corners ``(low, high)`` of the grid; by default it holds all points of the depths.

    Raises:
        InputError: shapes that do not fit, no depth that is known, a grid of too many nodes.

    >>> from invtoolbox.scenes.cameras import look_at
    >>> views = look_at(torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, 3.0]]), size=(16, 16))
    >>> wall = fuse_depth(views, torch.full((2, 1, 16, 16), 2.5), 0.1).mesh()  # a slab half a unit to either side of 0
    >>> [round(float(z), 3) for z in wall.vertices[:, 2].aminmax()]
    [-0.5, 0.5]
    """
    depth = _checked(cameras, depth, colors, mask, voxel_size, largest_depth)
    truncation = 4 * voxel_size if truncation is None else truncation
    if not truncation > 0:
        raise InputError(f"the truncation is a length above 0, got {truncation}")
    low, shape = _grid(cameras, depth, voxel_size, truncation, box)
    blocks = [math.ceil(n / _BLOCK) for n in shape]
    nodes = _BLOCK**3
    count = math.prod(blocks)
    total, weight = (torch.zeros(count, nodes) for _ in range(2))
    tint, tint_weight = (
        (torch.zeros(count, nodes, 3), torch.zeros(count, nodes))
        if colors is not None
        else (None, None)
    )
    inner = torch.cartesian_prod(*[torch.arange(_BLOCK)] * 3).float() * voxel_size
    corners = torch.cartesian_prod(*(torch.arange(n) for n in blocks)).float() * (
        _BLOCK * voxel_size
    ) + torch.tensor(low)
    for k in range(len(cameras)):
        reached = _reached(cameras, k, depth[k], corners, voxel_size, truncation)
        for part in reached.split(2048):
            seen = transform(
                cameras.world_to_camera[k], (corners[part][:, None] + inner).flatten(0, 1)
            )
            z = seen[:, 2]
            u, v = _pixels(cameras.intrinsics[k], seen)
            height, width = depth.shape[1:]
            inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
            row = torch.where(inside, v, 0).long() * width + torch.where(inside, u, 0).long()
            d = depth[k].flatten()[row]
            share = (d - z) / truncation
            counts = (inside & (d > 0) & (share > -1)).view(-1, nodes)
            share = share.clamp(max=1).view(-1, nodes)
            total[part] += torch.where(counts, share, 0)
            weight[part] += counts
            if colors is not None and tint is not None and tint_weight is not None:
                near = counts & (share < 1)
                tint[part] += torch.where(
                    near[..., None], colors[k].flatten(1).T[row].view(-1, nodes, 3), 0
                )
                tint_weight[part] += near
    distance = torch.where(weight > 0, total / weight.clamp(min=1), 1.0)
    mean = (
        None if tint is None or tint_weight is None else tint / tint_weight.clamp(min=1)[..., None]
    )
    return FusedDepth(
        _unblocked(distance, blocks, shape),
        _unblocked(weight, blocks, shape),
        None if mean is None else _unblocked(mean, blocks, shape),
        low,
        float(voxel_size),
    )


def _checked(
    cameras: Cameras,
    depth: Tensor,
    colors: Tensor | None,
    mask: Tensor | None,
    voxel_size: float,
    largest: float,
) -> Tensor:
    """Depths ``(C, height, width)``, 0 where nothing is known."""
    size = (len(cameras), *cameras.size)
    flat = [
        None if t is None else (t[:, 0] if t.ndim == 4 and t.shape[1] == 1 else t)
        for t in (depth, mask)
    ]
    fits = all(t is None or tuple(t.shape) == size for t in flat)
    if not fits or (colors is not None and tuple(colors.shape) != (size[0], 3, *size[1:])):
        got = ", ".join("none" if t is None else str(tuple(t.shape)) for t in (depth, mask, colors))
        raise InputError(
            f"fuse_depth takes depths (and a mask) ({size[0]}, 1, {size[1]}, {size[2]}) and colors with 3 channels for these "
            f"cameras, got {got}"
        )
    if not voxel_size > 0:
        raise InputError(f"the size of a voxel is a length above 0, got {voxel_size}")
    plain = flat[0].detach().float().cpu().nan_to_num(0.0, posinf=0.0, neginf=0.0)  # type: ignore[union-attr]
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
    """Where the first node lies, and how many there are along each axis."""
    if box is None:
        ends = []
        for k in range(len(cameras)):
            origins, directions = cameras[k].rays()
            known = depth[k] > 0
            if bool(known.any()):
                points = (origins[0] + depth[k][..., None] * directions[0])[known]
                ends += [points.amin(0), points.amax(0)]
        first = torch.stack(ends).amin(0) - truncation
        last = torch.stack(ends).amax(0) + truncation
    else:
        first, last = (torch.tensor(list(corner), dtype=torch.float32) for corner in box)
    if first.shape != (3,) or last.shape != (3,) or not bool((last > first).all()):
        raise InputError(f"the box is two corners of three numbers, low below high, got {box}")
    shape = [math.ceil(float(side) / voxel_size) + 1 for side in last - first]
    if math.prod(shape) > _MOST_NODES:
        raise InputError(
            f"a grid of {shape[0]} x {shape[1]} x {shape[2]} nodes is too large; take larger voxels, say box=, or leave "
            "out what is far with largest_depth="
        )
    x, y, z = map(float, first)
    return (x, y, z), (shape[0], shape[1], shape[2])


def _pixels(K: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    image = seen @ K.to(seen).T
    z = torch.where(image[:, 2] > 0, image[:, 2], 1.0)
    return image[:, 0] / z, image[:, 1] / z


def _reached(
    cameras: Cameras, k: int, depth: Tensor, corners: Tensor, voxel_size: float, truncation: float
) -> Tensor:
    """The blocks that may lie in the picture and are not beyond all of its depths."""
    half = 0.5 * (_BLOCK - 1) * voxel_size
    radius = half * math.sqrt(3)
    seen = transform(cameras.world_to_camera[k], corners + half)
    z = seen[:, 2]
    near = (z > -radius) & (z < float(depth.max()) + truncation + radius)
    # The ball around a block against the four planes through the sides of the picture.
    height, width = depth.shape
    sides = torch.tensor([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    rays = torch.linalg.solve(
        cameras.intrinsics[k].cpu().float(), torch.cat([sides, torch.ones(4, 1)], 1).T
    ).T
    normals = torch.linalg.cross(rays, rays.roll(-1, 0))
    normals = normals / normals.norm(dim=1, keepdim=True)
    return (near & (seen @ normals.T > -radius).all(1)).nonzero()[:, 0]


def _unblocked(values: Tensor, blocks: list[int], shape: tuple[int, int, int]) -> Tensor:
    """``(blocks, nodes, ...) -> (X, Y, Z, ...)``."""
    trailing = values.shape[2:]
    whole = values.view(*blocks, *[_BLOCK] * 3, *trailing).permute(
        0, 3, 1, 4, 2, 5, *range(6, 6 + len(trailing))
    )
    return whole.reshape(*(n * _BLOCK for n in blocks), *trailing)[
        : shape[0], : shape[1], : shape[2]
    ].contiguous()
