"""Readers of normal maps, of masks, and of the intrinsics of their camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, open_arrays, require_file
from invtoolbox.datasets.volumes.pictures import SUFFIXES, Pictures
from invtoolbox.errors import InputError

#: Length below which a vector is a grey background, and largest deviation from 1 that is rounding.
_LEAST_LENGTH, _OFF = 0.1, 0.1


def read_normal_map(path: str | Path) -> Tensor:
    """Read a normal map as ``(rows, columns, 3)``: x to the right, y up, z towards the camera.

    A color picture of 8 or 16 bits stores x, y and z as red, green and blue, with -1 as 0 and 1 as
    the largest number. An .npy file, or the only array of an .npz file, holds the components
    themselves.

    Args:
        path: path of the file.

    Raises:
        InputError: if the file is no color picture and no array of three components.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/normals.npy"
    >>> np.save(file, np.ones((4, 5, 3)))
    >>> read_normal_map(file).shape
    torch.Size([4, 5, 3])
    """
    file = Path(path).expanduser()
    if file.suffix.lower() in SUFFIXES:
        picture = Pictures(file)[0]
        y = picture.y[0]
        if len(y) != 3:
            raise InputError(f"{file}: a grey picture, and a normal map has three channels")
        is_float = np.issubdtype(np.dtype(picture.meta["stored"]), np.floating)
        normals = (y if is_float else 2 * y - 1).permute(1, 2, 0).contiguous()
        if not is_float:
            _require_unit(file, normals)
        return normals
    values = _read_array(file)
    if values.ndim != 3 or values.shape[2] != 3:
        raise InputError(
            f"{file}: an array of shape {tuple(values.shape)}, and a normal map is (rows, columns, "
            "3)"
        )
    return values


def _require_unit(file: Path, normals: Tensor) -> None:
    """Refuse a picture most of whose pixels are no unit vectors, such as a photograph."""
    length = normals.norm(dim=-1)
    # Backgrounds are black, white or grey.
    shown = length[(length > _LEAST_LENGTH) & (normals.amax(-1) > normals.amin(-1))]
    off = float(((shown - 1).abs() > _OFF).double().mean()) if len(shown) else 0.0
    if off > 0.5:
        raise InputError(
            f"{file}: no normal map, because {off:.0%} of its colors are no directions (2 * value - 1 "
            "is a vector whose length differs from 1 by more than a tenth); give the picture of the "
            "normals, with red to the right, green up and blue to the camera"
        )


def read_mask(path: str | Path) -> Tensor:
    """Read a mask, ``(rows, columns)``: true where a picture or an array is not 0.

    Args:
        path: path of the file; a color picture counts by its first channel.
    """
    file = Path(path).expanduser()
    picture = file.suffix.lower() in SUFFIXES
    values = Pictures(file)[0].y[0, 0] if picture else _read_array(file)
    if values.ndim != 2:
        raise InputError(f"{file}: a mask has rows and columns, got {tuple(values.shape)}")
    return values != 0


def read_depth(path: str | Path) -> Tensor:
    """Read a depth map, ``(rows, columns)``; NaN where the depth is not known.

    An .npy file, or the only array of an .npz file, holds the depths. A grey picture of 16 bits
    holds them in its unit, which is the millimetre for most cameras, with 0 where they are not known.

    Args:
        path: path of the file.

    Raises:
        InputError: if the file is a picture of colors or of 8 bits, or no array of rows and columns.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() in SUFFIXES:
        picture = Pictures(file)[0]
        y, stored = picture.y[0], np.dtype(picture.meta["stored"])
        if len(y) != 1 or stored.itemsize == 1:
            kind = "a color picture" if len(y) != 1 else "a picture of 8 bits"
            raise InputError(
                f"{file}: {kind}, and a depth map has one channel of 16 bits or more; write the depths "
                "themselves, not a view of them"
            )
        if stored.kind not in "iu":
            return y[0]
        depth = (y[0].double() * np.iinfo(stored).max).round().float()
        return torch.where(depth > 0, depth, torch.nan)
    values = _read_array(file)
    if values.ndim != 2:
        raise InputError(f"{path}: a depth map has rows and columns, got {tuple(values.shape)}")
    return values


def read_intrinsics(path: str | Path) -> Tensor:
    """Read the matrix of a pinhole camera, ``(3, 3)``, from a text file of numbers or an .npy file.

    Args:
        path: path of the file.
    """
    file = require_file(Path(path))
    if file.suffix.lower() in (".npy", ".npz"):
        values = _read_array(file)
    else:
        with decoding(file, "text"):
            values = torch.as_tensor(
                np.loadtxt(file, delimiter="," if "," in file.read_text() else None)
            )
    if tuple(values.shape) != (3, 3):
        raise InputError(
            f"{file}: numbers of shape {tuple(values.shape)}, and the matrix of a camera is (3, 3)"
        )
    return values


def _read_array(path: Path) -> Tensor:
    file = require_file(path)
    if file.suffix.lower() not in (".npy", ".npz"):
        raise InputError(
            f"{file}: no reader for this suffix; use one of {', '.join((*SUFFIXES, '.npy', '.npz'))}"
        )
    with decoding(file, "NumPy"):
        loaded = open_arrays(file)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            if len(loaded.files) != 1:
                raise InputError(f"holds {len(loaded.files)} arrays; save one alone")
            loaded = loaded[loaded.files[0]]
        values = np.asarray(loaded)
        return torch.from_numpy(values.astype(np.float32 if values.dtype != bool else bool))
