"""Scenes from photographs with known cameras: which views, what the scene is made of, stages coarse to fine, scene files of views."""

from __future__ import annotations

from invtoolbox.core.lazy import lazy_attributes

_NAMES = {
    "GaussianModel": "representations",
    "Photographs": "photographs",
    "SceneModel": "models",
    "Stage": "stages",
    "StageReport": "stages",
    "StagedSolution": "stages",
    "VoxelModel": "representations",
    "silhouette_prior": "models",
    "solve_in_stages": "stages",
    "split_views": "photographs",
    "visible_box": "models",
}
__all__ = list(_NAMES)
__getattr__ = lazy_attributes(__name__, _NAMES)
