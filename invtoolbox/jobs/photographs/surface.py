"""Mesh of a scene that was found from photographs."""

from __future__ import annotations

from typing import Any

import torch

from invtoolbox.core.sparse_graph import connected_components
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.depth_fusion import fuse_depth
from invtoolbox.geometry.isosurface import voxel_surface
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.jobs.photographs.models import SceneModel
from invtoolbox.jobs.photographs.watch import spread

#: Number of views whose depths are fused, and opacity below which a pixel has no depth.
VIEWS, LEAST_ALPHA = 120, 0.5
#: Parts of the mesh with fewer faces than this share of the largest part are dust.
LEAST_PART = 0.02


def mesh_scene(model: SceneModel, x: Any, cameras: Cameras, resolution: int = 256) -> Mesh:
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

    Raises:
        InputError: if there is no surface.
        MissingDependency: if the depths of Gaussians are fused, and Open3D is not installed.
    """
    if isinstance(x, Voxels):
        return voxel_surface(x)
    pinholes = cameras[spread(len(cameras), VIEWS)].pinholes()
    colors, depths = [], []
    with torch.no_grad():
        depth = "plane_depth" if getattr(model, "flat", False) else "median_depth"
        for k in range(len(pinholes)):
            A = model.operator(pinholes[k], ("color", "alpha", depth))
            views = model.pictures(A, A.to(device=x.means.device)(x)).cpu()
            colors.append(views[:, :3].clamp(0, 1))
            depths.append(torch.where(views[:, 3:4] > LEAST_ALPHA, views[:, 4:5], 0.0))
    size = max(b - a for a, b in zip(model.low, model.high)) / resolution
    fused = fuse_depth(
        pinholes.to(device="cpu"),
        torch.cat(depths),
        size,
        colors=torch.cat(colors),
        box=(model.low, model.high),
    )
    return _remove_dust(fused.mesh(least_weight=min(3.0, len(pinholes) / 2)))


def _remove_dust(mesh: Mesh) -> Mesh:
    """Return the mesh without its small parts."""
    if not len(mesh.faces):
        raise InputError("the scene has no surface that several of the views see")
    sides = torch.cat([mesh.faces[:, :2], mesh.faces[:, 1:]])
    component = connected_components(sides.T, len(mesh.vertices))
    sizes = component[mesh.faces[:, 0]].bincount(minlength=int(component.max()) + 1)
    # A vertex and a face remain if the component has enough faces; vertices are numbered anew.
    remains = sizes[component] >= LEAST_PART * sizes.max()
    number = remains.cumsum(0) - 1
    faces = number[mesh.faces[remains[mesh.faces[:, 0]]]]
    colors = None if mesh.colors is None else mesh.colors[remains]
    return Mesh(mesh.vertices[remains], faces, colors)
