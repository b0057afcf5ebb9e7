"""Implicit prior of the flow of a picture that is affine in place and constant in time."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.implicit.flow_spline import flow_grid
from invtoolbox.priors.settings import replace, require_bound


class AffineFlow(ImplicitPrior):
    r"""Flow of a picture that is affine in place and constant in time: six numbers.

    x is the flow on the grid of `operators.EventWarp`, ``(batch, 2, T, h, w)``,

    .. math:: x = a + \sqrt 3 (b Y + c X)

    with rows Y and columns X from -1 to 1 over the sensor. Each of a, b and c then changes the flow
    by its own length in the root mean square, so that all are equally steep directions of a descent.

    >>> import invtoolbox as it
    >>> events = it.geometry.Events.of([1, 2, 3], [1, 2, 3], [0.0, 0.5, 1.0], size=(6, 6))
    >>> A = it.operators.EventWarp(events, grid=(3, 9, 9))
    >>> problem = it.Problem(A.measurements(), A, it.data_terms.Contrast())
    >>> prior = AffineFlow().prepare(problem, it.solve)
    >>> prior.decode(prior.initial()).shape
    torch.Size([1, 2, 3, 9, 9])
    """

    def __init__(self) -> None:
        self.grid: tuple[int, ...] = ()
        self.like = torch.zeros(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return replace(self, grid=flow_grid(self, problem), like=problem.y0.new_zeros(1))

    def initial(self) -> dict[str, Tensor]:
        """Return the numbers a, b and c of no flow, ``(1, 2, 3)``."""
        require_bound(self, self.grid)
        return {"affine": self.like.new_zeros(1, 2, 3)}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        times, down, across = require_bound(self, self.grid)
        rows, columns = torch.linspace(-1, 1, down), torch.linspace(-1, 1, across)
        flow = affine_flow(parameters["affine"], rows, columns)
        return flow[:, :, None].expand(-1, -1, times, -1, -1)

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        return torch.zeros_like(parameters["affine"][:, 0, 0])

    def __repr__(self) -> str:
        return "AffineFlow()"


def affine_flow(affine: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the flow at rows and columns from -1 to 1, ``(batch, 2, rows, columns)``.

    Args:
        affine: the numbers a, b and c of both components, ``(batch, 2, 3)``.
        rows: rows, ``(h,)``.
        columns: columns, ``(w,)``.

    >>> affine_flow(torch.tensor([[[2.0, 0, 0], [0, 0, 0]]]), torch.zeros(1), torch.zeros(1))
    tensor([[[[2.]],
    <BLANKLINE>
             [[0.]]]])
    """
    a, b, c = (affine[..., k, None, None] for k in range(3))
    down, across = 3**0.5 * rows.to(affine)[:, None], 3**0.5 * columns.to(affine)
    return a + b * down + c * across


def spline_of_affine(affine: Tensor, controls: tuple[int, int, int]) -> Tensor:
    """Return the control points of `FlowSpline` with the same flow, ``(batch, 2, *controls)``.

    Args:
        affine: the numbers a, b and c of both components, ``(batch, 2, 3)``.
        controls: number of control points in time, rows and columns.

    >>> control_points = spline_of_affine(torch.ones(1, 2, 3), (4, 5, 5))
    >>> control_points.shape
    torch.Size([1, 2, 4, 5, 5])
    """
    # A uniform cubic B-spline with n - 3 pieces equals a line if its k-th control point lies on the
    # line at (k - 1) / (n - 3), in a range from 0 to 1.
    rows, columns = (2 * (torch.arange(n) - 1) / (n - 3) - 1 for n in controls[1:])
    flow = affine_flow(affine, rows, columns)
    return flow[:, :, None].repeat(1, 1, controls[0], 1, 1)
