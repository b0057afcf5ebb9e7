"""Kernels of a blur by their shape: a Gaussian, the disc of a defocus, a straight motion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError

#: Largest number of samples per pixel along each axis of a shape.
_SAMPLES = 32


def gaussian_kernel(width: Any, where: str) -> Tensor:
    """Return a Gaussian kernel with the sum 1, cut off at four standard deviations.

    Args:
        width: standard deviation, pixels.
        where: place that the width was written in, the beginning of the error message.

    >>> gaussian_kernel(1.0, "kernel").shape
    torch.Size([9, 9])
    """
    width = _length("the width of a Gaussian", width, where)
    reach = max(1, round(4 * width))
    profile = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / width) ** 2)
    kernel = torch.outer(profile, profile)
    return (kernel / kernel.sum()).float()


def disc_kernel(radius: Any, where: str) -> Tensor:
    """Return the disc of a lens out of focus with the sum 1.

    Args:
        radius: radius, pixels.
        where: place that the radius was written in, the beginning of the error message.

    >>> disc_kernel(1.5, "kernel").shape
    torch.Size([3, 3])
    """
    radius = _length("the radius of a disc", radius, where)
    reach = math.ceil(radius - 0.5)
    return _cover((reach, reach), lambda row, column: row.square() + column.square() <= radius**2)


def motion_kernel(path: Any, where: str) -> Tensor:
    """Return the kernel of a straight motion with the sum 1.

    Args:
        path: length of the trace of a point in pixels, and its angle in degrees, from the right and
            counterclockwise in the upright picture.
        where: place that the path was written in, the beginning of the error message.

    >>> motion_kernel([3, 90], "kernel").sum(1)
    tensor([0.3333, 0.3333, 0.3333])
    """
    if not isinstance(path, (list, tuple)) or len(path) != 2:
        raise InputError(
            f"{where}: a motion has a length in pixels and an angle in degrees, got {path!r}"
        )
    length = _length("the length of a motion", path[0], where)
    if (
        isinstance(path[1], bool)
        or not isinstance(path[1], (int, float))
        or not math.isfinite(path[1])
    ):
        raise InputError(f"{where}: the angle of a motion is a number of degrees, got {path[1]!r}")
    angle = math.radians(path[1])
    down, right = -math.sin(angle), math.cos(angle)  # rows are counted downwards
    # The trace of a pixel is a strip of its width.
    reach = (_reach(length, abs(down), abs(right)), _reach(length, abs(right), abs(down)))

    def inside(row: Tensor, column: Tensor) -> Tensor:
        along, across = down * row + right * column, right * row - down * column
        return (along.abs() <= length / 2) & (across.abs() <= 0.5)

    return _cover(reach, inside)


def _reach(length: float, along: float, across: float) -> int:
    """Return the number of pixels that a strip covers on each side, at least in part."""
    return math.ceil((length * along + across) / 2 - 0.5 - 1e-9)


def _cover(reach: tuple[int, int], inside: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the kernel of a shape with the sum 1; pixels count by their covered area.

    Args:
        reach: number of pixels on each side of the middle, along rows and columns.
        inside: function of places, in pixels from the middle, that returns which lie in the shape.
    """
    samples = max(1, min(_SAMPLES, 4096 // (2 * max(reach) + 1)))
    places = (
        (torch.arange((2 * n + 1) * samples, dtype=torch.float64) + 0.5) / samples - n - 0.5
        for n in reach
    )
    covered = inside(*torch.meshgrid(*places, indexing="ij")).double()
    kernel = torch.nn.functional.avg_pool2d(covered[None, None], samples)[0, 0]
    return (kernel / kernel.sum()).float()


def _length(what: str, value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1000:
        raise InputError(f"{where}: {what} is a positive number of pixels, got {value!r}")
    return float(value)


#: Functions of a kernel by the name of its shape.
SHAPES: dict[str, Callable[[Any, str], Tensor]] = {
    "gaussian": gaussian_kernel,
    "disc": disc_kernel,
    "motion": motion_kernel,
}
