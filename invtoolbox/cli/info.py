"""``invtoolbox info``: show versions, devices and folders."""

from __future__ import annotations

import argparse

from invtoolbox import datasets
from invtoolbox.catalogue import shelves
from invtoolbox.core import environment


def fill(parser: argparse.ArgumentParser) -> None:
    """Add description, options and examples to the parser of the command."""
    parser.description = (
        "Show versions, devices, threads, the folders in use, and the optional "
        "packages that are missing."
    )
    parser.epilog = "example:\n  invtoolbox info"


def command(arguments: argparse.Namespace) -> int:
    """Print the tables."""
    _table("versions", environment.versions())
    _table("machine", environment.machine())
    data = datasets.data_folder()
    folders = {"real data": f"{data}{'' if data.is_dir() else ' (not there; set INVTOOLBOX_DATA)'}"}
    for kind in shelves.SHELVES:
        folders[kind] = ", ".join(str(f) for f in shelves.folders(kind)) or "none"
    _table("folders", folders)
    print("extras")
    for extra, packages in environment.extras().items():
        missing = [name for name, version in packages.items() if version is None]
        if missing:
            print(
                f"  {extra:<14}missing {', '.join(missing)}; get them with: "
                f"{environment.how_to_get(extra)}"
            )
        else:
            print(f"  {extra:<14}installed")
    return 0


def _table(title: str, entries: dict[str, str]) -> None:
    print(title)
    for name, value in entries.items():
        print(f"  {name:<14}{value}")
    print()
