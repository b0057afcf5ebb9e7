"""``invtoolbox info``."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="versions, devices, threads, and which extras are missing",
        description="Show versions, devices, threads, the folders that are used, and which optional packages are missing.",
        epilog="example:\n  invtoolbox info",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from invtoolbox import datasets
    from invtoolbox.catalogue import shelves as catalogue
    from invtoolbox.core import environment

    _table("versions", environment.versions())
    _table("machine", environment.machine())
    data = datasets.data_folder()
    folders = {"real data": f"{data}{'' if data.is_dir() else ' (not there; set INVTOOLBOX_DATA)'}"}
    for kind in catalogue.SHELVES:
        folders[kind] = ", ".join(str(f) for f in catalogue.folders(kind)) or "none"
    _table("folders", folders)
    print("extras")
    for extra, packages in environment.extras().items():
        missing = [name for name, version in packages.items() if version is None]
        if missing:
            print(
                f"  {extra:<14}missing {', '.join(missing)}; get them with: {environment.how_to_get(extra)}"
            )
        else:
            print(f"  {extra:<14}installed")
    return 0


def _table(title: str, entries: dict[str, str]) -> None:
    print(title)
    for name, value in entries.items():
        print(f"  {name:<14}{value}")
    print()
