"""``invtoolbox run SCENE`` and ``invtoolbox reconstruct SCENE``: run scene files."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.jobs import options

if TYPE_CHECKING:
    from invtoolbox.jobs.job import Request


def add(commands: Any) -> None:
    """Add both commands."""
    parser = commands.add_parser(
        "run",
        help="run a scene file",
        description="Run a scene file of any kind: images or scans, which are read or simulated "
        "and then reconstructed; a sequence\n"
        "of lidar sweeps, whose flow is estimated; photographs, from which a 3D scene is found "
        "(see `invtoolbox\nreconstruct`); a mesh, which is deformed; or a moving object, whose motion "
        "is estimated.",
        epilog="examples:\n"
        "  invtoolbox run ct-small\n  invtoolbox run scenes/htc2022-90deg.toml --set "
        "solver.max_iterations=300 --output results/long\n  invtoolbox run ct-small --set "
        "prior.tv.weight=0.01 --set 'output.formats=[\"tif\"]' --overwrite\n  invtoolbox run "
        "ct-small --resume\n  invtoolbox run tooth --items all --workers 2 --output "
        "results/tooth\n  invtoolbox run scenes/ct-*.toml --workers 4 --output results/study\n  "
        "invtoolbox run street-simulated --workers 2\n  invtoolbox run lego-voxels --set "
        "preset=short\n\n`invtoolbox list scenes` lists the scenes of the catalogue.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    parser.set_defaults(command=run)

    parser = commands.add_parser(
        "reconstruct",
        help="find a 3D scene from photographs",
        description="Find a 3D scene, as voxels or as Gaussians, from a folder of photographs, a "
        "video, a capture of COLMAP,\n"
        "nerfstudio or a phone, or a scene file with a table [views]. Cameras are found if there "
        "are none. The model, the\nheld-out views, and their PSNR and SSIM are written.",
        epilog="examples:\n"
        "  invtoolbox reconstruct lego-voxels --preset short\n  invtoolbox reconstruct "
        "~/photographs/desk --mesh --live\n  invtoolbox reconstruct desk.mp4 "
        "--set solver.time_limit=300\n  invtoolbox reconstruct lego-gaussians "
        "--set solver.time_limit=120 --output results/lego\n  invtoolbox reconstruct "
        "lego-gaussians --set solver.time_limit=1200 --output results/lego --resume\n  invtoolbox "
        "reconstruct scenes/mine.toml --set views.scale=0.5 --overwrite --view\n\nCtrl-C stops "
        "the run, and --resume continues it, also with a larger solver.time_limit.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "scene",
        metavar="SCENE",
        help="a folder of photographs, a video, a TOML file, or the name of a scene of the "
        "catalogue",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="representation of the scene if a folder is given: gaussians (default) or voxel-grid",
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="name of a set of changes in the scene file, such as short"
    )
    options.add_overrides(parser, "scene")
    options.add_folder(
        parser,
        "folder for the results (default: results/SCENE)",
        "continue an interrupted run, or a run with a smaller budget",
        "replace the results of an earlier run",
    )
    parser.add_argument(
        "--mesh", action="store_true", help="write the surface of the scene, mesh.obj, too"
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="show the scene in a browser while it is computed, with viser",
    )
    parser.add_argument(
        "--view",
        action="store_true",
        help="show the scene at the end, with viser or Rerun, whichever is installed",
    )
    parser.set_defaults(command=reconstruct)


def run(arguments: argparse.Namespace) -> int:
    """Run scene files of any kind."""
    from invtoolbox.jobs.run import prepare

    scenes = arguments.scene
    job = prepare(scenes[0] if len(scenes) == 1 else scenes, _request(arguments))
    return job.print_outcome(job.run(progress=not arguments.quiet), arguments.quiet)


def reconstruct(arguments: argparse.Namespace) -> int:
    """Run a scene of photographs, and show it."""
    from invtoolbox.catalogue.documents import content_of
    from invtoolbox.jobs.photographs.run import prepare
    from invtoolbox.jobs.photographs.scene import is_folder

    scene = Path(arguments.scene).expanduser()
    if not is_folder(scene) and "views" not in content_of(arguments.scene)[1]:
        raise InputError(
            f"{scene} is no scene of photographs: it has no table [views]; invtoolbox run takes "
            "all kinds"
        )
    if arguments.view and find_spec("viser") is None and find_spec("rerun") is None:
        from invtoolbox.core.environment import how_to_get

        raise MissingDependency(
            "--view shows the scene in viser or Rerun, and neither is installed; "
            f"{how_to_get('view')}, or open the page viewer.html among the results"
        )
    changes = [f"preset={arguments.preset}"] if arguments.preset else []
    changes += ["output.mesh=true"] if arguments.mesh else []
    job = prepare(arguments.scene, _request(arguments, changes), arguments.model)
    if arguments.live:
        from invtoolbox.plotting.live_view import LiveView

        outcome = job.run(not arguments.quiet, LiveView().update)
    else:
        outcome = job.run(not arguments.quiet)
    code = job.print_outcome(outcome, arguments.quiet)
    if arguments.view:
        from invtoolbox.plotting import view_scene

        view_scene(outcome.scene(), outcome.cameras, scene.stem)
    return code


def _request(arguments: argparse.Namespace, changes: list[str] | None = None) -> Request:
    from invtoolbox.jobs.job import Request

    return Request(
        [*(changes or []), *arguments.overrides],
        arguments.output,
        arguments.resume,
        arguments.overwrite,
        getattr(arguments, "items", None),
        getattr(arguments, "workers", None),
        getattr(arguments, "cluster", None),
        getattr(arguments, "threads", None) or 1,
    )
