"""``invtoolbox data NAME``: show which files a data set has, and take them from a folder."""

from __future__ import annotations

import argparse
from itertools import takewhile
from pathlib import Path

from invtoolbox.catalogue import shelves
from invtoolbox.datasets.shelf import describe_place, missing_files, take_files


def fill(parser: argparse.ArgumentParser) -> None:
    """Add description, options and examples to the parser of the command."""
    parser.description = (
        "Show what a data set of the catalogue is, its licence, its address, and which of its files "
        "are missing.\nWith --from, copy the missing files from a folder, in which they may lie "
        "anywhere, to their places in the folder\nINVTOOLBOX_DATA. Only files with the right "
        "checksum are copied. Nothing is downloaded."
    )
    parser.epilog = (
        "examples:\n  invtoolbox data htc2022\n  invtoolbox data htc2022 --from ~/Downloads"
    )
    parser.add_argument("name", metavar="NAME", help="a name of `invtoolbox list datasets`")
    parser.add_argument("--from", dest="source", metavar="FOLDER", help="folder of fetched files")


def command(arguments: argparse.Namespace) -> int:
    """Print the card of a data set, and return 1 if files are missing."""
    entry = shelves.find("datasets", arguments.name)
    settings, lines = entry.read(), entry.path.read_text(encoding="utf-8").splitlines()
    for line in takewhile(lambda line: line.startswith("#"), lines):
        print(line.removeprefix("#").removeprefix(" "))
    print(f"licence: {settings['licence']}\nsource:  {settings['source']}")
    if "simulated" in settings:
        print("files:   none; it is computed")
        return 0
    print(f"place:   {describe_place(entry.name)}")
    for path in take_files(entry.name, Path(arguments.source)) if arguments.source else ():
        print(f"copied:  {path}")
    missing = missing_files(entry.name)
    print(f"files:   {len(settings['sha256'])}, of which {len(missing)} are missing")
    for file in missing:
        print(f"  missing {file}")
    return int(bool(missing))
