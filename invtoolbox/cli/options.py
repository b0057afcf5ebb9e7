"""Options of the commands that run a TOML file and write a folder: the same words for the same things."""

from __future__ import annotations

import argparse


def add_changes(parser: argparse.ArgumentParser, what: str) -> None:
    """``--set KEY=VALUE``, of a scene or a recipe."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"change a key of the {what} by its dotted name; the value is TOML, or else a word",
    )


def add_folder(
    parser: argparse.ArgumentParser, output: str, resume: str | None, overwrite: str
) -> None:
    """Where results go, and what becomes of earlier ones, each with its help; None where the command resumes by itself."""
    parser.add_argument("--output", "-o", metavar="FOLDER", help=output)
    if resume is not None:
        parser.add_argument("--resume", action="store_true", help=resume)
    parser.add_argument("--overwrite", action="store_true", help=overwrite)
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar and no summary")
