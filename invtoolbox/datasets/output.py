"""Write images and arrays: PNG, TIFF, HDF5, NPY; whole or not at all, and never over a file unless told
to."""

from __future__ import annotations

import errno
import io
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from invtoolbox.errors import InputError

#: The format of ImageJ has offsets of 32 bits.
_LARGEST_IMAGEJ = 2**32 - 2**25
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Written:
    """What was written: the file and, for PNG, the values that became black and white."""

    path: Path
    low: float | None = None
    high: float | None = None
    clipped: int = 0

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.path}: values as they are"
        cut = f", {self.clipped} values outside were clipped" if self.clipped else ""
        return f"{self.path}: {self.low:g} is black, {self.high:g} is white{cut}"


#: What `write` takes, by the suffix of the path.
SUFFIXES = (
    ".png",
    ".tif",
    ".tiff",
    ".h5",
    ".hdf5",
    ".npy",
    ".nii",
    ".nii.gz",
    ".mha",
    ".mhd",
    ".raw",
)


def write(path: str | os.PathLike[str], x: Any, overwrite: bool = False) -> Written:
    """Write an array, or a `Volume`, in the format of the path's suffix (`SUFFIXES`).

    PNG scales the values to its range (see `write_png`, also for other settings); the other formats keep
    them. Volumes (.tif, .nii, .mha, .mhd, .raw) are written slice by slice, with the voxel sizes of a `Volume`.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write(folder + "/x.npy", torch.ones(2, 2))
    ...     np.load(folder + "/x.npy")
    array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    from invtoolbox.datasets.volumes import metaimage, nifti, raw
    from invtoolbox.datasets.volumes.volume import Volume

    name = Path(path).name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
    if suffix in (".nii", ".nii.gz"):
        return nifti.write_nifti(path, x, overwrite=overwrite)
    if suffix in (".mha", ".mhd"):
        return metaimage.write_metaimage(path, x, overwrite=overwrite)
    if suffix == ".raw":
        return raw.write_raw(path, x, overwrite=overwrite)
    if suffix in (".tif", ".tiff"):
        return write_tiff(path, x, overwrite)
    if isinstance(x, Volume):
        x = x.slices()
    if suffix == ".png":
        return write_png(path, x, overwrite=overwrite)
    if suffix in (".h5", ".hdf5"):
        return write_hdf5(path, {"image": x}, overwrite=overwrite)
    if suffix == ".npy":
        return write_npy(path, x, overwrite)
    raise InputError(
        f"{path}: no format for the suffix {suffix!r}; use one of {', '.join(SUFFIXES)}"
    )


def write_png(
    path: str | os.PathLike[str],
    image: Tensor | np.ndarray,
    value_range: tuple[float, float] | None = None,
    bit_depth: int = 8,
    overwrite: bool = False,
) -> Written:
    """Write one grey or color image, ``(rows, columns)``, ``(channel, rows, columns)`` or with a batch of
    one.

    Args:
        value_range: the values that become black and white; by default the least and the greatest of the
            image. Pass (0, 1) for photographs. What lies outside is clipped, and counted in the answer.
        bit_depth: 8, or 16 for grey images.

    Returns:
        Which values became black and white; the PNG holds the same as text, under the keyword "Description".
    """
    from PIL import Image, PngImagePlugin

    array = _picture(path, image)
    low, high = value_range if value_range is not None else (float(array.min()), float(array.max()))
    if not low <= high or not np.isfinite([low, high]).all():
        raise InputError(
            f"{path}: value_range is ({low:g}, {high:g}); give the smaller value first, both finite"
        )
    if bit_depth not in (8, 16) or (bit_depth == 16 and array.ndim == 3):
        raise InputError(
            f"{path}: PNG is written with 8 bits, or with 16 in grey; write .tif for more"
        )
    white = 2**bit_depth - 1
    share = (array - low) / (high - low) if high > low else np.zeros_like(array)
    clipped = int(((array < low) | (array > high)).sum())
    codes = np.rint(np.clip(share, 0, 1) * white).astype(np.uint8 if bit_depth == 8 else np.uint16)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Description", f"value = {low!r} + code * {(high - low) / white!r}")
    stream = io.BytesIO()
    Image.fromarray(codes).save(stream, format="PNG", pnginfo=notes)
    return Written(
        write_bytes(path, stream.getvalue(), overwrite), float(low), float(high), clipped
    )


def write_tiff(path: str | os.PathLike[str], image: Any, overwrite: bool = False) -> Written:
    """Write an image, or a volume as pages, in float32 and without scaling; axes of length one are dropped.

    The last two axes are rows and columns; ``(3, rows, columns)`` is written as a color picture.
    """
    import tifffile

    from invtoolbox.datasets.volumes.volume import Volume, slices_of

    options: dict[str, Any] = {"dtype": np.float32, "photometric": "minisblack"}
    if isinstance(image, Volume):
        shape, _, pages = slices_of(path, image)
        data: Any = (page.astype(np.float32) for page in pages)
        options |= {"shape": shape, "metadata": {"axes": "ZYX"}}
        if image.grid.unit not in ("voxel", "pixel") and 4 * math.prod(shape) < _LARGEST_IMAGEJ:
            # Only ImageJ's metadata have a place for the distance of slices.
            size = image.grid.voxel_size
            options |= {
                "imagej": True,
                "resolution": (1 / size[2], 1 / size[1]),
                "metadata": {"axes": "ZYX", "spacing": size[0], "unit": image.grid.unit},
            }
            del options["photometric"]
    else:
        array = np.squeeze(_array(path, image))
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
        # Offsets of the plain format have 32 bits; the room beyond the pixels is that of the pages' tags.
        tifffile.imwrite(stream, data, bigtiff=4 * math.prod(shape) > 2**32 - 2**25, **options)
    return Written(Path(path).expanduser())


def write_npy(
    path: str | os.PathLike[str], x: Tensor | np.ndarray, overwrite: bool = False
) -> Written:
    """Write an array as it is: shape, numbers and data type."""
    stream = io.BytesIO()
    np.save(stream, _array(path, x), allow_pickle=False)
    return Written(write_bytes(path, stream.getvalue(), overwrite))


def write_hdf5(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Tensor | np.ndarray],
    attributes: Mapping[str, str | int | float] | None = None,
    overwrite: bool = False,
) -> Written:
    """Write named arrays as data sets of one HDF5 file, with plain attributes at its root."""
    import h5py

    stream = io.BytesIO()
    # Made in memory, because HDF5 does not survive a full disk in order.
    with h5py.File(stream, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=_array(path, array))
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
    return Written(write_bytes(path, stream.getvalue(), overwrite))


def write_bytes(path: str | os.PathLike[str], content: bytes, overwrite: bool = False) -> Path:
    """Write a file through a hidden one in the same folder, so that it is there whole or not at all.

    Raises:
        InputError: where a file is there already and `overwrite` is false, the folder is missing, or there is
            no room.
    """
    with writing(path, overwrite) as stream:
        stream.write(content)
    return Path(path).expanduser()


@contextmanager
def writing(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[BinaryIO]:
    """A stream into a hidden file, which takes its place under `path` when the block ends without an error.

    For what is larger than memory; otherwise as `write_bytes`.
    """
    path = Path(path).expanduser()
    if not overwrite and path.exists():
        raise _exists(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _put(temporary, path, overwrite)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        # NumPy's own writing does not say the number of the error.
        if error.errno in _NO_ROOM or "requested and" in str(error):
            raise InputError(
                f"{path}: no room left on the disk, nothing was written; free some or choose another "
                "folder"
            ) from error
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        # Unlike a rename, a link fails if somebody made the file in the meantime.
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links.
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def _exists(path: Path) -> InputError:
    return InputError(
        f"{path}: there is a file of that name already; choose another, or pass overwrite=True"
    )


def _array(path: Any, x: Tensor | np.ndarray) -> np.ndarray:
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if array.dtype.kind not in "biufc":
        raise InputError(f"{path}: an array of {array.dtype} holds no numbers; give a numeric one")
    return array


def _picture(path: Any, image: Tensor | np.ndarray) -> np.ndarray:
    """One image as (rows, columns) or (rows, columns, 3), in float64."""
    array = _array(path, image)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    elif array.ndim != 2:
        raise InputError(
            f"{path}: shape {array.shape} is not one picture; give (rows, columns) or (channel, "
            "rows, columns) with 1 or 3 channels"
        )
    if array.size == 0 or np.iscomplexobj(array) or not np.isfinite(array).all():
        raise InputError(
            f"{path}: the image is empty, complex, or holds NaN or infinite values; write .npy "
            "instead"
        )
    return array.astype(np.float64)
