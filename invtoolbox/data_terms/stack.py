"""Several misfits of several predictions, added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import picked
from invtoolbox.operators.base import Shape, Shapes

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class Stack(DataTerm):
    """``sum_k weights_k D_k(prediction[k], y[k])`` for predictions and measurements that are tuples.

    >>> import torch
    >>> from invtoolbox.data_terms import LeastSquares
    >>> term = Stack(LeastSquares(), LeastSquares(), weights=(1.0, 3.0))
    >>> term.value((torch.ones(1, 2), torch.ones(1, 2)), (torch.zeros(1, 2), torch.zeros(1, 2)))
    tensor([4.])
    """

    def __init__(self, *terms: DataTerm, weights: Sequence[float] | None = None) -> None:
        self.terms = terms
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(terms)
        if len(self.weights) != len(terms):
            raise InputError(f"Stack has {len(terms)} data terms and {len(self.weights)} weights")
        self.is_convex = all(term.is_convex for term in terms)

    def value(self, prediction: Any, y: Any) -> Tensor:
        total = self.weights[0] * self.terms[0].value(prediction[0], y[0])
        for weight, term, p, measured in zip(
            self.weights[1:], self.terms[1:], prediction[1:], y[1:]
        ):
            total = total + weight * term.value(p, measured)
        return total

    def grad(self, prediction: Any, y: Any) -> Any:
        return tuple(
            w * term.grad(p, m) for w, term, p, m in zip(self.weights, self.terms, prediction, y)
        )

    def value_and_grad(self, prediction: Any, y: Any) -> tuple[Tensor, Any]:
        both = [term.value_and_grad(p, m) for term, p, m in zip(self.terms, prediction, y)]
        total = self.weights[0] * both[0][0]
        for weight, (value, _) in zip(self.weights[1:], both[1:]):
            total = total + weight * value
        return total, tuple(weight * gradient for weight, (_, gradient) in zip(self.weights, both))

    def prox(self, prediction: Any, y: Any, step: float | Tensor) -> Any:
        return tuple(
            term.prox(p, m, w * step)
            for w, term, p, m in zip(self.weights, self.terms, prediction, y)
        )

    def curvature(self, y: Any) -> Tensor | None:
        bound: Tensor | None = None
        for weight, term, m in zip(self.weights, self.terms, y):
            part = term.curvature(m)
            if part is None:
                return None
            bound = weight * part if bound is None else bound.maximum(weight * part)
        return bound

    def expected_discrepancy(self, y: Any) -> Tensor | None:
        parts = [term.expected_discrepancy(m) for term, m in zip(self.terms, y)]
        if any(part is None for part in parts):
            return None
        total = self.weights[0] * parts[0].square()  # type: ignore[union-attr]
        for weight, part in zip(self.weights[1:], parts[1:]):
            total = total + weight * part.square()  # type: ignore[union-attr]
        return total.sqrt()

    def check_shape(
        self, y: Any, shape: Shapes, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        if not isinstance(y, tuple) or not len(y) == len(shape) == len(self.terms):
            given = f"a tuple of {len(y)}" if isinstance(y, tuple) else type(y).__name__
            raise InputError(
                f"{what}: {len(self.terms)} data terms are stacked, the operator predicts {len(shape)} parts, and the "
                f"measurements are {given}; give one term and one measurement for each part"
            )
        for k, (term, measured, part) in enumerate(zip(self.terms, y, shape)):
            term.check_shape(measured, cast(Shape, part), f"{what}[{k}]", channelwise, items)

    def check(self, y: Any) -> None:
        for term, measured in zip(self.terms, y):
            term.check(measured)

    def select(self, index: Tensor) -> Stack:
        return Stack(*(term.select(index) for term in self.terms), weights=self.weights)

    def subset(self, index: Any, y: Any) -> Stack:
        return Stack(*picked(self.terms, index), weights=picked(self.weights, index))

    def prepare(self, problem: Problem, solve: Any) -> Stack:
        return Stack(
            *(term.prepare(problem.part(k), solve) for k, term in enumerate(self.terms)),
            weights=self.weights,
        )

    def at(self, iteration: int) -> Stack:
        return Stack(*(term.at(iteration) for term in self.terms), weights=self.weights)

    def __repr__(self) -> str:
        return f"Stack({', '.join(map(repr, self.terms))})"
