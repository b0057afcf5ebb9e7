"""Symmetric systems of pixels that are coupled to their four neighbours: products and solutions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel

#: Values that are summed side by side.
_LANES = 16


@dataclass
class SolveArguments:
    """Arguments of ``grid_solve.cpp``."""

    diagonal: Tensor  # (batch, channel, rows, columns), as right, down, target and answer
    right: Tensor
    down: Tensor
    across: Tensor  # (batch, 1, rows, columns); not read for one channel
    target: Tensor
    answer: Tensor
    scratch: Tensor  # (batch, 8 channels + 1, rows + 2, stride)
    bounds: Tensor  # begin and end of the pixels with an edge of every row, (batch, rows, 2) int64
    goal: Tensor  # norm of the residual at which an item stops, (batch,) float64
    height: int
    width: int
    stride: int  # length of a row of the scratch
    steps: int


@cache
def solve_kernel(dtype: torch.dtype, channels: int) -> Kernel:
    """Return the kernel of conjugate gradients for a precision and a number of channels."""
    definitions = {"REAL": REAL[dtype], "CHANNELS": channels, "LANES": _LANES}
    return native_kernel("grids/grid_solve.cpp", definitions, SolveArguments)


@dataclass(frozen=True, eq=False)
class GridSystem:
    """Symmetric system ``M u`` of pixels with edges to their neighbours.

    ``(M u)_p = diagonal_p u_p - sum_q c_pq u_q`` over the four neighbours q of the pixel p, and over
    the same pixel of the other channel. With ``diagonal_p = sum_q c_pq`` it is the Laplacian of a
    weighted graph. Systems of one shape add up.

    Attributes:
        diagonal: diagonal of M, ``(batch, channel, rows, columns)``.
        right: the c of a pixel and its right neighbour, of the same shape, 0 in the last column.
        down: the c of a pixel and the pixel below, of the same shape, 0 in the last row.
        across: the c of the two channels of a pixel, ``(batch, 1, rows, columns)``, or None.

    >>> edges = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    >>> ends = torch.tensor([[[[2.0, 2.0, 1.0]]]])  # the first pixel is tied to 0
    >>> M = GridSystem(ends, edges, torch.zeros_like(edges))
    >>> M.product(torch.tensor([[[[1.0, 2.0, 4.0]]]]))
    tensor([[[[ 0., -1.,  2.]]]])
    >>> M.solve(torch.tensor([[[[0.0, -1.0, 2.0]]]]), torch.tensor([1e-5]), 10)
    tensor([[[[1.0000, 2.0000, 4.0000]]]])
    """

    diagonal: Tensor
    right: Tensor
    down: Tensor
    across: Tensor | None = None

    def __add__(self, other: GridSystem) -> GridSystem:
        across = [s.across for s in (self, other) if s.across is not None]
        return GridSystem(
            self.diagonal + other.diagonal,
            self.right + other.right,
            self.down + other.down,
            sum(across[1:], across[0]) if across else None,
        )

    def product(self, u: Tensor) -> Tensor:
        """Return ``M u``."""
        # (M u)_p = diagonal_p u_p - sum_q c_pq u_q; both pixels of a pair have the same c.
        out = self.diagonal * u
        right, down = self.right[..., :-1], self.down[..., :-1, :]
        out[..., :-1] -= right * u[..., 1:]
        out[..., 1:] -= right * u[..., :-1]
        out[..., :-1, :] -= down * u[..., 1:, :]
        out[..., 1:, :] -= down * u[..., :-1, :]
        return out if self.across is None else out - self.across * u.flip(1)

    def precondition(self, residual: Tensor) -> Tensor:
        """Divide by the diagonal; pixels without an edge keep 0."""
        usable = self.diagonal > 0
        return torch.where(usable, residual / torch.where(usable, self.diagonal, 1.0), 0.0)

    def solve(self, target: Tensor, goal: Tensor, max_iterations: int) -> Tensor:
        """Return ``M^-1 target`` by conjugate gradients from 0, on the CPU.

        The diagonal is the preconditioner. All steps of an item run in one kernel.

        Args:
            target: right-hand sides, of the shape of the diagonal.
            goal: norm of the residual at which an item stops, ``(batch,)``.
            max_iterations: largest number of steps.
        """
        batch, channels, height, width = target.shape
        # Rows are padded to whole groups of lanes, with a group of zeros on either side.
        stride = (-(-width // _LANES) + 2) * _LANES
        diagonal, right, down = (
            t.expand_as(target).contiguous() for t in (self.diagonal, self.right, self.down)
        )
        across = target.new_zeros(1, 1, height, width) if self.across is None else self.across
        arguments = SolveArguments(
            diagonal=diagonal,
            right=right,
            down=down,
            across=across.expand(batch, -1, -1, -1).contiguous(),
            target=target.contiguous(),
            answer=torch.empty_like(target, memory_format=torch.contiguous_format),
            # Per channel the diagonal, its inverse, right, down, the direction p, M p, the residual
            # and the solution; and across.
            scratch=target.new_empty(batch, 8 * channels + 1, height + 2, stride),
            bounds=torch.empty(batch, height, 2, dtype=torch.int64),
            goal=goal.double().expand(batch).contiguous(),
            height=height,
            width=width,
            stride=stride,
            steps=max_iterations,
        )
        kernel = solve_kernel(target.dtype, channels)
        launch(kernel, batch, arguments, work=10.0 * max_iterations * target.numel())
        return arguments.answer
