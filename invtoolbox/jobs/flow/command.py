"""``invtoolbox flow SEQUENCE``: estimate the scene flow of a lidar sequence."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from invtoolbox.catalogue.documents import parse_override
from invtoolbox.errors import InputError
from invtoolbox.jobs.command import FolderCommand
from invtoolbox.jobs.flow.exports import CHALLENGES, OBJECTS, view


@dataclass(frozen=True)
class FlowCommand(FolderCommand):
    """Command of a sequence of sweeps."""

    def changes(self, arguments: argparse.Namespace, kind: Any) -> dict[str, Any]:
        reader_options = dict(_option(line) for line in arguments.option)
        formats = {
            arguments.format: arguments.format in CHALLENGES,
            "png": arguments.pictures,
            "ply": arguments.cloud,
        }
        return {
            **({"flow.latency": 0} if arguments.online else {}),
            "output.formats": [
                *(name for name, is_wanted in formats.items() if is_wanted),
                *arguments.save,
            ],
            **{f"sweeps.options.{key}": value for key, value in reader_options.items()},
            **super().changes(arguments, kind),
        }

    def finish(self, job: Any, arguments: argparse.Namespace) -> int:
        if arguments.view:
            from invtoolbox.plotting.flow_viewer import rerun_module

            rerun_module()  # missing before the flow is computed, not after
        if arguments.report:
            job = replace(job, report=Path(arguments.report))
        study = job.run(not arguments.quiet)
        code: int = job.print_outcome(study, arguments.quiet)
        is_joined = arguments.cloud or any(name.startswith("map") for name in arguments.save)
        if is_joined and study.failed:
            print(
                "invtoolbox: no cloud was written, and no map, because moving things cannot be followed over "
                "the sweeps that failed; mend them and give --resume",
                file=sys.stderr,
            )
        elif arguments.cloud and not arguments.quiet:
            print(f"cloud: {study.folder / 'cloud.ply'}")
        if arguments.save and not arguments.quiet:
            print(f"saved in {study.folder}: {', '.join(arguments.save)}")
        if job.report is not None and not arguments.quiet:
            print(f"report: {job.report}")
        if arguments.view:
            view(study, job.sequence)
        return code


def _option(line: str) -> tuple[str, Any]:
    try:
        return parse_override(line)
    except InputError:
        raise InputError(
            f"--option takes KEY=VALUE, for example --option rate=20, got {line!r}"
        ) from None


COMMAND = FlowCommand(
    description="Estimate scene flow: the displacement of every point of every sweep to the next "
    "sweep. SEQUENCE is a folder of\n"
    ".bin, .las, .laz, .pcd, .ply, .npy or .npz sweeps, of KITTI, Argoverse 2, nuScenes, Waymo or "
    "Ouster; a recording:\n.pcap of Ouster or a VLP-16, a bag of ROS 1 or 2, .mcap; an .h5 scene of "
    "OpenSceneFlow;\na scene file; or the name of a data set or of a scene of the catalogue. One result "
    "file per sweep is written to the folder\n--output; the last sweep has no successor, and so no "
    "result. A sweep that cannot be read is reported and skipped, and the\nexit code is then 1. The "
    "results are the same for any number of workers.",
    positional={"SEQUENCE": "sweeps.path"},
    options={
        "--reader": "sweeps.reader",
        "--items": "sweeps.items",
        "--method": "flow.method",
        "--window": "flow.window",
        "--ego-motion": "flow.preparation.ego_motion",
        "--ground": "flow.preparation.ground",
        "--max-range": "flow.preparation.max_range",
        "--sensor-origin": "flow.preparation.sensor_origin",
        "--vehicle": "flow.preparation.vehicle",
        "--seed": "seed",
        "--masks": "output.masks",
    },
    examples=(
        "flow street --output results/street --report results/street.html",
        "flow ~/kitti/sequences/07 --workers 2 --output results/kitti",
        "flow ~/kitti/sequences/07 --workers 2 --output results/kitti --resume",
        "flow drive.pcap --output results/drive --save labels boxes map",
        "flow av2-pair --method nsfp --output results/nsfp --pictures\n\n"
        "read a result with NumPy alone:\n"
        '  flow = numpy.load("results/street/000000.npz")["flow"]     # (points, 3), metres to the '
        "next sweep",
    ),
    outputs=("results/SEQUENCE",),
    has_workers=True,
    settings={
        "--poses": (
            "sweeps.options.poses",
            {
                "metavar": "FILE",
                "help": "poses in the world, one per line (KITTI or TUM): poses of the sensor, or of "
                "a camera with --option calibration=FILE; or a topic of a ROS or MCAP recording; none "
                "to read no poses",
            },
        ),
        "--option": (
            "option",
            {
                "metavar": "KEY=VALUE",
                "action": "append",
                "default": [],
                "help": "further option of the reader, such as rate=20, times=times.txt or, for the "
                "street, sweeps=50",
            },
        ),
        "--format": (
            "format",
            {
                "choices": ("npz", *CHALLENGES),
                "help": "av2-v1, av2-v2 and av2-v3 also write the files of the Argoverse 2 "
                "challenges (default: npz alone)",
            },
        ),
        "--online": (
            "online",
            {
                "action": "store_true",
                "help": "take past sweeps alone, as they arrive from a sensor (flow.latency of 0): "
                "the flow of a sweep is a prediction",
            },
        ),
        "--save": (
            "save",
            {
                "nargs": "+",
                "choices": OBJECTS,
                "metavar": "WHAT",
                "default": [],
                "help": "also write moving objects: labels (SemanticKITTI .label, .npy), boxes "
                "(tracks.json, KITTI), map, map.pcd or map.laz (what stands still), velocities (.ply), "
                "h5 (a copy of the scene of OpenSceneFlow)",
            },
        ),
        "--report": (
            "report",
            {"metavar": "FILE", "help": "also write an HTML page with pictures and errors"},
        ),
        "--pictures": (
            "pictures",
            {"action": "store_true", "help": "also write a PNG of each sweep from above"},
        ),
        "--cloud": (
            "cloud",
            {
                "action": "store_true",
                "help": "also write the sequence as one dense cloud, cloud.ply: the static map, and "
                "the moving things, carried along their flow to the first sweep",
            },
        ),
        "--view": (
            "view",
            {"action": "store_true", "help": "show the flow in Rerun at the end (extra [view])"},
        ),
    },
)
