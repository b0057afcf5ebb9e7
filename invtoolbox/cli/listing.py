"""``invtoolbox list [KIND]``: list the names that the toolbox understands."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from invtoolbox.errors import InputError

KINDS = (
    "priors",
    "solvers",
    "operators",
    "data_terms",
    "methods",
    "datasets",
    "scenes",
    "readers",
    "tables",
    "decisions",
)


def fill(parser: argparse.ArgumentParser) -> None:
    """Add description, options and examples to the parser of the command."""
    parser.description = (
        "List the names that the API, scene files and the command line understand: "
        "classes of the toolbox, plug-ins, and\n"
        "entries of the catalogue (in its folders in the current directory, and in the folders of "
        "the toolbox)."
    )
    parser.epilog = "examples:\n  invtoolbox list\n  invtoolbox list priors"
    parser.add_argument(
        "kind", nargs="?", choices=KINDS, metavar="KIND", help=", ".join(KINDS) + " (default: all)"
    )


def command(arguments: argparse.Namespace) -> int:
    """Print the names of one kind, or of all kinds."""
    for number, kind in enumerate([arguments.kind] if arguments.kind else KINDS):
        entries = _entries(kind)
        print(("\n" if number else "") + kind.replace("_", " "))
        width = max((len(name) for name in entries), default=0)
        for name, summary in entries.items():
            print(f"  {name:<{width}}  {summary}".rstrip())
        if not entries:
            print("  none")
    return 0


def _entries(kind: str) -> dict[str, str]:
    from invtoolbox.catalogue import registry, shelves

    summaries: dict[str, str] = {}
    if kind == "readers":
        from invtoolbox.datasets import READERS, VIEW_READERS

        summaries |= {
            name: _first_sentence(cls) for name, cls in {**READERS, **VIEW_READERS}.items()
        }
    if kind == "methods":
        from invtoolbox.jobs.flow.methods import METHODS

        summaries |= {name: _first_sentence(method) for name, method in METHODS.items()}
    if kind == "decisions":
        from invtoolbox.jobs.images.decisions.order import STEPS

        summaries |= {
            name: f"{step.question}{' [only if it is asked for]' if step.is_asked_for else ''}"
            for name, step in STEPS.items()
        }
    if kind in registry.KINDS:
        for name, load in registry.names(kind).items():
            try:
                named = load()
                mark = getattr(named, "mark", "")
                summaries[name] = _first_sentence(named) + (f" [{mark}]" if mark else "")
            except InputError as error:  # a plug-in whose package is broken
                summaries[name] = str(error)
    if kind in shelves.SHELVES:
        summaries |= {entry.name: entry.summary for entry in shelves.entries(kind).values()}
    return summaries


def _first_sentence(named: Any) -> str:
    """Return the first sentence of a docstring without its mark-up, cut at 110 characters."""
    paragraph = " ".join((inspect.getdoc(named) or "").split("\n\n")[0].split())
    sentence = paragraph.split(". ")[0].rstrip(".").replace("``", "").replace("`", "")
    return sentence if len(sentence) <= 110 else sentence[:107].rsplit(" ", 1)[0] + " ..."
