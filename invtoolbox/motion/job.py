"""One flow of a sequence as the command line and scene files ask for it: the study, and what is made of its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError
from invtoolbox.motion.opening import SequencePath
from invtoolbox.motion.preparation import Preparation
from invtoolbox.motion.products import check_products, write_products
from invtoolbox.motion.sequence import FlowStudy, flow_sequence


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
        formats: of `invtoolbox.motion.products.FORMATS`.
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
