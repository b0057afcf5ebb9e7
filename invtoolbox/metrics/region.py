"""Where a metric looks: inside the border, and where the mask is true."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError


def check_pair(x: Tensor, reference: Tensor) -> None:
    """Refuse two tensors that cannot be compared, saying in which axis they differ."""
    for name, value in (("x", x), ("the reference", reference)):
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}; metrics take tensors, so give torch.as_tensor({name.split()[-1]})"
            )
    if x.ndim < 3:
        raise InputError(f"x has shape {tuple(x.shape)}; metrics take (batch, channel, *space)")
    if x.ndim != reference.ndim:
        raise InputError(
            f"x has {x.ndim} axes and the reference {reference.ndim}; both must be (batch, "
            "channel, *space)"
        )
    for axis, (a, b) in enumerate(zip(x.shape, reference.shape)):
        if a != b and not (axis == 0 and b == 1):
            raise InputError(
                f"x has shape {tuple(x.shape)} and the reference {tuple(reference.shape)}; they "
                f"differ in axis {axis}"
            )


def region(x: Tensor, mask: Tensor | None, border: int) -> tuple[Tensor, Tensor | None]:
    """`x` and the mask without `border` pixels at every end of every axis of space.

    The mask is boolean, has the axes of `x` or of its space alone, and is broadcast to the shape of `x`;
    every item must keep at least one pixel.
    """
    if border < 0 or any(n <= 2 * border for n in x.shape[2:]):
        raise InputError(
            f"a border of {border} leaves nothing of an image of {tuple(x.shape[2:])}; choose "
            f"it between 0 and {(min(x.shape[2:]) - 1) // 2}"
        )
    if mask is not None:
        if mask.dtype != torch.bool:
            raise InputError(
                f"the mask is {mask.dtype}; give a boolean one, true where the image counts"
            )
        try:
            mask = mask.to(x.device).expand(x.shape)
        except RuntimeError:
            raise InputError(
                f"the mask has shape {tuple(mask.shape)}, which does not broadcast to "
                f"{tuple(x.shape)}"
            ) from None
        mask = crop(mask, border)
        empty = torch.nonzero(~mask.flatten(1).any(1)).flatten().tolist()
        if empty:
            raise InputError(
                f"the mask of item {empty[0]} is empty; leave the item out or widen the mask"
            )
    return crop(x, border), mask


def crop(x: Tensor, border: int) -> Tensor:
    """`x` (batch, channel, *space) without `border` pixels at both ends of every axis of space."""
    inner = slice(border, -border) if border else slice(None)
    return x[(slice(None), slice(None), *(inner for _ in x.shape[2:]))]


def mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each item, over the mask where there is one: (batch,)."""
    if mask is None:
        return values.flatten(1).mean(1)
    # Not values * mask: outside the mask there may be NaN.
    inside = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return inside.flatten(1).sum(1) / mask.flatten(1).sum(1)


def to_double(x: Tensor) -> Tensor:
    """The tensor in double precision: sums over a million pixels lose four digits in single."""
    return x.to(torch.complex128) if x.is_complex() else x.to(torch.float64)


def like(value: Tensor, x: Tensor) -> Tensor:
    """The value in the real precision of `x`, or in single where `x` holds whole numbers."""
    kind = x.real.dtype if x.is_complex() else x.dtype
    return value.to(kind if kind.is_floating_point else torch.float32)
