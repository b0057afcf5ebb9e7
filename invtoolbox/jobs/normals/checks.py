"""Checks of normal maps before they are integrated, each with one sentence for the user."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor, check_range
from invtoolbox.errors import InputError

#: Lengths of unit normals that were rounded to 8 bits deviate less from 1.
_ROUNDED = 0.02
#: Share of the slopes' changes that is no surface's, above which an axis may be mirrored.
_NOT_INTEGRABLE = 0.3
#: Least mean change of the slopes per pixel that shows the handedness: rounding to 8 bits changes
#: slopes by about 1/100. Small changes need this number of squares, over which noise, which fits a
#: mirrored axis as badly as the stated one, averages out. Smaller ones are rounding of float32.
_SLOPE_8_BITS, _SLOPE, _SLOPE_FLOAT32, _MANY = 0.02, 1e-4, 1e-6, 400
#: Least share of the normals whose component towards the camera is positive.
_MOST = 0.9


def to_maps(normals: Any, what: str = "the normal map") -> Tensor:
    """Return normals as ``(batch, 3, rows, columns)``, float32.

    Args:
        normals: normals, ``(rows, columns, 3)`` or ``(batch, rows, columns, 3)``.
        what: the map, for messages.
    """
    values = as_tensor(normals).detach()
    if values.ndim not in (3, 4) or values.shape[-1] != 3:
        raise InputError(
            f"{what} has the shape {tuple(values.shape)}, expected (rows, columns, 3) or "
            "(batch, rows, columns, 3)"
        )
    if not values.is_floating_point():
        raise InputError(
            f"{what} holds whole numbers of {values.dtype}; it.datasets.read_normal_map reads a "
            "picture, or map them to normals with 2 * value / largest - 1"
        )
    values = values if values.ndim == 4 else values[None]
    return values.movedim(-1, 1).to(torch.float32)


def to_mask(mask: Any, normals: Tensor) -> Tensor:
    """Return the mask as booleans ``(batch, 1, rows, columns)``.

    Without a mask, the object is where normals are finite and longer than a half.
    """
    if mask is None:
        length = torch.linalg.vector_norm(normals, dim=1, keepdim=True)
        inside = length.nan_to_num(0.0, 0.0, 0.0) > 0.5
    else:
        inside = as_tensor(mask, device=normals.device) != 0
        inside = (inside if inside.ndim == 3 else inside[None])[:, None]
        if inside.ndim != 4 or inside.shape[2:] != normals.shape[2:]:
            raise InputError(
                f"the mask has the shape {tuple(as_tensor(mask).shape)}, and the normal map "
                f"has {normals.shape[2]} rows and {normals.shape[3]} columns; give a mask of the "
                "same pixels"
            )
        if len(inside) not in (1, len(normals)):
            raise InputError(f"there are {len(inside)} masks for {len(normals)} normal maps")
        inside = inside.expand(len(normals), -1, -1, -1)
    empty = ~inside.flatten(1).any(1)
    if bool(empty.any()):
        raise InputError(f"the mask{_item(empty)} is empty; it must be true inside of the object")
    return inside


def check_normals(
    normals: Tensor, mask: Tensor, sign: float = 1.0, what: str = "the normal map"
) -> tuple[Tensor, list[str]]:
    """Return unit normals, 0 outside of the mask, and notes.

    Args:
        normals: normals, ``(batch, 3, rows, columns)``.
        mask: inside of the object, ``(batch, 1, rows, columns)``.
        sign: 1 if normals point towards the camera, -1 on the back.
        what: the map, for messages.

    Raises:
        InputError: for normals that are NaN or 0, and for axes that are swapped or mirrored.
    """
    inside = torch.where(mask, normals, 0.0)
    bad = (~inside.isfinite()).any(1)
    if bool(bad.any()):
        item, row, column = bad.nonzero()[0].tolist()
        raise InputError(
            f"{int(bad.sum())} pixels of {what} inside of the mask are NaN or infinite, the first "
            f"at row {row}, column {column}{f' of item {item}' if len(normals) > 1 else ''}; take "
            "them out of the mask"
        )
    length = torch.linalg.vector_norm(inside, dim=1, keepdim=True)
    if float(inside.min()) >= 0 and float((length[mask] - 1).abs().mean()) > 0.05:
        raise InputError(
            f"no component of {what} is negative, like in a picture with values from 0 to 1; map "
            "it to normals with 2 * value - 1, or read it with it.datasets.read_normal_map"
        )
    short = mask & (length < 0.1)
    if bool(short.any()):
        raise InputError(
            f"{int(short.sum())} normals of {what} inside of the mask have no direction (length "
            "below 0.1); take these pixels out of the mask"
        )
    notes = []
    deviation = torch.where(mask, (length - 1).abs(), 0.0)
    if float(deviation.max()) > 1e-4:
        unrounded, pixels = int((deviation > _ROUNDED).sum()), int(mask.sum())
        reason = (
            f"{unrounded} of {pixels} by more than {_ROUNDED:.0%}, which rounding does not explain"
            if unrounded
            else "as 8-bit maps do"
        )
        notes.append(
            f"the lengths of normals of {what} deviate from 1 by up to {float(deviation.max()):.2%}, "
            f"{reason}; they were renormalized"
        )
    unit = torch.where(mask, inside / torch.where(mask, length, 1.0), 0.0)
    least = _SLOPE_8_BITS if float(deviation.max()) > 1e-4 else _SLOPE
    for k, (n, inside_of_item) in enumerate(zip(unit, mask)):
        name = f"{what}{f' (item {k})' if len(unit) > 1 else ''}"
        _check_axes(n, inside_of_item[0], sign, name, least)
    return unit, notes


def _check_axes(n: Tensor, mask: Tensor, sign: float, what: str, least: float) -> None:
    """Refuse a map whose z or whose handedness is wrong.

    Args:
        n: unit normals ``(3, rows, columns)``.
        mask: inside of the object ``(rows, columns)``.
        sign: 1 if normals point towards the camera, -1 on the back.
        what: the map, for messages.
        least: mean change of the slopes per pixel that shows the handedness.
    """
    x, y, z = n
    facing = float((sign * z[mask] > 0).float().mean())
    if facing < 0.5:
        side = "towards the camera (z > 0)" if sign > 0 else "away from the camera (z < 0)"
        raise InputError(
            f"only {facing:.0%} of the normals of {what} point {side}; negate its z axis, or "
            "reverse its channels if they are in the order blue, green, red"
        )
    if facing < _MOST and float((sign * x[mask] > 0).float().mean()) > _MOST:
        raise InputError(
            f"the third component of {what} points to the camera at {facing:.0%} of the pixels, and "
            "the first one at nearly all of them: reverse its channels, which are in the order blue, "
            "green, red"
        )
    # Slopes of the depth, p = dz/dcolumn and q = dz/drow. They are unbounded at a silhouette, so
    # pixels that face sideways are left out.
    facing_pixels = mask & (sign * z > 0.2)
    p = torch.where(facing_pixels, x / z, 0.0)
    q = torch.where(facing_pixels, -y / z, 0.0)
    square = (
        facing_pixels[:-1, :-1]
        & facing_pixels[:-1, 1:]
        & facing_pixels[1:, :-1]
        & facing_pixels[1:, 1:]
    )
    # dp/drow and dq/dcolumn in the middle of four pixels; they are equal for a surface.
    p_row = 0.5 * (p[1:, :-1] + p[1:, 1:] - p[:-1, :-1] - p[:-1, 1:])[square]
    q_column = 0.5 * (q[:-1, 1:] + q[1:, 1:] - q[:-1, :-1] - q[1:, :-1])[square]
    total, number = float((p_row.abs() + q_column.abs()).sum()), int(square.sum())
    is_small = total < least * number
    enough = _MANY if is_small or total < _SLOPE_8_BITS * number else 16
    if number < enough or total < _SLOPE_FLOAT32 * number:
        return
    # A mirrored axis changes the sign of one of the two derivatives.
    residual = float((p_row - q_column).abs().sum()) / total
    mirrored = float((p_row + q_column).abs().sum()) / total
    if residual > _NOT_INTEGRABLE and mirrored < (0.75 if is_small else 0.7) * residual:
        # Which axis it is: normals of a closed object point outwards at its rim.
        rows, columns = mask.nonzero().float().unbind(1)
        outward_x = float((x[mask] * (columns - columns.mean())).sum())
        outward_y = float((y[mask] * (rows.mean() - rows)).sum())
        axis, direction = ("x", "to the right") if outward_x < outward_y else ("y", "up")
        raise InputError(
            f"{what} has the wrong handedness: {residual:.0%} of the changes of its slopes fit no "
            f"surface, and {mirrored:.0%} with the {axis} axis mirrored; negate {axis}, which must "
            f"point {direction}"
        )


def check_intrinsics(intrinsics: Any, rows: int, columns: int) -> tuple[Tensor | None, float]:
    """Return the matrix of a perspective camera or None, and the size of a pixel.

    Raises:
        InputError: if the matrix is none of a pinhole camera, or belongs to another resolution.
    """
    if intrinsics is None:
        return None, 1.0
    values = as_tensor(intrinsics, dtype=torch.float64).detach()
    if values.ndim == 0:
        check_range("the camera", "(0, inf)", pixel_size=float(values))
        return None, float(values)
    if tuple(values.shape) != (3, 3):
        raise InputError(
            "intrinsics are a matrix (3, 3) of a pinhole camera, or the size of a pixel of an "
            f"orthographic one, got the shape {tuple(values.shape)}"
        )
    fx, fy, cx, cy = (float(values[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    if not (0 < fx < float("inf") and 0 < fy < float("inf")) or not bool(values.isfinite().all()):
        raise InputError(f"the focal lengths must be positive and finite, got {fx:g} and {fy:g}")
    # 1 if the principal point is the middle of the map; the ratio of the two resolutions if the
    # intrinsics belong to another one.
    across, along = 2 * cx / (columns - 1), 2 * cy / (rows - 1)
    alike = abs(across - along) <= 0.1 * max(across, along)
    if (alike and not 0.8 < across < 1.25) or not (0 <= cx < columns and 0 <= cy < rows):
        guess = (
            f"; they belong to a picture of about {2 * cx:.0f} x {2 * cy:.0f} pixels, so divide "
            f"the first two rows by {across:.3g}"
            if alike and across > 0
            else "; subtract the first column and row if the map was cropped, and give the matrix of "
            "this camera"
        )
        raise InputError(
            f"the principal point ({cx:.1f}, {cy:.1f}) of the intrinsics does not fit a map of "
            f"{columns} x {rows} pixels{guess}"
        )
    return values, 1.0


def _item(which: Tensor) -> str:
    return f" of item {int(which.nonzero()[0])}" if len(which) > 1 else ""
