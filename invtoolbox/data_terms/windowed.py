"""A data term of a part of the measurements, for terms that compare neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.base import DataTerm, Problem


class Windowed(DataTerm):
    r"""Data term of weighted predictions and measurements, ``D(w^(1/2) p, w^(1/2) y)``.

    `LeastSquares` has weights of its own, and this term then has the same value. Terms that compare
    neighbouring samples, such as `Sobolev` and `Wasserstein`, see 0 where the weight is 0, in both.

    Args:
        term: the data term.
        weights: nonnegative weights that broadcast against ``y``: 0 for muted samples and for
            receivers that a shot does not have.

    >>> from invtoolbox.data_terms import LeastSquares
    >>> window = torch.tensor([[[1.0, 0.0, 0.25]]])
    >>> term = Windowed(LeastSquares(), window)
    >>> p, y = torch.tensor([[[3.0, 9.0, 5.0]]]), torch.ones(1, 1, 3)
    >>> term.value(p, y), LeastSquares(weights=window).value(p, y)
    (tensor([4.]), tensor([4.]))
    """

    item_fields: ClassVar[tuple[str, ...]] = ("term", "weights")
    measurement_fields: ClassVar[tuple[str, ...]] = ("weights",)

    def __init__(self, term: DataTerm, weights: Tensor) -> None:
        check_range(self, "[0, inf)", weights=weights)
        self.term, self.weights = term, weights
        self.is_convex, self.is_quadratic = term.is_convex, term.is_quadratic
        self.is_of_residual, self.is_smooth = term.is_of_residual, term.is_smooth

    def _root(self, y: Tensor) -> Tensor:
        return self.weights.to(y.real).sqrt()

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        root = self._root(y)
        return self.term.value(root * prediction, root * y)

    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        root = self._root(y)
        return root * self.term.grad(root * prediction, root * y)

    def weighted(self, residual: Tensor) -> Tensor:
        root = self._root(residual)
        return root * self.term.weighted(root * residual)

    def gauss_newton(self, prediction: Tensor, y: Tensor) -> Callable[[Tensor], Tensor] | None:
        root = self._root(y)
        product = self.term.gauss_newton(root * prediction, root * y)
        return None if product is None else lambda v: root * product(root * v)

    def curvature(self, y: Tensor) -> Tensor | None:
        curvature = self.term.curvature(y)
        return None if curvature is None else curvature * self.weights.amax().to(curvature)

    def check(self, y: Tensor) -> None:
        self.term.check(y)

    def subset(self, index: Any, y: Tensor) -> Self:
        return super().subset(index, y)._replace(term=self.term.subset(index, y))

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self._replace(term=self.term.prepare(problem, solve))

    def at(self, iteration: int) -> Self:
        return self._replace(term=self.term.at(iteration))

    def __repr__(self) -> str:
        share = float((self.weights > 0).to(torch.float64).mean())
        return f"Windowed({self.term!r}, {share:.0%} of the measurements)"
