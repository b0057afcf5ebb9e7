"""``invtoolbox run SCENE``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from invtoolbox.cli import many
from invtoolbox.cli import many as options
from invtoolbox.errors import InputError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="run a scene file",
        description="Run a scene file: read or simulate the measurements, reconstruct, and write picture, solution and report;\n"
        "or the flow of a sequence of lidar sweeps, a scene from photographs (see `invtoolbox reconstruct`), or a mesh\n"
        "that is deformed.",
        epilog="examples:\n"
        "  invtoolbox run ct-small\n"
        "  invtoolbox run scenes/htc2022-90deg.toml --set solver.max_iterations=300 --output results/long\n"
        "  invtoolbox run ct-small --set prior.tv.weight=0.01 --set 'output.formats=[\"tif\"]' --overwrite\n"
        "  invtoolbox run ct-small --resume\n"
        "  invtoolbox run tooth --items all --workers 2 --output results/tooth\n"
        "  invtoolbox run scenes/ct-*.toml --workers 4 --output results/study\n"
        "  invtoolbox run street-simulated --workers 2\n"
        "  invtoolbox run lego-voxels --set preset=short\n\n"
        "The scenes of the catalogue: invtoolbox list scenes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "scene",
        metavar="SCENE",
        nargs="+",
        help="a TOML file, or the name of a scene of the catalogue; several are a study",
    )
    options.add_changes(parser, "scene")
    options.add_folder(
        parser,
        "where results go (default: results/SCENE)",
        "go on from the checkpoint that an interrupted run left",
        "replace the results of an earlier run",
    )
    many.add_options(parser, "of the data set of the scene")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from invtoolbox.runs.run import lone_scene_among

    one = lone_scene_among(arguments.scene)
    if one is not None and one[0] == "views":
        from invtoolbox.cli import reconstruct

        if many.is_asked_for(arguments):
            raise InputError(
                f"{one[1]} is one scene, of all its photographs; it takes no --items, --workers or --cluster"
            )
        return reconstruct.run(one[1], arguments)
    if one is not None and one[0] == "mesh":
        return _deform(arguments, one[1])
    if one is not None:
        from invtoolbox.cli.flow import tell
        from invtoolbox.runs.flow.scene import run_flow_scene

        return tell(
            run_flow_scene(
                one[1],
                arguments.overrides,
                arguments.output,
                arguments.resume,
                arguments.overwrite,
                not arguments.quiet,
                arguments.items,
                arguments.workers or 1,
                arguments.cluster,
                arguments.threads,
            ),
            arguments.quiet,
        )
    if many.is_asked_for(arguments) or len(arguments.scene) > 1:
        from invtoolbox.runs.study.scenes import run_scenes

        return many.tell(
            run_scenes(
                arguments.scene,
                arguments.overrides,
                arguments.output,
                arguments.items,
                arguments.workers or 1,
                arguments.cluster,
                arguments.threads,
                arguments.resume,
                arguments.overwrite,
                not arguments.quiet,
            ),
            arguments.quiet,
        )
    from invtoolbox.runs.images.run import run_scene

    outcome = run_scene(
        arguments.scene[0],
        arguments.overrides,
        arguments.output,
        arguments.resume,
        arguments.overwrite,
        progress=not arguments.quiet,
    )
    if not arguments.quiet:
        print(outcome.solution)
        for name, values in outcome.metrics.items():
            print(f"  {name:<15}{', '.join(f'{v:.4g}' for v in values)}")
        if outcome.files:
            print("written:", *outcome.files, sep="\n  ")
        else:
            print(f"the run in {outcome.folder} was finished already; nothing was done")
    if "diverged" in outcome.solution.status:
        print(
            "invtoolbox: the iteration diverged, and the last finite image was written; try another solver",
            file=sys.stderr,
        )
        return 1
    return 0


def _deform(arguments: argparse.Namespace, scene: Any) -> int:
    from invtoolbox.runs.meshes import run_mesh_scene

    if many.is_asked_for(arguments):
        raise InputError(
            f"{scene} is one scene, of one mesh; it takes no --items, --workers or --cluster"
        )
    outcome = run_mesh_scene(
        scene,
        arguments.overrides,
        arguments.output,
        arguments.resume,
        arguments.overwrite,
        not arguments.quiet,
    )
    if not arguments.quiet:
        print(outcome.solution)
        for name, value in outcome.metrics.items():
            print(f"  {name:<15}{value:.4g} % of the diagonal")
        print("written:", *outcome.files, sep="\n  ") if outcome.files else print(
            f"the run in {outcome.folder} was finished already"
        )
    return 1 if "diverged" in outcome.solution.status else 0
