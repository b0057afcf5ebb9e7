"""The catalogue: small TOML files on five shelves, which users name and tune.

``solvers/NAME.toml`` is a preset, ``priors/NAME/`` a trained prior, ``datasets/NAME.toml``
describes where a data set is and how it is read, ``scenes/NAME.toml`` is a whole runnable problem,
and ``tables/NAME.toml`` is a standard table of a benchmark. The user's own folder
(``INVTOOLBOX_CATALOGUE``, else the current directory) is searched first and the shelves of the
toolbox second. This module finds and reads the files; `presets` builds solvers and priors from
them. A shelf of the current folder that has a name of the toolbox is noted once, and gives no
trained prior of that name unless it is trusted (`invtoolbox.core.trust`).
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from invtoolbox.core.trust import is_trusting, refuse_special
from invtoolbox.errors import InputError, check_name, match_name, require_name, warn_user

SHELVES = ("solvers", "priors", "scenes", "datasets", "tables")


@dataclass(frozen=True)
class Entry:
    """Entry of a shelf.

    Attributes:
        kind: name of the shelf.
        name: name of the entry in the API, in a scene file and on the command line.
        path: path of the TOML file; for a trained prior, of the card in its folder.
        summary: first comment line of the file.
        twin: file of the same name that is not used, if one of the two lies in the current folder
            and the other one comes with the toolbox.
    """

    kind: str
    name: str
    path: Path
    summary: str
    twin: Path | None = None

    def read(self) -> dict[str, Any]:
        """Read the settings in the file."""
        return read_toml(self.path)


def folders(kind: str) -> list[Path]:
    """Return the existing folders of a shelf, the user's own first.

    Args:
        kind: name of the shelf.
    """
    check_name("shelf", kind, SHELVES)
    user = Path(os.environ.get("INVTOOLBOX_CATALOGUE") or Path.cwd())
    shelves = [user / kind, _shipped() / kind]
    return list(dict.fromkeys(shelf.resolve() for shelf in shelves if shelf.is_dir()))


def has_own_folder() -> bool:
    """Return whether the user chose a folder for shelves, whose names then come first."""
    return bool(os.environ.get("INVTOOLBOX_CATALOGUE"))


def _shipped() -> Path:
    """Return the folder of the own shelves: next to the package, or inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    return package.parent if (package.parent / "pyproject.toml").is_file() else package / "shelf"


def entries(kind: str) -> dict[str, Entry]:
    """Return the entries of a shelf by name, in alphabetical order.

    Args:
        kind: name of the shelf.

    >>> "ct-small" in entries("scenes")
    True
    """
    by_name: dict[str, Entry] = {}
    for folder in folders(kind):
        pattern = "*/card.toml" if kind == "priors" else "*.toml"
        for path in sorted(folder.glob(pattern)):
            name = path.parent.name if kind == "priors" else path.stem
            entry = Entry(kind, name, path, _summary(path))
            first = by_name.setdefault(name, entry)
            if first is not entry and not has_own_folder():
                pair = (first, entry) if kind != "priors" or is_trusting() else (entry, first)
                by_name[name] = replace(pair[0], twin=pair[1].path)
    return dict(sorted(by_name.items()))


def find(kind: str, name: str) -> Entry:
    """Return the entry of a name, in any case.

    Args:
        kind: name of the shelf.
        name: name of the entry.

    Raises:
        InputError: if the name is unknown; the sentence lists the closest known names.
    """
    by_name = entries(kind)
    entry = by_name[require_name(kind.removesuffix("s"), name, by_name)]
    if entry.twin is not None and not is_trusting():
        note_shadow(entry.path, entry.twin)
    return entry


@cache
def note_shadow(used: Path, unused: object) -> None:
    """Warn once that a file of the current folder has a name of the toolbox.

    Args:
        used: the file that is used, or the class.
        unused: the file that is not used.
    """
    warn_user(
        f"{used} is used, and not {unused}, which has the same name; rename the one in the current "
        "folder, or set INVTOOLBOX_CATALOGUE to its folder, which then comes first"
    )


def has_preset(name: str) -> bool:
    """Return whether a solver preset has this name.

    Args:
        name: name of the preset.
    """
    return match_name(name, entries("solvers")) is not None


def has_prior(name: str) -> bool:
    """Return whether a trained prior has this name.

    Args:
        name: name of the prior.
    """
    return match_name(name, entries("priors")) is not None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: path of the file.

    Raises:
        InputError: if the file cannot be read or is not valid TOML; the sentence names file and
            line.
    """
    refuse_special(path)
    try:
        # Some editors write a mark of the byte order in front, which is no part of TOML.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error


def _summary(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return first.lstrip("# ").strip() if first.startswith("#") else ""
