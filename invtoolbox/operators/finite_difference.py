"""Finite differences: the gradient of an image, and the symmetrised gradient of a vector field.

The adjoint of the gradient is the negative divergence. Total generalized variation measures
curvature by the symmetrised gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from invtoolbox.core.guards import to_shape
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator


class FiniteDifference(LinearOperator):
    r"""Forward differences along every spatial axis.

    The shapes are ``(channel, *space) -> (dimensions * channel, *space)``.
    ``(D x)_k[i] = x[i + e_k] - x[i]``, and 0 at the last index of axis k (Neumann), or wrapped
    around if ``periodic``. The differences of one channel lie next to each other: channel
    ``c * dimensions + k``. `norm` is exact; ``|D|^2 <= 4 * dimensions`` (Chambolle 2004).

    Args:
        shape: shape ``(channel, *space)``.
        periodic: whether the image wraps around at its edges.
        spacing: distance of two neighbours along every axis; differences are divided by it and are
            slopes.

    >>> D = FiniteDifference((1, 3))
    >>> D(torch.tensor([[[0., 1., 3.]]]))
    tensor([[[1., 2., 0.]]])
    """

    def __init__(
        self, shape: Sequence[int], periodic: bool = False, spacing: Sequence[float] | None = None
    ) -> None:
        self.domain_shape = to_shape(self, shape=shape)
        self.dimensions = len(self.domain_shape) - 1
        self.range_shape = (self.dimensions * self.domain_shape[0], *self.domain_shape[1:])
        self.periodic = periodic
        self.spacing = (
            None
            if spacing is None
            else check_lengths(type(self).__name__, spacing, self.dimensions)
        )

    def _forward(self, x: Tensor) -> Tensor:
        out = x.new_empty(x.shape[0], x.shape[1], self.dimensions, *x.shape[2:])
        for k in range(self.dimensions):
            axis, n, difference = k + 2, x.shape[k + 2], out.select(2, k)
            if n > 1:
                before, after = x.narrow(axis, 0, n - 1), x.narrow(axis, 1, n - 1)
                if torch.is_grad_enabled():  # `out=` has no derivative and no rule for vmap
                    difference.narrow(axis, 0, n - 1).copy_(after - before)
                else:
                    torch.sub(after, before, out=difference.narrow(axis, 0, n - 1))
            last = difference.narrow(axis, n - 1, 1)
            if self.periodic:
                last.copy_(x.narrow(axis, 0, 1) - x.narrow(axis, n - 1, 1))
            else:
                last.zero_()
            if self.spacing is not None:
                difference.div_(self.spacing[k])
        return out.flatten(1, 2)

    def _adjoint(self, y: Tensor) -> Tensor:
        channels = y.shape[1] // self.dimensions
        p = y.unflatten(1, (channels, self.dimensions))
        out = y.new_zeros(y.shape[0], channels, *y.shape[2:])
        # Minus the divergence: (D^T y)[i] = y[i - 1] - y[i]; the last y counts only if periodic.
        for k in range(self.dimensions):
            axis, n, difference = k + 2, y.shape[k + 2], p.select(2, k)
            if self.spacing is not None:
                difference = difference / self.spacing[k]
            if n > 1:
                inside = difference.narrow(axis, 0, n - 1)
                out.narrow(axis, 0, n - 1).sub_(inside)
                out.narrow(axis, 1, n - 1).add_(inside)
            if self.periodic:
                last = difference.narrow(axis, n - 1, 1)
                out.narrow(axis, n - 1, 1).sub_(last)
                out.narrow(axis, 0, 1).add_(last)
        return out

    def _known_norm(self) -> Tensor:
        # The next eigenvalues are so close to the largest that a power method stops 1.5 % below it,
        # and a primal-dual method with such a long step diverges on images of high-frequency noise.
        # Along an axis the highest frequency is the alternating sign, if the boundary permits it.
        squares = [
            4.0 if self.periodic and n % 2 == 0 else 4 * math.cos(math.pi / (2 * n)) ** 2
            for n in self.domain_shape[1:]
        ]
        if self.spacing is not None:
            squares = [square / (h * h) for square, h in zip(squares, self.spacing)]
        return torch.tensor([math.sqrt(sum(squares))], dtype=torch.float64)

    def normal_symbol(self) -> tuple[Tensor, bool]:
        """Return ``sum_k 4 sin^2(xi_k / 2)``, the symbol of the Laplacian.

        It is exact if ``periodic``, and approximate for the Neumann boundary.
        """
        spacing = None if self.spacing is None else tuple(self.spacing)
        return _laplacian(tuple(self.domain_shape[1:]), spacing), self.periodic


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _laplacian(space: tuple[int, ...], spacing: tuple[float, ...] | None) -> Tensor:
    """Return the symbol of the Laplacian, ``(1, 1, *half spectrum)``, float64."""
    symbol = torch.zeros([1] * (1 + len(space)), dtype=torch.float64)
    for axis, n in enumerate(space):
        last = axis == len(space) - 1
        frequencies = torch.arange(n // 2 + 1 if last else n, dtype=torch.float64)
        square = 4 * (torch.pi * frequencies / n).sin().square()
        if spacing is not None:
            square = square / spacing[axis] ** 2
        symbol = symbol + square.view([-1 if k == axis + 1 else 1 for k in range(1 + len(space))])
    return symbol.unsqueeze(0)


class SymmetrisedGradient(LinearOperator):
    r"""Symmetrised gradient ``E w = (grad w + grad w^T) / 2`` of the slopes of an image.

    ``w`` has the layout of the result of `FiniteDifference`: component k of channel c is channel
    ``c * dimensions + k``. The result has ``dimensions (dimensions + 1) / 2`` channels per channel
    of the image: the diagonal first, then the pairs of axes in order. The entries of the pairs are
    scaled by ``sqrt(2)``, so that the Euclidean norm over these channels is the Frobenius norm of
    the matrix.

    The differences are forward differences. A slope along axis k lies between two pixels, so there
    is none at the last index of axis k: the value there is ignored, and differences that would need
    it are 0. So ``E D x = 0`` exactly for every affine image x, up to the border.

    Args:
        image_shape: shape ``(channel, *space)`` of the image.
        spacing: distance of two neighbours along every axis; 1 by default.

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
        lengths = check_lengths(type(self).__name__, spacing, self.dimensions)
        self.slopes = tuple(1 / h for h in lengths)

    def _forward(self, x: Tensor) -> Tensor:
        w = x.unflatten(1, (-1, self.dimensions))
        out = x.new_zeros(x.shape[0], w.shape[1], self.dimensions + len(self.pairs), *x.shape[2:])
        for m, k, axis, factor in self._differences():
            entry, ends = self._places(out.select(2, m), w.select(2, k), m, axis)
            entry.add_((ends[1] - ends[0]) * factor)
        return out.flatten(1, 2)

    def _adjoint(self, y: Tensor) -> Tensor:
        e = y.unflatten(1, (-1, self.dimensions + len(self.pairs)))
        out = y.new_zeros(y.shape[0], e.shape[1], self.dimensions, *y.shape[2:])
        for m, k, axis, factor in self._differences():
            entry, ends = self._places(e.select(2, m), out.select(2, k), m, axis)
            ends[1].add_(entry, alpha=factor)
            ends[0].sub_(entry, alpha=factor)
        return out.flatten(1, 2)

    def _differences(self) -> Iterator[tuple[int, int, int, float]]:
        """Iterate over the differences: entry of the matrix, component, axis and factor."""
        for k, slope in enumerate(self.slopes):
            yield k, k, k, slope
        for m, (i, j) in enumerate(self.pairs, self.dimensions):
            yield m, j, i, self.slopes[i] * math.sqrt(0.5)
            yield m, i, j, self.slopes[j] * math.sqrt(0.5)

    def _places(
        self, entry: Tensor, component: Tensor, m: int, axis: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return an entry at its own places, and the component at both ends of the difference.

        Views.
        """
        diagonal = m < self.dimensions
        # An entry of the diagonal needs two slopes along its own axis, which has one slope less
        # than pixels.
        axes = {axis: 2} if diagonal else dict.fromkeys(self.pairs[m - self.dimensions], 1)
        place, first, second = entry, component, component
        for a, less in axes.items():
            n = max(0, entry.shape[a + 2] - less)
            place, first = place.narrow(a + 2, 0, n), first.narrow(a + 2, 0, n)
            second = second.narrow(a + 2, min(1, component.shape[a + 2] - n) if a == axis else 0, n)
        return place, (first, second)

    def _known_norm(self) -> Tensor:
        # This is an upper bound, |E|^2 <= 4 sum_k 1 / spacing_k^2, which large images approach.
        return torch.tensor([2 * math.sqrt(sum(a * a for a in self.slopes))], dtype=torch.float64)


def check_lengths(name: str, spacing: Sequence[float] | None, dimensions: int) -> tuple[float, ...]:
    """Return the distance of neighbours along every axis, 1 by default.

    Raises:
        InputError: if a distance is not positive, or there are not as many as axes.
    """
    lengths = tuple(float(h) for h in ((1.0,) * dimensions if spacing is None else spacing))
    if len(lengths) != dimensions or not all(0 < h < math.inf for h in lengths):
        raise InputError(
            f"the spacing of {name} is a positive length for each of {dimensions} axes, got "
            f"{spacing}"
        )
    return lengths
