"""``invtoolbox run SCENE``: run scene files."""

from __future__ import annotations

import argparse

from invtoolbox.jobs import options
from invtoolbox.jobs.run import prepare


def fill(parser: argparse.ArgumentParser) -> None:
    """Add description, options and examples to the parser of the command."""
    parser.description = (
        "Run a scene file of any kind: images or scans, which are read or simulated "
        "and then reconstructed; a sequence\n"
        "of lidar sweeps, whose flow is estimated; photographs, from which a 3D scene is found "
        "(see `invtoolbox\nreconstruct`); a mesh, which is deformed; or a moving object, whose motion "
        "is estimated."
    )
    parser.epilog = (
        "examples:\n"
        "  invtoolbox run ct-small\n  invtoolbox run scenes/htc2022-90deg.toml --set "
        "solver.max_iterations=300 --output results/long\n  invtoolbox run ct-small --set "
        "prior.tv.weight=0.01 --set 'output.formats=[\"tif\"]' --overwrite\n  invtoolbox run "
        "ct-small --resume\n  invtoolbox run tooth --items all --workers 2 --output "
        "results/tooth\n  invtoolbox run scenes/ct-*.toml --workers 4 --output results/study\n  "
        "invtoolbox run street-simulated --workers 2\n  invtoolbox run lego-voxels --set "
        "preset=short\n\n`invtoolbox list scenes` lists the scenes of the catalogue."
    )
    parser.add_argument(
        "scene",
        metavar="SCENE",
        nargs="+",
        help="a TOML file, or the name of a scene of the catalogue; several scenes make a study",
    )
    options.add_overrides(parser, "scene")
    options.add_folder(
        parser,
        "folder for the results (default: results/SCENE)",
        "continue from the checkpoint of an interrupted run",
        "replace the results of an earlier run",
    )
    options.add_study(parser, "items of the scene's data set")


def command(arguments: argparse.Namespace) -> int:
    """Run scene files of any kind."""
    scenes = arguments.scene
    request = options.request_of(arguments, arguments.overrides)
    job = prepare(scenes[0] if len(scenes) == 1 else scenes, request)
    return job.print_outcome(job.run(progress=not arguments.quiet), arguments.quiet)
