"""Motion in lidar sweeps: scene flow of pairs and of sequences."""

from __future__ import annotations

from invtoolbox.core.lazy import lazy_attributes

_NAMES = {
    "FlowEstimate": "estimation",
    "METHODS": "methods",
    "Preparation": "preparation",
    "estimate": "estimation",
    "scene_flow": "estimation",
}
__all__ = list(_NAMES)
__getattr__ = lazy_attributes(__name__, _NAMES)
