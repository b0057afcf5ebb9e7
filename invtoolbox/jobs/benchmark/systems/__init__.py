"""Systems of standard tables, one module each: it defines ``SYSTEM``, a `System`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from invtoolbox.errors import require_name
from invtoolbox.jobs.benchmark.case import System


def names() -> list[str]:
    """Return the names of all systems.

    >>> "pictures" in names()
    True
    """
    return [module.name for module in pkgutil.iter_modules(__path__)]


def system_named(name: str) -> System:
    """Return a system by its name.

    Args:
        name: name of a module of this package.
    """
    module = import_module(f"{__name__}.{require_name('system of a table', name, names())}")
    return module.SYSTEM
