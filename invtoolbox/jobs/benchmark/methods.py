"""Methods of a table: names of the toolbox, and priors, solvers and functions of a user."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from invtoolbox.core.content import digest
from invtoolbox.errors import InputError, nearest, suggest
from invtoolbox.jobs.benchmark.case import Case, Solved, System
from invtoolbox.jobs.images.decisions.order import off_words
from invtoolbox.priors.adapters import as_prior
from invtoolbox.priors.base import Prior
from invtoolbox.solvers.base import Solver

#: Prior of a solver that joins a table.
PRIOR_OF_SOLVERS = "tv"


@dataclass(frozen=True)
class Method:
    """Method of a table.

    Attributes:
        name: name in the table; a method of a user has a colon in it.
        target: object of a user; None if the method has a name or a place alone.
        place: ``"package.module:name"`` or ``"file.py:name"``, which every process imports.
        folder: folder that modules and files are found in, before the search path.
        automatic: word for the steps that are decided automatically, as in `reconstruct`.
    """

    name: str
    target: Any = None
    place: str | None = None
    folder: str = ""
    automatic: str = "none"

    def load(self) -> Any:
        """Return the object of a user's method, one of a class; None for a name of the toolbox."""
        target = self.target if self.place is None else import_object(self.place, self.folder)
        return _make(target, self.name) if isinstance(target, type) else target

    def content(self) -> str:
        """Return a text that changes if the method changes, for resumption."""
        target = self.load()
        # An object whose content cannot be read, such as a model of C++, counts with its name.
        name = self.name if self.automatic == "none" else f"{self.name} {self.automatic}"
        return name if target is None else digest(target, name, key=name)

    def bind(self, case: Case, simple: str) -> Callable[[], Solved]:
        """Return the computation of the answer to a case, and of its notes.

        What a user's function gets is prepared here, so that its seconds count the function alone.

        Args:
            case: the case.
            simple: name of the simple answer.
        """
        target = self.load()
        if target is None:
            if self.name == simple:
                return lambda: (case.simple(), ())
            return partial(case.solve, self.name, None, self.automatic)
        if isinstance(target, Solver):
            return partial(case.solve, PRIOR_OF_SOLVERS, target, self.automatic)
        if _is_prior(target):
            return partial(case.solve, as_prior(target), None, self.automatic)
        return partial(_call, target, case.arguments())


def _call(function: Any, arguments: tuple[Any, ...]) -> Solved:
    """Call a function or a model of a user without gradients, a model in evaluation mode."""
    is_training = isinstance(function, nn.Module) and function.training
    with torch.no_grad():
        try:
            return (function.eval() if is_training else function)(*arguments), ()
        finally:
            if is_training:
                function.train()


def choose_methods(
    system: System,
    usual: Sequence[str],
    methods: Sequence[str] | None,
    extra: Any,
    automatic: str = "none",
) -> list[Method]:
    """Return the methods of a run, the simple answer first, after a check of their names.

    Args:
        system: system of the table.
        usual: names that run by default.
        methods: names in place of the usual ones; None for these.
        extra: methods of the user: places, a mapping from names to objects, or objects.
        automatic: word for the steps that are decided automatically, as in `reconstruct`.

    Raises:
        InputError: an unknown name or step, a place that cannot be imported, or an object that is no
            method.
    """
    if automatic != "none" and not system.takes_automatic:
        raise InputError(f"automatic={automatic!r} is for tables of images; leave it out")
    off_words(automatic)
    chosen = [Method(system.simple)]
    for name in dict.fromkeys(usual if methods is None else methods):
        if name != system.simple:
            system.check(name)
            chosen.append(Method(name))
    for method in _extra_methods(extra):
        _check_method(method, system)
        chosen.append(method)
    labels = [method.name for method in chosen]
    twice = next((name for k, name in enumerate(labels) if name in labels[:k]), None)
    if twice is not None:
        raise InputError(f"two methods are named {twice!r}; give each its own name")
    return [dataclasses.replace(method, automatic=automatic) for method in chosen]


def import_object(place: str, folder: str = "") -> Any:
    """Return the object of a module or of a file.

    Args:
        place: ``"package.module:name"`` or ``"folder/file.py:name"``.
        folder: folder that modules and files are found in, before the search path.

    Raises:
        InputError: if the module cannot be imported, or has no such object.

    >>> import_object("math:pi") > 3
    True
    """
    source, _, name = place.rpartition(":")
    if not source or not name.isidentifier():
        raise InputError(
            f"{place!r} is no place of an object; write package.module:name or file.py:name"
        )
    module = _module_of_file(Path(folder, source)) if source.endswith(".py") else None
    if module is None:
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            module = importlib.import_module(source)
        except Exception as error:  # a module of the user may raise anything
            raise InputError(
                f"{place}: the module {source} cannot be imported ({_describe(error)}); install it, "
                "start in its folder, or give the path of its file"
            ) from error
    if not hasattr(module, name):
        public = [word for word in vars(module) if not word.startswith("_")]
        raise InputError(
            f"{place}: the module {source} has no {name}{suggest(nearest(name, public))}"
        )
    return getattr(module, name)


def _module_of_file(path: Path) -> ModuleType:
    """Import a file of the user, once per process."""
    path = path.expanduser().absolute()
    name = f"{path.stem}_of_benchmark"
    if name in sys.modules and getattr(sys.modules[name], "__file__", "") == str(path):
        return sys.modules[name]
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give the path of a Python file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a file of the user may raise anything
        del sys.modules[name]
        raise InputError(f"{path} cannot be imported ({_describe(error)})") from error
    return module


def _make(kind: type, name: str) -> Any:
    """Return an object of a class of the user, which needs no arguments."""
    try:
        return kind()
    except Exception as error:  # a class of the user may raise anything
        raise InputError(
            f"{name} is a class that needs arguments ({_describe(error)}); name an object of it, "
            f"such as method = {kind.__name__}(...)"
        ) from error


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _extra_methods(extra: Any) -> list[Method]:
    """Return the methods of a user from places, objects, or a mapping from names to objects."""
    if isinstance(extra, Mapping):
        named = list(extra.items())
    else:
        entries = extra if isinstance(extra, (list, tuple)) else [extra]
        named = [(None, entry) for entry in entries]
    methods, folder = [], str(Path.cwd())
    for name, entry in named:
        if isinstance(entry, str):
            methods.append(Method(f"own:{name}" if name else entry, place=entry, folder=folder))
        else:
            label = name or getattr(entry, "__name__", type(entry).__name__)
            methods.append(Method(f"own:{label}", target=entry))
    return methods


def _check_method(method: Method, system: System) -> None:
    """Refuse an object that is neither a prior, nor a solver, nor a function."""
    target = method.load()
    if not (callable(target) or isinstance(target, Solver) or _is_prior(target)):
        raise InputError(
            f"{method.name} is a {type(target).__name__}, and a method is a prior, a solver or a "
            f"function {system.signature}"
        )
    if not system.takes_prior and (isinstance(target, Solver) or _is_prior(target)):
        raise InputError(
            f"{method.name} is a {type(target).__name__}, and a method of this table is a function "
            f"{system.signature}"
        )


def _is_prior(target: Any) -> bool:
    """Return whether an object is a prior here, or a prior or denoiser of deepinv."""
    if isinstance(target, Prior):
        return True
    # An object of a package can exist only if the package is already imported.
    deepinv = sys.modules.get("deepinv")
    if deepinv is None:
        return False
    return isinstance(target, (deepinv.optim.Prior, deepinv.models.Denoiser))
