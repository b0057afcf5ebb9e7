"""The discrete gradient and its adjoint, the negative divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator


class FiniteDifference(LinearOperator):
    r"""Forward differences along every spatial axis, ``(channel, *space) -> (dimensions * channel, *space)``.

    ``(D x)_k[i] = x[i + e_k] - x[i]``, and 0 at the last index of axis k (Neumann), or wrapped around where
    ``periodic``. The differences of one channel lie next to each other: channel ``c * dimensions + k``.
    With ``spacing``, the distance of two neighbours along every axis, differences are divided by it and are slopes.
    `norm` is exact; ``|D|^2 <= 4 * dimensions`` (Chambolle 2004).

    >>> D = FiniteDifference((1, 3))
    >>> D(torch.tensor([[[0., 1., 3.]]]))
    tensor([[[1., 2., 0.]]])
    """

    def __init__(
        self, shape: Sequence[int], periodic: bool = False, spacing: Sequence[float] | None = None
    ) -> None:
        self.domain_shape = tuple(int(n) for n in shape)
        self.dimensions = len(self.domain_shape) - 1
        self.range_shape = (self.dimensions * self.domain_shape[0], *self.domain_shape[1:])
        self.periodic = periodic
        self.spacing = None if spacing is None else tuple(float(h) for h in spacing)
        if self.spacing is not None and (
            len(self.spacing) != self.dimensions or not all(0 < h < math.inf for h in self.spacing)
        ):
            raise InputError(
                f"spacing of FiniteDifference is a positive length for each of {self.dimensions} axes, got {spacing}"
            )

    def _forward(self, x: Tensor) -> Tensor:
        out = x.new_empty(x.shape[0], x.shape[1], self.dimensions, *x.shape[2:])
        for k in range(self.dimensions):
            axis, n, part = k + 2, x.shape[k + 2], out.select(2, k)
            if n > 1:
                torch.sub(
                    x.narrow(axis, 1, n - 1),
                    x.narrow(axis, 0, n - 1),
                    out=part.narrow(axis, 0, n - 1),
                ) if not _needs_graph(x) else part.narrow(axis, 0, n - 1).copy_(
                    x.narrow(axis, 1, n - 1) - x.narrow(axis, 0, n - 1)
                )
            last = part.narrow(axis, n - 1, 1)
            if self.periodic:
                last.copy_(x.narrow(axis, 0, 1) - x.narrow(axis, n - 1, 1))
            else:
                last.zero_()
            if self.spacing is not None:
                part.div_(self.spacing[k])
        return out.flatten(1, 2)

    def _adjoint(self, y: Tensor) -> Tensor:
        channels = y.shape[1] // self.dimensions
        p = y.unflatten(1, (channels, self.dimensions))
        out = y.new_zeros(y.shape[0], channels, *y.shape[2:])
        for k in range(self.dimensions):
            axis, n, part = k + 2, y.shape[k + 2], p.select(2, k)
            if self.spacing is not None:
                part = part / self.spacing[k]
            if n > 1:
                inside = part.narrow(axis, 0, n - 1)
                out.narrow(axis, 0, n - 1).sub_(inside)
                out.narrow(axis, 1, n - 1).add_(inside)
            if self.periodic:
                last = part.narrow(axis, n - 1, 1)
                out.narrow(axis, n - 1, 1).sub_(last)
                out.narrow(axis, 0, 1).add_(last)
        return out

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """The largest singular value, in closed form.

        The eigenvalues next to the largest are so near to it that a power method stops 1.5 % below it, and a
        primal-dual method with a step that long diverges on images of high-frequency noise.
        """
        # Along an axis the largest frequency is the alternating sign, where the boundary lets it be.
        squares = [
            4.0 if self.periodic and n % 2 == 0 else 4 * math.cos(math.pi / (2 * n)) ** 2
            for n in self.domain_shape[1:]
        ]
        if self.spacing is not None:
            squares = [square / (h * h) for square, h in zip(squares, self.spacing)]
        return torch.full((1,), math.sqrt(sum(squares)), dtype=dtype, device=device)

    def normal_symbol(self) -> tuple[Tensor, bool]:
        """``sum_k 4 sin^2(xi_k / 2)``, the Laplacian's; with Neumann's boundary a neighbour of what is right."""
        symbol = torch.zeros([1] * len(self.domain_shape), dtype=torch.float64)
        for axis, n in enumerate(self.domain_shape[1:]):
            frequencies = torch.arange(
                n // 2 + 1 if axis == self.dimensions - 1 else n, dtype=torch.float64
            )
            part = 4 * (torch.pi * frequencies / n).sin().square()
            if self.spacing is not None:
                part = part / self.spacing[axis] ** 2
            symbol = symbol + part.view(
                [-1 if k == axis + 1 else 1 for k in range(len(self.domain_shape))]
            )
        return symbol.unsqueeze(0), self.periodic


def _needs_graph(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad
