"""Scenes: whole runnable problems, as TOML files of the catalogue or as the user's own; lidar sweeps and their motion; a street to simulate
them."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    # `run` stands on the solvers; who wants only a sweep (readers, metrics) must not import those.
    "run": "invtoolbox.running",
    "Cameras": "invtoolbox.scenes.cameras",
    "Lens": "invtoolbox.scenes.lens",
    "Mesh": "invtoolbox.scenes.mesh",
    "Moving": "invtoolbox.scenes.moving",
    "NeighbourGraph": "invtoolbox.scenes.neighbour_graph",
    "Similarity": "invtoolbox.scenes.similarity",
    "SimulatedSequence": "invtoolbox.scenes.lidar",
    "SpinningLidar": "invtoolbox.scenes.lidar",
    "Splats": "invtoolbox.scenes.splats",
    "Street": "invtoolbox.scenes.street",
    "carved_surface": "invtoolbox.scenes.carving",
    "fuse_depth": "invtoolbox.scenes.fusion",
    "isosurface": "invtoolbox.scenes.isosurface",
    "look_at": "invtoolbox.scenes.cameras",
    "points_of": "invtoolbox.scenes.mesh",
    "random_town": "invtoolbox.scenes.town",
    "rasterization": "invtoolbox.scenes.splatting",
    "ray_rasterization": "invtoolbox.scenes.splat_rays",
    "simulated_street": "invtoolbox.scenes.lidar",
    "voxel_surface": "invtoolbox.scenes.isosurface",
}
__all__ = [
    "Cameras",
    "Lens",
    "Mesh",
    "Moving",
    "NeighbourGraph",
    "Similarity",
    "SimulatedSequence",
    "SpinningLidar",
    "Splats",
    "Street",
    "carved_surface",
    "fuse_depth",
    "isosurface",
    "look_at",
    "points_of",
    "random_town",
    "rasterization",
    "ray_rasterization",
    "run",
    "simulated_street",
    "voxel_surface",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'invtoolbox.scenes' has no attribute {name!r}")
