"""Write images and volumes in the format of the file's suffix."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.datasets.output import (
    Written,
    as_array,
    write_hdf5,
    write_npy,
    write_png,
    writing,
)
from invtoolbox.datasets.volumes.dicom_writer import write_dicom_series
from invtoolbox.datasets.volumes.metaimage import write_metaimage
from invtoolbox.datasets.volumes.nifti import write_nifti
from invtoolbox.datasets.volumes.ome_zarr import write_ome_zarr
from invtoolbox.datasets.volumes.raw import write_raw
from invtoolbox.datasets.volumes.volume import Volume, slices_of
from invtoolbox.errors import InputError

#: Largest number of bytes of the pixels: TIFF and ImageJ have offsets of 32 bits, and the tags of
#: pages need room.
_LARGEST = 2**32 - 2**25


def write(path: str | os.PathLike[str], x: Any, overwrite: bool = False) -> Written:
    """Write an array or a `Volume` in the format of the path's suffix (`SUFFIXES`).

    PNG scales the values to its range (see `write_png`, which also has other settings); the other
    formats keep them. Volumes (.tif, .nii, .mha, .mhd, .raw, .zarr) are written slice by slice, with
    the voxel sizes of a `Volume`. The suffix .dcm is a folder of DICOM images in Hounsfield units.

    Args:
        path: the file.
        x: a tensor, an array or a `Volume`.
        overwrite: replace an existing file.

    Raises:
        InputError: no format has that suffix, the array does not fit the format, or the file cannot
            be written.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write(folder + "/x.npy", torch.ones(2, 2))
    ...     np.load(folder + "/x.npy")
    array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    name = Path(path).name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: no format for the suffix {suffix!r}; use one of {', '.join(SUFFIXES)}"
        )
    if isinstance(x, Volume) and suffix in _WHOLE:
        x = x.slices()
    return _WRITERS[suffix](path, x, overwrite=overwrite)


def write_tiff(path: str | os.PathLike[str], image: Any, overwrite: bool = False) -> Written:
    """Write an image, or a volume as pages, as TIFF in float32 without scaling.

    Args:
        path: the file.
        image: an array whose last two axes are rows and columns, or a `Volume`. Axes of length one
            are dropped; ``(3, rows, columns)`` becomes a color picture.
        overwrite: replace an existing file.
    """
    import tifffile

    options: dict[str, Any] = {"dtype": np.float32, "photometric": "minisblack"}
    scale = getattr(image, "scale", None)
    if isinstance(image, Volume):
        shape, stored, pages = slices_of(path, image)
        options["dtype"] = np.dtype(stored if scale else np.float32)
        data: Any = (page.astype(options["dtype"]) for page in pages)
        options |= {"shape": shape, "metadata": {"axes": "ZYX"}}
        if image.grid.unit not in ("voxel", "pixel") and 4 * math.prod(shape) < _LARGEST:
            # Only the metadata of ImageJ can hold the distance of slices.
            size = image.grid.voxel_size
            options |= {
                "imagej": True,
                "resolution": (1 / size[2], 1 / size[1]),
                "metadata": {
                    "axes": "ZYX",
                    "spacing": size[0],
                    "unit": image.grid.unit,
                    **(dict(zip(("slope", "intercept"), scale)) if scale else {}),
                },
            }
            del options["photometric"]
    else:
        array = np.squeeze(as_array(path, image))
        if array.ndim < 2 or np.iscomplexobj(array):
            raise InputError(
                f"{path}: shape {array.shape}, {array.dtype}; TIFF holds real images, use .npy or "
                ".h5"
            )
        shape = array.shape
        if array.ndim == 3 and array.shape[0] == 3:
            data, options["photometric"] = np.moveaxis(array, 0, -1).astype(np.float32), "rgb"
        else:
            data = array.astype(np.float32)
    with writing(path, overwrite) as stream:
        tifffile.imwrite(stream, data, bigtiff=4 * math.prod(shape) > _LARGEST, **options)
    return Written(Path(path).expanduser())


#: Formats that are written at once, not slice by slice.
_WHOLE = (".png", ".h5", ".hdf5", ".npy")
_WRITERS: dict[str, Callable[..., Written]] = {
    ".png": write_png,
    ".tif": write_tiff,
    ".tiff": write_tiff,
    **dict.fromkeys(
        (".h5", ".hdf5"),
        lambda path, x, overwrite: write_hdf5(path, {"image": x}, overwrite=overwrite),
    ),
    ".npy": write_npy,
    ".nii": write_nifti,
    ".nii.gz": write_nifti,
    ".mha": write_metaimage,
    ".mhd": write_metaimage,
    ".raw": write_raw,
    ".zarr": write_ome_zarr,
    ".dcm": write_dicom_series,
}
#: Suffixes of the formats that `write` knows.
SUFFIXES = tuple(_WRITERS)
