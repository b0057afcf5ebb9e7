"""Attributes of a package that are imported when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose names are imported on first use.

    Args:
        package: name of the package, ``__name__`` in its ``__init__``.
        modules: for each name the module that defines it, relative to the package.

    >>> lazy_attributes("invtoolbox.geometry", {"Mesh": "meshes"})("Mesh").__name__
    'Mesh'
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return get
