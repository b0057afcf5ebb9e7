"""Filtered back-projection from disk to disk: slab by slab, within a given memory, and resumable.

The volume is divided into slabs of slices. Of a slab, the rows of the panel that see it are read a
few views at a time, and the finished slab becomes a file of its own in the folder
``OUTPUT.checkpoint``. A run that was stopped goes on behind the slabs that are there, with the same
bits. In the end the slabs are streamed into the format of the output.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from invtoolbox import datasets
from invtoolbox.datasets.output import make_folder, remove_stale
from invtoolbox.datasets.scans.geometry_3d import Geometry3D
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.jobs.images import parts
from invtoolbox.jobs.job import read_json, write_json
from invtoolbox.jobs.kind import SceneOutcome
from invtoolbox.operators.tomography.cone_beam import ConeBeam
from invtoolbox.operators.tomography.scan_3d import Scan3D

if TYPE_CHECKING:
    from invtoolbox.jobs.images.run import ImageJob

#: Bytes per unit of ``solver.memory``.
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
#: Bytes per voxel of a slab (the sum, a summand and its copy for the disk) and per value of the
#: projections that are read at once (counts in float64, transforms of padded rows), and bytes for
#: the pictures that are corrected at a time.
_PER_VOXEL, _PER_VALUE, _FIXED = 12, 48, 150 * 10**6
#: Numbers of views that are read at a time: fewer cost time, more bring nothing.
_FEWEST, _MOST = 4, 64
#: Formats that hold a volume which is written slice by slice.
_FORMATS = ("", "tif", "tiff", "nii", "nii.gz", "mha", "mhd", "raw", "zarr", "dcm")


@dataclass(frozen=True)
class Plan:
    """Division of a volume into slabs.

    Attributes:
        slices: number of slices of a slab.
        views: number of views that are read at a time.
        bytes: memory of the run, with what the process holds already.
    """

    slices: int
    views: int
    bytes: int


@dataclass(frozen=True)
class OnDisk:
    """Result of a run: what a reader of the volume should know.

    Attributes:
        plan: the division into slabs.
        notes: notes for a reader of the result.
    """

    plan: Plan
    notes: tuple[str, ...]


class SlabVolume(Volume):
    """Volume in slab files, as float32 or as the whole numbers of a range.

    Args:
        folder: folder of the files.
        slices: number of slices per file.
        shape: shape of the volume.
        grid: positions of the voxels.
        value_range: values that become 0 and 65535; None for float32.
    """

    format_name = "slabs"

    def __init__(
        self,
        folder: Path,
        slices: int,
        shape: tuple[int, int, int],
        grid: Grid,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(folder, shape, grid, "1/mm" if grid.unit == "mm" else f"1/{grid.unit}")
        self._slices = slices
        if value_range is not None:
            low, high = value_range
            self.scale = ((high - low) / 65535, low)

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        pages = []
        for number in range(start, stop):
            slab = np.load(_slab_file(self.path, number // self._slices), mmap_mode="r")
            pages.append(slab[number % self._slices])
        block = np.stack(pages)
        if self.scale is None:
            return block
        slope, intercept = self.scale
        return np.clip(np.rint((block - intercept) / slope), 0, 65535).astype(np.uint16)


def invert_on_disk(job: ImageJob, progress: bool) -> SceneOutcome[OnDisk]:
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
    path, form = _output(job)
    opened, scan, geometry = _open(job)
    state, table = job.checkpoint, job.file.scene.output
    plan = plan_slabs(scan, memory_of(str(job.file.scene.solver.memory)))
    settings = {
        "geometry": geometry.to_toml(),
        "source": [str(parts.path_of(job.file, job.file.scene.measurements)), len(opened)],
    }
    if state.exists() and job.overwrite:
        shutil.rmtree(state)
    if (state / "plan.json").exists():
        before = read_json(state / "plan.json")
        if before["settings"] != settings:
            raise InputError(
                f"{state} holds slabs of another scan or geometry; restore them, or give --overwrite to "
                "start anew"
            )
        # The slabs that are there determine the division, and so every bit.
        plan = dataclasses.replace(plan, **before["plan"])
    make_folder(state)
    remove_stale(state)
    write_json(
        state / "plan.json",
        {"settings": settings, "plan": {"slices": plan.slices, "views": plan.views}},
    )
    depth = geometry.volume_shape[0]
    starts = range(0, depth, plan.slices)
    if progress:
        print(
            f"{len(starts)} slabs of {plan.slices} slices, {plan.views} of {scan.blocks} views at a time: "
            f"{plan.bytes / 1e9:.2f} GB of memory, {8 * np.prod(geometry.volume_shape) / 1e9:.2f} GB of disk"
        )
    try:
        for number, start in enumerate(tqdm(starts, desc="slabs", disable=not progress or None)):
            if _slab_file(state, number).exists():
                continue
            slab, rows = scan.slab(start, min(start + plan.slices, depth))

            def load(views: slice, rows: slice = rows) -> torch.Tensor:
                return torch.from_numpy(np.ascontiguousarray(_part(opened, views, rows)))[
                    None, None
                ]

            x = slab.pseudo_inverse_chunks(load, views_per_chunk=plan.views)
            datasets.write_npy(_slab_file(state, number), x[0, 0])
    except KeyboardInterrupt:
        raise job.interrupted(True, f"the finished slabs in {state} stay") from None
    volume = SlabVolume(state, plan.slices, geometry.volume_shape, geometry.grid(), table.range)
    replace = job.overwrite or job.resume
    if form == "":
        datasets.write_tiff_stack(path, volume, overwrite=replace)
    else:
        datasets.write(path, volume, overwrite=replace)
    shutil.rmtree(state)
    notes = (
        f"filtered back-projection in {len(starts)} slabs, with {plan.bytes / 1e9:.2f} GB of memory",
        *getattr(opened, "notes", ()),
        *(
            [f"stored numbers q stand for {volume.scale[0]:.9g} q + {volume.scale[1]:.9g}"]
            if volume.scale
            else []
        ),
    )
    return SceneOutcome(OnDisk(plan, notes), job.folder, {}, (path,))


def memory_of(size: str) -> int:
    """Return the bytes of a size such as ``1GB``.

    >>> memory_of("1.5 GB")
    1500000000
    """
    return int(float(size[:-2]) * _UNITS[size[-2:]])


def plan_slabs(scan: Scan3D, memory: int) -> Plan:
    """Choose the fewest slabs whose inversion fits in a memory.

    Args:
        scan: the scan.
        memory: bytes of the whole process.

    Raises:
        InputError: the memory is below one slab of one slice; the sentence states the least.
    """
    depth, height, width = scan.volume_shape
    base = _resident() + _FIXED
    least = 0

    def fit(count: int) -> Plan | None:
        nonlocal least
        slices = -(-depth // count)
        ends = (0, (depth - slices) // 2, depth - slices)
        rows = max(r.stop - r.start for r in (scan.slab(a, a + slices)[1] for a in ends))
        columns = scan.detector_shape[1]
        need = base + _PER_VOXEL * slices * height * width
        values = _PER_VALUE * rows * columns
        least = need + min(_FEWEST, scan.blocks) * values
        views = min(int((memory - need) // values), _MOST, scan.blocks)
        if views < min(_FEWEST, scan.blocks):
            return None
        return Plan(slices, views, need + views * values)

    low, high = 1, depth
    best = fit(depth)
    if best is None:
        raise InputError(
            f"solver.memory: {memory / 1e9:.3g} GB are below one slab of one slice; {least / 1e9:.3g} GB "
            "are the least that works"
        )
    while low < high:
        middle = (low + high) // 2
        if (plan := fit(middle)) is None:
            low = middle + 1
        else:
            high, best = middle, plan
    return best


def _resident() -> int:
    """Return the bytes that the process holds after the kernels were loaded."""
    tiny = ConeBeam((2, 4, 4), torch.arange(4) * (np.pi / 2), (4, 6), 20.0, 30.0)
    tiny.pseudo_inverse(torch.zeros(1, *tiny.range_shape))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        import resource

        # Of other systems, the largest that it was so far; macOS counts bytes, the others kilobytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )


def _output(job: ImageJob) -> tuple[Path, str]:
    """Return the only output and its format."""
    if len(job.outputs) != 1:
        raise InputError(
            f"{job.file.path}: a run from disk to disk writes one volume; give one --output, a file or a "
            "folder of slices"
        )
    path, form = next(iter(job.outputs.items()))
    if form not in _FORMATS:
        raise InputError(
            f"--output {path}: from disk to disk, use one of {', '.join(filter(None, _FORMATS))}, or a folder"
        )
    if path.exists() and not (job.overwrite or job.resume):
        raise InputError(f"{path} exists; give --overwrite to replace it, or another --output")
    return path, form


def _open(job: ImageJob) -> tuple[datasets.DataSet, Scan3D, Geometry3D]:
    """Open the projections, and build the geometry and the operator of the scene."""
    file = job.file
    table, operator = file.scene.measurements, file.scene.operator
    for key in ("views", "beam_hardening", "crop", "repair"):
        if getattr(table, key):
            raise InputError(
                f"{file.path}: measurements.{key} is not taken from disk to disk; leave it out"
            )
    if file.scene.prior or file.scene.evaluation is not None:
        raise InputError(
            f"{file.path}: solver.memory is for the filtered back-projection alone; leave priors and the "
            "evaluation out"
        )
    if table.center == "auto":
        raise InputError(
            f"{file.path}: measurements.center auto is not taken from disk to disk; give the column"
        )
    opened = parts.open_source(file, table, parts.geometry_of(file))
    geometry = getattr(opened, "geometry", None)
    if not isinstance(geometry, Geometry3D):
        raise InputError(
            f"{table.path or table.dataset}: from disk to disk go the projections of a 3D scan; give their "
            "geometry, or leave solver.memory out"
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


def _part(opened: Any, views: slice, rows: slice) -> np.ndarray:
    """Read some views and rows; of data sets that are no volumes, from the whole."""
    if isinstance(opened, Volume):
        return np.asarray(opened.part(views, rows), dtype=np.float32)
    projections: Sequence[Any] = opened[0].y[0, 0].numpy()
    return np.asarray(projections[views, rows])  # type: ignore[call-overload]


def _slab_file(folder: Path, number: int) -> Path:
    return folder / f"slab_{number:05d}.npy"
