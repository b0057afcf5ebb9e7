"""``invtoolbox flow SEQUENCE``."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.runs.flow.job import FlowJob
    from invtoolbox.runs.flow.sequence import FlowStudy

_CHALLENGES = ("av2-v1", "av2-v2", "av2-v3")
# Notes of more sweeps than this are told by their number.
_FEW = 3


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "flow",
        help="the motion of every point of a lidar sequence",
        description="Estimate scene flow: for every point of every sweep, where it is at the next one. SEQUENCE is a folder of\n"
        ".bin, .pcd, .ply, .npy or .npz sweeps, of KITTI, Argoverse 2, nuScenes or Ouster; or the name of a data set or\n"
        "of a scene of the catalogue. One result file a sweep goes to the folder --out; the last sweep has no successor,\n"
        "and so no result. A sweep that cannot be read is reported and skipped, and the exit code is 1.",
        epilog="examples:\n"
        "  invtoolbox flow street --out results/street --report results/street.html\n"
        "  invtoolbox flow ~/kitti/sequences/07 --workers 2 --out results/kitti\n"
        "  invtoolbox flow ~/kitti/sequences/07 --workers 2 --out results/kitti --resume\n"
        "  invtoolbox flow av2-pair --method nsfp --out results/nsfp --pictures\n\n"
        "a result, with NumPy alone:\n"
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
        help="how to read the sweeps, where what the folder holds misleads",
    )
    data.add_argument(
        "--poses",
        metavar="FILE",
        help="the poses in the world, one a line (KITTI or TUM): of the sensor; of a camera with "
        "--option calibration=FILE; none to do without",
    )
    data.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="another option of the reader, such as rate=20, times=times.txt or, for the street, sweeps=50",
    )
    data.add_argument(
        "--items",
        metavar="ITEMS",
        help="which sweeps: all, START:STOP:STEP, or numbers joined by commas, counted from 0 "
        "(default: all)",
    )
    method = parser.add_argument_group("method")
    method.add_argument(
        "--method", metavar="NAME", help="see `invtoolbox list methods` (default: default)"
    )
    method.add_argument(
        "--ego-motion",
        choices=("auto", "poses", "icp", "none"),
        help="the sensor's own motion: its poses, a registration of the points, or none (default: auto, poses where there "
        "are some)",
    )
    method.add_argument(
        "--ground",
        choices=("auto", "labels", "none"),
        help="the ground is found (auto), taken from labels, or not told",
    )
    method.add_argument(
        "--max-range",
        type=float,
        metavar="M",
        help="points beyond are taken to stand still in the world (default: none)",
    )
    method.add_argument(
        "--seed", type=int, metavar="N", help="of the method's random draws (default: 0)"
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--out",
        "--output",
        "-o",
        dest="output",
        metavar="DIR",
        help="folder of the results (default: results/SEQUENCE)",
    )
    results.add_argument(
        "--format",
        choices=("npz", *_CHALLENGES),
        default="npz",
        help="av2-v1, av2-v2 and av2-v3 also write the files of the Argoverse 2 challenges (default: npz alone)",
    )
    results.add_argument(
        "--masks", metavar="FILE", help="the archive of masks of the challenge of 2023, for av2-v1"
    )
    results.add_argument(
        "--report", metavar="FILE", help="also write an HTML page with pictures and errors"
    )
    results.add_argument(
        "--pictures", action="store_true", help="also write each sweep from above as PNG"
    )
    results.add_argument(
        "--cloud",
        action="store_true",
        help="also write the sequence as one dense cloud, cloud.ply: the static map, and "
        "what moves carried along its flow to the first sweep",
    )
    results.add_argument(
        "--view", action="store_true", help="show the flow in Rerun when it is done (extra [view])"
    )
    results.add_argument(
        "--resume", action="store_true", help="go on from the results that are whole"
    )
    results.add_argument(
        "--overwrite", action="store_true", help="replace the results that are there"
    )
    results.add_argument(
        "--quiet", "-q", action="store_true", help="no progress bar and no summary"
    )
    many = parser.add_argument_group(
        "workers", "The results are the same whatever the number of workers."
    )
    many.add_argument(
        "--workers",
        type=int,
        default=1,
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
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from invtoolbox.runs.flow.job import run_job

    job = job_of(arguments)
    if arguments.view:
        _require_viewer()
    study = run_job(
        job,
        arguments.workers,
        arguments.cluster,
        arguments.threads,
        arguments.resume,
        arguments.overwrite,
        not arguments.quiet,
    )
    code = tell(study, arguments.quiet)
    if arguments.cloud and study.failed:
        print(
            "invtoolbox: no cloud was written, because what moves cannot be followed over the sweeps that failed; mend them and give "
            "--resume",
            file=sys.stderr,
        )
    elif arguments.cloud and not arguments.quiet:
        print(f"cloud: {study.folder / 'cloud.ply'}")
    if job.report is not None and not arguments.quiet:
        print(f"report: {job.report}")
    if arguments.view:
        from invtoolbox.runs.flow.job import view

        view(study, job.sequence)
    return code


def job_of(arguments: argparse.Namespace) -> FlowJob:
    """What the options ask for; those of a scene of the catalogue stand where none is given."""
    from invtoolbox.runs.flow.job import FlowJob, preparation_of
    from invtoolbox.runs.flow.scene import find_sequence
    from invtoolbox.runs.flow.sequence import SequencePath

    options = {key: value for key, value in (_option(line) for line in arguments.option)}
    if arguments.poses is not None:
        options["poses"] = arguments.poses
    scene = find_sequence(arguments.sequence)
    if scene is not None:
        base = scene.job(arguments.output)
        sequence = replace(
            base.sequence,
            reader=arguments.reader or base.sequence.reader,
            options={**base.sequence.options, **options},
        )
        job = replace(base, sequence=sequence)
    else:
        sequence = SequencePath.of(arguments.sequence, arguments.reader, options)
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
    }
    changed = {key: value for key, value in changes.items() if value is not None}
    before = {
        key: getattr(job.preparation, key)
        for key in ("ego_motion", "deskew", "ground", "max_range", "min_height", "max_height")
    }
    formats = (
        *((arguments.format,) if arguments.format != "npz" else ()),
        *(("png",) if arguments.pictures else ()),
        *(("ply",) if arguments.cloud else ()),
    )
    return replace(
        job,
        method=arguments.method or job.method,
        preparation=preparation_of({**before, **changed}, "the command line"),
        items=arguments.items or job.items,
        seed=job.seed if arguments.seed is None else arguments.seed,
        formats=formats,
        report=Path(arguments.report) if arguments.report else None,
        masks=Path(arguments.masks) if arguments.masks else None,
    )


def tell(study: FlowStudy, quiet: bool) -> int:
    """Say how a sequence ended; the exit code is 1 where a sweep failed."""
    outcomes = [r.outcome for r in study.reports]
    if not quiet:
        counts = ", ".join(
            f"{outcomes.count(o)} {o}" for o in ("done", "kept", "failed") if o in outcomes
        )
        spent = "" if study.seconds is None else f"; {study.seconds:.2f} s a sweep"
        print(
            f"{len(study)} sweep{'s' if len(study) > 1 else ''}: {counts}{spent}; in {study.folder}"
        )
        for line in _notes(study):
            print(f"  note: {line}")
        for line in error_lines(study):
            print(f"  {line}")
    for report in study.failed:
        print(f"invtoolbox: {report.name} failed: {report.error}", file=sys.stderr)
    return 1 if study.failed else 0


def error_lines(study: FlowStudy) -> list[str]:
    """The errors against labels, where some sweeps have them."""
    errors = study.errors()
    if errors is None:
        return []
    three, mean = errors.three_way.pool(), errors.bucketed.mean()
    return [
        f"against labels, {errors.points:,} points within 35 m, not ground, the sensor's motion removed:",
        f"  dynamic EPE {_metres(errors.dynamic)} ({errors.dynamic_points:,} points), static EPE {_metres(errors.static)}, "
        f"AccS {errors.strict:.3f}, AccR {errors.relax:.3f}",
        f"  three-way EPE {_metres(three.mean)} over points, {_metres(errors.three_way.per_frame().mean)} over sweeps; "
        f"bucket-normalised dynamic error {mean.dynamic:.3f}",
    ]


def _require_viewer() -> None:
    from importlib.util import find_spec

    from invtoolbox.core.environment import how_to_get
    from invtoolbox.errors import MissingDependency

    if find_spec("rerun") is None:
        raise MissingDependency(
            f"--view shows the flow in Rerun, which is not installed; {how_to_get('view')}"
        )


def _metres(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f} m"


def _notes(study: FlowStudy) -> list[str]:
    """What was noted of some pairs of sweeps and not of all, whichever sweep it was said of; all of it where there is one pair."""
    told: Counter[str] = Counter()
    for facts in (report.facts for report in study.reports):
        said = [
            note.removeprefix(f"{facts['source']}: ").removeprefix(f"{facts['target']}: ")
            for note in facts.get("notes", ())
        ]
        told.update(list(dict.fromkeys(said)))
    estimated = len(study) - len(study.failed)
    rare = [(note, count) for note, count in told.items() if count < estimated or estimated == 1]
    return [f"{note} ({count} sweeps)" if count > 1 else note for note, count in rare[:_FEW]]


def _option(line: str) -> tuple[str, Any]:
    from invtoolbox.catalogue.documents import parse_override

    try:
        return parse_override(line)
    except InputError:
        raise InputError(
            f"--option takes KEY=VALUE, for example --option rate=20, got {line!r}"
        ) from None
