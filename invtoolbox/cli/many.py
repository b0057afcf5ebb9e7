"""Options of the commands that run a TOML file and write a folder: the same words for the same things.

What `run`, `ct` and `deblur` share where they do many items: options, the folder of results, the volume made of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.runs.study import Study


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


#: Formats in which the slices of a study become one volume.
VOLUMES = (".tif", ".tiff", ".nii", ".nii.gz", ".mha", ".mhd", ".raw", ".npy", ".h5", ".hdf5")
# Options that do not change what is computed.
_FREE = (
    "command",
    "output",
    "overwrite",
    "resume",
    "quiet",
    "workers",
    "cluster",
    "threads",
    "items",
    "item",
    "report",
    "reference",
)


def add_options(parser: argparse.ArgumentParser, what: str) -> None:
    """The options of a study."""
    many = parser.add_argument_group(
        "many at once",
        "One result file an item, in the folder --output; --resume goes on from those that "
        "are whole. The results are the same whatever the number of workers.",
    )
    many.add_argument(
        "--items",
        metavar="ITEMS",
        help=f"{what}: all, START:STOP:STEP, or numbers joined by commas, counted from 0 "
        "(default with --workers or --cluster: all)",
    )
    many.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine (default: 1; more need dask[distributed])",
    )
    many.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="workers of a Dask scheduler instead, for example tcp://host:8786",
    )
    many.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of each worker (default: 1)"
    )


def is_asked_for(arguments: argparse.Namespace) -> bool:
    return (
        arguments.items is not None
        or arguments.workers is not None
        or arguments.cluster is not None
    )


def run(arguments: argparse.Namespace, path: str, work: Callable[..., Any], count: int) -> int:
    """Do the items of a file by ``work(arguments, number)``, as `ct` and `deblur` do.

    The output is a folder, or a volume that is made of the results when all of them are there.
    """
    from invtoolbox.runs.study import run_study
    from invtoolbox.runs.study.driver import Items
    from invtoolbox.runs.study.scenes import parse_items
    from invtoolbox.runs.study.slices import stamp

    for option in ("report", "reference"):
        if getattr(arguments, option):
            raise InputError(f"--{option} is for one item; leave it out, or choose one with --item")
    source = Path(path).expanduser().resolve()
    output = Path(arguments.output or f"{source.name.split('.')[0]}_reconstruction")
    is_volume = output.name.lower().endswith(VOLUMES)
    if not is_volume and output.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise InputError(
            f"--output {output}: many items go to a folder, or to a volume ({', '.join(VOLUMES)})"
        )
    if is_volume and output.exists() and not arguments.overwrite:
        raise InputError(f"{output} exists; give --overwrite to replace it, or another name")
    folder = output.with_name(output.name + ".items") if is_volume else output
    chosen = parse_items(arguments.items or "all", count, path)
    settings = {key: value for key, value in sorted(vars(arguments).items()) if key not in _FREE}
    description = {
        "work": getattr(work, "__module__", ""),
        "settings": settings,
        "data": str(source),
        "stamp": stamp(source),
    }
    items = Items([f"item-{k:04d}" for k in chosen], lambda n: (arguments, chosen[n]))
    study = run_study(
        work,
        items,
        folder,
        description,
        arguments.workers or 1,
        arguments.cluster,
        arguments.threads,
        arguments.resume,
        arguments.overwrite,
        not arguments.quiet,
    )
    code = tell(study, arguments.quiet)
    if is_volume and not study.failed:
        _join(study, output, arguments)
    return code


def tell(study: Study, quiet: bool) -> int:
    """Say how a study ended; the exit code is 1 where an item failed or diverged."""
    outcomes = [r.outcome for r in study.reports]
    diverged = [r.name for r in study.reports if "diverged" in r.facts.get("status", ())]
    if not quiet:
        counts = ", ".join(
            f"{outcomes.count(o)} {o}" for o in ("done", "kept", "failed") if o in outcomes
        )
        print(f"{len(study)} items: {counts}; in {study.folder}")
    for report in study.failed:
        print(f"invtoolbox: {report.name} failed: {report.error}", file=sys.stderr)
    if diverged:
        print(
            f"invtoolbox: the iteration diverged in {_few(diverged)}, whose last finite images were written",
            file=sys.stderr,
        )
    return 1 if study.failed or diverged else 0


def absolute(arguments: argparse.Namespace, names: Sequence[str]) -> argparse.Namespace:
    """The same options with paths that mean the same in every process."""
    changed = {
        name: str(Path(value).expanduser().resolve())
        for name in names
        if (value := getattr(arguments, name))
    }
    return argparse.Namespace(**{**vars(arguments), **changed})


def _join(study: Study, output: Path, arguments: argparse.Namespace) -> None:
    import shutil

    from invtoolbox import datasets

    written = datasets.write(output, study.volume(), overwrite=arguments.overwrite)
    shutil.rmtree(study.folder, ignore_errors=True)
    if not arguments.quiet:
        print(f"written: {written}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
