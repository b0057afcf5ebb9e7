"""The errors a user meets: one sentence that says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something given to the toolbox does not fit; the message says what, where, and what to do."""


class MissingDependency(ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that nobody registered, with the nearest known ones.

    >>> str(unknown_name("prior", "tvv", ["tv", "tikhonov"]))
    "there is no prior named 'tvv'; did you mean 'tv'? known: tikhonov, tv"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ";"
    return InputError(
        f"there is no {kind} named {name!r}{hint} known: {', '.join(names) or 'none'}"
    )
