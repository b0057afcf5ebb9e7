"""Reader and writer of TIFF stacks: volumes as pages of one file, or as one file per slice."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import (
    Bounded,
    decoding,
    map_slices_of_file,
    require_file,
    require_plausible,
    sniff,
)
from invtoolbox.datasets.output import writing_folder
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.volume import (
    Volume,
    VolumeInMemory,
    check_voxel_size,
    join_first,
    slices_of,
)
from invtoolbox.datasets.writers import write_tiff
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid

SUFFIXES = (".tif", ".tiff")
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


class TiffStack(Volume):
    """Data set of the slices of a TIFF stack, with values as they are stored: counts stay counts.

    One file with several grey pages is a volume; an ImageJ axis of time gives several frames. A
    folder of files with one page per file is a volume too, in the order of the last number in the
    names of the files. Uncompressed pages are mapped. The orientation tag is not applied.

    Args:
        path: path of the file or folder.
        geometry: geometry of the scan, if the slices are measurements.
        items: "slices" or "volume".
        voxel_size: sizes of a voxel in mm along slices, rows and columns; by default from the
            metadata of ImageJ.
        files: files of the folder that are the slices; all TIFF files by default.

    Raises:
        InputError: for colors, pages of different shapes or types, missing numbers in a folder (it
            lists them), or damage.
    """

    format_name = "TIFF"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        items: str = "slices",
        voxel_size: Any = None,
        files: Sequence[Path] | None = None,
    ) -> None:
        path = Path(path).expanduser()
        self._files = [
            _scan(name)
            for name in (_list_slices(path, files) if path.is_dir() else [require_file(path)])
        ]
        first = self._files[0]
        for file in self._files[1:]:
            if (file.page, file.dtype) != (first.page, first.dtype):
                raise InputError(
                    f"{file.path}: a page of shape {file.page} and type {file.dtype} in a stack "
                    f"of {first.page} and {first.dtype} ({first.path.name}); all slices of a "
                    "volume need one shape and one type"
                )
            if file.pages != 1 or first.pages != 1:
                raise InputError(
                    f"{file.path if file.pages != 1 else first.path}: several pages in a folder "
                    "of slices; keep one page per file, or all pages in one file"
                )
        frames, slices = (1, len(self._files)) if len(self._files) > 1 else (1, 1, *first.lead)[-2:]
        if len(first.lead) > 2:
            raise InputError(
                f"{first.path}: axes of lengths {first.lead} before rows and columns; a stack has "
                "slices, or frames and slices"
            )
        grid = first.grid or Grid(unit="voxel")
        if voxel_size is not None:
            grid = Grid(check_voxel_size(path, voxel_size))
        super().__init__(
            path, (slices, *first.page), grid, "as stored", frames, items=items, geometry=geometry
        )

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        if len(self._files) > 1:
            return _stack([_read_pages(file, 0, 1)[0] for file in self._files[start:stop]])
        first = frame * self.shape[0]
        return _read_pages(self._files[0], first + start, first + stop)


def write_tiff_stack(
    folder: str | os.PathLike[str], volume: Any, name: str = "slice", overwrite: bool = False
) -> Path:
    """Write a volume as a folder with one file per slice, ``slice_0000.tif`` etc., in float32.

    The slices of a `Volume` keep its voxel size, and whole numbers with a `scale` their type.

    The folder is filled under a hidden name next to its place and then renamed, so that it exists
    completely or not at all.

    Args:
        folder: path of the new folder.
        volume: tensor, array or `Volume`, ``(slices, rows, columns)``.
        name: beginning of the names of the files.
        overwrite: replace the slices in an existing folder.

    Raises:
        InputError: if the folder is not empty, unless `overwrite` is true and it holds only slices
            of this name.

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
    old = sorted(folder.iterdir()) if folder.exists() else []
    foreign = [f.name for f in old if not re.fullmatch(re.escape(name) + r"_\d+\.tif", f.name)]
    if foreign or (old and not overwrite):
        raise InputError(
            f"{folder}: the folder holds {(foreign or [old[0].name])[0]} already; choose another"
            + ("" if foreign else ", or pass overwrite=True")
        )
    shape, _, pages = slices_of(folder, volume)
    digits = max(4, len(str(shape[0] - 1)))
    with writing_folder(folder) as hidden:
        for number, page in enumerate(pages):
            image: Any = page
            if isinstance(volume, Volume):
                image = VolumeInMemory(page, volume.grid)
                image.scale = volume.scale
            write_tiff(hidden / f"{name}_{number:0{digits}}.tif", image)
    return folder


def is_stack(path: Path) -> bool:
    """Return whether a path is a stack of TIFF images.

    A file is a stack if it has several grey pages of one shape. A folder is a stack if its images
    are numbered TIFF files with one name.
    """
    if path.is_dir():
        files = [f for f in path.iterdir() if f.is_file() and not f.name.startswith(".")]
        images = [f for f in files if f.suffix.lower() in SUFFIXES]
        stems = {_NUMBER.sub("#", f.name, count=1) for f in images}
        return (
            len(images) > 1
            and len(stems) == 1
            and "#" in stems.pop()
            and not any(
                f.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".dcm") for f in files
            )
        )
    import tifffile

    with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
        # Pages that refer to one another in a circle would be listed without end.
        count = require_pages(path, file)
        pages: list[Any] = [file.pages[k].keyframe for k in range(count)]
        if len(pages) == 1 and file.is_imagej:  # ImageJ declares one page for files beyond 4 GB
            return pages[0].samplesperpixel == 1 and math.prod(file.series[0].shape[:-2]) > 1
        return (
            len(pages) > 1
            and len({(p.shape, str(p.dtype)) for p in pages}) == 1
            and pages[0].samplesperpixel == 1
        )


def require_pages(path: Path, file: Any) -> int:
    """Return the number of pages of an open TIFF file, whose last page must be complete.

    Each page stores the place of the next page, and the last page stores 0. The TIFF library treats
    a place beyond the end of the file as the end of the chain, so it would read a truncated file as
    a shorter file.
    """
    pages = len(file.pages)
    form = file.tiff
    if not pages:
        raise InputError(f"{path}: a TIFF file without a page; export it again")
    offset = int(file.pages[pages - 1].offset)
    with path.open("rb") as stream:
        stream.seek(offset)
        tags = int.from_bytes(
            stream.read(form.tagnosize), "little" if file.byteorder == "<" else "big"
        )
        stream.seek(offset + form.tagnosize + tags * form.tagsize)
        last = stream.read(form.offsetsize)
    if len(last) < form.offsetsize or any(last):
        raise InputError(
            f"{path}: truncated or damaged, the data after page {pages - 1} are missing; fetch or "
            "export it again"
        )
    return pages


def check_length(path: Path, number: int, page: Any) -> None:
    """Raise an error unless the bytes of an uncompressed page fit its shape."""
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
    expected, size = row * first.imagelength * planes * first.imagedepth, path.stat().st_size
    places = zip(page.dataoffsets, page.databytecounts)
    if sum(page.databytecounts) != expected or any(start + n > size for start, n in places):
        raise InputError(
            f"{path}: page {number} has {sum(page.databytecounts):,} bytes, but shape "
            f"{first.shape} and type {first.dtype} need {expected:,}, or they lie beyond the end; "
            "truncated or damaged, fetch it again"
        )


def read_page(path: Path, number: int, page: Any) -> np.ndarray:
    """Read the array of a page; tifffile decodes LZW and JPEG only with the package imagecodecs.

    Args:
        path: path of the file.
        number: number of the page.
        page: the page, of an open file.
    """
    from PIL import Image, UnidentifiedImageError

    if max(page.databytecounts, default=0) > path.stat().st_size:
        raise InputError(f"{path}: page {number} declares more bytes than the file has; damaged")
    try:
        return np.asarray(page.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
    name, first = page.keyframe.compression.name, page.keyframe
    try:
        with Bounded(path) as stream, Image.open(stream) as picture:
            picture.seek(number)
            array = np.asarray(picture)
            # Pillow has made 0 of white black.
            is_turned = first.photometric == 0 and picture.mode in ("1", "L")
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: pages of {first.shape} {first.dtype} that are compressed by {name} need the "
            "package imagecodecs; install it with pip, or save the file without compression"
        ) from None
    if is_turned:
        array = ~array
    if first.axes.startswith("S"):  # colors in planes
        array = np.moveaxis(array, -1, 0)
    return array.reshape(first.shape).astype(first.dtype)


@dataclass(frozen=True)
class _File:
    """Grey pages of one shape and type in a TIFF file, and their place if they are not packed."""

    path: Path
    lead: tuple[int, ...]  # axes before rows and columns that are longer than one
    page: tuple[int, int]
    dtype: np.dtype
    offset: int | None  # of the first value, if all of them follow one another
    grid: Grid | None

    @property
    def pages(self) -> int:
        return math.prod(self.lead)


def tiff_files(folder: Path) -> list[Path]:
    """Return the TIFF files of a folder that are not hidden, by name."""
    return sorted(
        f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")
    )


def _list_slices(folder: Path, chosen: Sequence[Path] | None = None) -> list[Path]:
    """List the slices of a folder by number, or raise an error that lists missing numbers."""
    files = tiff_files(folder) if chosen is None else sorted(chosen)
    if not files:
        raise InputError(f"{folder}: no TIFF files in this folder; give the folder of the slices")
    stems = {_NUMBER.sub("#", f.name, count=1) for f in files}
    if len(files) == 1 or stems != {s for s in stems if "#" in s}:
        return files
    if len(stems) > 1:
        raise InputError(
            f"{folder}: files of several names ({', '.join(sorted(stems)[:3])}); keep one stack "
            "per folder"
        )
    numbers = {
        int(digits.group()): f for f in files if (digits := _NUMBER.search(f.name)) is not None
    }  # every stem has a number
    if len(numbers) < len(files):
        raise InputError(f"{folder}: two files have the same number; keep one stack per folder")
    order = sorted(numbers)
    steps = np.diff(order)
    step = int(np.min(steps))
    if (steps != step).any():
        missing = [n for a, b in itertools.pairwise(order) for n in range(a + step, b, step)]
        if not missing:
            raise InputError(
                f"{folder}: the numbers of the files are not evenly spaced ({order[0]}, "
                f"{order[1]}, {order[2]}, ...); number the slices one by one"
            )
        numbers_missing = join_first([str(n) for n in missing])
        raise InputError(
            f"{folder}: of the slices {order[0]} to {order[-1]}, {numbers_missing} "
            f"{'is' if len(missing) == 1 else 'are'} missing; fetch or export them again"
        )
    return [numbers[n] for n in order]


def _scan(path: Path) -> _File:
    import tifffile

    if sniff(require_file(path)) != "tiff":
        raise InputError(f"{path}: the first bytes are not those of a TIFF file; export it again")
    with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
        require_pages(path, file)
        series = file.series[0]
        first = file.pages.first
        for number, page in enumerate(file.pages):
            keyframe: Any = page.keyframe
            if (keyframe.shape, keyframe.dtype) != (first.shape, first.dtype):
                raise InputError(
                    f"{path}: page {number} has shape {keyframe.shape} and type {keyframe.dtype}, the "
                    f"first {first.shape} and {first.dtype}; all slices of a volume need one shape "
                    "and one type"
                )
        if first.samplesperpixel != 1 or len(first.shape) != 2:
            raise InputError(
                f"{path}: pages of shape {first.shape}; only grey slices (rows, columns) make a "
                "volume"
            )
        if first.dtype is None or first.dtype.kind not in "iuf":
            raise InputError(
                f"{path}: stored as {first.dtype}; save it as whole numbers or floating point"
            )
        dtype = np.dtype(first.dtype).newbyteorder(file.byteorder)
        names = [(n, a) for n, a in zip(series.shape[:-2], series.axes[:-2]) if n > 1]
        if any(a in "CS" for _, a in names):
            raise InputError(f"{path}: holds {names[0][0]} channels; export one channel per file")
        lead = tuple(int(n) for n, _ in names)
        can_be_mapped = (
            first.compression == 1
            and first.bitspersample == 8 * dtype.itemsize
            and first.predictor == 1
        )
        offset = series.dataoffset if can_be_mapped else None
        if math.prod(lead) != len(file.pages) and (offset is None or len(file.pages) > 1):
            raise InputError(
                f"{path}: {len(file.pages)} pages, but its metadata declare {math.prod(lead)}; "
                "truncated, or edited by a program that did not update the metadata"
            )
        for number, page in enumerate(file.pages):
            check_length(path, number, page)
        if offset is not None and offset + math.prod(lead) * first.nbytes > path.stat().st_size:
            complete = (path.stat().st_size - offset) // first.nbytes
            raise InputError(
                f"{path}: truncated, of {math.prod(lead)} slices those from {complete} on are "
                "missing; fetch it again"
            )
        require_plausible(path, first.shape, dtype)
        return _File(
            path, lead, (int(first.shape[0]), int(first.shape[1])), dtype, offset, tiff_grid(file)
        )


def _stack(pages: list[np.ndarray]) -> np.ndarray:
    # A single page is not copied.
    return pages[0][None] if len(pages) == 1 else np.stack(pages)


def _read_pages(file: _File, start: int, stop: int) -> np.ndarray:
    if file.offset is not None:
        return map_slices_of_file(
            file.path, file.offset, (file.pages, *file.page), file.dtype, start, stop
        )
    import tifffile

    with decoding(file.path, "TIFF"), tifffile.TiffFile(file.path) as opened:
        pages = [read_page(file.path, k, opened.pages[k]) for k in range(start, stop)]
    for number, page in enumerate(pages, start):
        if page.shape != file.page:
            raise InputError(
                f"{file.path}: page {number} has shape {page.shape}, but {file.page} is declared; "
                "export it again"
            )
    return _stack(pages)


def tiff_grid(file: Any) -> Grid | None:
    """Return the voxel sizes from ImageJ; other TIFF files have the resolution of a printer."""
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
