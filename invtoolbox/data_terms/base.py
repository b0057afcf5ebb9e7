"""How misfit is measured: ``D(A(x), y)``.

Several misfits of several predictions, added.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from torch import Tensor

from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import take_blocks
from invtoolbox.operators.base import Shape, Shapes, check_shape

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class DataTerm(Settings, ABC):
    """A misfit between a prediction and the measurements, one number an item.

    A subclass writes ``value``. What else it can do in closed form it overrides, and solvers look at `offers`.

    Attributes:
        is_convex: convex in the prediction.
        is_quadratic: ``value`` is ``1/2 <r, W r>`` with ``r = prediction - y``, and ``weighted(r)`` is ``W r``.
        is_of_residual: ``value`` depends on ``prediction - y`` only, so that the two are of one kind.
        is_smooth: differentiable everywhere in its domain.
        is_majoriser: ``1/2 <r, w r>`` with ``w = residual_weights`` plus a constant lies above ``value``, and touches it.
        is_for_nonnegative: predictions are counts or line integrals; `curvature` holds for those that are not negative.
        measurement_fields: names of the attributes that broadcast against ``y``, such as weights; `subset` picks from them.
    """

    is_convex: bool = True
    is_quadratic: bool = False
    is_of_residual: bool = False
    is_smooth: bool = True
    is_majoriser: bool = False
    is_for_nonnegative: bool = False
    measurement_fields: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def value(self, prediction: Any, y: Any) -> Tensor:
        """``D(prediction, y)``, shape ``(batch,)``."""

    def grad(self, prediction: Any, y: Any) -> Any:
        """The gradient of ``value`` in the prediction, shaped like the prediction."""
        if self.is_quadratic:
            return self.weighted(prediction - y)
        parts = prediction if isinstance(prediction, tuple) else (prediction,)
        with torch.enable_grad():
            free = tuple(p if p.requires_grad else p.detach().requires_grad_(True) for p in parts)
            value = self.value(free if isinstance(prediction, tuple) else free[0], y).sum()
            gradient = torch.autograd.grad(
                value, free, create_graph=any(p.requires_grad for p in parts)
            )
        return gradient if isinstance(prediction, tuple) else gradient[0]

    def value_and_grad(self, prediction: Any, y: Any) -> tuple[Tensor, Any]:
        """`value` and `grad` of one prediction; a term whose two share their work (nearest neighbours) overrides it."""
        return self.value(prediction, y), self.grad(prediction, y)

    def prox(self, prediction: Any, y: Any, step: float | Tensor) -> Any:
        """``argmin_p D(p, y) + |p - prediction|^2 / (2 step)``; ``step`` is a number, or one an item."""
        raise InputError(f"{type(self).__name__} has no proximal operator in closed form")

    def weighted(self, residual: Any) -> Any:
        """``W r`` of a quadratic term, for the normal equations ``A^T W A``."""
        raise InputError(f"{type(self).__name__} is not quadratic, so it has no normal equations")

    def gauss_newton(self, prediction: Any, y: Any) -> Callable[[Any], Any] | None:
        """Products ``v -> H v`` with a positive semidefinite stand-in for the Hessian in the prediction; ``None`` for the Hessian itself.

        For terms whose Hessian is indefinite or has jumps: that of the quadratic which majorises the term, say.
        """
        return None

    def residual_weights(self, prediction: Any, y: Any) -> Any:
        """``w`` with ``grad = w (prediction - y)``, for iteratively reweighted least squares; see `is_majoriser`."""
        raise InputError(f"{type(self).__name__} has no weights for reweighted least squares")

    def symbol(self, y: Any) -> tuple[Tensor, bool] | None:
        """The eigenvalues of W under `torch.fft.rfftn` of the spatial axes of y, ``(1 or batch, 1 or channel, *half)``.

        And whether they are exact; an approximation serves as a preconditioner. ``None`` where W is not like a convolution.
        """
        return None

    def curvature(self, y: Any) -> Tensor | None:
        """The Lipschitz constant of `grad`, shape ``(batch,)`` or ``(1,)``; ``None`` where there is none."""
        return None

    @property
    def offers(self) -> frozenset[str]:
        """The closed forms this term has, out of ``prox``, ``weighted`` and ``residual_weights``."""
        return frozenset(
            n
            for n in ("prox", "weighted", "residual_weights")
            if getattr(type(self), n) is not getattr(DataTerm, n)
        )

    def fitting_prediction(self, y: Any) -> Any:
        """A prediction that fits ``y`` best, for a first guess; ``None`` where that is not known."""
        return y if isinstance(y, Tensor) and (self.is_quadratic or self.is_of_residual) else None

    # -- the noise: what the discrepancy principle needs ---------------------------------------------------------

    def discrepancy(self, prediction: Any, y: Any) -> Tensor:
        """The size of the misfit on the scale of `expected_discrepancy`, shape ``(batch,)``."""
        return (2 * self.value(prediction, y)).clamp_min(0).sqrt()

    def discrepancy_of(self, value: Tensor, prediction: Any, y: Any) -> Tensor:
        """`discrepancy` where the value is known already, which is not computed again if the one follows from the other."""
        if type(self).discrepancy is DataTerm.discrepancy:
            return (2 * value).clamp_min(0).sqrt()
        return self.discrepancy(prediction, y)

    def expected_discrepancy(self, y: Any) -> Tensor | None:
        """`discrepancy` at the true image, shape ``(batch,)``; ``None`` where the noise level is unknown."""
        return None

    # -- life in the loop ------------------------------------------------------------------------------------------

    def check(self, y: Any) -> None:
        """Raise an `InputError` where ``y`` cannot be such measurements."""

    def check_shape(
        self, y: Any, shape: Shapes, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        """Raise an `InputError` where ``y`` has not the shape of predictions; terms that compare other things say what they take."""
        check_shape(y, shape, what, channelwise, items)

    def subset(self, index: Any, y: Any) -> Self:
        """The term for the blocks ``index`` of ``y``: entries of its first axis behind the channel."""
        other = copy.copy(self)
        for name in self.measurement_fields:
            value = getattr(self, name)
            axis = value.ndim - (y.ndim - 2) if isinstance(value, Tensor) else -1
            # A tensor of one axis holds one value an item, not one a measurement.
            if (
                axis >= 0
                and isinstance(value, Tensor)
                and value.ndim > 1
                and value.shape[axis] == y.shape[2] > 1
            ):
                setattr(other, name, value[(slice(None),) * axis + (index,)])
        return other

    def prepare(self, problem: Problem, solve: Any) -> Self:
        """A copy bound to the problem; the loop calls this once, before the first iteration."""
        return self

    def at(self, iteration: int) -> Self:
        """The term at an iteration, where it follows a schedule."""
        return self


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
        return Stack(*take_blocks(self.terms, index), weights=take_blocks(self.weights, index))

    def prepare(self, problem: Problem, solve: Any) -> Stack:
        return Stack(
            *(term.prepare(problem.part(k), solve) for k, term in enumerate(self.terms)),
            weights=self.weights,
        )

    def at(self, iteration: int) -> Stack:
        return Stack(*(term.at(iteration) for term in self.terms), weights=self.weights)

    def __repr__(self) -> str:
        return f"Stack({', '.join(map(repr, self.terms))})"
