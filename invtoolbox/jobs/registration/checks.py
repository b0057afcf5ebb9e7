"""Checks of the images of a registration, and what is known of their place in space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.measurement import Measurement
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.operators.finite_difference import check_lengths

_NAMES = ("the moving image", "the fixed image")


def read_pair(
    moving: Any, fixed: Any, spacing: Sequence[float] | float | None
) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """Return both images as ``(batch, channel, *space)`` and the spacing of their pixels.

    Raises:
        InputError: for images of different shape, spacing or orientation, that are NaN or
            constant.
    """
    grids = [image.grid for image in (moving, fixed) if isinstance(image, Volume)]
    if len(grids) == 2:
        check_grids(grids[0], grids[1])
    a, b = (to_image(image, name) for image, name in zip((moving, fixed), _NAMES))
    if a.shape[1:] != b.shape[1:]:
        raise InputError(
            f"the images differ in shape: the moving one has {_sizes(a)} and the fixed one "
            f"{_sizes(b)}; resample one of them to the grid of the other"
        )
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise InputError(
            f"there are {len(a)} moving and {len(b)} fixed images; give one each, or one for all"
        )
    dimensions = b.ndim - 2
    if isinstance(spacing, (int, float)):
        spacing = (float(spacing),) * dimensions
    if spacing is None and grids:
        spacing = grids[-1].voxel_size[-dimensions:]  # a volume of one slice has two axes
    lengths = check_lengths("the images", spacing, dimensions)
    batch = max(len(a), len(b))
    dtype = torch.promote_types(a.dtype, b.dtype)
    pair = [image.to(dtype).expand(batch, *image.shape[1:]) for image in (a, b.to(a.device))]
    for image, name in zip(pair, _NAMES):
        _check_values(image, name)
    return pair[0], pair[1], lengths


def check_grids(moving: Grid, fixed: Grid) -> None:
    """Raise an `InputError` if two volumes differ in spacing or orientation."""
    sizes = np.array([moving.voxel_size, fixed.voxel_size])
    if not np.allclose(sizes[0], sizes[1], rtol=1e-3):
        sides = [" x ".join(f"{v:g}" for v in size) for size in sizes]
        raise InputError(
            f"the volumes differ in spacing: {sides[0]} {moving.unit} and {sides[1]} {fixed.unit}; "
            "resample one of them to the grid of the other"
        )
    directions = np.array(moving.directions), np.array(fixed.directions)
    if not np.allclose(directions[0], directions[1], atol=1e-2):
        turn = np.degrees(np.arccos(np.clip((directions[0] * directions[1]).sum(1), -1, 1)).max())
        raise InputError(
            f"the volumes differ in orientation, by {turn:.0f} degrees along one of their axes; "
            "resample one of them to the grid of the other"
        )


def to_image(image: Any, name: str) -> Tensor:
    """Return an image or volume as ``(batch, channel, *space)``, of a floating-point type."""
    if isinstance(image, Volume):
        image = image.volume()
    if isinstance(image, Measurement):
        image = image.y
    values = image.detach() if isinstance(image, Tensor) else torch.as_tensor(np.asarray(image))
    if values.is_complex():
        raise InputError(f"{name} is complex; give its magnitude")
    if not values.is_floating_point():
        values = values.to(torch.float32)
    if values.ndim in (2, 3):
        values = values[None, None]
    if values.ndim == 5 and values.shape[2] == 1:
        values = values.squeeze(2)  # a volume of one slice
    if values.ndim not in (4, 5):
        raise InputError(
            f"{name} has the shape {tuple(values.shape)}; expected (rows, columns), (slices, rows, "
            "columns) or (batch, channel, *space)"
        )
    if min(values.shape[2:]) < 2:
        raise InputError(f"{name} has {_sizes(values)} pixels; every axis needs at least two")
    return values


def to_mask(mask: Any, like: Tensor) -> Tensor:
    """Return a mask ``(1 or batch, 1, *space)`` of the fixed image.

    Raises:
        InputError: if it has another shape, or is empty.
    """
    values = torch.as_tensor(mask if isinstance(mask, Tensor) else np.asarray(mask)).bool()
    values = values[None, None] if values.ndim == like.ndim - 2 else values
    if (
        values.shape[2:] != like.shape[2:]
        or values.shape[1] != 1
        or len(values) not in (1, len(like))
    ):
        raise InputError(
            f"the mask has the shape {tuple(values.shape)}, and the fixed image {tuple(like.shape)}"
        )
    empty = ~values.flatten(1).any(1)
    if bool(empty.any()):
        item = f" of item {int(empty.nonzero()[0])}" if len(values) > 1 else ""
        raise InputError(f"the mask{item} is empty; it is true at pixels whose misfit counts")
    return values.to(like.device).expand(len(like), -1, *[-1] * (like.ndim - 2))


def to_landmarks(
    landmarks: Any, spacing: Sequence[float], sizes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the points in the fixed image, in pixels, and their displacements, ``(N, d)`` both."""
    if not isinstance(landmarks, (tuple, list)) or len(landmarks) != 2:
        raise InputError(
            "landmarks are a pair: points in the moving image, and the same points in the fixed one"
        )
    moving, fixed = (torch.as_tensor(np.asarray(side), dtype=torch.float64) for side in landmarks)
    if moving.ndim != 2 or moving.shape != fixed.shape or moving.shape[1] != len(sizes):
        raise InputError(
            f"landmarks are two arrays (N, {len(sizes)}), got {tuple(moving.shape)} and "
            f"{tuple(fixed.shape)}"
        )
    places = fixed / torch.tensor(spacing, dtype=torch.float64)
    last = torch.tensor(sizes, dtype=torch.float64) - 1
    beyond = ~((places >= 0) & (places <= last)).all(1)
    if bool(beyond.any()):
        k = int(beyond.nonzero()[0])
        raise InputError(
            f"landmark {k} lies outside of the fixed image, at {fixed[k].tolist()}; landmarks are "
            "in the unit of the spacing, from the centre of the first pixel"
        )
    return places, moving - fixed


def _check_values(image: Tensor, name: str) -> None:
    flat = image.flatten(1)
    for is_bad, reason in (
        (~flat.isfinite().all(1), "holds values that are NaN or infinite; repair or crop them"),
        ((flat == flat[:, :1]).all(1), "is constant, so nothing in it shows a motion"),
    ):
        if bool(is_bad.any()):
            item = f" (item {int(is_bad.nonzero()[0])})" if len(image) > 1 else ""
            raise InputError(f"{name}{item} {reason}")


def _sizes(image: Tensor) -> str:
    return " x ".join(map(str, image.shape[1:] if image.shape[1] > 1 else image.shape[2:]))
