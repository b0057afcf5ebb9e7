"""``invtoolbox flow SEQUENCE``: estimate the scene flow of a lidar sequence."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.jobs import options

if TYPE_CHECKING:
    from invtoolbox.jobs.flow.sequence import FlowJob

_CHALLENGES = ("av2-v1", "av2-v2", "av2-v3")


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "flow",
        help="estimate the motion of every point of a lidar sequence",
        description="Estimate scene flow: the displacement of every point of every sweep to the "
        "next sweep. SEQUENCE is a folder of\n"
        ".bin, .pcd, .ply, .npy or .npz sweeps, of KITTI, Argoverse 2, nuScenes, Waymo or Ouster; an "
        ".h5 scene of OpenSceneFlow; or the "
        "name of a data set or\nof a scene of the catalogue. One result file per sweep is written "
        "to the folder --out; the last sweep has no\nsuccessor, and so no result. A sweep that "
        "cannot be read is reported and skipped, and the exit code is then 1.",
        epilog="examples:\n"
        "  invtoolbox flow street --out results/street --report results/street.html\n"
        "  invtoolbox flow ~/kitti/sequences/07 --workers 2 --out results/kitti\n"
        "  invtoolbox flow ~/kitti/sequences/07 --workers 2 --out results/kitti --resume\n"
        "  invtoolbox flow av2-pair --method nsfp --out results/nsfp --pictures\n\n"
        "read a result with NumPy alone:\n"
        '  flow = numpy.load("results/street/000000.npz")["flow"]     # (points, 3), metres to the next sweep',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sequence",
        metavar="SEQUENCE",
        help="a folder of sweeps, or a name of the catalogue (`invtoolbox list datasets`)",
    )
    data = parser.add_argument_group("sweeps")
    data.add_argument(
        "--reader",
        metavar="NAME",
        help="name of the reader of the sweeps (default: chosen by the content of the folder)",
    )
    data.add_argument(
        "--poses",
        metavar="FILE",
        help="poses in the world, one per line (KITTI or TUM): poses of the sensor, or of a "
        "camera with "
        "--option calibration=FILE; none to read no poses",
    )
    data.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="further option of the reader, such as rate=20, times=times.txt or, for the street, "
        "sweeps=50",
    )
    data.add_argument(
        "--items",
        metavar="ITEMS",
        help="choice of sweeps: all, START:STOP:STEP, or numbers separated by commas, counted "
        "from 0 "
        "(default: all)",
    )
    method = parser.add_argument_group("method")
    method.add_argument(
        "--method",
        metavar="NAME",
        help="name of a method; see `invtoolbox list methods` (default: default)",
    )
    method.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="number of sweeps that default, euler and floxels may use per pair, 2 to 13, before "
        "and after it (default: 5)",
    )
    method.add_argument(
        "--ego-motion",
        choices=("auto", "poses", "icp", "none"),
        help="motion of the sensor: from its poses, from a registration of the points (icp), or "
        "none (default: auto, poses "
        "if there are any)",
    )
    method.add_argument(
        "--ground",
        choices=("auto", "labels", "none"),
        help="ground points: found (auto), read from labels, or not separated (default: auto)",
    )
    method.add_argument(
        "--max-range",
        type=float,
        metavar="M",
        help="distance in metres beyond which points are assumed to stand still in the world "
        "(default: none)",
    )
    method.add_argument(
        "--sensor-origin",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="place of the sensor in the frame of the points, metres (default: the origin; "
        "estimated if the points do not lie around it)",
    )
    method.add_argument(
        "--seed", type=int, metavar="N", help="seed of the method's random draws (default: 0)"
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--out",
        "--output",
        "-o",
        dest="output",
        metavar="DIR",
        help="folder for the results (default: results/SEQUENCE)",
    )
    results.add_argument(
        "--format",
        choices=("npz", *_CHALLENGES),
        default="npz",
        help="av2-v1, av2-v2 and av2-v3 also write the files of the Argoverse 2 challenges "
        "(default: npz alone)",
    )
    results.add_argument(
        "--masks", metavar="FILE", help="archive of the masks of the challenge of 2023, for av2-v1"
    )
    results.add_argument(
        "--report", metavar="FILE", help="also write an HTML page with pictures and errors"
    )
    results.add_argument(
        "--pictures", action="store_true", help="also write a PNG of each sweep from above"
    )
    results.add_argument(
        "--cloud",
        action="store_true",
        help="also write the sequence as one dense cloud, cloud.ply: the static map, and the "
        "moving things, carried "
        "along their flow to the first sweep",
    )
    results.add_argument(
        "--view", action="store_true", help="show the flow in Rerun at the end (extra [view])"
    )
    results.add_argument(
        "--resume", action="store_true", help="keep the result files that are complete"
    )
    results.add_argument("--overwrite", action="store_true", help="replace existing results")
    options.add_quiet(results)
    options.add_workers(
        parser.add_argument_group("workers", "The results are the same for any number of workers.")
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Estimate the flow of a sequence."""
    from invtoolbox.jobs.flow.report import report_flow

    job = job_of(arguments)
    if arguments.view and find_spec("rerun") is None:
        from invtoolbox.core.environment import how_to_get

        raise MissingDependency(
            f"--view shows the flow in Rerun, which is not installed; {how_to_get('view')}"
        )
    study = job.run(progress=not arguments.quiet)
    code = report_flow(study, arguments.quiet)
    if arguments.cloud and study.failed:
        print(
            "invtoolbox: no cloud was written, because moving things cannot be followed over the "
            "sweeps that failed; mend them and give --resume",
            file=sys.stderr,
        )
    elif arguments.cloud and not arguments.quiet:
        print(f"cloud: {study.folder / 'cloud.ply'}")
    if job.report is not None and not arguments.quiet:
        print(f"report: {job.report}")
    if arguments.view:
        from invtoolbox.jobs.flow.exports import view

        view(study, job.sequence)
    return code


def job_of(arguments: argparse.Namespace) -> FlowJob:
    """Return the job of the options.

    Settings of a scene of the catalogue apply unless an option replaces them.
    """
    from invtoolbox.jobs.flow.scene import find_sequence
    from invtoolbox.jobs.flow.sequence import FlowJob, preparation_of
    from invtoolbox.jobs.flow.source import SequencePath
    from invtoolbox.jobs.job import Request

    reader_options = dict(_option(line) for line in arguments.option)
    if arguments.poses is not None:
        reader_options["poses"] = arguments.poses
    scene = find_sequence(arguments.sequence)
    if scene is not None:
        base = scene.job(Request(output=arguments.output))
        sequence = replace(
            base.sequence,
            reader=arguments.reader or base.sequence.reader,
            options={**base.sequence.options, **reader_options},
        )
        job = replace(base, sequence=sequence)
    else:
        sequence = SequencePath.of(arguments.sequence, arguments.reader, reader_options)
        name = Path(arguments.sequence).expanduser().resolve().name
        job = FlowJob(
            sequence,
            Path(arguments.output or Path("results") / name),
            title=f"Scene flow of {name}",
        )
    changes = {
        "ego_motion": arguments.ego_motion,
        "ground": arguments.ground,
        "max_range": arguments.max_range,
        "sensor_origin": arguments.sensor_origin and tuple(arguments.sensor_origin),
    }
    changed = {key: value for key, value in changes.items() if value is not None}
    before = {
        key: getattr(job.preparation, key)
        for key in (
            "ego_motion",
            "deskew",
            "ground",
            "max_range",
            "min_height",
            "max_height",
            "sensor_origin",
        )
    }
    formats = (
        *((arguments.format,) if arguments.format != "npz" else ()),
        *(("png",) if arguments.pictures else ()),
        *(("ply",) if arguments.cloud else ()),
    )
    return replace(
        job,
        method=arguments.method or job.method,
        window=job.window if arguments.window is None else arguments.window,
        preparation=preparation_of({**before, **changed}, "the command line"),
        items=arguments.items or job.items,
        seed=job.seed if arguments.seed is None else arguments.seed,
        formats=formats,
        report=Path(arguments.report) if arguments.report else None,
        masks=Path(arguments.masks) if arguments.masks else None,
        workers=1 if arguments.workers is None else arguments.workers,
        cluster=arguments.cluster,
        threads=arguments.threads or 1,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )


def _option(line: str) -> tuple[str, Any]:
    from invtoolbox.catalogue.documents import parse_override

    try:
        return parse_override(line)
    except InputError:
        raise InputError(
            f"--option takes KEY=VALUE, for example --option rate=20, got {line!r}"
        ) from None
