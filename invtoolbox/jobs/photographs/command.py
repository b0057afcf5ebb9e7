"""``invtoolbox reconstruct SCENE``: find a 3D scene from photographs."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.catalogue.documents import CheckedScene, content_of
from invtoolbox.errors import InputError
from invtoolbox.jobs.command import FolderCommand
from invtoolbox.jobs.photographs.scene import is_folder, read_view_scene

if TYPE_CHECKING:
    from invtoolbox.jobs.kind import OwnKind


@dataclass(frozen=True)
class ViewCommand(FolderCommand):
    """Command of photographs."""

    def read(
        self, kind: OwnKind, source: str, changes: dict[str, Any], arguments: argparse.Namespace
    ) -> CheckedScene[Any]:
        scene = Path(source).expanduser()
        if not is_folder(scene) and "views" not in content_of(source)[1]:
            raise InputError(
                f"{scene} is no scene of photographs: it has no table [views]; invtoolbox run takes "
                "all kinds"
            )
        return read_view_scene(source, changes, arguments.model)

    def finish(self, job: Any, arguments: argparse.Namespace) -> int:
        if not arguments.live and not arguments.view:
            return super().finish(job, arguments)
        from invtoolbox.plotting.scene_server import SceneServer

        background = job.file.scene.views.background
        server = SceneServer(job.file.name, background, arguments.host)
        show = {"show": server.update} if arguments.live else {}
        outcome = job.run(not arguments.quiet, **show)
        code: int = job.print_outcome(outcome, arguments.quiet)
        if arguments.view:
            server.update(outcome.scene(), outcome.cameras)
            server.wait()
        else:
            server.close()
        return code


def seconds_of(text: str) -> float:
    """Return the seconds of a time such as 300, 90s, 5min or 1h.

    >>> seconds_of("5min"), seconds_of("1.5 h"), seconds_of("300")
    (300.0, 5400.0, 300.0)
    """
    match = re.fullmatch(r"([0-9.]+) *(s|min|h|)", text.strip())
    try:
        seconds = float(match[1]) * {"s": 1, "min": 60, "h": 3600, "": 1}[match[2]] if match else 0
    except ValueError:
        seconds = 0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 5min or 1h")
    return float(seconds)


COMMAND = ViewCommand(
    description="Find a 3D scene, as voxels or as Gaussians, from a folder of photographs, a video, "
    "a capture of COLMAP,\n"
    "nerfstudio or a phone, or a scene file with a table [views] or its name in the catalogue. "
    "Cameras are found if there\nare none. The model, the held-out views, and their PSNR and SSIM "
    "are written.",
    positional={"SCENE": "views.path"},
    options={
        "--mesh": "output.mesh",
        "--export": "output.files",
        "--faces": "output.faces",
        "--box": "output.box",
        "--length": "views.length",
        "--markers": "views.markers",
        "--gps": "views.gps",
    },
    examples=(
        "reconstruct lego-voxels --preset short",
        "reconstruct ~/photographs/desk --mesh --live",
        "reconstruct desk --output desk.glb --faces 20000 --markers 0.05",
        "reconstruct desk.mp4 --time-limit 5min",
        "reconstruct lego-gaussians --time-limit 2min --output results/lego",
        "reconstruct lego-gaussians --time-limit 20min --output results/lego --resume",
        "reconstruct scenes/mine.toml --set views.scale=0.5 --overwrite --view\n\n"
        "Ctrl-C stops the run, and --resume continues it, also with a longer --time-limit.",
    ),
    outputs=("results/SCENE",),
    notes="An --output with a suffix, such as desk.glb, is a file in addition to results/SCENE; its "
    "formats are those of\n--export.\n\n",
    settings={
        "--time-limit": (
            "solver.time_limit",
            {
                "metavar": "TIME",
                "type": seconds_of,
                "help": "time of the training, such as 90s, 5min or 1h (default: 10min for a "
                "folder); learning rates, degrees and densification follow the share that is used",
            },
        ),
        "--model": (
            "model",
            {
                "metavar": "NAME",
                "help": "representation of the scene if a folder is given: gaussians (default) or "
                "voxel-grid",
            },
        ),
        "--preset": (
            "preset",
            {
                "metavar": "NAME",
                "help": "name of a set of changes in the scene file, such as short",
            },
        ),
        "--live": (
            "live",
            {
                "action": "store_true",
                "help": "show the scene in a browser while it is computed",
            },
        ),
        "--view": (
            "view",
            {
                "action": "store_true",
                "help": "show the scene in a browser at the end",
            },
        ),
        "--host": (
            "host",
            {
                "metavar": "ADDRESS",
                "default": "127.0.0.1",
                "help": "address at which a browser reaches the scene (default: 127.0.0.1, this "
                "machine alone; 0.0.0.0 is all of the network)",
            },
        ),
    },
)
