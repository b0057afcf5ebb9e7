"""TIFF stacks: volumes as the pages of one file, or as a folder with a file a slice."""

from __future__ import annotations

import itertools
import math
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import (
    decoding,
    map_slices_of_file,
    require_file,
    require_plausible,
    sniff,
)
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.volume import Grid, Volume, size_of_voxels, slices_of
from invtoolbox.datasets.writers import write_tiff
from invtoolbox.errors import InputError

SUFFIXES = (".tif", ".tiff")
_NUMBER = re.compile(r"(\d+)(?!.*\d)")
# A list of missing slices is cut here.
_NAMED = 8


@dataclass(frozen=True)
class _File:
    """What one TIFF file holds: grey pages of one shape and type, and where they lie if they are not packed."""

    path: Path
    lead: tuple[int, ...]  # axes before rows and columns that are longer than one
    page: tuple[int, int]
    dtype: np.dtype
    offset: int | None  # of the first value, if all of them follow one another
    grid: Grid | None

    @property
    def pages(self) -> int:
        return math.prod(self.lead)


class TiffStack(Volume):
    """A data set of the slices of a TIFF stack, with values as they are stored: counts stay counts.

    One file with several grey pages is a volume (with an ImageJ axis of time, several frames); so is a folder of files
    with a page each, in the order of the last number in their names. Pages that are not packed are mapped. Voxel sizes
    are taken from ImageJ's metadata, or from `voxel_size`; the orientation tag is not applied.

    Raises:
        InputError: colors, pages of different shapes or types, numbers that are missing in a folder (which), damage.
    """

    format_name = "TIFF"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        items: str = "slices",
        voxel_size: Any = None,
    ) -> None:
        path = Path(path).expanduser()
        self._files = [
            _scan(file) for file in (_ordered(path) if path.is_dir() else [require_file(path)])
        ]
        first = self._files[0]
        for other in self._files[1:]:
            if (other.page, other.dtype) != (first.page, first.dtype):
                raise InputError(
                    f"{other.path}: a page of shape {other.page} and type {other.dtype} in a stack of {first.page} and "
                    f"{first.dtype} ({first.path.name}); all slices of a volume are alike"
                )
            if other.pages != 1 or first.pages != 1:
                raise InputError(
                    f"{other.path if other.pages != 1 else first.path}: several pages in a folder of slices; keep one "
                    "page a file, or all pages in one file"
                )
        frames, slices = (1, len(self._files)) if len(self._files) > 1 else (1, 1, *first.lead)[-2:]
        if len(first.lead) > 2:
            raise InputError(
                f"{first.path}: axes of lengths {first.lead} before rows and columns; a stack has slices, or frames "
                "and slices"
            )
        grid = first.grid or Grid(unit="voxel")
        if voxel_size is not None:
            grid = Grid(size_of_voxels(path, voxel_size))
        super().__init__(path, (slices, *first.page), grid, "as stored", frames, items, geometry)

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        if len(self._files) > 1:
            pages = [_pages(file, 0, 1)[0] for file in self._files[start:stop]]
            return pages[0][None] if len(pages) == 1 else np.stack(pages)
        return _pages(self._files[0], frame * self.shape[0] + start, frame * self.shape[0] + stop)


def write_tiff_stack(
    folder: str | os.PathLike[str], volume: Any, name: str = "slice", overwrite: bool = False
) -> Path:
    """Write a volume as a folder with a file a slice, ``slice_0000.tif`` and so on, in float32.

    The folder is filled under a hidden name beside its place and moved there, so that it is there whole or not at all.

    Raises:
        InputError: where the folder holds anything, unless `overwrite` is true and all that it holds are such slices.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = write_tiff_stack(place + "/volume", np.zeros((3, 4, 5)))
    ...     sorted(file.name for file in folder.iterdir())
    ['slice_0000.tif', 'slice_0001.tif', 'slice_0002.tif']
    """
    folder = Path(folder).expanduser()
    if not folder.parent.is_dir():
        raise InputError(f"{folder}: the folder {folder.parent} does not exist; make it first")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: this is a file; give a folder")
    there = sorted(folder.iterdir()) if folder.exists() else []
    foreign = [f.name for f in there if not re.fullmatch(re.escape(name) + r"_\d+\.tif", f.name)]
    if foreign or (there and not overwrite):
        raise InputError(
            f"{folder}: the folder holds {(foreign or [there[0].name])[0]} already; choose another"
            + ("" if foreign else ", or pass overwrite=True")
        )
    shape, _, pages = slices_of(folder, volume)
    digits = max(4, len(str(shape[0] - 1)))
    hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    hidden.mkdir()
    try:
        for number, page in enumerate(pages):
            write_tiff(hidden / f"{name}_{number:0{digits}}.tif", page)
        for file in there:
            file.unlink()
        hidden.replace(folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return folder


def is_stack(path: Path) -> bool:
    """Whether a file has several grey pages of one shape, or a folder nothing but numbered TIFF files with one name."""
    if path.is_dir():
        files = [f for f in path.iterdir() if f.is_file() and not f.name.startswith(".")]
        images = [f for f in files if f.suffix.lower() in SUFFIXES]
        stems = {_NUMBER.sub("#", f.name, count=1) for f in images}
        return (
            len(images) > 1
            and len(stems) == 1
            and "#" in stems.pop()
            and not any(f.suffix.lower() in (".png", ".jpg", ".jpeg", ".dcm") for f in files)
        )
    import tifffile

    with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
        pages: list[Any] = [p.keyframe for p in file.pages]
        if len(pages) == 1 and file.is_imagej:  # one page may stand for all of a file beyond 4 GB
            return pages[0].samplesperpixel == 1 and math.prod(file.series[0].shape[:-2]) > 1
        return (
            len(pages) > 1
            and len({(p.shape, str(p.dtype)) for p in pages}) == 1
            and pages[0].samplesperpixel == 1
        )


def _ordered(folder: Path) -> list[Path]:
    """The slices of a folder by number; a number that is left out is named."""
    files = sorted(
        f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")
    )
    if not files:
        raise InputError(f"{folder}: no TIFF files in this folder")
    stems = {_NUMBER.sub("#", f.name, count=1) for f in files}
    if len(files) == 1 or stems != {s for s in stems if "#" in s}:
        return files
    if len(stems) > 1:
        raise InputError(
            f"{folder}: files of several names ({', '.join(sorted(stems)[:3])}); keep one stack a folder"
        )
    numbers = {
        int(found.group()): f for f in files if (found := _NUMBER.search(f.name)) is not None
    }  # every stem has a number
    if len(numbers) < len(files):
        raise InputError(f"{folder}: two files have one number; keep one stack a folder")
    order = sorted(numbers)
    steps = np.diff(order)
    step = int(np.min(steps))
    if (steps != step).any():
        missing = [n for a, b in itertools.pairwise(order) for n in range(a + step, b, step)]
        if not missing:
            raise InputError(
                f"{folder}: the numbers of the files are not evenly spaced ({order[0]}, {order[1]}, {order[2]}, ...); "
                "number the slices one by one"
            )
        named = ", ".join(map(str, missing[:_NAMED])) + (
            f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        )
        raise InputError(
            f"{folder}: of the slices {order[0]} to {order[-1]}, {named} {'is' if len(missing) == 1 else 'are'} missing; "
            "fetch or export them again"
        )
    return [numbers[n] for n in order]


def require_pages(path: Path, file: Any) -> int:
    """The number of pages of an open TIFF file, whose chain must end as the format says.

    Each page names the place of the next one. The reader takes a place beyond the end of the file for the end of the
    chain, so that a truncated file would be a shorter one.
    """
    pages = len(file.pages)
    form = file.tiff
    if not pages:
        raise InputError(f"{path}: a TIFF file without a page; export it again")
    place = int(file.pages[pages - 1].offset)
    with path.open("rb") as stream:
        stream.seek(place)
        tags = int.from_bytes(
            stream.read(form.tagnosize), "little" if file.byteorder == "<" else "big"
        )
        stream.seek(place + form.tagnosize + tags * form.tagsize)
        last = stream.read(form.offsetsize)
    if len(last) < form.offsetsize or any(last):
        raise InputError(
            f"{path}: truncated or damaged, what follows page {pages - 1} is missing; fetch or export it again"
        )
    return pages


def _scan(path: Path) -> _File:
    import tifffile

    if sniff(require_file(path)) != "tiff":
        raise InputError(f"{path}: the first bytes are not those of a TIFF file; export it again")
    with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
        require_pages(path, file)
        series = file.series[0]
        first = file.pages.first
        for number, page in enumerate(file.pages):
            other: Any = page.keyframe
            if (other.shape, other.dtype) != (first.shape, first.dtype):
                raise InputError(
                    f"{path}: page {number} has shape {other.shape} and type {other.dtype}, the first "
                    f"{first.shape} and {first.dtype}; all slices of a volume are alike"
                )
        if first.samplesperpixel != 1 or len(first.shape) != 2:
            raise InputError(
                f"{path}: pages of shape {first.shape}; only grey slices (rows, columns) make a volume"
            )
        if first.dtype is None or first.dtype.kind not in "iuf":
            raise InputError(
                f"{path}: stored as {first.dtype}; save it as whole numbers or floating point"
            )
        dtype = np.dtype(first.dtype).newbyteorder(file.byteorder)
        names = [(n, a) for n, a in zip(series.shape[:-2], series.axes[:-2]) if n > 1]
        if any(a in "CS" for _, a in names):
            raise InputError(f"{path}: holds {names[0][0]} channels; export one channel a file")
        lead = tuple(int(n) for n, _ in names)
        whole = (
            first.compression == 1
            and first.bitspersample == 8 * dtype.itemsize
            and first.predictor == 1
        )
        offset = series.dataoffset if whole else None
        if math.prod(lead) != len(file.pages) and (offset is None or len(file.pages) > 1):
            raise InputError(
                f"{path}: {len(file.pages)} pages where its metadata say {math.prod(lead)}; truncated, or edited by a "
                "program that left the metadata as they were"
            )
        for number, page in enumerate(file.pages):
            check_length(path, number, page)
        if offset is not None and offset + math.prod(lead) * first.nbytes > path.stat().st_size:
            complete = (path.stat().st_size - offset) // first.nbytes
            raise InputError(
                f"{path}: truncated, of {math.prod(lead)} slices those from {complete} on are missing; fetch it again"
            )
        require_plausible(path, first.shape, dtype)
        return _File(
            path, lead, (int(first.shape[0]), int(first.shape[1])), dtype, offset, _grid(file)
        )


def check_length(path: Path, number: int, page: Any) -> None:
    """Pages that are not packed must be as long as their shape says: else one of the two is damaged."""
    first = page.keyframe
    if (
        first.compression != 1
        or first.is_tiled
        or first.dtype is None
        or not isinstance(first.bitspersample, int)
    ):
        return
    together = first.planarconfig == 1
    samples, planes = (first.samplesperpixel, 1) if together else (1, first.samplesperpixel)
    row = -(-first.imagewidth * samples * first.bitspersample // 8)  # rows end at whole bytes
    there, wanted, size = (
        sum(page.databytecounts),
        row * first.imagelength * planes * first.imagedepth,
        path.stat().st_size,
    )
    if there != wanted or any(o + n > size for o, n in zip(page.dataoffsets, page.databytecounts)):
        raise InputError(
            f"{path}: page {number} has {there:,} bytes where shape {first.shape} and type {first.dtype} need "
            f"{wanted:,}, or they lie beyond the end; truncated or damaged"
        )


def _pages(file: _File, start: int, stop: int) -> np.ndarray:
    if file.offset is not None:
        return map_slices_of_file(
            file.path, file.offset, (file.pages, *file.page), file.dtype, start, stop
        )
    import tifffile

    with decoding(file.path, "TIFF"), tifffile.TiffFile(file.path) as opened:
        found = [np.asarray(opened.pages[k].asarray()) for k in range(start, stop)]
    for number, page in enumerate(found, start):
        if page.shape != file.page:
            raise InputError(
                f"{file.path}: page {number} has shape {page.shape} where {file.page} is declared; export it again"
            )
    return found[0][None] if len(found) == 1 else np.stack(found)


def _grid(file: Any) -> Grid | None:
    """The voxel sizes that ImageJ writes; the resolution of other TIFF files is that of a printer."""
    notes = file.imagej_metadata
    if (
        not notes
        or not isinstance(notes.get("unit"), str)
        or "XResolution" not in file.pages.first.tags
    ):
        return None
    unit = {"micron": "um", "\\u00B5m": "um", "µm": "um"}.get(notes["unit"], notes["unit"])
    if unit in ("pixel", "inch", ""):
        return None
    tags = file.pages.first.tags
    try:
        x, y = (
            tags[name].value[1] / tags[name].value[0] for name in ("XResolution", "YResolution")
        )
        return Grid((abs(float(notes.get("spacing", 1.0))), float(y), float(x)), unit=unit)
    except (ArithmeticError, KeyError, TypeError, ValueError):
        return None
