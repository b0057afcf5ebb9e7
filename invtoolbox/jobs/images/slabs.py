"""Slabs of a volume that does not fit in memory: their number, their memory, and their files."""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from invtoolbox import datasets
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.operators.tomography.cone_beam import ConeBeam
from invtoolbox.operators.tomography.scan_3d import Scan3D

#: Bytes per unit of ``solver.memory``.
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
#: Bytes for the pictures that are corrected at a time.
_FIXED = 150 * 10**6
#: Numbers of views that are read at a time: fewer cost time, more bring nothing.
_FEWEST, _MOST = 4, 64


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

    def slabs(self, scan: Scan3D) -> list[tuple[int, int]]:
        """Return the first slice of every slab, and the slice after its last one."""
        depth = scan.volume_shape[0]
        return [(a, min(a + self.slices, depth)) for a in range(0, depth, self.slices)]


class SlabVolume(Volume):
    """Volume in slab files, as float32 or as the whole numbers of a range.

    Args:
        folder: folder of the files.
        slices: number of slices per file, or the first slice of every file.
        shape: shape of the volume.
        grid: positions of the voxels.
        value_range: values that become 0 and 65535; None for float32.
    """

    format_name = "slabs"

    def __init__(
        self,
        folder: Path,
        slices: int | Sequence[int],
        shape: tuple[int, int, int],
        grid: Grid,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(folder, shape, grid, "1/mm" if grid.unit == "mm" else f"1/{grid.unit}")
        self._firsts = range(0, shape[0], slices) if isinstance(slices, int) else slices
        if value_range is not None:
            low, high = value_range
            self.scale = ((high - low) / 65535, low)

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        pages = []
        for number in range(start, stop):
            file = bisect_right(self._firsts, number) - 1
            slab = np.load(slab_file(self.path, file), mmap_mode="r")
            pages.append(slab[number - self._firsts[file]])
        block = np.stack(pages)
        if self.scale is None:
            return block
        slope, intercept = self.scale
        return np.clip(np.rint((block - intercept) / slope), 0, 65535).astype(np.uint16)


def memory_of(size: str) -> int:
    """Return the bytes of a size such as ``1GB``.

    >>> memory_of("1.5 GB")
    1500000000
    """
    return int(float(size[:-2]) * _UNITS[size[-2:]])


def plan_slabs(
    scan: Scan3D, memory: int, per_voxel: int, per_value: int, is_whole: bool = False
) -> Plan:
    """Choose the fewest slabs that fit in a memory.

    Args:
        scan: the scan.
        memory: bytes of the whole process.
        per_voxel: bytes per voxel of a slab.
        per_value: bytes per value of the projections that are held at once.
        is_whole: whether these are whole views, or the rows that see the slab.

    Raises:
        InputError: the memory is below one slab of one slice; the sentence states the least.
    """
    depth, height, width = scan.volume_shape
    base = _resident() + _FIXED
    least = 0

    def fit(count: int) -> Plan | None:
        nonlocal least
        slices = -(-depth // count)
        rows, columns = scan.detector_shape
        if not is_whole:
            ends = (0, (depth - slices) // 2, depth - slices)
            rows = max(r.stop - r.start for r in (scan.slab(a, a + slices)[1] for a in ends))
        need = base + per_voxel * slices * height * width
        values = per_value * rows * columns
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


def slab_file(folder: Path, number: int) -> Path:
    """Return the file of a slab in a folder."""
    return folder / f"slab_{number:05d}.npy"


def write_volume(path: Path, form: str, volume: Volume, overwrite: bool) -> None:
    """Write a volume slice by slice.

    Args:
        path: the file; a folder of one TIFF file per slice if the form is empty.
        form: format of the file, its suffix.
        volume: the volume.
        overwrite: replace an existing file.
    """
    write = datasets.write_tiff_stack if form == "" else datasets.write
    write(path, volume, overwrite=overwrite)
