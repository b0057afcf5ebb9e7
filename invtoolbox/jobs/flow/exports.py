"""Exports of result files: pictures, one dense cloud, a report, the files of a challenge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.output import make_folder, write_bytes
from invtoolbox.datasets.sweeps.argoverse_flow import (
    STRIDE,
    argoverse_mask,
    argoverse_path,
    write_argoverse,
)
from invtoolbox.datasets.sweeps.flow_files import FlowFile, residual_flow
from invtoolbox.datasets.sweeps.opensceneflow import OpenSceneFlow
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import relative_motion
from invtoolbox.geometry.sweeps import Sweep, Sweeps
from invtoolbox.jobs.flow.results import FlowStudy, errors_from_facts
from invtoolbox.jobs.flow.source import STREET, SequencePath

#: Challenge formats by name, and their versions.
CHALLENGES: dict[str, Any] = {"av2-v1": 1, "av2-v2": 2, "av2-v3": 3}
#: Names of the exports of moving objects: labels and boxes, a static map as PLY, PCD and LAZ, clouds
#: with velocities, a copy of the scene of OpenSceneFlow.
OBJECTS = ("labels", "boxes", "map", "map.pcd", "map.laz", "velocities", "h5")
#: Names of all exports: challenges, pictures, one dense cloud, moving objects.
FORMATS = (*CHALLENGES, "png", "ply", *OBJECTS)
#: Number of sweeps that a report shows from above.
SHOWN = 4


def check_exports(
    sequence: SequencePath, formats: Sequence[str], masks: Path | None = None, whole: bool = True
) -> None:
    """Refuse formats that could not be written, before anything is computed.

    Args:
        sequence: source of the sweeps.
        formats: names out of `FORMATS`.
        masks: archive of the masks of the challenge of 2023.
        whole: whether all sweeps of the sequence are done.
    """
    for name in formats:
        check_choice("the results", FORMATS, format=name)
    if {"ply", "map", "map.pcd", "map.laz"} & set(formats) and not whole:
        raise InputError(
            "a cloud or a map is made of a whole sequence, whose sweeps follow each other; leave out the "
            "choice of items, or the cloud"
        )
    if "h5" in formats and not isinstance(sequence.open(), OpenSceneFlow):
        raise InputError(
            f"{sequence.path}: a copy with labels is made of a scene of OpenSceneFlow (.h5), and this "
            "is none; save labels and boxes instead"
        )
    if "av2-v1" in formats and masks is None:
        raise InputError(
            "the challenge of 2023 asks for some points of each sweep; give its archive of masks "
            "(--masks), or another format"
        )
    if any(name in CHALLENGES for name in formats) and sequence.reader == STREET:
        raise InputError(
            "a challenge takes the flow of recorded sweeps, and this sequence is simulated; leave "
            "the format out"
        )


def write_exports(
    study: FlowStudy,
    sequence: SequencePath,
    formats: Sequence[str],
    report: Path | None = None,
    title: str = "Scene flow",
    masks: Path | None = None,
) -> None:
    """Write exports into folders next to the result files; earlier exports are replaced.

    One sweep at a time is in memory.

    Args:
        study: flow of the sequence.
        sequence: source of the sweeps.
        formats: names out of `FORMATS`.
        report: path of an HTML report; None for no report.
        title: title of the report.
        masks: archive of the masks of the challenge of 2023.
    """
    # The sweeps are opened only if something is written.
    if not formats and report is None:
        return
    opened = sequence.open()
    if report is not None:
        _write_report(study, opened, report, title)
    chosen = [name for name in formats if name in OBJECTS]
    if chosen:
        _write_objects(study, opened, chosen)
    for name in formats:
        if name in CHALLENGES:
            _write_challenge(study, opened, sequence, name, masks)
        elif name == "ply":
            _write_cloud(study, opened)
        elif name == "png":
            _write_pictures(study, opened)


def _write_objects(study: FlowStudy, opened: Sweeps, formats: Sequence[str]) -> None:
    from invtoolbox.jobs.flow import object_files
    from invtoolbox.jobs.flow.objects import find_objects

    period = opened[1].timestamp - opened[0].timestamp or 1.0
    flows = ((index, sweep, flow) for index, _, sweep, flow in results(study, opened))
    objects, folder = find_objects(flows, period), study.folder
    for name in formats:
        files = results(study, opened)
        if name == "labels":
            object_files.write_labels(folder / name, files, objects)
        elif name == "boxes":
            object_files.write_boxes(folder / name, opened, objects)
        elif name == "velocities":
            object_files.write_velocities(folder / name, opened, files, objects)
        elif name == "h5" and isinstance(opened, OpenSceneFlow):
            object_files.write_scene(folder, opened, files, objects)
        # As with the cloud, a gap of the sweeps breaks the frame of a map.
        elif not study.failed:
            path = folder / f"map{Path(name).suffix or '.ply'}"
            object_files.write_map(path, opened, folder, objects)


def results(
    study: FlowStudy, opened: Sweeps, chosen: Sequence[int] | None = None
) -> Iterator[tuple[int, str, Sweep, FlowFile]]:
    """Yield the number, the name, the sweep and the flow of every result, read one by one.

    Args:
        study: flow of the sequence.
        opened: the sequence.
        chosen: positions in the list of the results; all by default.
    """
    # A study of chosen items lists only some sweeps, so numbers are looked up by name.
    numbers = {name: k for k, name in enumerate(opened.names)}
    finished = [k for k, report in enumerate(study.reports) if report.outcome != "failed"]
    for position in range(len(finished)) if chosen is None else chosen:
        name = study.reports[finished[position]].name
        yield numbers[name], name, opened[numbers[name]], study[finished[position]]


def _write_challenge(
    study: FlowStudy, opened: Sweeps, sequence: SequencePath, name: str, masks: Path | None
) -> None:
    version, folder = CHALLENGES[name], study.folder / name
    for index, sweep_name, sweep, flow in results(study, opened):
        # The challenge of 2024 asks for every fifth sweep, and names it by its number.
        if version == 2 and index % STRIDE:
            continue
        log = str(sweep.meta.get("log", sequence.path.name))
        if version != 2 and not sweep_name.isdigit():
            raise InputError(
                f"{sweep.source}: a challenge names sweeps by their time in nanoseconds, and this "
                f"one is named {sweep_name!r}"
            )
        stamp = index if version == 2 else int(sweep_name)
        # Version 1 asks for the points of a mask, versions 2 and 3 for all points.
        mask = argoverse_mask(masks, log, stamp) if version == 1 and masks is not None else None
        # The challenge subtracts the ego motion of the poses, not the estimated one.
        make_folder(argoverse_path(folder, log, stamp, version).parent)
        write_argoverse(
            folder,
            log,
            stamp,
            flow,
            sweep.points,
            version=version,
            mask=mask,
            ego_motion=_motion_to_next(opened, index, sweep),
            overwrite=True,
        )


def _motion_to_next(opened: Sweeps, index: int, sweep: Sweep) -> Tensor | None:
    """Return the ego motion from a sweep to the next one by their poses; None without poses."""
    later = opened[index + 1].pose
    return None if sweep.pose is None or later is None else relative_motion(sweep.pose, later)


def _write_pictures(study: FlowStudy, opened: Sweeps) -> None:
    from invtoolbox.plotting.birds_eye import birds_eye

    folder = study.folder / "pictures"
    make_folder(folder)
    for _, name, sweep, flow in results(study, opened):
        picture = birds_eye(sweep.points, flow.residual, flow.dynamic, title=name)
        write_bytes(folder / f"{name}.png", picture, overwrite=True)


def _write_cloud(study: FlowStudy, opened: Sweeps) -> None:
    from invtoolbox.jobs.flow.accumulation import write_accumulated
    from invtoolbox.jobs.flow.trajectories import FiledFlow

    # Moving things cannot be followed over a gap, which the command line reports.
    if not study.failed:
        write_accumulated(
            study.folder / "cloud.ply", FiledFlow(opened, study.folder), overwrite=True
        )


def _write_report(study: FlowStudy, opened: Sweeps, path: Path, title: str) -> None:
    from invtoolbox.plotting.flow_report import SweepResult, write_flow_report

    rows = [
        SweepResult(
            report.name,
            # Results that existed already took no seconds in this run.
            report.seconds if report.outcome == "done" else None,
            errors_from_facts(report.facts["errors"]) if report.facts.get("errors") else None,
            report.facts.get("moving"),
            report.facts.get("speed"),
            report.error,
        )
        for report in study.reports
    ]
    write_flow_report(path, title, rows, _choose_pictures(study, opened), settings=study.settings())


def _choose_pictures(study: FlowStudy, opened: Sweeps) -> Iterator[Any]:
    """Yield the pictures of `SHOWN` sweeps, spread evenly over the sequence."""
    from invtoolbox.plotting.flow_report import SweepPicture

    last = len(study.reports) - len(study.failed) - 1
    # Positions 0, last / 3, 2 last / 3 and last of the results, rounded. They are a set, because fewer
    # sweeps than pictures give some of them twice.
    spread = sorted({round(n * last / (SHOWN - 1)) for n in range(SHOWN)}) if last >= 0 else []
    for index, name, sweep, flow in results(study, opened, spread):
        truth = None
        if sweep.labels is not None:
            motion = _motion_to_next(opened, index, sweep)
            # Pictures show the motion in the world, so the ego motion is removed from the truth too.
            if motion is not None:
                truth = residual_flow(sweep.labels.flow, sweep.points, motion)
                # Rows without a label must not look like points at rest.
                truth[~sweep.labels.valid] = torch.nan
        yield SweepPicture(name, sweep.points, flow.residual, flow.dynamic, truth)


def view(study: FlowStudy, sequence: SequencePath) -> None:
    """Show every sweep with its flow in Rerun."""
    from invtoolbox.plotting.flow_viewer import SweepView, view_flow

    opened = sequence.open()
    view_flow(
        (
            SweepView(
                name,
                sweep.points,
                flow.residual,
                flow.dynamic,
                sweep.pose,
                sweep.timestamp,
            )
            for _, name, sweep, flow in results(study, opened)
        ),
        title=study.folder.name,
    )
