"""``invtoolbox benchmark TABLE``: measure methods on a standard table."""

from __future__ import annotations

import argparse

from invtoolbox.jobs import options
from invtoolbox.jobs.job import count_outcomes, report_failures


def fill(parser: argparse.ArgumentParser) -> None:
    """Add description, options and examples to the parser of the command."""
    parser.description = (
        "Compute every item of a standard table by several methods, and write table.json, table.md "
        "and a page with pictures.\nEach row states what the settings were chosen on and what is "
        "reported. Published figures are marked as published.\nNothing is downloaded: `invtoolbox "
        "data NAME` names the address and the folder of a data set."
    )
    parser.epilog = (
        "examples:\n"
        "  invtoolbox list tables\n"
        "  invtoolbox benchmark denoising --limit 2\n"
        "  invtoolbox benchmark denoising --methods tv,auto --rows set12 --workers 2\n"
        "  invtoolbox benchmark chest-ct --with mypackage:prior --with my_method.py:reconstruct\n"
        "  invtoolbox benchmark denoising --resume\n\n"
        "What --with names is a prior, a solver or a function. For images, the function is (y, "
        "physics) -> x with a\nphysics of deepinv; for other tables, the error of a wrong object "
        "states what it is."
    )
    parser.add_argument(
        "table", metavar="TABLE", help="a name of `invtoolbox list tables`, or a TOML file"
    )
    parser.add_argument(
        "--methods",
        metavar="NAMES",
        help="methods in place of the usual ones, separated by commas; the simple answer of the "
        "table is always included",
    )
    parser.add_argument(
        "--with",
        dest="extra",
        metavar="PLACE",
        action="append",
        default=[],
        help="a prior, a solver or a function of your own, package.module:name or file.py:name; may "
        "be given several times",
    )
    parser.add_argument(
        "--rows", metavar="NAMES", help="names of rows, or parts of names, separated by commas"
    )
    parser.add_argument(
        "--automatic",
        metavar="STEPS",
        help="steps that are decided automatically, as in `invtoolbox list decisions`, in place of "
        "those of the table (images)",
    )
    first = parser.add_mutually_exclusive_group()
    first.add_argument("--limit", type=int, metavar="N", help="number of items per row")
    first.add_argument("--quick", action="store_true", help="the first item of every row alone")
    options.add_overrides(parser, "table")
    options.add_folder(
        parser,
        "folder for the results (default: results/benchmark-TABLE)",
        "keep the results of an earlier run; rows, methods and items may be added",
        "replace the results of an earlier run",
    )
    options.add_workers(parser)


def command(arguments: argparse.Namespace) -> int:
    """Run a table and print it; the exit code is 1 if a method failed on an item."""
    from invtoolbox.jobs.benchmark import benchmark

    result = benchmark(
        arguments.table,
        _names(arguments.methods),
        arguments.extra,
        rows=_names(arguments.rows),
        limit=1 if arguments.quick else arguments.limit,
        automatic=arguments.automatic,
        overrides=arguments.overrides,
        output=arguments.output,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        workers=arguments.workers or 1,
        cluster=arguments.cluster,
        threads=arguments.threads or 1,
        progress=not arguments.quiet,
    )
    if not arguments.quiet:
        print(result)
        print(f"\n{len(result.study)} results: {count_outcomes(result.study)}")
        print("written:", *(result.folder / name for name in FILES), sep="\n  ")
    return report_failures(result.study)


#: Files of a table in the folder of its results.
FILES = ("table.json", "table.md", "report.html")


def _names(text: str | None) -> list[str] | None:
    """Return the names in a text, between commas; None without a text."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
