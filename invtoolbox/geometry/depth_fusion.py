"""Open3D: fusion of the depths of many views into a mesh, and conversion to its objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.environment import open3d
from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.gaussians import HARMONIC_0, Splats
from invtoolbox.geometry.meshes import Body, Mesh, points_of
from invtoolbox.geometry.sweeps import Sweep

#: Number of nodes along a side of a block.
_BLOCK = 16
#: Grids of more nodes than this are refused: five numbers per node are 10 GB.
_MOST_NODES = 2**29
_NO_SURFACE = "no surface lies between nodes that enough views have seen; lower least_weight"


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
    r"""Fuse depths of several views into a truncated signed distance, by Open3D.

    A view that sees a node at the depth z, in a pixel of depth d, contributes
    ``min(1, (d - z) / truncation)`` if this is above -1; the grid holds the mean. Every view counts
    the same. Depths may be measured, or rendered: ``fuse_depth(...).mesh()`` is then the mesh of a
    scene of Gaussians or voxels. Only blocks of nodes near the depths are stored, so the memory
    grows with the surface. Needs the extra ``[3d]``.

    Source: Curless and Levoy, "A volumetric method for building complex models from range images",
    SIGGRAPH 1996; Dong, Lao, Kaess and Koltun, "ASH: a modern framework for parallel spatial
    hashing in 3D perception", IEEE TPAMI 45, 2023, which is Open3D's `VoxelBlockGrid`.

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
        box: corners ``(low, high)`` of the meshed part; by default all of the surface.

    Raises:
        InputError: if shapes do not fit, if no depth is known, or if the grid would have too many
            nodes.
        MissingDependency: if Open3D is not installed.

    >>> from invtoolbox.geometry.cameras import look_at
    >>> views = look_at(torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, 3.0]]), size=(16, 16))
    >>> depth = torch.full((2, 1, 16, 16), 2.5)  # a slab half a unit to either side of 0
    >>> wall = fuse_depth(views, depth, 0.1).mesh()  # doctest: +SKIP
    >>> [round(float(z), 3) for z in wall.vertices[:, 2].aminmax()]  # doctest: +SKIP
    [-0.5, 0.5]
    """
    cameras.require_pinholes("fuse_depth")
    truncation = 4 * voxel_size if truncation is None else truncation
    check_range("fuse_depth", "(0, inf)", voxel_size=voxel_size, truncation=truncation)
    depth = _check_depth(cameras, depth, colors, mask, largest_depth)
    low, high = torch.tensor([[-math.inf] * 3, [math.inf] * 3] if box is None else box)
    if low.shape != (3,) or not bool((low < high).all()):
        raise InputError(f"the box must be two corners of three numbers, low below high, got {box}")
    grid = _empty_grid(voxel_size, colors is not None)
    side, farthest, width = _BLOCK * voxel_size, float(depth.max()) + 1, truncation / voxel_size
    reach = {"depth_scale": 1.0, "depth_max": farthest, "trunc_voxel_multiplier": width}
    # Open3D searches for blocks from every fourth pixel, so pixels of a quarter block are split.
    focal = cameras.intrinsics[:, [0, 1], [0, 1]].min()
    splits = math.ceil(4 * depth[depth > 0].median() / (focal * side))
    for k in depth.flatten(1).any(1).nonzero()[:, 0].tolist():
        K, pose = cameras.intrinsics[k].double(), _tensor(cameras.world_to_camera[k].double())
        fine = _image(depth[k].repeat_interleave(splits, 0).repeat_interleave(splits, 1)[..., None])
        fine_K = _tensor(K * K.new_tensor([[splits], [splits], [1]]))
        near = grid.compute_unique_block_coordinates(fine, fine_K, pose, **reach)
        blocks = torch.from_numpy(near.numpy())
        blocks = blocks[((blocks + 1) * side > low).all(1) & (blocks * side < high).all(1)]
        if _BLOCK**3 * (len(blocks) + grid.hashmap().size()) > _MOST_NODES:
            raise InputError(
                f"a grid with nodes every {voxel_size:g} is too large; take larger voxels, give "
                "box=, or leave out distant points with largest_depth="
            )
        images = [_image(depth[k][..., None])]
        if colors is not None:
            images.append(_image(colors[k].float().movedim(0, 2)))
        if len(blocks):
            # Projected places are cut to whole numbers, as centres of pixels at 0.5 need it.
            grid.integrate(_tensor(blocks), *images, _tensor(K), pose, **reach)
    return FusedDepth(grid, low, high)


def _empty_grid(voxel_size: float, has_colors: bool) -> Any:
    o3d, count = open3d(), 3 if has_colors else 2
    names, channels = ("tsdf", "weight", "color")[:count], (1, 1, 3)[:count]
    kinds = (o3d.core.float32,) * count
    # It has room for one block, and grows.
    return o3d.t.geometry.VoxelBlockGrid(names, kinds, channels, voxel_size, _BLOCK, 1)


def _tensor(values: Tensor) -> Any:
    return open3d().core.Tensor(values.detach().cpu().contiguous().numpy())


def _image(values: Tensor) -> Any:
    return open3d().t.geometry.Image(_tensor(values))


@dataclass(frozen=True, eq=False)
class FusedDepth:
    """Truncated signed distances, positive in front of the surface, in blocks of nodes near it.

    Attributes:
        grid: Open3D's ``VoxelBlockGrid`` in the world of the cameras. Its attribute ``tsdf`` is the
            mean over the views of the distance along their z in units of the truncation, from -1 to
            1; ``weight`` is the number of these views; ``color`` is the mean color, from 0 to 255.
        low: lower corner of the box that is meshed, ``(3,)``.
        high: upper corner.
    """

    grid: Any
    low: Tensor
    high: Tensor

    def mesh(self, least_weight: float = 1.0) -> Mesh:
        """Extract the surface between nodes that at least ``least_weight`` views have seen.

        The mesh is in the frame and the unit of the cameras, with colors if the grid has colors.

        Raises:
            InputError: if there is no surface.
        """
        try:
            # Open3D takes nodes whose weight, a whole number, is above its threshold.
            mesh = self.grid.extract_triangle_mesh(math.ceil(least_weight) - 0.5)
        except RuntimeError as error:  # of a mesh without vertices
            raise InputError(_NO_SURFACE) from error
        vertices, faces = mesh.vertex.positions.numpy(), mesh.triangle.indices.numpy()
        inside = ((vertices >= self.low.numpy()) & (vertices <= self.high.numpy())).all(1)
        faces = faces[inside[faces].all(1)]
        if not len(faces):
            raise InputError(_NO_SURFACE)
        if "colors" in mesh.vertex:
            vertices = np.concatenate([vertices, mesh.vertex.colors.numpy().clip(0, 1)], 1)
        # Threads number the vertices and the faces in any order, which sorting makes one order.
        used, faces = np.unique(faces, return_inverse=True)
        vertices, numbers = _sort_rows(vertices[used])
        faces = numbers[faces.reshape(-1, 3)]
        faces, _ = _sort_rows(faces[(faces != np.roll(faces, 1, 1)).all(1)])
        table = torch.from_numpy(vertices)
        colors = table[:, 3:].contiguous() if "colors" in mesh.vertex else None
        return Mesh(table[:, :3].contiguous(), torch.from_numpy(faces).long(), colors)


def _sort_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different rows in one order, and the number of each row among them."""
    order = np.lexsort(rows.T)
    is_new = np.ones(len(rows), dtype=bool)
    is_new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(1)
    numbers = np.empty(len(rows), dtype=np.int64)
    numbers[order] = is_new.cumsum() - 1
    return rows[order[is_new]], numbers


def _check_depth(
    cameras: Cameras,
    depth: Tensor,
    colors: Tensor | None,
    mask: Tensor | None,
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
    plain = depth.reshape(size).detach().float().cpu().nan_to_num(0.0, posinf=0.0, neginf=0.0)
    counts = (plain > 0) & (plain <= largest)
    if flat[1] is not None:
        counts = counts & (flat[1].cpu() > 0)
    if not bool(counts.any()):
        raise InputError("no pixel has a depth that is known and counts")
    return torch.where(counts, plain, 0)


def to_open3d(obj: Any, colors: Any = None) -> Any:
    """Convert points, a mesh, a sweep, Gaussians or cameras to an object of Open3D.

    ========================================  ======================================================
    ``obj``                                   result
    ========================================  ======================================================
    points ``(N, 3)``, a cloud of trimesh     ``PointCloud``
    `geometry.Mesh`, ``(vertices, faces)``    ``TriangleMesh``
    `Sweep`                                   ``PointCloud`` of its finite points
    `geometry.Splats` of one scene            ``PointCloud`` of the centres, with their colors
    `geometry.Cameras`                        ``PinholeCameraTrajectory``, one entry per camera
    ========================================  ======================================================

    The result belongs to ``open3d.geometry`` or ``open3d.camera``, and holds float64 copies on the
    CPU. Open3D counts pixels from the centre of the first one, so its principal point is smaller by
    0.5 than ours. Open3D needs the extra ``[3d]``.

    Args:
        obj: object to convert.
        colors: colors of the points or vertices, ``(N, 3)`` in [0, 1], or one color ``(3,)``; by
            default the colors of the object.

    Raises:
        InputError: if the object is none of these, or the colors do not fit.
        MissingDependency: if Open3D is not installed.
    """
    if isinstance(obj, Cameras):
        return _trajectory(obj)
    if isinstance(obj, Sweep):
        return _cloud(obj.points[obj.finite], colors)
    if isinstance(obj, Splats):
        if len(obj.means) != 1:
            raise InputError(f"to_open3d takes Splats of one scene, got {len(obj.means)}")
        return _cloud(obj.means[0], _colors(obj) if colors is None else colors)
    body = Body.of(obj)
    if body.faces is None:
        points, stored = points_of(obj)
        return _cloud(points, stored if colors is None else colors)
    mesh = Mesh.of(obj)
    o3d = open3d()
    triangles = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(_rows(mesh.vertices)),
        o3d.utility.Vector3iVector(mesh.faces.cpu().numpy().astype(np.int32)),
    )
    tints = mesh.colors if colors is None else colors
    if tints is not None:
        triangles.vertex_colors = o3d.utility.Vector3dVector(_tints(tints, len(mesh.vertices)))
    return triangles


def _cloud(points: Tensor, colors: Any) -> Any:
    o3d = open3d()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(_rows(points)))
    if colors is not None:
        cloud.colors = o3d.utility.Vector3dVector(_tints(colors, len(points)))
    return cloud


def _trajectory(cameras: Cameras) -> Any:
    o3d = open3d()
    height, width = cameras.size
    trajectory = o3d.camera.PinholeCameraTrajectory()
    entries = []
    for K, pose in zip(_rows(cameras.intrinsics), _rows(cameras.world_to_camera)):
        entry = o3d.camera.PinholeCameraParameters()
        # The centre of the first pixel is (0.5, 0.5) here, and (0, 0) in Open3D.
        K = K - 0.5 * np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
        entry.intrinsic = o3d.camera.PinholeCameraIntrinsic(width, height, K)
        entry.extrinsic = pose
        entries.append(entry)
    trajectory.parameters = entries
    return trajectory


def _colors(splats: Splats) -> Tensor | None:
    """Return the colors that do not depend on the direction, if there are three channels."""
    colors = splats.colors[0]
    if colors.ndim == 3:
        # Y_00 c + 1/2, without the harmonics of higher degree.
        return (HARMONIC_0 * colors[:, 0] + 0.5).clamp(0, 1)
    return colors if colors.shape[-1] == 3 else None


def _rows(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().contiguous().numpy()


def _tints(colors: Any, count: int) -> np.ndarray:
    # One color serves all points.
    tints = _rows(torch.as_tensor(colors))
    if tints.shape not in ((3,), (count, 3)):
        raise InputError(
            f"colors for Open3D are (3,), or (N, 3) for {count} points, got {tints.shape}"
        )
    return np.broadcast_to(tints, (count, 3)).copy()
