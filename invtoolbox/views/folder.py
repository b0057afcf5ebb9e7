"""A folder of photographs as a scene, without a scene file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from invtoolbox.errors import unknown_name

#: What a scene of a folder says beside its photographs, by the name of the prior that represents it.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gaussians": {
        "prior": [{"name": "gaussians", "count": 10_000, "most": 50_000, "length": 12_000}],
        "data_term": {"name": "photometric", "similarity": 0.0},
        "solver": {"name": "adam", "subset_size": 1, "epsilon": 1e-15, "time_limit": 600.0},
        "stage": [{"iterations": 12_000}],
    },
    "voxel-grid": {
        "prior": [
            {"name": "voxel-grid", "resolution": 128},
            {"name": "voxel-variation", "of": "density", "weight": 1e-5},
            {"name": "voxel-variation", "of": "colour", "weight": 1e-5},
        ],
        "operator": {"least_alpha": 1e-4, "stop": 1e-3},
        "solver": {
            "name": "adam",
            "learning_rate": 0.1,
            "beta_square": 0.99,
            "subset_size": 8192,
            "time_limit": 600.0,
        },
        "stage": [
            {"iterations": 500, "prior": {"resolution": 48}},
            {"iterations": 600, "prior": {"resolution": 96}},
            {"solver": {"decay": 0.01}},
        ],
    },
}
#: Pictures of a folder are made smaller until no side has more pixels than a CPU renders in a while.
LARGEST_SIDE = 400


def scene_of_folder(folder: Path, model: str = "gaussians") -> dict[str, Any]:
    """The content of a scene file of a folder: every tenth view held out, ten minutes.

    >>> scene_of_folder(Path("desk"), "voxel-grid")["views"]["hold_out"]
    10
    """
    if model not in DEFAULTS:
        raise unknown_name("representation of a scene", model, DEFAULTS)
    views = {
        "path": str(folder.expanduser().absolute()),
        "hold_out": 10,
        "largest_side": LARGEST_SIDE,
        "background": 1.0,
    }
    return {"title": folder.resolve().name, "views": views, **copy.deepcopy(DEFAULTS[model])}
