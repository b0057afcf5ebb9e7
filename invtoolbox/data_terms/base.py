"""How misfit is measured: ``D(A(x), y)``."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import Shapes, check_shape
from invtoolbox.settings import Settings

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
