"""``invtoolbox reconstruct SCENE``: a scene from photographs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.cli import many as options

if TYPE_CHECKING:
    from invtoolbox.runs.views.run import ViewOutcome


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "reconstruct",
        help="a 3D scene from photographs",
        description="Find a 3D scene, as voxels or as Gaussians, from photographs whose cameras are known: a folder of them, or a\n"
        "scene file with a table [views]. The folder of results gets the model, the held-out views, their PSNR and SSIM.",
        epilog="examples:\n"
        "  invtoolbox reconstruct lego-voxels --preset short\n"
        "  invtoolbox reconstruct ~/photographs/desk --set solver.time_limit=300\n"
        "  invtoolbox reconstruct lego-gaussians --set solver.time_limit=120 --output results/lego\n"
        "  invtoolbox reconstruct lego-gaussians --set solver.time_limit=1200 --output results/lego --resume\n"
        "  invtoolbox reconstruct scenes/mine.toml --set views.scale=0.5 --overwrite --view\n\n"
        "Ctrl-C stops the work and --resume goes on from it, also with a larger solver.time_limit.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "scene",
        metavar="SCENE",
        help="a folder of photographs, a TOML file, or the name of a scene of the catalogue",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="of a folder: gaussians (default) or voxel-grid"
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="a set of changes that the scene brings, such as short"
    )
    options.add_changes(parser, "scene")
    options.add_folder(
        parser,
        "where results go (default: results/SCENE)",
        "go on from what an interrupted or a shorter run left",
        "replace the results of an earlier run",
    )
    parser.add_argument(
        "--view",
        action="store_true",
        help="then show the scene with viser or Rerun, whichever is installed",
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from invtoolbox.catalogue.documents import content_of
    from invtoolbox.errors import InputError

    if (
        not Path(arguments.scene).expanduser().is_dir()
        and "views" not in content_of(arguments.scene)[1]
    ):
        raise InputError(
            f"{arguments.scene} is no scene of photographs: it has no table [views]; invtoolbox run takes all kinds"
        )
    return run(arguments.scene, arguments)


def run(scene: str | Path, arguments: argparse.Namespace) -> int:
    """Run a scene of photographs as the options say, and say what came of it."""
    from invtoolbox.runs.views.run import run_view_scene

    preset, view = getattr(arguments, "preset", None), getattr(arguments, "view", False)
    if view:
        _require_viewer()
    overrides = [*([f"preset={preset}"] if preset else []), *arguments.overrides]
    outcome = run_view_scene(
        scene,
        overrides,
        arguments.output,
        arguments.resume,
        arguments.overwrite,
        not arguments.quiet,
        getattr(arguments, "model", None),
    )
    if not arguments.quiet:
        tell(outcome)
    if view:
        from invtoolbox.plotting import view_scene

        view_scene(outcome.scene(), outcome.cameras, Path(scene).stem)
    return 0


def _require_viewer() -> None:
    from importlib.util import find_spec

    from invtoolbox.core.environment import how_to_get
    from invtoolbox.errors import MissingDependency

    if find_spec("viser") is None and find_spec("rerun") is None:
        raise MissingDependency(
            f"--view shows the scene in viser or Rerun, and neither is installed; {how_to_get('view')}, or open the "
            "page viewer.html among the results"
        )


def tell(outcome: ViewOutcome) -> None:
    solution = outcome.solution
    if solution is not None:
        steps = ", ".join(f"{report.iterations}" for report in solution.reports)
        print(
            f"{solution.model.describe(solution.x)}; {solution.seconds:.0f} s, iterations: {steps}"
        )
    which = "held-out" if outcome.held_out else "training"
    for name, values in outcome.metrics.items():
        print(
            f"  {name:<6}{outcome.mean(name):.4g} on average over {len(values)} {which} views ({min(values):.4g} to {max(values):.4g})"
        )
    for note in outcome.notes:
        print(f"  note: {note}")
    if outcome.files:
        print("written:", *outcome.files, sep="\n  ")
    else:
        print(f"the run in {outcome.folder} was finished already; nothing was done")
