"""Reconstruct one scan on several machines: ``torchrun -m invtoolbox ct PROJECTIONS ...``.

Every process of torchrun is a rank: it reads its rows of the projections, holds its slab of the
volume (`invtoolbox.distributed`), and writes the slab to the folder ``OUTPUT.checkpoint``, which
also takes the checkpoints. Rank 0 streams the slabs into the output. All ranks need these files
under the same paths, as on a network file system.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from invtoolbox import datasets
from invtoolbox.core.decision import Decision
from invtoolbox.core.environment import device_named
from invtoolbox.datasets.output import locking, make_folder
from invtoolbox.distributed.slabs import Slabs
from invtoolbox.errors import InputError
from invtoolbox.jobs.images import parts
from invtoolbox.jobs.images.decisions.order import leave_out_all
from invtoolbox.jobs.images.on_disk import only_output, open_scan, read_rows
from invtoolbox.jobs.images.slabs import SlabVolume, slab_file, write_volume
from invtoolbox.jobs.kind import SceneOutcome
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.problem import Problem
from invtoolbox.solve import solve

if TYPE_CHECKING:
    from invtoolbox.jobs.images.run import ImageJob

#: Name of the checkpoints in their folder.
_LOOP = "loop"


@dataclasses.dataclass(frozen=True)
class OnRanks:
    """Result of a run.

    Attributes:
        notes: notes for a reader of the volume.
        decisions: records of the run, with the steps that are decided automatically, all of which are
            off.
    """

    notes: tuple[str, ...]
    decisions: tuple[Decision, ...] = leave_out_all("on ranks no answers are compared")


def is_launched() -> bool:
    """Return whether torchrun has started several processes, of which this is one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR"} <= set(os.environ)


def is_first() -> bool:
    """Return whether this process is the one that prints."""
    return not is_launched() or os.environ["RANK"] == "0"


def reconstruct_on_ranks(job: ImageJob, progress: bool) -> SceneOutcome[OnRanks]:
    """Reconstruct a 3D scan by the processes of torchrun; rank 0 writes the volume.

    Args:
        job: job of the scene.
        progress: whether to print the division and show a bar on a terminal, on rank 0.

    Raises:
        InputError: a scan, a prior or a solver that is not divided over ranks.
        RankLost: another rank has stopped.
    """
    if not job.outputs:
        job = dataclasses.replace(job, outputs={job.folder: ""})
    path, form = only_output(job)
    if job.file.scene.solver.memory is not None or job.request.workers is not None:
        raise InputError(
            f"{job.file.path}: ranks hold their slabs in memory; leave solver.memory and workers out"
        )
    with _process_group(device_named(job.file.scene.device)) as device:
        opened, scan, geometry = open_scan(job, "on ranks")
        A, state = Slabs(scan), job.checkpoint.absolute()
        with locking(path) if A.ranks.rank == 0 else contextlib.nullcontext():
            if A.ranks.rank == 0:
                if state.exists() and job.overwrite and not job.resume:
                    shutil.rmtree(state)
                make_folder(state)
            first_slices = A.ranks.gather(A.planes.start)  # the folder exists behind this message
            if progress and A.ranks.rank == 0:
                print(f"{A.ranks.size} ranks, slabs from the slices {first_slices}")
            x, notes = _reconstruct(job, A, opened, device, state, progress)
            slab = slab_file(state, A.ranks.rank)
            datasets.write_npy(slab, x[0, 0].cpu(), overwrite=True)
            A.ranks.gather(None)  # all slabs are written behind this message
            if A.ranks.rank == 0:
                volume = SlabVolume(
                    state,
                    first_slices,
                    scan.volume_shape,
                    geometry.grid(),
                    job.file.scene.output.range,
                )
                write_volume(path, form, volume, job.overwrite or job.resume)
                shutil.rmtree(state)
            A.ranks.gather(None)
    result = OnRanks((*notes, *getattr(opened, "notes", ())))
    return SceneOutcome(result, job.folder, {}, (path,))


def _reconstruct(
    job: ImageJob, A: Slabs, opened: Any, device: Any, state: Path, progress: bool
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return this rank's slab, and notes."""
    file, table = job.file, job.file.scene.solver
    prior, solver = parts.scan_prior_of(file), parts.solver_of(table, file)

    def load(views: slice) -> torch.Tensor:
        return read_rows(opened, views, A.rows).to(device)

    count = f"on {A.ranks.size} ranks"
    if table.initial == "fbp" and table.max_iterations == 0 and prior is None:
        return A.pseudo_inverse_chunks(load), (f"filtered back-projection {count}",)
    y = torch.empty(1, *A.range_shape, device=device)
    for views, _ in A.slab.chunks(A.views_per_chunk):
        y[:, :, views] = load(views)
    problem = Problem(y, A, parts.data_term(file, file.scene.measurements.noise_std))
    solution = solve(
        problem,
        prior,
        solver,
        parts.rule(file),
        initial=A.pseudo_inverse(y) if table.initial == "fbp" else None,
        max_iterations=table.max_iterations,
        tolerance=table.tolerance,
        time_limit=table.time_limit,
        seed=file.scene.seed,
        checkpoint=Checkpoint(state / _LOOP),
        progress=progress,
    )
    end = f"{solution.solver} {count}: {int(solution.iterations)} iterations, {solution.status[0]}"
    return solution.x, (end, *solution.notes)


@contextlib.contextmanager
def _process_group(device: torch.device | None) -> Iterator[torch.device]:
    """Join the processes of torchrun: nccl between GPUs, and gloo between processors."""
    import torch.distributed as dist

    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    yield device or torch.device("cpu")
    # A rank that failed leaves its group by its end, which stops the others at once.
    dist.destroy_process_group()
