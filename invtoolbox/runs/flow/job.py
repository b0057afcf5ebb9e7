"""What is made of the result files of a sequence: pictures, one dense cloud, a report, the files of a challenge.

One flow of a sequence as the command line and scene files ask for it: the study, and what is made of its files.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from invtoolbox.datasets.output import write_bytes
from invtoolbox.datasets.sweeps.argoverse_flow import (
    STRIDE,
    argoverse_mask,
    argoverse_path,
    write_argoverse,
)
from invtoolbox.datasets.sweeps.flow_files import FlowFile, residual_flow
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import relative_motion
from invtoolbox.geometry.sweeps import Sweep, Sweeps
from invtoolbox.motion.preparation import Preparation
from invtoolbox.runs.flow.sequence import (
    STREET,
    FlowStudy,
    SequencePath,
    errors_from_facts,
    flow_sequence,
)
from invtoolbox.runs.study.workers import Report

#: Challenge formats by name, and their versions.
CHALLENGES: dict[str, Any] = {"av2-v1": 1, "av2-v2": 2, "av2-v3": 3}
FORMATS = (*CHALLENGES, "png", "ply")
#: Sweeps that a report shows from above.
SHOWN = 4


def check_products(
    sequence: SequencePath, formats: Sequence[str], masks: Path | None = None, whole: bool = True
) -> None:
    """Refuse what could not be written in the end; said before anything is computed."""
    for name in formats:
        if name not in FORMATS:
            raise InputError(
                f"there is no format {name!r}; results can be made into {', '.join(FORMATS)}"
            )
    if "ply" in formats and not whole:
        raise InputError(
            "a cloud is made of a whole sequence, whose sweeps follow each other; leave out the choice of items, or the cloud"
        )
    if "av2-v1" in formats and masks is None:
        raise InputError(
            "the challenge of 2023 asks for some points of each sweep; give its archive of masks (--masks), or another format"
        )
    if any(name in CHALLENGES for name in formats) and sequence.reader == STREET:
        raise InputError(
            "a challenge takes the flow of recorded sweeps, which this sequence has none of; leave the format out"
        )


def write_products(
    study: FlowStudy,
    sequence: SequencePath,
    formats: Sequence[str],
    report: Path | None = None,
    title: str = "Scene flow",
    masks: Path | None = None,
) -> None:
    """Write them into folders beside the result files; one sweep at a time is read, and earlier products are replaced."""
    if not formats and report is None:
        return
    opened = sequence.open()
    if report is not None:
        _write_report(study, opened, report, title)
    for name in formats:
        if name in CHALLENGES:
            _write_challenge(study, opened, sequence, name, masks)
        elif name == "ply":
            _write_cloud(study, opened)
        else:
            _write_pictures(study, opened)


def results(study: FlowStudy, opened: Sweeps) -> Iterator[tuple[Report, Sweep, FlowFile]]:
    """Every result that is there, its sweep and its flow, read one by one."""
    number = _numbers(opened)
    for k, told in enumerate(study.reports):
        if told.outcome != "failed":
            yield told, opened[number[told.name]], study[k]


def _numbers(opened: Sweeps) -> dict[str, int]:
    return {name: k for k, name in enumerate(opened.names)}


def _write_challenge(
    study: FlowStudy, opened: Sweeps, sequence: SequencePath, name: str, masks: Path | None
) -> None:
    version, folder, log = CHALLENGES[name], study.folder / name, sequence.path.name
    number = _numbers(opened)
    for told, sweep, found in results(study, opened):
        index = number[told.name]
        if version == 2 and index % STRIDE:
            continue
        stamp = index if version == 2 else _nanoseconds(sweep, told.name)
        following = opened[index + 1].pose
        moved = (
            None
            if sweep.pose is None or following is None
            else relative_motion(sweep.pose, following)
        )
        mask = argoverse_mask(masks, log, stamp) if version == 1 and masks is not None else None
        os.makedirs(argoverse_path(folder, log, stamp, version).parent, exist_ok=True)
        write_argoverse(
            folder, log, stamp, found, sweep.points, version, mask, moved, overwrite=True
        )


def _nanoseconds(sweep: Sweep, name: str) -> int:
    if not name.isdigit():
        raise InputError(
            f"{sweep.source}: a challenge names sweeps by their time in nanoseconds, and this one is named {name!r}"
        )
    return int(name)


def _write_pictures(study: FlowStudy, opened: Sweeps) -> None:
    from invtoolbox.plotting.birds_eye import birds_eye

    folder = study.folder / "pictures"
    folder.mkdir(exist_ok=True)
    for told, sweep, found in results(study, opened):
        picture = birds_eye(sweep.points, found.residual, found.dynamic, title=told.name)
        write_bytes(folder / f"{told.name}.png", picture, overwrite=True)


def _write_cloud(study: FlowStudy, opened: Sweeps) -> None:
    from invtoolbox.runs.flow.accumulation import write_accumulated
    from invtoolbox.runs.flow.trajectories import FiledFlow

    if not study.failed:  # over a gap what moves cannot be followed; the command line says so
        write_accumulated(
            study.folder / "cloud.ply", FiledFlow(opened, study.folder), overwrite=True
        )


def _write_report(study: FlowStudy, opened: Sweeps, path: Path, title: str) -> None:
    from invtoolbox.plotting.flow_report import SweepResult, write_flow_report

    rows = []
    for told in study.reports:
        facts = told.facts
        errors = errors_from_facts(facts["errors"]) if facts.get("errors") else None
        seconds = told.seconds if told.outcome == "done" else None
        rows.append(
            SweepResult(
                told.name, seconds, errors, facts.get("moving"), facts.get("speed"), told.error
            )
        )
    write_flow_report(path, title, rows, _shown(study, opened), settings=study.settings())


def _shown(study: FlowStudy, opened: Sweeps) -> Iterator[Any]:
    """A few sweeps, spread over the sequence."""
    from invtoolbox.plotting.flow_report import SweepPicture

    there = [k for k, told in enumerate(study.reports) if told.outcome != "failed"]
    number = _numbers(opened)
    for k in (
        sorted({there[round(n * (len(there) - 1) / (SHOWN - 1))] for n in range(SHOWN)})
        if there
        else ()
    ):
        index = number[study.reports[k].name]
        sweep, found = opened[index], study[k]
        truth = None
        if sweep.labels is not None and sweep.pose is not None:
            following = opened[index + 1].pose
            if following is not None:
                truth = residual_flow(
                    sweep.labels.flow, sweep.points, relative_motion(sweep.pose, following)
                )
                truth[~sweep.labels.valid] = torch.nan
        yield SweepPicture(
            study.reports[k].name, sweep.points, found.residual, found.dynamic, truth
        )


def view(study: FlowStudy, sequence: SequencePath) -> None:
    """Show every sweep with its flow in Rerun."""
    from invtoolbox.plotting.viewers import SweepView, view_flow

    opened = sequence.open()
    view_flow(
        (
            SweepView(
                told.name, sweep.points, found.residual, found.dynamic, sweep.pose, sweep.timestamp
            )
            for told, sweep, found in results(study, opened)
        ),
        title=study.folder.name,
    )


@dataclass(frozen=True)
class FlowJob:
    """What is to be done.

    Attributes:
        sequence: which sweeps.
        folder: for the result files.
        method: by name.
        preparation: of each pair.
        items: which sweeps, as `flow_sequence` takes them.
        seed: of the method's draws.
        formats: of `invtoolbox.runs.flow.job.FORMATS`.
        report: an HTML page, where one is wanted.
        title: of the report.
        masks: the archive of the challenge of 2023, for ``av2-v1``.
    """

    sequence: SequencePath
    folder: Path
    method: str = "default"
    preparation: Preparation = dataclasses.field(default_factory=Preparation)
    items: str | Sequence[int] = "all"
    seed: int = 0
    formats: tuple[str, ...] = ()
    report: Path | None = None
    title: str = "Scene flow"
    masks: Path | None = None


def run_job(
    job: FlowJob,
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> FlowStudy:
    """Estimate what is not there yet, and make what is wanted of the files. What can be refused is refused before the first pair."""
    check_products(job.sequence, job.formats, job.masks, whole=job.items == "all")
    if job.report is not None:
        _check_report(job, resume, overwrite)
    study = flow_sequence(
        job.sequence,
        job.folder,
        job.method,
        job.preparation,
        workers,
        cluster,
        threads,
        resume,
        overwrite,
        job.items,
        job.seed,
        progress,
    )
    write_products(study, job.sequence, job.formats, job.report, job.title, job.masks)
    return study


def preparation_of(settings: Mapping[str, Any], where: str) -> Preparation:
    """A preparation from plain settings; errors begin with the place that they were written in."""
    known = [
        field.name for field in dataclasses.fields(Preparation) if field.name != "ground_settings"
    ]
    for key in settings:
        if key not in known:
            raise InputError(
                f"{where}: a preparation has no setting {key!r}; it has {', '.join(known)}"
            )
    try:
        return Preparation(**settings)
    except (InputError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error


def _check_report(job: FlowJob, resume: bool, overwrite: bool) -> None:
    assert job.report is not None
    job.sequence.refuse_within(job.report.parent)
    if job.report.exists() and not (resume or overwrite):
        raise InputError(
            f"{job.report} exists; give --overwrite to replace it, --resume to go on, or another name"
        )
    if job.report.parent != job.folder and not job.report.parent.is_dir():
        raise InputError(
            f"{job.report}: the folder {job.report.parent} does not exist; make it first"
        )
