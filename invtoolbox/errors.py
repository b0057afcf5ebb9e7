"""Errors for users: one sentence that states what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Arguments and options by the words of other packages, as `spell` spells them.
ARGUMENTS = {
    word: name
    for name, words in {
        "regularization": "weight weights lambda lam lmbda reg regweight strength",
        "noise_std": "sigma noise noiselevel noisesigma std",
        "max_iterations": "maxiter niter iterations iters numiterations",
        "initial": "x0 init xinit initialguess start",
        "tolerance": "tol rtol eps",
        "progress": "verbose quiet",
        "prior": "regularizer denoiser",
        "kernel": "psf blur",
        "factor": "scale zoom",
        "stages": "model transform transformtype",
        "workers": "njobs numworkers",
    }.items()
    for word in words.split()
}


class InputError(ValueError):
    """An argument, a file or a setting does not fit; the message states where and what to do."""


class MeasurementWarning(UserWarning):
    """Measurements do not look like predictions of the operator; the message states why."""


class RankLost(RuntimeError):
    """Another process of a run on several machines has stopped; the message states how to go on."""


class MissingDependency(ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of this package, and of torch, that led to the call.

    Args:
        message: sentence of the warning.
        category: class of the warning.
    """
    level = 1
    while True:
        try:
            module = sys._getframe(level).f_globals.get("__name__", "")
        except ValueError:  # the whole stack is ours, as on the command line
            break
        # A network warns from within torch's call of a module.
        if module.partition(".")[0] not in (__name__.partition(".")[0], "torch"):
            break
        level += 1
    warnings.warn(message, category, stacklevel=level + 1)


@contextmanager
def naming(what: object) -> Iterator[None]:
    """Let an `InputError` that is raised inside begin with a name, such as the path of a file.

    Args:
        what: the name.

    >>> with naming("scan.toml"):
    ...     raise InputError("it has no angles")
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: scan.toml: it has no angles
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def spell(name: str) -> str:
    """Return a name in small letters, without hyphens, underscores and spaces.

    >>> spell("Total-Variation")
    'totalvariation'
    """
    return re.sub(r"[-_\s]", "", name).lower()


def naming_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function refuse keywords that it does not have, and suggest one of its own.

    >>> @naming_arguments
    ... def solve(y, regularization=1.0): ...
    >>> solve(1, weight=2)
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: solve has no argument 'weight'; did you mean 'regularization'?
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        check_keywords(function, kwargs)
        return function(*args, **kwargs)

    return call


def check_keywords(function: Callable[..., Any], keywords: Iterable[str]) -> None:
    """Refuse keywords that a function does not have, and suggest one of its own.

    Args:
        function: the function.
        keywords: names of the arguments that it is called with.

    Raises:
        InputError: the function has no argument of such a name.
    """
    taken = _argument_names(function)
    for name in keywords:
        if name not in taken:
            meant = ARGUMENTS.get(spell(name))
            near = [meant] if meant in taken else nearest(name, taken, 2)
            end = suggest(filter(None, near))
            raise InputError(
                f"{function.__name__} has no argument {name!r}"
                + (end if near else f"; it has {', '.join(taken)}")
            )


@functools.cache
def _argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def unknown_name(
    kind: str, name: str, known: Iterable[str], meant: Mapping[str, str] | None = None
) -> InputError:
    """Return the error for a name that is not registered, with the names that may be meant.

    Args:
        kind: kind of the name, for example ``"prior"``.
        name: the unknown name.
        known: registered names.
        meant: known names by other words for the same, as `spell` spells them; without such a word,
            the names that are written most like the unknown one are suggested.

    >>> str(unknown_name("prior", "tvv", ["tv", "tikhonov"]))
    "there is no prior named 'tvv'; did you mean 'tv'? known: tikhonov, tv"
    """
    names, word = sorted(known), (meant or {}).get(spell(name))
    hint = suggest([word] if word is not None else nearest(name, names))
    return InputError(
        f"there is no {kind} named {name!r}{hint} known: {', '.join(names) or 'none'}"
    )


def check_name(kind: str, name: object, known: Iterable[str]) -> None:
    """Refuse a name that is none of the known ones.

    Args:
        kind: kind of the name, for example ``"filter"``.
        name: the name.
        known: known names.

    Raises:
        InputError: the name is not known; the sentence is that of `unknown_name`.

    >>> check_name("filter", "hann", ("ram-lak", "hann"))
    """
    names = tuple(known)
    if name not in names:
        raise unknown_name(kind, str(name), names)


def nearest(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Return the known names that are written most like a name, the closest first.

    Args:
        name: the unknown name.
        known: known names.
        count: largest number of names.
        cutoff: least similarity, from 0 to 1 (`difflib.SequenceMatcher.ratio`).

    >>> nearest("Wieght", ["weight", "isotropic"])
    ['weight']
    """
    by_lower = {n.lower(): n for n in reversed(list(known))}
    close = difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=cutoff)
    return [by_lower[n] for n in close]


def suggest(names: Iterable[str]) -> str:
    """Return the middle of an error message that suggests names, or a semicolon if there are none.

    Args:
        names: the names.

    >>> suggest(["tv", "tgv"]), suggest([])
    ("; did you mean 'tv' or 'tgv'?", ';')
    """
    words = " or ".join(map(repr, names))
    return f"; did you mean {words}?" if words else ";"


def match_name(name: str, known: Iterable[str]) -> str | None:
    """Return the registered name that is written like a name, but for upper and lower case.

    Args:
        name: the name that was given.
        known: registered names; a name in the same case comes first.

    >>> match_name("Tikhonov", ["tv", "tikhonov"]), match_name("tvv", ["tv", "tikhonov"])
    ('tikhonov', None)
    """
    names = list(known)
    if name in names:
        return name
    return next((n for n in names if n.lower() == name.lower()), None)


def require_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the registered name that is written like a name, but for upper and lower case.

    Args:
        kind: kind of the name, for the error message.
        name: the name that was given.
        known: registered names.

    Raises:
        InputError: if there is no such name; the sentence lists the closest known names.

    >>> require_name("prior", "Tikhonov", ["tv", "tikhonov"])
    'tikhonov'
    """
    names = list(known)
    match = match_name(name, names)
    if match is None:
        raise unknown_name(kind, name, names)
    return match
