"""Find the code that a function reaches: global variables that it reads, modules that it imports.

Code of users counts as content; an installed package is known by its name and version.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import importlib.util
import sys
import sysconfig
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Classes and functions of these packages, and of the standard library, are known by their name
#: alone.
_STABLE = frozenset({__name__.partition(".")[0], "torch", "numpy"})


def global_variables(function: types.FunctionType) -> dict[str, Any]:
    """Return the global variables that a function reads, also from modules of the user.

    Modules of the user that the body imports count too.
    """
    variables: dict[str, Any] = {}
    for code in _nested(function.__code__):
        steps = [s for s in dis.get_instructions(code) if s.opname != "EXTENDED_ARG"]
        for k, step in enumerate(steps):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in function.__globals__:
                referenced = function.__globals__[step.argval]
                _add_global(variables, step.argval, referenced, code.co_names, set())
            elif step.opname == "IMPORT_NAME":
                level, names = (before.argval for before in steps[k - 2 : k])
                package = function.__globals__.get("__package__")
                module = _imported("." * level + step.argval, package, names or ())
                if module is not None:
                    _add_global(variables, module.__name__, module, code.co_names, set())
    return variables


def _imported(name: str, package: str | None, names: Iterable[str]) -> types.ModuleType | None:
    """Import a module of the user, as the function will; None for another or a missing module.

    Args:
        name: name of the module, with a dot in front for each level of a relative import.
        package: package that the relative import starts from.
        names: names that are imported from the module; some may be modules themselves.
    """
    try:
        full = importlib.util.resolve_name(name, package)
        if is_installed(full):
            return None
        module = importlib.import_module(full)
    except Exception:
        return None
    for attribute in names:
        if not hasattr(module, attribute):
            with contextlib.suppress(Exception):
                importlib.import_module(f"{full}.{attribute}")
    return module


def _add_global(
    variables: dict[str, Any], name: str, referenced: Any, names: tuple[str, ...], visited: set[int]
) -> None:
    variables[name] = referenced
    if isinstance(referenced, types.ModuleType) and not is_installed(referenced.__name__):
        visited.add(id(referenced))
        for attribute in names:
            inner = vars(referenced).get(attribute)
            if inner is not None and id(inner) not in visited:
                _add_global(variables, f"{name}.{attribute}", inner, names, visited)


def _nested(code: types.CodeType) -> Iterable[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


@functools.lru_cache(maxsize=4096)
def is_installed(module: str) -> bool:
    """Whether a module belongs to the standard library or to an installed package."""
    root = module.partition(".")[0]
    if root in _STABLE or root == "__main__":
        return root != "__main__"
    root_module = sys.modules.get(root)
    if root_module is None and root not in sys.builtin_module_names:
        spec = importlib.util.find_spec(root)
        if spec is None:
            return root in sys.stdlib_module_names
        inside = next(iter(spec.submodule_search_locations or ()), None)
        return _lies_in_a_library(Path(inside or spec.origin or ""))
    places = getattr(root_module, "__file__", None) or next(
        iter(getattr(root_module, "__path__", ())), None
    )
    if places is None:
        return root in sys.stdlib_module_names
    return _lies_in_a_library(Path(places))


def _lies_in_a_library(path: Path) -> bool:
    return any(
        path.resolve().is_relative_to(Path(sysconfig.get_path(kind)).resolve())
        for kind in ("stdlib", "platstdlib", "purelib", "platlib")
    )


def version_of(module: str) -> str:
    """Return the version of the package of a module; empty for this package and the standard library."""
    root = module.partition(".")[0]
    if root in _STABLE or root in sys.stdlib_module_names or not is_installed(module):
        return ""
    return str(getattr(sys.modules.get(root), "__version__", ""))
