"""Checks of the images of a registration, and what is known of their place in space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor
from invtoolbox.datasets import Measurement, Volume
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.geometry.placed_pixels import PlacedPixels
from invtoolbox.geometry.transforms import Affine
from invtoolbox.operators import PlacedImage
from invtoolbox.operators.finite_difference import check_lengths

_NAMES = ("the moving image", "the fixed image")
#: An image of at most this number of values, most of whose neighbours are equal, is taken as labels.
_MOST_LABELS = 256


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images and their place in space.

    Attributes:
        moving, fixed: images ``(batch, channel, *space)``.
        grids: grid of the moving and of the fixed image.
        spacing: distance of pixels of the fixed image along every axis.
        is_one_grid: whether both images have the same pixels.
        notes: findings, one sentence each.
    """

    moving: Tensor
    fixed: Tensor
    grids: tuple[Grid, Grid]
    spacing: tuple[float, ...]
    is_one_grid: bool
    notes: tuple[str, ...]

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """Maps of the indices of pixels to positions, of the moving and of the fixed image."""
        return self.matrix(0), self.matrix(1)

    def matrix(self, side: int) -> Tensor:
        return torch.from_numpy(self.grids[side].affine(self.fixed.ndim - 2))


def read_pair(
    moving: Any,
    fixed: Any,
    spacing: Any = None,
    affine: Any = None,
) -> Pair:
    """Return both images as ``(batch, channel, *space)``, and the positions of their pixels.

    Args:
        moving: the moving image, see `register`.
        fixed: the fixed image.
        spacing: distance of the pixels of arrays, see `register`.
        affine: matrix of an array, or of both, see `register`.

    Raises:
        InputError: for images of different dimension or number of channels, that are NaN or
            constant.
    """
    images = [to_image(image, name) for image, name in zip((moving, fixed), _NAMES)]
    a, b = images
    if a.ndim != b.ndim:
        raise InputError(
            f"the moving image has {a.ndim - 2} axes, {_sizes(a)} pixels, and the fixed one "
            f"{b.ndim - 2}, {_sizes(b)} pixels; take a slice of the volume, or give two volumes"
        )
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"the moving image has {a.shape[1]} channels and the fixed one {b.shape[1]}; select the "
            "same ones"
        )
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise InputError(
            f"there are {len(a)} moving and {len(b)} fixed images; give one each, or one for all"
        )
    dimensions = b.ndim - 2
    grids, notes = _place(moving, fixed, dimensions, spacing, affine)
    lengths = check_lengths("the images", grids[1].voxel_size[-dimensions:], dimensions)
    batch = max(len(a), len(b))
    dtype = torch.promote_types(a.dtype, b.dtype)
    pair = [image.to(dtype).expand(batch, *image.shape[1:]) for image in (a, b.to(a.device))]
    labels = []
    for image, name in zip(pair, _NAMES):
        _check_values(image, name)
        if bool((image == image.round()).all()) and looks_like_labels(image.cpu().numpy()):
            labels.append(name)
    if labels:
        notes += (
            f"{' and '.join(labels)} {'look' if labels[1:] else 'looks'} like labels, whose numbers "
            "are no brightness: register the images that they belong to, and warp the labels by it",
        )
    is_one_grid = a.shape[2:] == b.shape[2:] and _is_same(*grids, a.shape[2:])
    return Pair(pair[0], pair[1], grids, lengths, is_one_grid, notes)


def _place(
    moving: Any,
    fixed: Any,
    dimensions: int,
    spacing: Any,
    affine: Any,
) -> tuple[tuple[Grid, Grid], tuple[str, ...]]:
    """Return the grids of both images, and findings on them."""
    headers = [image.grid if isinstance(image, Volume) else None for image in (moving, fixed)]
    if affine is not None:
        is_one = not isinstance(affine, (tuple, list)) or np.ndim(affine[0]) == 1
        for k, matrix in enumerate((affine, affine) if is_one else affine):
            headers[k] = headers[k] if matrix is None else grid_of(matrix, dimensions, spacing)
    present = [grid for grid in headers if grid is not None]
    if isinstance(spacing, (int, float)):
        spacing = (float(spacing),) * dimensions
    is_pair = spacing is not None and len(spacing) == 2 and np.ndim(spacing[0]) == 1
    sizes = [
        check_lengths(name, side, dimensions)
        for name, side in zip(_NAMES, spacing if is_pair else (spacing, spacing))
    ]
    grids = []
    for header, lengths in zip(headers, sizes):
        if header is None:
            by_header = present and spacing is None
            grids.append(present[-1] if by_header else Grid(voxel_size=_three(lengths)))
        elif spacing is not None and affine is None:  # the user's word on the distances
            grids.append(replace(header, voxel_size=_three(lengths, header.voxel_size)))
        else:
            grids.append(header)
    signs = [np.sign(np.linalg.det(grid.affine(dimensions)[:-1, :-1])) for grid in grids]
    notes = []
    if signs[0] != signs[1]:
        notes.append(
            "the axes of one image are mirrored, as those of LAS and RAS: its header places it, so "
            "left and right are kept"
        )
    return (grids[0], grids[1]), tuple(notes)


def _three(sizes: Sequence[float], first: Sequence[float] = (1.0,)) -> tuple[float, float, float]:
    padded = (*first[: 3 - len(sizes)], *sizes)
    return float(padded[0]), float(padded[1]), float(padded[2])


def grid_of(matrix: Any, dimensions: int, spacing: Any = None) -> Grid:
    """Return the grid of a matrix of indices to positions, see `register`."""
    if spacing is not None:
        raise InputError("give spacing= or affine=, not both: the matrix holds the spacing")
    try:
        values = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    side = dimensions + 1
    if values.shape != (side, side) or not (values[-1] == np.eye(side)[-1]).all():
        raise InputError(
            f"affine= is a matrix ({side}, {side}) with the last row {np.eye(side)[-1].tolist()}, "
            f"or one for each image, got shape {values.shape}"
        )
    if dimensions == 2:  # the slice axis is z
        whole = np.eye(4)
        whole[np.ix_((0, 1, 3), (1, 2, 3))] = values
        whole[2, :3] = 1.0, 0.0, 0.0
        whole[:2, 0] = 0.0
        values = whole
    return Grid.from_affine(values)


def meet(pair: Pair, half: Tensor) -> tuple[Grid, tuple[int, ...]] | None:
    """Return the grid of a frame halfway between both images, and its number of pixels.

    It covers what both images show, along the axes of the image of larger pixels; None if they show
    nothing together. Exchanged images have the same grid.

    Args:
        pair: both images.
        half: motion H from the fixed image to the frame, and from there to the moving image.
    """
    place = max(pair.matrices, key=lambda A: (float(A.det().abs()), A.flatten().tolist())).clone()
    low, high = zip(
        *(
            Affine(place).inverse()(PlacedPixels(image, motion @ A).corners()).aminmax(dim=0)
            for image, motion, A in zip(
                (pair.moving, pair.fixed), (torch.linalg.inv(half), half), pair.matrices
            )
        )
    )
    first, last = torch.maximum(*low), torch.minimum(*high)
    shape = tuple(int(n) + 1 for n in (last - first - 1e-6).ceil())
    place[:-1, -1] += place[:-1, :-1] @ first
    return None if min(shape) < 2 else (grid_of(place.numpy(), len(shape)), shape)


def bring(velocity: Tensor, grid: Grid, half: Tensor, pair: Pair) -> Tensor:
    """Return a velocity along the axes of the fixed image, whose flow is ``H^-1 exp(v) H``.

    It is ``H^-1 v(H p)`` with the linear part of H^-1. Beyond its border v continues.

    Args:
        velocity: the velocity v, ``(1, d, *space)``.
        grid: positions of its pixels.
        half: the motion H, see `meet`.
        pair: both images.
    """
    here, there = pair.matrix(1), torch.from_numpy(grid.affine(velocity.ndim - 2))
    D, E = (A[:-1, :-1] / A[:-1, :-1].norm(dim=0) for A in (here, there))
    points = PlacedPixels(pair.fixed[:1], half @ here).points().to(velocity)
    A = PlacedImage(velocity, torch.linalg.inv(there)[:-1].to(velocity), points)
    turn = torch.linalg.solve(half[:-1, :-1] @ D, E).to(velocity)
    return torch.tensordot(turn, A(torch.zeros_like(points)[None])[0], 1)[None]


def _is_same(moving: Grid, fixed: Grid, sizes: Sequence[int]) -> bool:
    """Return whether the pixels of both grids are at the same places, to 1e-3 of a pixel."""
    difference = np.abs(moving.affine(len(sizes)) - fixed.affine(len(sizes)))
    reach = (difference[:-1] * np.array([*sizes, 1.0])).sum()
    return bool(reach <= 1e-3 * min(fixed.voxel_size[-len(sizes) :]))


def looks_like_labels(values: np.ndarray) -> bool:
    """Return whether an image has few values, each of which fills regions.

    Args:
        values: image ``(..., columns)``.

    >>> looks_like_labels(np.repeat([0, 3, 7], 10)), looks_like_labels(np.arange(30) % 7)
    (True, False)
    """
    levels, counts = np.unique(values, return_counts=True)
    if not 1 < len(levels) <= _MOST_LABELS:
        return False
    left, right = values[..., 1:], values[..., :-1]
    background = levels[np.argmax(counts)]
    counted = (left != background) | (right != background)
    return bool(counted.any()) and float((left == right)[counted].mean()) > 0.5


def to_image(image: Any, name: str) -> Tensor:
    """Return an image or volume as ``(batch, channel, *space)``, of a floating-point type."""
    if isinstance(image, Volume):
        image = image.volume()
    if isinstance(image, Measurement):
        image = image.y
    values = as_tensor(np.asarray(image) if isinstance(image, list) else image).detach()
    if values.is_complex():
        raise InputError(f"{name} is complex; give its magnitude")
    if not values.is_floating_point():
        values = values.to(torch.float32)
    if values.ndim == 2 and values.shape[1] in (2, 3) and values.shape[0] > 4:
        raise InputError(
            f"{name} has the shape {tuple(values.shape)}, like a table of points, and not of pixels; "
            "it.scene_flow moves the points of one cloud to another, and landmarks= takes points"
        )
    if values.ndim in (2, 3):
        values = values[None, None]
    if values.ndim == 5 and values.shape[2] == 1:
        values = values.squeeze(2)  # a volume of one slice
    if values.ndim not in (4, 5) or not len(values):
        raise InputError(
            f"{name} has the shape {tuple(values.shape)}; expected (rows, columns), (slices, rows, "
            "columns) or (batch, channel, *space)"
        )
    if values.ndim == 5 and values.shape[-1] in (3, 4) and min(values.shape[2:4]) > 16:
        raise InputError(
            f"{name} has the shape {tuple(values.shape[2:])}, like a picture whose last axis is its "
            "colors; give one channel, such as image.mean(-1)"
        )
    if min(values.shape[2:]) < 2:
        raise InputError(f"{name} has {_sizes(values)} pixels; every axis needs at least two")
    return values


def to_mask(mask: Any, like: Tensor, grid: Grid, is_moving: bool = False) -> Tensor:
    """Return a mask ``(batch, 1, *space)`` of an image.

    Args:
        mask: array, tensor or volume.
        like: the image.
        grid: positions of its pixels.
        is_moving: whether it is the moving image, for errors.

    Raises:
        InputError: if it has another shape or grid, or is empty.
    """
    name = _NAMES[0] if is_moving else _NAMES[1]
    if isinstance(mask, Volume) and not _is_same(mask.grid, grid, like.shape[2:]):
        raise InputError(
            f"the mask lies on another grid than {name}: origin {mask.grid.origin} and voxel size "
            f"{mask.grid.voxel_size}, compared with {grid.origin} and {grid.voxel_size}; resample it"
        )
    mask = to_image(mask, "the mask") if isinstance(mask, Volume) else mask
    values = as_tensor(mask if isinstance(mask, Tensor) else np.asarray(mask)).bool()
    values = values[None, None] if values.ndim == like.ndim - 2 else values
    if (
        values.shape[2:] != like.shape[2:]
        or values.shape[1] != 1
        or len(values) not in (1, len(like))
    ):
        raise InputError(
            f"the mask has the shape {tuple(values.shape)}, and {name} {tuple(like.shape)}"
        )
    empty = ~values.flatten(1).any(1)
    if bool(empty.any()):
        item = f" of item {int(empty.nonzero()[0])}" if len(values) > 1 else ""
        raise InputError(f"the mask{item} is empty; it is true at pixels whose misfit counts")
    return values.to(like.device).expand(len(like), -1, *[-1] * (like.ndim - 2))


def to_landmarks(landmarks: Any, pair: Pair) -> tuple[Tensor, Tensor]:
    """Return the positions of the landmarks in the moving and the fixed image, ``(N, d)`` both."""
    dimensions = pair.fixed.ndim - 2
    if not isinstance(landmarks, (tuple, list)) or len(landmarks) != 2:
        raise InputError(
            "landmarks are a pair: points in the moving image, and the same points in the fixed one"
        )
    moving, fixed = (as_tensor(np.asarray(side), dtype=torch.float64) for side in landmarks)
    if moving.ndim != 2 or moving.shape != fixed.shape or moving.shape[1] != dimensions:
        raise InputError(
            f"landmarks are two arrays (N, {dimensions}), got {tuple(moving.shape)} and "
            f"{tuple(fixed.shape)}"
        )
    sides = []
    for points, grid, matrix in zip((moving, fixed), pair.grids, pair.matrices):
        index = points / torch.tensor(grid.voxel_size[-dimensions:], dtype=torch.float64)
        sides.append(index @ matrix[:-1, :-1].T + matrix[:-1, -1])
    places = fixed / torch.tensor(pair.spacing, dtype=torch.float64)
    last = torch.tensor(pair.fixed.shape[2:], dtype=torch.float64) - 1
    beyond = ~((places >= 0) & (places <= last)).all(1)
    if bool(beyond.any()):
        k = int(beyond.nonzero()[0])
        raise InputError(
            f"landmark {k} lies outside of the fixed image, at {fixed[k].tolist()}; landmarks are "
            "in the unit of the spacing, from the centre of the first pixel"
        )
    return sides[0], sides[1]


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
