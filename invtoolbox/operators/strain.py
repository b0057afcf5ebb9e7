"""Derivatives of a displacement field: second differences, and the strain of an elastic body."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice
from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import LinearComposition
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.finite_difference import (
    FiniteDifference,
    SymmetrisedGradient,
    check_lengths,
)


class SecondDifferences(LinearComposition):
    r"""All second derivatives of every channel; ``|A x|^2`` sums the squares of the Hessian.

    The entries of a pair of axes are scaled by ``sqrt(2)``, since the Hessian holds them twice.
    Affine images are mapped to 0 exactly, up to the border.

    Args:
        shape: shape ``(channel, *space)``.
        spacing: distance of neighbours along every axis; 1 by default.

    >>> A = SecondDifferences((1, 5))
    >>> A(torch.tensor([[[0.0, 1.0, 4.0, 9.0, 16.0]]]))
    tensor([[[2., 2., 2., 0., 0.]]])
    """

    def __init__(self, shape: Sequence[int], spacing: Sequence[float] | None = None) -> None:
        slopes = FiniteDifference(shape, spacing=spacing)
        super().__init__(SymmetrisedGradient(shape, spacing), slopes)
        self.slopes = slopes

    def normal_symbol(self) -> tuple[Tensor, bool]:
        """Return the square of the symbol of the Laplacian, approximate because of the border."""
        return self.slopes.normal_symbol()[0].square(), False


class ElasticStrain(LinearOperator):
    r"""Strain of a displacement field, scaled so that ``1/2 |A u|^2`` is its elastic energy.

    The energy density of linear elasticity in a cell between 4 pixels (8 in a volume) is
    ``W = mu sum_ij e_ij^2 + lambda / 2 (sum_k e_kk)^2`` with ``e = (grad u + grad u^T) / 2`` and
    Lame's coefficients ``mu = E / (2 (1 + nu))``, ``lambda = E nu / ((1 + nu) (1 - 2 nu))``, or
    ``E nu / (1 - nu^2)`` under plane stress. The sum over the cells is exact for affine
    displacements. Elongations are differences along the edges of a cell, so that alternating
    displacements cost energy; shear and change of volume are taken in the middle (selective reduced
    integration, Hughes 1980), so that a nearly incompressible body can still bend.

    Rows: elongations along every axis, shears of every pair of axes, and the change of volume.

    Args:
        shape: shape ``(dimensions, *space)`` of the displacement, 2 or 3 axes of space.
        young: Young's modulus E.
        poisson: Poisson's ratio nu; below 0.5, or 1 under plane stress, and above -1.
        plane: ``"stress"`` (a sheet that is free to change its thickness) or ``"strain"`` (a slice
            of a long body) in two dimensions.
        spacing: distance of neighbours along every axis; 1 by default.

    >>> stretch = torch.zeros(1, 2, 3, 3)
    >>> stretch[:, 0] = 0.1 * torch.arange(3.0).view(3, 1)
    >>> A = ElasticStrain((2, 3, 3), poisson=0.4)
    >>> 0.5 * A(stretch).square().sum()  # 4 cells of E e^2 / (2 (1 - nu^2))
    tensor(0.0238)
    """

    def __init__(
        self,
        shape: Sequence[int],
        young: float = 1.0,
        poisson: float = 0.4,
        plane: str = "stress",
        spacing: Sequence[float] | None = None,
    ) -> None:
        dimensions, *space = (int(n) for n in shape)
        if dimensions != len(space) or dimensions not in (2, 3):
            raise InputError(
                "ElasticStrain takes the shape (2, rows, columns) or (3, slices, rows, columns) of "
                f"a displacement, got {tuple(shape)}"
            )
        self.mu, self.lame = lame_coefficients(young, poisson, plane, dimensions)
        self.spacing = check_lengths(type(self).__name__, spacing, dimensions)
        self.pairs = [(i, j) for i in range(dimensions) for j in range(i + 1, dimensions)]
        self.domain_shape = (dimensions, *space)
        self.range_shape = (dimensions + len(self.pairs) + 1, *space)

    def _forward(self, x: Tensor) -> Tensor:
        rows = [
            self._edges(self._slope(x[:, k], k), {k}) * math.sqrt(2 * self.mu)
            for k in range(x.shape[1])
        ]
        # |A u|^2 = sum_k 2 mu e_kk^2 + sum_(i<j) mu (2 e_ij)^2 + lambda (sum_k e_kk)^2, row by row.
        for i, j in self.pairs:
            shear = _middle(self._slope(x[:, i], j), i) + _middle(self._slope(x[:, j], i), j)
            rows.append(self._edges(shear, {i, j}) * math.sqrt(self.mu))
        changes = [
            _middle(self._slope(x[:, k], k), *(a for a in range(x.shape[1]) if a != k))
            for k in range(x.shape[1])
        ]
        volume = torch.stack(changes).sum(0)
        rows.append(volume * math.sqrt(self.lame))
        out = x.new_zeros(len(x), *self.range_shape)
        for m, row in enumerate(rows):
            place = out[:, m]
            for k, n in enumerate(row.shape[1:]):
                place = place.narrow(k + 1, 0, n)
            place.copy_(row)
        return out

    def _slope(self, component: Tensor, axis: int) -> Tensor:
        return component.diff(dim=axis + 1) / self.spacing[axis]

    def _edges(self, strain: Tensor, axes: set[int]) -> Tensor:
        """Halve the weight of edges and faces at the border, which belong to fewer cells."""
        for a in range(strain.ndim - 1):
            if a not in axes:
                ends = strain.new_ones(strain.shape[a + 1])
                ends[0] = ends[-1] = math.sqrt(0.5)
                strain = strain * ends.view([-1 if b == a else 1 for b in range(strain.ndim - 1)])
        return strain

    def normal_symbol(self) -> tuple[Tensor, bool]:
        """Return the symbol of every component by itself, approximate."""
        space = self.domain_shape[1:]
        squares = [
            FiniteDifference((1, *space), spacing=self._along(k)).normal_symbol()[0]
            for k in range(len(space))
        ]
        total = torch.stack(squares).sum(0)
        # mu (|xi|^2 + xi_k^2) + lambda xi_k^2: the diagonal of the symbol of linear elasticity.
        symbols = [self.mu * (total + square) + self.lame * square for square in squares]
        return torch.cat(symbols, 1), False

    def _along(self, axis: int) -> list[float]:
        """Return a spacing in which only differences along one axis count."""
        return [h if k == axis else 1e12 for k, h in enumerate(self.spacing)]


def lame_coefficients(
    young: float, poisson: float, plane: str, dimensions: int
) -> tuple[float, float]:
    """Return Lame's coefficients ``mu`` and ``lambda`` of an isotropic body.

    Raises:
        InputError: if the body would not resist every deformation.

    >>> lame_coefficients(1.0, 0.25, "stress", 3)
    (0.4, 0.4)
    """
    check_choice("an elastic body", ("stress", "strain"), plane=plane)
    sheet = plane == "stress" and dimensions == 2
    largest = 1.0 if sheet else 0.5
    if not 0 < young < math.inf or not -1 < poisson < largest:
        raise InputError(
            f"an elastic body has a positive modulus and a Poisson's ratio between -1 and {largest}, "
            f"got {young} and {poisson}; an incompressible one is approached by {largest - 0.01:g}"
        )
    shared = young * poisson / (1 + poisson)
    return young / (2 * (1 + poisson)), shared / (1 - poisson if sheet else 1 - 2 * poisson)


def _middle(strain: Tensor, *axes: int) -> Tensor:
    """Return the means of neighbours along axes of space."""
    for a in axes:
        n = strain.shape[a + 1]
        strain = 0.5 * (strain.narrow(a + 1, 0, n - 1) + strain.narrow(a + 1, 1, n - 1))
    return strain
