"""Names of classes in the API, in scene files and on the command line.

The classes of the toolbox are named after themselves, `ParallelBeam` is ``"parallel-beam"``; a
package that declares an entry point in the group ``invtoolbox.priors``, ``.operators``,
``.solvers`` or ``.readers`` registers its own. Presets and trained priors have their names from the
catalogue, see `invtoolbox.catalogue.presets`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from invtoolbox.errors import (
    InputError,
    check_name,
    match_name,
    nearest,
    spell,
    suggest,
    unknown_name,
)

#: Kinds of parts. Each is a package of the toolbox; readers have their names in
#: `invtoolbox.datasets`.
KINDS = ("priors", "operators", "data_terms", "solvers", "readers")

#: Names that the field writes otherwise than the class name.
_USUAL = {
    "TotalVariation": "tv",
    "TotalGeneralizedVariation": "tgv",
    "StationaryWaveletL1": "wavelet",
    "WaveletL1": "orthogonal-wavelet",
    "NonNegative": "nonnegative",
    "ParallelBeam3D": "parallel-beam-3d",
    "Blur3D": "blur-3d",
    "ConjugateGradient": "cg",
    "OSSART": "os-sart",
    "UnadjustedLangevin": "ula",
    "MYULA": "myula",
    "SKROCK": "sk-rock",
    "DiffPIR": "diffpir",
    "PiGDM": "pigdm",
}

#: Base classes, and classes that settings in a file cannot build because they take other objects.
_WITHOUT_NAME = {
    "priors": """Prior ExplicitPrior ImplicitPrior AdaptivePrior PriorSum AlongField
        ConditionalMixture ConditionalPrior Deformation GaussianLatents GaussianPair HuberNorm
        Misfit ProbabilityFlow RigidMotion RigidTrack SmoothedNorm ThroughOperator
        TotalDeepVariation TunedGenerator""",
    "operators": """Operator LinearOperator EulerRollout Exponential Gated ImageWarp Matrix NoMeasurement
        NormalIntegration OnBoth OverTime PixelGraphLaplacian PointWarp PointWarpBothWays SideGap
        SparseMatrix VectorScan Warp WarpSequence""",
    "data_terms": "DataTerm PlaneToPlane RolloutChamfer Stack",
    "solvers": "Solver AnnealedSampler DiffusionSampler LearnedDirection",
}


@cache
def names(kind: str) -> dict[str, Callable[[], Any]]:
    """Return every registered name of a kind, each with a function that loads its class.

    A plug-in cannot replace a name of the toolbox.

    Args:
        kind: one of `KINDS`.
    """
    check_name("kind of part", kind, KINDS)
    loaders: dict[str, Callable[[], Any]] = {
        point.name: partial(load_plugin, point)
        for point in entry_points(group=f"invtoolbox.{kind}")
    }
    for cls in _classes(kind).values():
        loaders[_name_of(cls)] = lambda cls=cls: cls  # type: ignore[misc]
    return loaders


def lookup(kind: str, name: str) -> Any:
    """Return the class registered under a name, or under its class name; see `registered_name`.

    Args:
        kind: one of `KINDS`.
        name: the name, for example ``"tv"``, ``"TV"`` or ``"total variation"``.

    Raises:
        InputError: if the name is unknown; the sentence lists the closest known names.

    >>> lookup("priors", "tv").__name__
    'TotalVariation'
    """
    if (registered := registered_name(kind, name)) is not None:
        return names(kind)[registered]()
    raise unknown_name(kind.replace("_", " ").removesuffix("s"), name, names(kind))


def registered_name(kind: str, name: str) -> str | None:
    """Return the registered name of a class; None if there is none.

    Args:
        kind: one of `KINDS`.
        name: the name or the class name, in any case, with hyphens, underscores or spaces.

    >>> registered_name("priors", "total variation"), registered_name("priors", "TV")
    ('tv', 'tv')
    """
    if (registered := match_name(name, names(kind))) is not None:
        return registered
    spelled = {spell(cls.__name__): _name_of(cls) for cls in _classes(kind).values()}
    spelled |= {spell(registered): registered for registered in names(kind)}
    return spelled.get(spell(name))


def reader_named(
    kind: str, name: str, readers: Mapping[str, Callable[..., Any]]
) -> Callable[..., Any]:
    """Return a reader of the toolbox, or of a plug-in, which cannot replace one of the toolbox.

    Args:
        kind: kind of the reader, for the error message.
        name: name of the reader, in any case.
        readers: readers of the toolbox by name.

    Raises:
        InputError: if the name is unknown; the sentence lists the closest known names.
    """
    if (registered := match_name(name, readers)) is not None:
        return readers[registered]
    plugins = {point.name: point for point in entry_points(group="invtoolbox.readers")}
    if (registered := match_name(name, plugins)) is not None:
        return load_plugin(plugins[registered])  # type: ignore[no-any-return]
    raise unknown_name(kind, name, [*readers, *plugins])


def load_plugin(point: EntryPoint) -> Any:
    """Return the object of an entry point.

    Args:
        point: entry point of a package.

    Raises:
        InputError: the package cannot be imported, or lacks the object.

    >>> load_plugin(EntryPoint("mine", "invtoolbox.gone:Mine", "invtoolbox.priors"))
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: the plug-in 'mine' (invtoolbox.gone:Mine) cannot be loaded, \
ModuleNotFoundError: No module named 'invtoolbox.gone'; mend its package, or uninstall it
    """
    try:
        return point.load()
    except Exception as error:
        # The module of a package is any code, and may raise any exception.
        fault = " ".join(f"{type(error).__name__}: {error}".split())
        package = "" if point.dist is None else f" of the package {point.dist.name}"
        raise InputError(
            f"the plug-in {point.name!r}{package} ({point.value}) cannot be loaded, {fault}; mend "
            "its package, or uninstall it"
        ) from error


def build(kind: str, name: str, settings: dict[str, Any]) -> Any:
    """Return an instance of a registered class.

    Args:
        kind: one of `KINDS`.
        name: name of the class.
        settings: arguments of the class.

    Raises:
        InputError: if the class does not take a setting; the sentence lists its settings.

    >>> build("priors", "tv", {"isotropic": False})
    TotalVariation(isotropic=False)
    """
    cls = lookup(kind, name)
    taken = [p for p in inspect.signature(cls).parameters if p not in ("self", "args", "kwargs")]
    require_settings(repr(name), settings, taken, _KEYS.get(kind, ()))
    try:
        return cls(**settings)
    except TypeError as error:
        raise InputError(f"{name!r} cannot be built from {settings}: {error}") from error


#: Keys of the tables of scene files that are no settings of a class.
_KEYS = {"priors": ("weight",), "solvers": ("time_limit", "initial", "tile")}


def require_settings(
    owner: str, settings: Iterable[str], taken: Iterable[str], near: Iterable[str] = ()
) -> None:
    """Refuse settings that a class or a function does not have.

    Args:
        owner: beginning of the error message, for example "the network 'dncnn'".
        settings: names of the settings.
        taken: names that the owner has.
        near: further names that the error message suggests if they are close.
    """
    names = list(taken)
    for key in settings:
        if key not in names:
            hint = suggest(nearest(key, [*names, *near], 2))
            raise InputError(
                f"{owner} has no setting {key!r}{hint} it has {', '.join(names) or 'none'}"
            )


@cache
def _classes(kind: str) -> dict[str, type]:
    """Return the classes of the toolbox that have a name, by class name."""
    if kind == "readers":
        return {}
    package = importlib.import_module(f"invtoolbox.{kind}")
    without = _WITHOUT_NAME[kind].split()
    base = getattr(package, without[0])
    classes = ((name, getattr(package, name)) for name in package.__all__ if name not in without)
    return {name: c for name, c in classes if inspect.isclass(c) and issubclass(c, base)}


def _name_of(cls: type) -> str:
    """Return the name of a class: the class name in kebab case, or the usual name in the field.

    >>> class CartesianMRI: ...
    >>> _name_of(CartesianMRI)
    'cartesian-mri'
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__)
    return _USUAL.get(cls.__name__, words.lower())
