"""Motion in lidar sweeps: scene flow of pairs and of sequences."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "FlowEstimate": "invtoolbox.motion.estimation",
    "FlowStudy": "invtoolbox.motion.sequence",
    "METHODS": "invtoolbox.motion.methods",
    "Preparation": "invtoolbox.motion.preparation",
    "SequencePath": "invtoolbox.motion.opening",
    "estimate": "invtoolbox.motion.estimation",
    "flow_sequence": "invtoolbox.motion.sequence",
    "scene_flow": "invtoolbox.motion.estimation",
}
__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'invtoolbox.motion' has no attribute {name!r}")
