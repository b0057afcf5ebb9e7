"""Scenes: whole runnable problems, as TOML files of the catalogue or as the user's own; lidar sweeps and their motion; a street to simulate
them."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    # `run` stands on the solvers; who wants only a sweep (readers, metrics) must not import those.
    "run": "invtoolbox.running",
    "Cameras": "invtoolbox.scenes.cameras",
    "SimulatedSequence": "invtoolbox.scenes.lidar",
    "SpinningLidar": "invtoolbox.scenes.lidar",
    "Splats": "invtoolbox.scenes.splats",
    "Street": "invtoolbox.scenes.street",
    "look_at": "invtoolbox.scenes.cameras",
    "random_town": "invtoolbox.scenes.town",
    "rasterization": "invtoolbox.scenes.splatting",
    "simulated_street": "invtoolbox.scenes.lidar",
}
__all__ = ["Cameras", "SimulatedSequence", "SpinningLidar", "Splats", "Street", "look_at", "random_town", "rasterization", "run",
           "simulated_street"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'invtoolbox.scenes' has no attribute {name!r}")
