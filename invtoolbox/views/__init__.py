"""Scenes from photographs with known cameras: which views, what the scene is made of, stages coarse to fine, scene files of views."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "GaussianModel": "invtoolbox.views.gaussian_model",
    "Photographs": "invtoolbox.views.photographs",
    "SceneModel": "invtoolbox.views.models",
    "Stage": "invtoolbox.views.stages",
    "StageReport": "invtoolbox.views.stages",
    "StagedSolution": "invtoolbox.views.stages",
    "VoxelModel": "invtoolbox.views.voxel_model",
    "scene_of_folder": "invtoolbox.views.folder",
    "silhouette_prior": "invtoolbox.views.silhouettes",
    "solve_in_stages": "invtoolbox.views.stages",
    "split_views": "invtoolbox.views.photographs",
    "visible_box": "invtoolbox.views.models",
}
__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'invtoolbox.views' has no attribute {name!r}")
