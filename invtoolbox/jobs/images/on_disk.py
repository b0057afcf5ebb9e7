"""Reconstruct from disk to disk: slab by slab, within a given memory, and resumable.

The volume is divided into slabs of slices. For the filtered back-projection, the rows of the panel
that see a slab are read a few views at a time, and the finished slab becomes a file in the folder
``OUTPUT.checkpoint``; SIRT writes the slabs of an iterate (`invtoolbox.jobs.images.sirt_on_disk`).
Slabs are independent tasks, in this process or on Dask workers. A run that was stopped goes on
behind the slabs that are there, with the same bits. In the end the slabs are streamed into the
format of the output.
"""

from __future__ import annotations

import dataclasses
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from invtoolbox import datasets
from invtoolbox.core.decision import Decision
from invtoolbox.core.guards import check_range
from invtoolbox.core.interrupts import terminate_as_interrupt
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.datasets.output import make_folder, remove_stale
from invtoolbox.datasets.scans.geometry_3d import Geometry3D
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError
from invtoolbox.jobs.images import parts, sirt_on_disk
from invtoolbox.jobs.images.decisions.order import leave_out_all
from invtoolbox.jobs.images.sirt_on_disk import SlabSIRT
from invtoolbox.jobs.images.slabs import (
    Plan,
    SlabVolume,
    memory_of,
    plan_slabs,
    slab_file,
    write_volume,
)
from invtoolbox.jobs.job import read_json, write_json
from invtoolbox.jobs.kind import SceneOutcome
from invtoolbox.jobs.study.workers import Perform, pool
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.tomography.scan_3d import Scan3D
from invtoolbox.priors.base import PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solvers.sirt import SIRT

if TYPE_CHECKING:
    from invtoolbox.jobs.images.run import ImageJob

#: Bytes per voxel of a slab (the sum, a summand and its copy for the disk) and per value of the
#: projections that are read at once (counts in float64, transforms of padded rows).
_PER_VOXEL, _PER_VALUE = 12, 48
#: Words for the way of the projections.
HOW = "from disk to disk"
#: Formats that hold a volume which is written slice by slice.
_FORMATS = ("", "tif", "tiff", "nii", "nii.gz", "mha", "mhd", "raw", "zarr", "dcm")


@dataclass(frozen=True)
class OnDisk:
    """Result of a run: what a reader of the volume should know.

    Attributes:
        plan: the division into slabs.
        notes: notes for a reader of the result.
        decisions: records of the steps that are decided automatically, all of which are off.
    """

    plan: Plan
    notes: tuple[str, ...]
    decisions: tuple[Decision, ...] = leave_out_all(f"{HOW} no answers are compared")


def reconstruct_on_disk(job: ImageJob, progress: bool) -> SceneOutcome[OnDisk]:
    """Reconstruct a scan by slabs and write the volume.

    Args:
        job: job whose scene states a memory.
        progress: whether to print the plan and show a bar on a terminal.

    Raises:
        InputError: a memory below one slab, a scan without a closed form, or no room on the disk;
            the slabs that were finished stay.
        Interrupted: Ctrl-C; the slabs that were finished stay.
    """
    if not job.outputs:
        job = dataclasses.replace(job, outputs={job.folder: ""})
    request = job.request
    workers = 1 if request.workers is None else request.workers
    check_range("a run on workers", "[1, inf)", workers=workers, threads=request.threads)
    path, form = only_output(job)
    opened, scan, geometry = open_scan(job)
    objective, solver = _objective(job, scan)
    state, table = job.checkpoint.absolute(), job.file.scene.output
    memory = memory_of(str(job.file.scene.solver.memory))
    plan = (
        plan_slabs(scan, memory, _PER_VOXEL, _PER_VALUE)
        if solver is None
        else plan_slabs(scan, memory, sirt_on_disk.PER_VOXEL, sirt_on_disk.PER_VALUE, is_whole=True)
    )
    settings = {
        "geometry": geometry.to_toml(),
        "source": [
            str(parts.path_of(job.file, job.file.scene.measurements).resolve()),
            len(opened),
        ],
        "method": [repr(solver), repr(objective.prior), repr(objective.problem.data_term)],
    }
    if state.exists() and job.overwrite:
        shutil.rmtree(state)
    if (state / "plan.json").exists():
        before = read_json(state / "plan.json")
        if before["settings"] != settings:
            raise InputError(
                f"{state} holds slabs of another scan, geometry or method; restore them, or give "
                "--overwrite to start anew"
            )
        # The slabs that are there determine the division, and so every bit.
        plan = dataclasses.replace(plan, **before["plan"])
    make_folder(state)
    remove_stale(state)
    remove_stale(state.parent, state.name)
    write_json(
        state / "plan.json",
        {"settings": settings, "plan": {"slices": plan.slices, "views": plan.views}},
    )
    count = len(plan.slabs(scan))
    if progress:
        room = 8 * np.prod(scan.volume_shape)
        if solver is not None:
            room = 2 * room + 12 * np.prod(scan.range_shape)
        processes = f"{workers} processes of " if workers > 1 else ""
        print(
            f"{count} slabs of {plan.slices} slices, {plan.views} of {scan.blocks} views at a time: "
            f"{processes}{plan.bytes / 1e9:.2f} GB of memory, {room / 1e9:.2f} GB of disk"
        )
    tasks = count if solver is None else max(count, -(-scan.blocks // plan.views))
    try:
        with (
            terminate_as_interrupt(),
            pool(min(workers, tasks), request.cluster, request.threads) as perform,
        ):
            if solver is None:
                invert = partial(_invert_slab, job, state, plan)
                folder, done = _invert(invert, perform, state, count, progress), ""
            else:
                read = partial(_read_views, job)
                method = SlabSIRT(scan, plan, state, solver, objective, read)
                limits = job.file.scene.solver
                folder, done = method.run(
                    perform, limits.max_iterations, limits.tolerance, progress
                )
    except KeyboardInterrupt:
        raise job.interrupted(True, f"the finished slabs in {state} stay") from None
    volume = SlabVolume(folder, plan.slices, scan.volume_shape, geometry.grid(), table.range)
    write_volume(path, form, volume, job.overwrite or job.resume)
    # Renamed first: a run that is killed here leaves all slabs or none.
    shutil.rmtree(state.rename(state.with_name(f".{state.name}.{secrets.token_hex(4)}.tmp")))
    notes = (
        f"{done or 'filtered back-projection'} in {count} slabs, with {plan.bytes / 1e9:.2f} GB of memory",
        *getattr(opened, "notes", ()),
        *(
            [f"stored numbers q stand for {volume.scale[0]:.9g} q + {volume.scale[1]:.9g}"]
            if volume.scale
            else []
        ),
    )
    return SceneOutcome(OnDisk(plan, notes), job.folder, {}, (path,))


def _invert(
    invert: Callable[[int], None], perform: Perform, state: Path, count: int, progress: bool
) -> Path:
    """Invert the slabs that have no file yet; return their folder."""
    pending = [number for number in range(count) if not slab_file(state, number).exists()]
    with tqdm(total=count, initial=count - len(pending), disable=not progress or None) as bar:
        for _ in perform(invert, pending):
            bar.update()
    return state


def _invert_slab(job: ImageJob, state: Path, plan: Plan, number: int) -> None:
    """Compute a slab of the filtered back-projection and write its file."""
    opened, scan, _ = open_scan(job)
    slab, rows = scan.slab(*plan.slabs(scan)[number])
    x = slab.pseudo_inverse_chunks(
        lambda views: read_rows(opened, views, rows), views_per_chunk=plan.views
    )
    # A worker whose driver was killed may have written the file in the meantime.
    datasets.write_npy(slab_file(state, number), x[0, 0], overwrite=True)


def _read_views(job: ImageJob, views: slice) -> Tensor:
    """Read some views, ``(1, 1, V', R, C)``."""
    return read_rows(open_scan(job)[0], views, slice(None))


def only_output(job: ImageJob) -> tuple[Path, str]:
    """Return the only output of a job that writes one volume, and its format.

    Args:
        job: the job.
    """
    if len(job.outputs) != 1:
        raise InputError(
            f"{job.file.path}: this run writes one volume, slab by slab; give one --output, a file or a "
            "folder of slices"
        )
    path, form = next(iter(job.outputs.items()))
    if form not in _FORMATS:
        raise InputError(
            f"--output {path}: slab by slab, use one of {', '.join(filter(None, _FORMATS))}, or a folder"
        )
    if path.exists() and not (job.overwrite or job.resume):
        raise InputError(f"{path} exists; give --overwrite to replace it, or another --output")
    return path, form


def open_scan(job: ImageJob, how: str = HOW) -> tuple[datasets.DataSet, Scan3D, Geometry3D]:
    """Open the projections, and build the geometry and the operator of the scene.

    Args:
        job: job of the scene.
        how: words for the way of the projections, for errors.
    """
    file = job.file
    table, operator = file.scene.measurements, file.scene.operator
    if job.request.items is not None:
        raise InputError(f"{file.path}: {how} goes one item; choose it with measurements.item")
    if (word := file.scene.automatic) not in ("all", "none"):
        raise InputError(f"{file.path}: automatic {word} is not taken {how}; leave it out")
    for key in ("views", "beam_hardening", "stripes", "phase", "metal", "crop", "repair"):
        if getattr(table, key):
            raise InputError(f"{file.path}: measurements.{key} is not taken {how}; leave it out")
    if file.scene.evaluation is not None:
        raise InputError(f"{file.path}: {how} nothing is evaluated; leave it out")
    if table.center == "auto":
        raise InputError(
            f"{file.path}: measurements.center auto is not taken {how}; give the column"
        )
    opened = parts.open_source(file, table, parts.geometry_of(file))
    geometry = getattr(opened, "geometry", None)
    if not isinstance(geometry, Geometry3D):
        raise InputError(
            f"{table.path or table.dataset}: {how} go the projections of a 3D scan; give their "
            "geometry, or reconstruct them as a whole"
        )
    if operator is not None:
        changed = parts.change(geometry, operator.settings, file.path)
        assert isinstance(changed, Geometry3D)
        geometry = changed
    if table.center is not None:
        geometry = geometry.with_axis_column(float(table.center))
    scan = geometry.operator()
    assert isinstance(scan, Scan3D)
    return opened, scan, geometry


def read_rows(opened: Any, views: slice, rows: slice) -> Tensor:
    """Read some views and rows, ``(1, 1, V', R', C)``; of data sets that are no volumes, from the whole."""
    if isinstance(opened, Volume):
        projections = opened.part(views, rows)
    else:
        whole: Sequence[Any] = opened[0].y[0, 0].numpy()
        projections = whole[views, rows]  # type: ignore[call-overload]
    return torch.from_numpy(np.array(projections, dtype=np.float32))[None, None]


def _objective(job: ImageJob, scan: Scan3D) -> tuple[Objective, SIRT | None]:
    """Return the priors and the data term of the scene for one view, and the solver.

    No solver stands for the filtered back-projection.
    """
    file, table = job.file, job.file.scene.solver
    prior, solver = parts.scan_prior_of(file), parts.solver_of(table, file)
    if not isinstance(solver, SIRT | None) or (solver is None and prior is not None):
        raise InputError(
            f"{file.path}: solver.memory is for the filtered back-projection alone, without priors, and "
            "for the solver sirt"
        )
    term = parts.data_term(file, file.scene.measurements.noise_std)
    if solver is not None and not (isinstance(term, LeastSquares) and term.weights is None):
        raise InputError(f"{file.path}: solver.memory is for least squares without weights")
    one = scan.subset(slice(0, 1))
    problem = Problem(torch.zeros(1, *one.range_shape), one, term)
    terms = PriorSum() if prior is None else prior.as_sum()
    objective = Objective(problem, terms, torch.ones(1))
    if solver is not None and (reason := solver.unsupported_reason(objective)):
        raise InputError(f"{file.path}: {reason}")
    if solver is not None and (table.initial is not None or table.max_iterations == 0):
        raise InputError(
            f"{file.path}: from disk to disk SIRT starts at 0, with at least one iteration; leave "
            "solver.initial out"
        )
    return objective, solver
