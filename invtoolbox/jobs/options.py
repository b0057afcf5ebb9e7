"""Options that several commands share, in the same words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invtoolbox.jobs.job import Request


def add_overrides(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--set KEY=VALUE`` and ``--trusted``.

    Args:
        parser: parser of the command.
        what: kind of the TOML file, "scene" or "recipe".
    """
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"change a key of the {what}, given by its dotted name, to a TOML value or a plain "
        "word",
    )
    parser.add_argument(
        "--trusted",
        action="store_true",
        help=f"let the {what} name files outside of its folder, of the current folder and of the "
        "data folder",
    )


def add_folder(
    parser: Any,
    output: str,
    resume: str | None,
    overwrite: str,
    names: tuple[str, ...] = ("--output", "-o"),
) -> None:
    """Add the folder of the results and the treatment of earlier results.

    Args:
        parser: parser of the command.
        output: help of ``--output``.
        resume: help of ``--resume``; None if the command always resumes.
        overwrite: help of ``--overwrite``.
        names: names of the option of the folder.
    """
    parser.add_argument(*names, dest="output", metavar="FOLDER", help=output)
    if resume is not None:
        parser.add_argument("--resume", action="store_true", help=resume)
    parser.add_argument("--overwrite", action="store_true", help=overwrite)
    add_quiet(parser)


def add_quiet(parser: Any) -> None:
    """Add ``--quiet``."""
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar and no summary")


def add_workers(group: Any) -> None:
    """Add the options of workers to a group."""
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of processes on this machine (default: 1; more need dask[distributed])",
    )
    group.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="address of a Dask scheduler whose workers are used instead, for example "
        "tcp://host:8786",
    )
    add_threads(group, "the processors that are free; 1 per worker")


def add_threads(group: Any, default: str = "the processors that are free") -> None:
    """Add ``--threads``, which `invtoolbox.cli.main` applies.

    Args:
        group: parser or group of the option.
        default: the default, in words.
    """
    group.add_argument(
        "--threads", type=int, metavar="N", help=f"number of threads (default: {default})"
    )


def add_study(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options of a study.

    Args:
        parser: parser of the command.
        what: the items, the beginning of the help.
    """
    study = parser.add_argument_group(
        "several items",
        "One result file per item is written to the folder --output; --resume keeps the result "
        "files that are\ncomplete. The results are the same for any number of workers.",
    )
    study.add_argument(
        "--items",
        metavar="ITEMS",
        help=f"{what}: all, START:STOP:STEP, or numbers separated by commas, counted from 0 "
        "(default with --workers or --cluster: all)",
    )
    add_workers(study)


def request_of(arguments: argparse.Namespace, overrides: Sequence[str] = ()) -> Request:
    """Return how a scene is to be run; options that a command lacks keep their defaults.

    Args:
        arguments: parsed options.
        overrides: changed keys.
    """
    from invtoolbox.jobs.job import Request

    return Request(
        overrides,
        arguments.output,
        arguments.resume,
        arguments.overwrite,
        items=getattr(arguments, "items", None),
        workers=getattr(arguments, "workers", None),
        cluster=getattr(arguments, "cluster", None),
        threads=arguments.threads or 1,
    )
