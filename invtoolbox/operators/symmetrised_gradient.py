"""The symmetrised gradient of a vector field: what total generalized variation measures curvature by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator


class SymmetrisedGradient(LinearOperator):
    r"""``E w = (grad w + grad w^T) / 2`` of the slopes of an image, by forward differences.

    ``w`` has the layout of what `FiniteDifference` gives: component k of channel c is channel ``c * dimensions + k``. The
    result has ``dimensions (dimensions + 1) / 2`` channels for each one, the diagonal first, then the pairs of axes in order; those
    are scaled by ``sqrt(2)``, so that the Euclidean norm over these channels is the Frobenius norm of the matrix.

    A slope along axis k lies between two pixels, so there is none at the last index of axis k, and what is there plays no
    part; differences that would need it are 0. So ``E D x = 0`` exactly for every affine image x, up to the border.

    >>> E = SymmetrisedGradient((1, 5))
    >>> E(torch.tensor([[[0.0, 1.0, 3.0, 3.0, 9.0]]]))
    tensor([[[1., 2., 0., 0., 0.]]])
    """

    def __init__(self, image_shape: Sequence[int], spacing: Sequence[float] | None = None) -> None:
        channels, *space = (int(n) for n in image_shape)
        self.dimensions = len(space)
        self.pairs = [(i, j) for i in range(self.dimensions) for j in range(i + 1, self.dimensions)]
        self.domain_shape = (channels * self.dimensions, *space)
        self.range_shape = (channels * (self.dimensions + len(self.pairs)), *space)
        lengths = (1.0,) * self.dimensions if spacing is None else tuple(float(h) for h in spacing)
        if len(lengths) != self.dimensions or not all(0 < h < math.inf for h in lengths):
            raise InputError(
                f"spacing of SymmetrisedGradient is a positive length for each of {self.dimensions} axes, got {spacing}"
            )
        self.slopes = tuple(1 / h for h in lengths)

    def _forward(self, x: Tensor) -> Tensor:
        w = x.unflatten(1, (-1, self.dimensions))
        out = x.new_zeros(x.shape[0], w.shape[1], self.dimensions + len(self.pairs), *x.shape[2:])
        for m, k, axis, factor in self._differences():
            here, there = self._places(out.select(2, m), w.select(2, k), m, axis)
            here.add_((there[1] - there[0]) * factor)
        return out.flatten(1, 2)

    def _adjoint(self, y: Tensor) -> Tensor:
        e = y.unflatten(1, (-1, self.dimensions + len(self.pairs)))
        out = y.new_zeros(y.shape[0], e.shape[1], self.dimensions, *y.shape[2:])
        for m, k, axis, factor in self._differences():
            here, there = self._places(e.select(2, m), out.select(2, k), m, axis)
            there[1].add_(here, alpha=factor)
            there[0].sub_(here, alpha=factor)
        return out.flatten(1, 2)

    def _differences(self) -> Iterator[tuple[int, int, int, float]]:
        """Which entry of the matrix takes which component's difference along which axis, and its factor."""
        for k, slope in enumerate(self.slopes):
            yield k, k, k, slope
        for m, (i, j) in enumerate(self.pairs, self.dimensions):
            yield m, j, i, self.slopes[i] * math.sqrt(0.5)
            yield m, i, j, self.slopes[j] * math.sqrt(0.5)

    def _places(
        self, entry: Tensor, component: Tensor, m: int, axis: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Where an entry is defined, and the component there and one further along the axis; all views."""
        diagonal = m < self.dimensions
        # An entry of the diagonal needs two slopes along its own axis, which has one less than pixels.
        axes = {axis: 2} if diagonal else dict.fromkeys(self.pairs[m - self.dimensions], 1)
        here, first, second = entry, component, component
        for a, less in axes.items():
            n = max(0, entry.shape[a + 2] - less)
            here, first = here.narrow(a + 2, 0, n), first.narrow(a + 2, 0, n)
            second = second.narrow(a + 2, min(1, component.shape[a + 2] - n) if a == axis else 0, n)
        return here, (first, second)

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A bound from above, ``|E|^2 <= 4 sum_k 1 / spacing_k^2``, which large images come near to."""
        return torch.full(
            (1,), 2 * math.sqrt(sum(a * a for a in self.slopes)), dtype=dtype, device=device
        )
