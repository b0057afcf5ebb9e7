"""Base classes of data terms: the misfit ``D(A(x), y)`` between a prediction and the measurements.

`DataTerm` is the contract, `ResidualTerm` the base of terms with a noise level and weights, and
`Stack` the weighted sum of the terms of several predictions.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor, check_range
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import take_blocks
from invtoolbox.operators.base import Shape, Shapes, check_shape, expand, inner

if TYPE_CHECKING:
    from invtoolbox.problem import Problem as Problem
else:
    Problem = Any  # `invtoolbox.problem` imports this module; annotations alone name the class


#: The median of |n| over the standard deviation, for Gaussian n.
MEDIAN_OF_MODULUS = 0.6744897501960817


class DataTerm(Settings, ABC):
    """Misfit between a prediction and the measurements, one number per item.

    A subclass implements ``value`` and overrides the closed forms that it has. Solvers read their
    names from `offers`.

    Attributes:
        is_convex: whether ``value`` is convex in the prediction.
        is_quadratic: whether ``value`` is ``1/2 <r, W r>`` with ``r = prediction - y``, and
            ``weighted(r)`` is ``W r``.
        is_of_residual: whether ``value`` depends on ``prediction - y`` only, so that both are of
            one kind.
        is_smooth: whether ``value`` is differentiable everywhere in its domain.
        is_majorizer: whether ``1/2 <r, w r>`` with ``w = residual_weights`` plus a constant lies
            above ``value`` and touches it.
        measures_residual: whether `discrepancy` measures the residuals, because the scale of
            ``value`` is not known; see `parameter_choice.discrepancy.measure_residual`.
        is_for_nonnegative: whether predictions are counts or line integrals; `curvature` then holds
            for nonnegative predictions.
        measurement_fields: names of the attributes that broadcast against ``y``, such as weights;
            `subset` selects from them.
    """

    is_convex: bool = True
    is_quadratic: bool = False
    is_of_residual: bool = False
    measures_residual: bool = False
    is_smooth: bool = True
    is_majorizer: bool = False
    is_for_nonnegative: bool = False
    measurement_fields: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @abstractmethod
    def value(self, prediction: Any, y: Any) -> Tensor:
        """Compute ``D(prediction, y)``, shape ``(batch,)``."""

    def grad(self, prediction: Any, y: Any) -> Any:
        """Compute the gradient of ``value`` in the prediction, of the shape of the prediction."""
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

    def least_subgradient(self, prediction: Any, y: Any) -> Any:
        """Compute a subgradient; at the end of the domain of the misfit the one nearest to 0."""
        return self.grad(prediction, y)

    def value_and_grad(self, prediction: Any, y: Any) -> tuple[Tensor, Any]:
        """Compute `value` and `grad` of one prediction.

        A term whose value and gradient share their work (nearest neighbours) overrides this method.
        """
        return self.value(prediction, y), self.grad(prediction, y)

    def prox(self, prediction: Any, y: Any, step: float | Tensor) -> Any:
        """Compute ``argmin_p D(p, y) + |p - prediction|^2 / (2 step)``.

        ``step`` is a number, or one number per item.
        """
        raise InputError(f"{type(self).__name__} has no proximal operator in closed form")

    def weighted(self, residual: Any) -> Any:
        """Compute ``W r`` of a quadratic term, for the normal equations ``A^T W A``."""
        raise InputError(f"{type(self).__name__} is not quadratic, so it has no normal equations")

    def gauss_newton(self, prediction: Any, y: Any) -> Callable[[Any], Any] | None:
        """Return products ``v -> H v`` with a positive semidefinite approximate Hessian.

        The derivatives are in the prediction; ``None`` stands for the Hessian itself. Terms whose
        Hessian is indefinite or has jumps override this method, for example with the Hessian of a
        quadratic that majorizes the term.
        """
        return None

    def residual_weights(self, prediction: Any, y: Any) -> Any:
        """Compute ``w`` with ``grad = w (prediction - y)``.

        Iteratively reweighted least squares uses these weights; see `is_majorizer`.
        """
        raise InputError(f"{type(self).__name__} has no weights for reweighted least squares")

    def symbol(self, y: Any) -> tuple[Tensor, bool] | None:
        """Return the Fourier eigenvalues of W, and whether they are exact.

        The transform is `torch.fft.rfftn` of the spatial axes of y, and the shape is
        ``(1 or batch, 1 or channel, *half)``. Approximate eigenvalues serve as a preconditioner.
        ``None`` if W does not resemble a convolution.
        """
        return None

    def curvature(self, y: Any) -> Tensor | None:
        """Return the Lipschitz constant of `grad`, shape ``(batch,)`` or ``(1,)``.

        ``None`` if it has none.
        """
        return None

    def share_inside(self, prediction: Any, inner: Any, y: Any) -> Tensor | None:
        """Return the least s at which ``(1 - s) prediction + s inner`` has a finite value.

        Shape ``(batch,)``, at most 1; ``None`` if every prediction has a finite value.
        """
        return None

    @property
    def offers(self) -> frozenset[str]:
        """Closed forms of this term, out of ``prox``, ``weighted`` and ``residual_weights``."""
        return frozenset(
            n
            for n in ("prox", "weighted", "residual_weights")
            if getattr(type(self), n) is not getattr(DataTerm, n)
        )

    def fitting_prediction(self, y: Any) -> Any:
        """Return a prediction that fits ``y`` best, for an initial guess.

        ``None`` if it is not known.
        """
        return y if isinstance(y, Tensor) and (self.is_quadratic or self.is_of_residual) else None

    # -- the noise, for the discrepancy principle --------------------------------------------------

    def discrepancy(self, prediction: Any, y: Any) -> Tensor:
        """Compute the misfit on the scale of `expected_discrepancy`, shape ``(batch,)``."""
        if self.measures_residual:
            # The norm of Gaussian residuals from the median of their moduli, which outliers leave.
            residual = prediction - y
            parts = torch.view_as_real(residual) if residual.is_complex() else residual
            moduli = parts.abs().flatten(1)
            return moduli.median(1).values * (moduli.shape[1] ** 0.5 / MEDIAN_OF_MODULUS)
        return (2 * self.value(prediction, y)).clamp_min(0).sqrt()

    def discrepancy_of(self, value: Tensor, prediction: Any, y: Any) -> Tensor:
        """Compute the `discrepancy` of a prediction whose value is known.

        The value is not computed again if the discrepancy follows from it.
        """
        if type(self).discrepancy is DataTerm.discrepancy and not self.measures_residual:
            return (2 * value).clamp_min(0).sqrt()
        return self.discrepancy(prediction, y)

    def expected_discrepancy(self, y: Any) -> Tensor | None:
        """Return the `discrepancy` at the true image, shape ``(batch,)``.

        ``None`` without a noise level.
        """
        return None

    # -- checks, and methods called by the loop ----------------------------------------------------

    def check(self, y: Any) -> None:
        """Raise an `InputError` if ``y`` cannot be measurements of this kind."""

    def check_shape(
        self, y: Any, shape: Shapes, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        """Raise an `InputError` unless ``y`` has the shape of the predictions.

        A term that compares tensors of different shapes overrides this method.
        """
        check_shape(y, shape, what, channelwise, items, may_be_empty=True)

    def align(self, y: Any) -> Self:
        """Return the term whose settings of measurements have the axes of ``y``."""
        return self

    def subset(self, index: Any, y: Any) -> Self:
        """Return the term for some blocks of ``y``, entries of the axis behind the channel."""
        restricted: dict[str, Tensor] = {}
        for name in self.measurement_fields:
            setting = getattr(self, name)
            axis = setting.ndim - (y.ndim - 2) if isinstance(setting, Tensor) else -1
            # A tensor of one axis holds one value per item, not one per measurement.
            if axis >= 0 and setting.ndim > 1 and setting.shape[axis] == y.shape[2] > 1:
                restricted[name] = setting[(slice(None),) * axis + (index,)]
        return self._replace(**restricted)

    def _replace(self, **changes: Any) -> Self:
        """Return a copy with some of its attributes changed."""
        changed = copy.copy(self)
        vars(changed).update(changes)
        return changed

    def prepare(self, problem: Problem, solve: Any) -> Self:
        """Return a copy bound to the problem.

        The loop calls this once, before the first iteration.
        """
        return self

    def at(self, iteration: int) -> Self:
        """Return the term at an iteration, if it follows a schedule."""
        return self


def align_setting(setting: Tensor, y: Tensor, what: str) -> Tensor:
    """Return a setting of the measurements with all axes of ``y``.

    Args:
        setting: tensor that broadcasts against ``y``; its first axes may be left out.
        y: measurements.
        what: name of the setting and its verb, the beginning of the error message.

    Raises:
        InputError: if the setting does not broadcast against the measurements.

    >>> align_setting(torch.ones(4, 5), torch.ones(2, 1, 4, 5), "the weights have").shape
    torch.Size([1, 1, 4, 5])
    """
    shape = (*[1] * (y.ndim - setting.ndim), *setting.shape)
    # One measurement may serve several items, which differ in their settings.
    items = 1 if len(y) == 1 else shape[0]
    if len(shape) > y.ndim or any(a not in (1, b) for a, b in zip((items, *shape[1:]), y.shape)):
        raise InputError(
            f"{what} the shape {tuple(setting.shape)}, which does not broadcast against the "
            f"measurements, {tuple(y.shape)}"
        )
    return setting if setting.ndim == y.ndim else setting.view(shape)


class ResidualTerm(DataTerm):
    """Data term with a noise level and weights of the measurements.

    Args:
        noise_std: scale of the noise in the units of ``y``, a number or one number per
            item.
        weights: nonnegative weights that broadcast against ``y``.
    """

    item_fields: ClassVar[tuple[str, ...]] = ("noise_std", "weights")
    measurement_fields: ClassVar[tuple[str, ...]] = ("weights",)

    def __init__(
        self, noise_std: float | Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        self.noise_std = (
            noise_std if noise_std is None else torch.as_tensor(noise_std, dtype=torch.float64)
        )
        check_range(self, "(0, inf)", "noise_std")
        weights = None if weights is None else as_tensor(weights)
        check_range(self, "[0, inf)", weights=weights)
        self.weights = weights
        self.weights_are_mask = False

    @property
    def is_unweighted(self) -> bool:
        """Whether closed forms without weights hold: there are none, or the operator's mask.

        Prediction and measurements are 0 if this mask is 0.
        """
        return self.weights is None or self.weights_are_mask

    def restrict(self, sampled: Tensor) -> Self:
        """Return the term in which measurements that an operator does not take have weight 0.

        Args:
            sampled: mask of the measurements that are taken, 1 or 0, which broadcasts against
                ``y``.
        """
        weights = self.weights
        return self._replace(
            weights=sampled if weights is None else weights.to(sampled) * sampled,
            weights_are_mask=weights is None
            or (weights.shape == sampled.shape and bool((weights.to(sampled) == sampled).all())),
        )

    def check_shape(
        self, y: Any, shape: Shapes, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        super().check_shape(y, shape, what, channelwise, items)
        first = y[0] if isinstance(y, (tuple, list)) else y
        if self.noise_std is None or self.noise_std.numel() in (1, len(first)):
            return
        raise InputError(
            f"the noise_std of {type(self).__name__} has {self.noise_std.numel()} values, and the "
            f"measurements have {len(first)} items; give one number, or one number per item; for a "
            "level of every measurement give weights=1 / noise_std**2"
        )

    def align(self, y: Any) -> Self:
        """Return the term whose weights have the axes of ``y``.

        Raises:
            InputError: if the weights do not broadcast against the measurements.
        """
        if self.weights is None or isinstance(y, tuple):
            return self
        aligned = align_setting(self.weights, y, f"the weights of {type(self).__name__} have")
        return self if aligned is self.weights else self._replace(weights=aligned)

    def value(self, prediction: Any, y: Any) -> Tensor:
        """Compute ``1/2 <r, W r>``; terms that are not quadratic override this method."""
        residual = prediction - y
        return 0.5 * inner(residual, self.weighted(residual))

    def with_noise_std(self, noise_std: Tensor) -> Self:
        """Return a copy of the term with another noise level."""
        return self._replace(noise_std=torch.as_tensor(noise_std, dtype=torch.float64))

    def _precision(self, like: Tensor) -> Tensor | float:
        """Return ``1 / noise_std^2`` as a factor of ``like``."""
        return 1.0 if self.noise_std is None else expand(self.noise_std.pow(-2), like)

    def _scale_curvature(self, curvature: float, y: Tensor) -> Tensor:
        """Multiply the curvature in units of the noise by the precision and the largest weight."""
        precision = (
            torch.ones(1, dtype=torch.float64)
            if self.noise_std is None
            else self.noise_std.pow(-2).reshape(-1)
        )
        largest = 1.0 if self.weights is None else self.weights.flatten(1).amax(1).to(torch.float64)
        return (curvature * precision.to(y.device) * largest).to(y.real.dtype)

    def _describe(self, *settings: str) -> str:
        if self.noise_std is not None:
            std = self.noise_std.flatten()
            level = f"{std.item():.4g}" if len(std) == 1 else f"({len(std)},)"
            settings = (*settings, f"noise_std={level}")
        return f"{type(self).__name__}({', '.join(settings)})"


class Stack(DataTerm):
    """Weighted sum ``sum_k weights_k D_k(prediction[k], y[k])`` of terms of a tuple of predictions.

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
        return self._add([term.value(p, m) for term, p, m in zip(self.terms, prediction, y)])

    def _add(self, values: Sequence[Tensor]) -> Tensor:
        total = self.weights[0] * values[0]
        for weight, value in zip(self.weights[1:], values[1:]):
            total = total + weight * value
        return total

    def grad(self, prediction: Any, y: Any) -> Any:
        return tuple(
            w * term.grad(p, m) for w, term, p, m in zip(self.weights, self.terms, prediction, y)
        )

    def value_and_grad(self, prediction: Any, y: Any) -> tuple[Tensor, Any]:
        pairs = [term.value_and_grad(p, m) for term, p, m in zip(self.terms, prediction, y)]
        total = self._add([value for value, _ in pairs])
        return total, tuple(weight * gradient for weight, (_, gradient) in zip(self.weights, pairs))

    def gauss_newton(self, prediction: Any, y: Any) -> Callable[[Any], Any] | None:
        bends = [
            term.weighted if term.is_quadratic else term.gauss_newton(p, m)
            for term, p, m in zip(self.terms, prediction, y)
        ]
        whole = [bend for bend in bends if bend is not None]
        if len(whole) < len(bends):
            return None
        return lambda v: tuple(w * bend(t) for w, bend, t in zip(self.weights, whole, v))

    def prox(self, prediction: Any, y: Any, step: float | Tensor) -> Any:
        return tuple(
            term.prox(p, m, w * step)
            for w, term, p, m in zip(self.weights, self.terms, prediction, y)
        )

    def curvature(self, y: Any) -> Tensor | None:
        bound: Tensor | None = None
        for weight, term, m in zip(self.weights, self.terms, y):
            curvature = term.curvature(m)
            if curvature is None:
                return None
            bound = weight * curvature if bound is None else bound.maximum(weight * curvature)
        return bound

    def expected_discrepancy(self, y: Any) -> Tensor | None:
        expected = [term.expected_discrepancy(m) for term, m in zip(self.terms, y)]
        if any(d is None for d in expected):
            return None
        # A discrepancy is the root of twice a value, and the values add up.
        return self._add([d.square() for d in expected if d is not None]).sqrt()

    def check_shape(
        self, y: Any, shape: Shapes, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        if not isinstance(y, tuple) or not len(y) == len(shape) == len(self.terms):
            got = f"a tuple of {len(y)}" if isinstance(y, tuple) else type(y).__name__
            raise InputError(
                f"{what}: {len(self.terms)} data terms are stacked, the operator predicts "
                f"{len(shape)} parts, and the measurements are {got}; give one term and one "
                "measurement for each part"
            )
        for k, (term, measured, of_term) in enumerate(zip(self.terms, y, shape)):
            term.check_shape(measured, cast(Shape, of_term), f"{what}[{k}]", channelwise, items)

    def align(self, y: Any) -> Stack:
        terms = [term.align(measured) for term, measured in zip(self.terms, y)]
        changed = any(new is not old for new, old in zip(terms, self.terms))
        return Stack(*terms, weights=self.weights) if changed else self

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
