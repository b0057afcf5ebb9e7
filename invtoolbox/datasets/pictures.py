"""Pictures: PNG, JPEG and TIFF as tensors with values from 0 to 1."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.datasets.files import decoding, require_file, sniff
from invtoolbox.datasets.geometry import Geometry
from invtoolbox.datasets.measurement import Measurement, as_tensor, checked_index
from invtoolbox.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


class Pictures:
    """A data set of pictures: one file (each page of a TIFF is an item), or all pictures of a folder, by
    name.

    An item's `y` is ``(1, channel, rows, columns)`` with one channel (grey) or three (red, green, blue).
    Whole numbers are divided by the largest of their type (255, 65535; all 16 bits count, in colour too);
    floating point is taken as it is, because then the file says the unit. An alpha channel is dropped. The
    orientation tag of a JPEG is not applied: masks and kernels refer to the pixels as they are stored. With a
    geometry, a grey picture (a TIFF of measured line integrals, say) is a sinogram: rows are angles, columns
    detector elements.
    """

    def __init__(self, path: str | os.PathLike[str], geometry: Geometry | None = None) -> None:
        self.geometry = geometry
        folder = Path(path).expanduser()
        files = [require_file(folder)] if not folder.is_dir() else sorted(
            f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(f"{folder}: no pictures ({', '.join(SUFFIXES)}) in this folder")
        self.pages = [(file, page) for file in files for page in range(_count_pages(file))]

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, index: int) -> Measurement:
        path, page = self.pages[checked_index(index, len(self))]
        array = _read(path, page)
        stored = array.dtype
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4):
            raise InputError(f"{path}: an array of shape {array.shape} is neither a grey nor a colour "
                             "picture; save a volume as .npy")
        array = array[..., :1 if array.shape[-1] <= 2 else 3]
        y = as_tensor(np.moveaxis(_unit_range(path, array), -1, 0))[None]
        units = "as stored" if np.issubdtype(stored, np.floating) else "1 (0 black to 1 white)"
        return Measurement(y=y, geometry=self.geometry,
                           meta={"source": str(path), "page": page, "units": units, "stored": str(stored)})


def _count_pages(path: Path) -> int:
    if path.suffix.lower() not in (".tif", ".tiff") or sniff(require_file(path)) != "tiff":
        return 1
    import tifffile

    with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
        if len(file.pages) == 0:
            raise InputError(f"{path}: a TIFF file without a page; export it again")
        return len(file.pages)


def _read(path: Path, page: int) -> np.ndarray:
    """The stored array of one page, (rows, columns) or (rows, columns, channels)."""
    kind = sniff(require_file(path))
    if kind == "tiff":
        return _read_tiff(path, page)
    if kind not in ("png", "jpeg"):
        raise InputError(f"{path}: the first bytes are not those of a PNG, JPEG or TIFF file; export it "
                         "again")
    with decoding(path, kind.upper()):
        if kind == "png" and _is_deep_colour(path):
            return _read_deep_colour(path)
        from skimage.io import imread

        return np.asarray(imread(path))


def _read_tiff(path: Path, page: int) -> np.ndarray:
    import tifffile

    with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
        one = file.pages[page]
        array = np.asarray(one.asarray())
        if one.axes.startswith("S"):
            array = np.moveaxis(array, 0, -1)
        if getattr(one, "photometric", None) == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
            array = np.iinfo(array.dtype).max - array
        return array


def _is_deep_colour(path: Path) -> bool:
    """Whether a PNG has 16 bits and more than one channel, of which Pillow reads 8 bits only."""
    header = path.read_bytes()[:26]
    return len(header) == 26 and header[24] == 16 and header[25] in (2, 4, 6)


def _read_deep_colour(path: Path) -> np.ndarray:
    import kornia_rs.io

    mode = {2: "rgb", 6: "rgba"}.get(path.read_bytes()[25])
    if mode is None:
        raise InputError(f"{path}: 16 bit grey with alpha; save it without the alpha channel")
    return np.asarray(kornia_rs.io.read_image_png_u16(str(path), mode))


def _unit_range(path: Path, array: np.ndarray) -> Any:
    if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
        return array
    if array.dtype.kind == "u":
        return array.astype(np.float64) / np.iinfo(array.dtype).max
    raise InputError(f"{path}: stored as {array.dtype}, for which 0 to 1 is not defined; save it as unsigned "
                     "whole numbers or floating point")
