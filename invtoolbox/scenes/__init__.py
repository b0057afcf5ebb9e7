"""Scenes: whole runnable problems, as TOML files of the catalogue or as the user's own; lidar sweeps and their motion; a street to simulate
them."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    # `run` stands on the solvers; who wants only a sweep (readers, metrics) must not import those.
    "run": "invtoolbox.running",
    "Cameras": "invtoolbox.scenes.cameras",
    "Mesh": "invtoolbox.scenes.mesh",
    "Moving": "invtoolbox.scenes.moving",
    "NeighbourGraph": "invtoolbox.scenes.neighbour_graph",
    "Similarity": "invtoolbox.scenes.similarity",
    "SimulatedSequence": "invtoolbox.scenes.lidar",
    "SpinningLidar": "invtoolbox.scenes.lidar",
    "Splats": "invtoolbox.scenes.splats",
    "Street": "invtoolbox.scenes.street",
    "carved_surface": "invtoolbox.scenes.carving",
    "look_at": "invtoolbox.scenes.cameras",
    "random_town": "invtoolbox.scenes.town",
    "rasterization": "invtoolbox.scenes.splatting",
    "ray_rasterization": "invtoolbox.scenes.splat_rays",
    "simulated_street": "invtoolbox.scenes.lidar",
}
__all__ = ["Cameras", "Mesh", "Moving", "NeighbourGraph", "Similarity", "SimulatedSequence", "SpinningLidar", "Splats", "Street",
           "carved_surface", "look_at", "random_town", "rasterization", "ray_rasterization", "run", "simulated_street"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'invtoolbox.scenes' has no attribute {name!r}")
