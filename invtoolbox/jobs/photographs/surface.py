"""Mesh of a scene that was found from photographs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.sparse_graph import connected_components
from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, fuse_depth, voxel_surface
from invtoolbox.geometry.meshes import Mesh, mesh_edges
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.jobs.photographs.models import SceneModel
from invtoolbox.jobs.photographs.texture import cast_rays, ray_scene
from invtoolbox.jobs.photographs.watch import spread

#: Number of views whose depths are fused, and opacity below which a pixel has no depth.
VIEWS, LEAST_ALPHA = 120, 0.5
#: Number of views whose silhouettes are compared, and of their comparisons.
SILHOUETTES, ROUNDS = 32, 3
#: Largest distance of pixels from silhouettes, pixels, and number of averages over neighbours.
REACH, DIFFUSION = 3.0, 60
#: Number of views that are used also if the time is over.
LEAST_VIEWS = 8
#: Parts of the mesh with fewer faces than this share of the largest part are dust.
LEAST_PART = 0.02


def mesh_scene(
    model: SceneModel,
    x: Any,
    cameras: Cameras,
    resolution: int = 256,
    *,
    box: tuple[float, ...] | None = None,
    seconds: float = math.inf,
    progress: bool = False,
) -> Mesh:
    """Compute the surface of a scene with colors, in the frame and the unit of the cameras.

    Voxels are cut at half of their opacity (`geometry.voxel_surface`). For Gaussians, the median
    depths that the cameras of the photographs see, or of flat ones the depths of their planes, are
    fused by Open3D within the box of the model (`geometry.fuse_depth`). Small parts apart from the rest are
    removed.

    Args:
        model: representation of the scene.
        x: the scene; of a batch, the first one.
        cameras: cameras of the photographs.
        resolution: number of nodes along the longest side of the box.
        box: part of the surface to keep, its lower corner and its upper corner in the frame of the
            cameras; by default all.
        seconds: time after which no further depth is rendered.
        progress: show a bar on a terminal.

    Raises:
        InputError: if there is no surface, or none in the box.
        MissingDependency: if the depths of Gaussians are fused, and Open3D is not installed.
    """
    if isinstance(x, Voxels):
        return _crop(voxel_surface(x), box)
    pinholes = cameras.pinholes()
    colors, depths, chosen = [], [], []
    depth = "plane_depth" if getattr(model, "flat", False) else "median_depth"
    for k in spread_out(len(pinholes), VIEWS, seconds, progress, "depths"):
        A = model.operator(pinholes[k], ("color", "alpha", depth))
        with torch.no_grad():
            views = model.pictures(A, A.to(device=x.means.device)(x)).cpu()
        colors.append(views[:, :3].clamp(0, 1))
        depths.append(torch.where(views[:, 3:4] > LEAST_ALPHA, views[:, 4:5], 0.0))
        chosen.append(k)
    size = max(b - a for a, b in zip(model.low, model.high)) / resolution
    fused = fuse_depth(
        pinholes[chosen].to(device="cpu"),
        torch.cat(depths),
        size,
        colors=torch.cat(colors),
        box=(model.low, model.high),
    )
    mesh = _remove_dust(fused.mesh(least_weight=min(3.0, len(chosen) / 2)))
    return _crop(fit_silhouettes(mesh, pinholes[chosen].to(device="cpu"), torch.cat(depths)), box)


def fit_silhouettes(mesh: Mesh, cameras: Cameras, depths: Tensor) -> Mesh:
    """Return a mesh moved along its normals, so that it has the silhouettes of the scene.

    The pictures are fitted by Gaussians whose blurred sides reach the silhouettes, so that the
    surface in their middle lies inside of the object by a part of a pixel. Next to the silhouettes,
    the offset of a part of the mesh is ``(pixels of the scene alone - pixels of the mesh alone) /
    (pixels that the mesh gains per unit of the offset)``; both numbers diffuse over the mesh. It
    stays as it is if a fifth of the pixels that belong to one of the two alone does not vanish by
    that, such as for a scene that fills its pictures.

    Args:
        mesh: the mesh.
        cameras: cameras of some views.
        depths: depths of the scene in these views, 0 around it, ``(C, 1, height, width)``.
    """
    rows = spread(len(cameras), SILHOUETTES)
    inside, rays = depths[rows, 0] > 0, cameras[rows].rays()
    step = float(depths[depths > 0].median() / cameras.intrinsics[:, 0, 0].median()) / 2
    faces, count, least, current = mesh.faces, len(mesh.vertices), math.inf, mesh
    edges = mesh_edges(faces, count)
    degree = edges[0].bincount(minlength=count).clamp(min=1)[:, None]
    for _ in range(ROUNDS):
        normals = vertex_normals(current)
        hits = cast_rays(ray_scene(current.vertices, faces), *rays)
        grown = cast_rays(ray_scene(current.vertices + step * normals, faces), *rays)
        covered, wider = (hit["t_hit"].isfinite() for hit in (hits, grown))
        if int((covered ^ inside).sum()) > 0.8 * least:
            break
        mesh, least = current, int((covered ^ inside).sum())
        change = torch.stack([inside.float(), wider.float()], -1) - covered[..., None].float()
        sums = torch.zeros(count, 2)
        for k in range(len(rows)):
            # A pixel next to both silhouettes counts for the nearest face.
            off, (y, x) = distance_transform_edt(~covered[k].numpy(), return_indices=True)
            near = torch.from_numpy(
                np.maximum(off, distance_transform_edt(~inside[k].numpy())) <= REACH
            )
            for corner in faces[hits["primitive_ids"][k][y, x][near]].T:
                sums.index_add_(0, corner, change[k][near])
        sums = sums + 1e-3 * sums.mean(0)
        for _ in range(DIFFUSION):
            around = torch.zeros_like(sums).index_add_(0, edges[0], sums[edges[1]])
            sums = (sums + around / degree) / 2
        offset = step * (sums[:, :1] / sums[:, 1:].clamp(min=1e-9)).clamp(-2, 2)
        current = mesh.with_vertices(mesh.vertices + offset * normals)
    return mesh


def spread_out(total: int, count: int, seconds: float, progress: bool, words: str) -> Iterator[int]:
    """Yield at most ``count`` of the numbers below a total; the first ones are spread evenly, too.

    Args:
        total: number of numbers.
        count: largest number of results.
        seconds: time after which nothing more is yielded, after the first `LEAST_VIEWS`.
        progress: show a bar on a terminal.
        words: name that the bar shows.

    >>> list(spread_out(8, 4, 1.0, False, "views"))
    [0, 5, 2, 7]
    """
    from tqdm.auto import tqdm

    end = time.monotonic() + seconds
    # Multiples of the golden section modulo 1 are spread evenly, however many they are.
    stride = next(
        s for s in range(max(1, round(0.618 * total)), 2 * total) if math.gcd(s, total) == 1
    )
    numbers = range(min(total, count))
    for k in tqdm(
        numbers, desc=words, unit="view", leave=False, disable=None if progress else True
    ):
        if k >= LEAST_VIEWS and time.monotonic() > end:
            return
        yield k * stride % total


def vertex_normals(mesh: Mesh) -> Tensor:
    """Return unit normals of the vertices, means of the normals of their faces weighted by area."""
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    across, sums = torch.linalg.cross(b - a, c - a), torch.zeros_like(mesh.vertices)
    for corner in mesh.faces.T:
        sums.index_add_(0, corner, across)
    return functional.normalize(sums, dim=1)


def _crop(mesh: Mesh, box: tuple[float, ...] | None) -> Mesh:
    """Return the faces of a mesh whose corners lie in a box."""
    if box is None:
        return mesh
    low, high = mesh.vertices.new_tensor(box).view(2, 3)
    inside = ((mesh.vertices >= low) & (mesh.vertices <= high)).all(1)
    return _select(mesh, inside, f"no face of the mesh lies in the box {box}")


def _remove_dust(mesh: Mesh) -> Mesh:
    """Return the mesh without its small parts."""
    if not len(mesh.faces):
        raise InputError("the scene has no surface that several of the views see")
    sides = torch.cat([mesh.faces[:, :2], mesh.faces[:, 1:]])
    component = connected_components(sides.T, len(mesh.vertices))
    sizes = component[mesh.faces[:, 0]].bincount(minlength=int(component.max()) + 1)
    return _select(mesh, sizes[component] >= LEAST_PART * sizes.max(), "")


def _select(mesh: Mesh, remains: Tensor, empty: str) -> Mesh:
    """Return the faces all of whose vertices remain; vertices are numbered anew."""
    faces = mesh.faces[remains[mesh.faces].all(1)]
    if not len(faces):
        low, high = (
            tuple(round(v, 3) for v in end.tolist()) for end in mesh.vertices.aminmax(dim=0)
        )
        raise InputError(f"{empty}; all of it lies between {low} and {high}")
    colors = None if mesh.colors is None else mesh.colors[remains]
    return Mesh(mesh.vertices[remains], (remains.cumsum(0) - 1)[faces], colors)
