"""Scenes: whole runnable problems, as TOML files of the catalogue or as the user's own; and lidar sweeps and their motion."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    # `run` stands on the solvers; who wants only a sweep (readers, metrics) must not import those.
    if name == "run":
        return importlib.import_module("invtoolbox.study.scenes").run
    raise AttributeError(f"module 'invtoolbox.scenes' has no attribute {name!r}")
