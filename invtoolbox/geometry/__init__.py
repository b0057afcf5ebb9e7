"""Cameras, rigid motions, meshes, voxels, Gaussians, lidar sweeps and neighbour graphs."""

from __future__ import annotations

from invtoolbox.core.lazy import lazy_attributes

_NAMES = {
    "Cameras": "cameras",
    "Lens": "lens",
    "Mesh": "meshes",
    "Moving": "moving_shapes",
    "NeighbourGraph": "neighbour_graph",
    "Similarity": "cameras",
    "Splats": "gaussians",
    "carve_surface": "carving",
    "fuse_depth": "isosurface",
    "isosurface": "isosurface",
    "look_at": "cameras",
    "points_of": "meshes",
    "rasterization": "splatting",
    "ray_rasterization": "ray_splatting",
    "voxel_surface": "isosurface",
}
__all__ = list(_NAMES)
__getattr__ = lazy_attributes(__name__, _NAMES)
