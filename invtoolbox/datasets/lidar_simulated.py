"""A simulated street that a file describes: what is not read but made."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invtoolbox.catalogue import read_toml
from invtoolbox.errors import InputError
from invtoolbox.scenes.lidar import SimulatedSequence, simulated_street

_WORDS = {bool: "true or false", int: "a whole number", float: "a number"}


def street_of_file(
    path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
) -> SimulatedSequence:
    """The sweeps of a simulated street; the file's table ``[simulated]`` holds the settings of `invtoolbox.scenes.simulated_street`.

    Args:
        changes: settings that replace those of the file.

    Raises:
        InputError: for a file without that table, and for a setting that a street does not have.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
    ...     written = file.write("[simulated]\\nsweeps = 3\\npoints = 2000")
    ...     file.flush()
    ...     len(street_of_file(file.name))
    3
    """
    return simulated_street(**street_settings(path, changes))


def street_settings(
    path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The checked settings that a file of a street holds, with some changed."""
    path = Path(path).expanduser()
    settings = read_toml(path).get("simulated")
    taken = inspect.signature(simulated_street).parameters
    if not isinstance(settings, dict):
        raise InputError(
            f"{path}: a simulated street needs a table [simulated] with some of {', '.join(taken)}"
        )
    settings = {**settings, **(changes or {})}
    for name, value in settings.items():
        if name not in taken:
            raise InputError(
                f"{path}: a simulated street has no setting {name!r}; it has {', '.join(taken)}"
            )
        usual = taken[name].default
        # A whole number will do for a number, and true is no number at all.
        if type(value) is not type(usual) and not (type(value) is int and type(usual) is float):
            raise InputError(f"{path}: {name} must be {_WORDS[type(usual)]}, got {value!r}")
    return settings
