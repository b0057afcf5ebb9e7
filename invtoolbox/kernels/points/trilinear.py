"""Trilinear interpolation between the nodes of a grid, with its slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.points.distance_kernels import look_up_kernel


@dataclass(frozen=True, eq=False)
class Field:
    """Values at the nodes ``origin + cell * (i, j, k)`` of a regular grid.

    Attributes:
        values: ``(X, Y, Z)``, float32, at least 2 along every axis.
        origin: of the node (0, 0, 0), metres.
        cell: between two nodes, metres.
    """

    values: Tensor
    origin: tuple[float, float, float]
    cell: float


def interpolate(field: Field, points: Tensor) -> Tensor:
    """The field at points, ``(n, 3) -> (n,)``, differentiable once in them.

    Beyond the grid it is the value at the nearest place of the grid's box plus the distance to that place: of a field of
    distances an upper bound, whose slope leads back.

    >>> field = Field(torch.arange(2.0).view(2, 1, 1).repeat(1, 2, 2), (0.0, 0.0, 0.0), 1.0)
    >>> interpolate(field, torch.tensor([[0.25, 0.5, 0.5], [0.0, 0.0, -3.0]]))
    tensor([0.2500, 3.0000])
    """
    result: Tensor = _Interpolation.apply(points, field)
    return result


def value_and_slope(field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
    """The field and its gradient at points, ``(n,)`` and ``(n, 3)``."""
    if field.values.dtype != torch.float32:
        raise AssertionError(
            f"the kernel reads a field of float32, and this one is {field.values.dtype}"
        )
    points = points.detach().contiguous()
    values, slopes = torch.empty_like(points[:, 0]), torch.empty_like(points)
    launch(
        look_up_kernel(points.dtype),
        len(points),
        [
            address(field.values),
            address(points),
            address(values),
            address(slopes),
            *field.values.shape,
            *field.origin,
            field.cell,
        ],
        [points, field.values, values, slopes],
        work=20.0 * len(points),
    )
    return values, slopes


class _Interpolation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, field: Field) -> Tensor:
        values, slopes = value_and_slope(field, points)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slopes,) = ctx.saved_tensors
        return grad[:, None] * slopes, None
