"""invtoolbox: inverse problems and 3D reconstruction in PyTorch.

Every job here is one job: find ``x`` such that ``A(x)`` explains the measurements ``y``, when ``y`` alone does not
determine ``x``. `docs/architecture.md` shows the house on one page.
"""

from __future__ import annotations

import importlib
from typing import Any

# Bound at once, because `invtoolbox.solve` is also the name of the module.
from invtoolbox.solve import solve

__version__ = "0.1.0"

_MODULES = (
    "data_terms",
    "datasets",
    "geometry",
    "kernels",
    "metrics",
    "motion",
    "networks",
    "operators",
    "parameter_choice",
    "plotting",
    "posteriors",
    "priors",
    "processing",
    "runs",
    "simulation",
    "solvers",
    "testing",
    "training",
    "unrolling",
    "views",
)
_NAMES = {
    "Problem": "invtoolbox.problem",
    "Solution": "invtoolbox.solution",
    "Progress": "invtoolbox.loop.run",
    "Checkpoint": "invtoolbox.loop.checkpoint",
    "MeanFieldPosterior": "invtoolbox.posteriors.base",
    "exact_posterior": "invtoolbox.posteriors.exact",
    "calibrate_posteriors": "invtoolbox.posteriors.conformal",
    "reconstruct": "invtoolbox.reconstruction",
    "unroll": "invtoolbox.unrolling.unrolled",
    "equilibrium": "invtoolbox.unrolling.equilibrium",
    "map_slices": "invtoolbox.runs.study.slices",
    "as_operator": "invtoolbox.operators.adapters",
    "to_deepinv": "invtoolbox.operators.adapters",
    "deform": "invtoolbox.runs.deformation",
    "scene_flow": "invtoolbox.motion.estimation",
    "flow_sequence": "invtoolbox.runs.flow.sequence",
    "run": "invtoolbox.runs.run",
    "InputError": "invtoolbox.errors",
}
__all__ = ["__version__", "solve", *_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    # Parts are imported when they are first used, so that `import invtoolbox` costs next to nothing.
    if name in _MODULES:
        return importlib.import_module(f"invtoolbox.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'invtoolbox' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
