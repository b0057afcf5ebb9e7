"""Pixels of pictures, masks and depths: reading them from files, and making them smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.checks import decoding, open_arrays, sniff
from invtoolbox.datasets.volumes.pictures import read_pixels, scale_to_unit
from invtoolbox.errors import InputError


def read_rgba(file: Path) -> Tensor:
    """Read a picture between 0 and 1 as stored, ``(4, height, width)``.

    Alpha is 1 if the file has no alpha.
    """
    array = read_pixels(file, 0)
    scaled = scale_to_unit(file, array, np.float32)
    values = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 2, 3, 4):
        raise InputError(
            f"{file}: an array of shape {tuple(array.shape)} is neither a grey nor a color "
            "picture; export it again"
        )
    if array.dtype.kind == "f" and not bool(values.isfinite().all()):
        raise InputError(
            f"{file}: the picture holds NaN or infinite values; repair it, or remove it from the "
            "set"
        )
    rgba = torch.ones(4, *values.shape[:2])
    channels = values.shape[-1]
    rgba[:3] = values[..., : 3 if channels > 2 else 1].permute(2, 0, 1)
    if channels in (2, 4):
        rgba[3] = values[..., -1]
    return rgba


def read_blocks(file: Path, block: int) -> Tensor:
    """Read a picture whose pixels are means over blocks, premultiplied by the alpha.

    JPEG files are averaged before they are converted, in a tenth of the time and the memory.
    """
    if block > 1 and sniff(file) == "jpeg":
        from PIL import Image

        with decoding(file, "JPEG"), Image.open(file) as picture:
            width, height = (side // block * block for side in picture.size)
            small = picture.convert("RGB").reduce(block, (0, 0, width, height))
        color = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        return torch.cat([color, torch.ones_like(color[:1])])
    rgba = read_rgba(file)
    rgba[:3] *= rgba[3:]  # straightened and averaged premultiplied: no color of alpha 0 bleeds
    return functional.avg_pool2d(rgba, block) if block > 1 else rgba


def read_one_channel(file: Path, size: tuple[int, int]) -> Tensor:
    """Read the stored numbers of a mask or of depths from a picture or a `.npy`.

    The result is ``(1, height, width)``; NaN becomes 0.
    """
    if file.suffix.lower() == ".npy":
        with decoding(file, "NumPy"):
            array = open_arrays(file)
    else:
        array = read_pixels(file, 0)
    array = array[..., 0] if array.ndim == 3 else array
    if array.shape != size:
        raise InputError(
            f"{file} has the shape {array.shape}, but its picture has {size[0]} x {size[1]} "
            "pixels; export it again"
        )
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
    return values.nan_to_num(0.0, posinf=0.0, neginf=0.0)


def resize(
    size: tuple[int, int], rgba: Tensor, mask: Tensor | None, depth: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce pictures ``(C, channel, height, width)`` to a size by averages over areas.

    A pixel is valid if everything that it covers is valid. Depths are not averaged across
    occlusions.

    Args:
        size: new height and width.
        rgba: colors, premultiplied by the alpha, and the alpha.
        mask: mask of valid pixels, or None.
        depth: depths, or None.
    """
    if mask is not None:
        mask = (functional.interpolate(1 - mask, size=size, mode="area") == 0).to(rgba)
    if depth is not None:
        depth = functional.interpolate(depth, size=size, mode="nearest-exact")
    return functional.interpolate(rgba, size=size, mode="area"), mask, depth


def middle_depth(depth: Tensor, shrink: int) -> Tensor:
    """Return the lower median of the known depths of each block.

    A mean would lie between the foreground and the background.
    """
    height, width = (side // shrink for side in depth.shape[1:])
    blocks = (
        depth[:, : height * shrink, : width * shrink]
        .unfold(1, shrink, shrink)
        .unfold(2, shrink, shrink)
        .flatten(3)
    )
    distances = torch.where(blocks > 0, blocks, torch.nan)
    return distances.nanmedian(dim=3).values.nan_to_num(0.0)
