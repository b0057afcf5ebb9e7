"""Robust misfits for a few grossly wrong measurements: outliers, salt and pepper, dead views."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.data_terms.base import ResidualTerm
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand

#: Ratio of the median of |n| to the standard deviation for Gaussian n: real, and complex with that
#: deviation in either part.
_MEDIAN, _MEDIAN_COMPLEX = 0.6744897501960817, math.sqrt(2 * math.log(2))

#: Residuals beyond this multiple of their scale are outliers; each round estimates the scale again
#: without them.
_CLIP, _CLIPPINGS = 3.5, 6


class Robust(ResidualTerm):
    """Misfit ``sum_i w_i rho(|p_i - y_i| / noise_std)``; ``rho`` grows slower than a square.

    Complex values enter by their modulus. The discrepancy of these terms is ``sqrt(m)`` times the
    ratio of the median residual to the median of ``|n|``, n the noise, with outliers clipped. It
    estimates the square root of the sum of squares without the outliers.

    Attributes:
        held: weights of the measurements that `hold_out` leaves to the choice of the weight.
    """

    is_of_residual = True
    item_fields: ClassVar[tuple[str, ...]] = (*ResidualTerm.item_fields, "held")
    measurement_fields: ClassVar[tuple[str, ...]] = (*ResidualTerm.measurement_fields, "held")
    held: Tensor | None = None

    @property
    def needs_level(self) -> bool:
        """Whether the misfit means something only at the level of the noise, which is not given."""
        return False

    @abstractmethod
    def _loss(self, u: Tensor, dimensions: int) -> Tensor:
        """Compute ``rho(u)`` of values with ``dimensions`` real dimensions."""

    @abstractmethod
    def _ratio(self, u: Tensor, dimensions: int) -> Tensor:
        """Compute ``rho'(u) / u``."""

    @abstractmethod
    def _shrink(self, u: Tensor, step: Tensor, dimensions: int) -> Tensor:
        """Compute ``v / u`` with the minimizer v of ``step rho(v) + (v - u)^2 / 2``."""

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        losses = self._loss(self._scale(prediction - y), _dimensions(y))
        return sum_items(self._weight(losses))

    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        residual = prediction - y
        return residual * self.residual_weights(prediction, y)

    def residual_weights(self, prediction: Tensor, y: Tensor) -> Tensor:
        u = self._scale(prediction - y)
        return self._weight(self._ratio(u, _dimensions(y))) * self._precision(u)

    def prox(self, prediction: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        residual = prediction - y
        u = self._scale(residual)
        t = self._weight((expand(step, u) * self._precision(u)).expand_as(u))
        return y + residual * self._shrink(u, t, _dimensions(y))

    def _steepest(self, dimensions: int) -> float | None:
        """Return the largest ``rho''``."""
        return None

    def curvature(self, y: Tensor) -> Tensor | None:
        steepest = self._steepest(_dimensions(y))
        return None if steepest is None else self._scale_curvature(steepest, y)

    # -- the choice of the weight ------------------------------------------------------------------

    def convex(self, y: Tensor) -> Robust:
        """Return this term, or a convex term of the same scale and curvature if it is not convex."""
        return self

    def hold_out(self, fitted: Tensor, held: Tensor) -> Self:
        """Return the term of the measurements that are fitted.

        Args:
            fitted: weights of the measurements that are fitted.
            held: weights of the other measurements.
        """
        return self._replace(weights=fitted, weights_are_mask=False, held=held)

    def held_out_loss(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Compute the mean loss of the measurements that are held out, ``(batch,)``."""
        if self.held is None:
            raise InputError(f"no measurements of {self!r} are held out; call hold_out first")
        held = self.held.to(y.real).expand_as(y)
        losses = held * self._loss(self._scale(prediction - y), _dimensions(y))
        tiny = torch.finfo(torch.float64).tiny
        return sum_items(losses.double()) / sum_items(held.double()).clamp_min(tiny)

    # -- the noise ---------------------------------------------------------------------------------

    def discrepancy(self, prediction: Tensor, y: Tensor) -> Tensor:
        u = self._scale(prediction - y).flatten(1)
        used = (
            torch.ones_like(u, dtype=torch.bool)
            if self.weights is None
            else (self.weights > 0).to(u.device).expand_as(y).flatten(1)
        )
        count = used.sum(1)
        ordered, inliers = u.masked_fill(~used, torch.inf).sort(1).values, count
        scale = torch.zeros_like(u[:, 0])
        for _ in range(_CLIPPINGS):
            middle = ordered.gather(1, ((inliers - 1).clamp_min(0) // 2).unsqueeze(1)).squeeze(1)
            scale = middle / self._median(_dimensions(y))
            inliers = (
                torch.searchsorted(ordered, _CLIP * scale.unsqueeze(1), right=True)
                .squeeze(1)
                .minimum(count)
            )
        return torch.where(
            count > 0, scale * (count * _dimensions(y)).sqrt(), torch.zeros_like(scale)
        )

    def _median(self, dimensions: int) -> float:
        """Return the median of ``|n| / noise_std``."""
        return _MEDIAN if dimensions == 1 else _MEDIAN_COMPLEX

    def expected_discrepancy(self, y: Tensor) -> Tensor | None:
        """Return ``sqrt(m)`` for m measurements of positive weight (twice as many if complex)."""
        if self.noise_std is None:
            return None
        if self.weights is None:
            count = torch.full((y.shape[0],), float(y[0].numel()), device=y.device)
        else:
            count = sum_items((self.weights > 0).to(y.device).expand_as(y))
        return (count * _dimensions(y)).sqrt()

    # -- helpers -----------------------------------------------------------------------------------

    def _scale(self, residual: Tensor) -> Tensor:
        """Compute ``|r| / noise_std``."""
        size = residual.abs()
        return size if self.noise_std is None else size / expand(self.noise_std, size)

    def _weight(self, values: Tensor) -> Tensor:
        return values if self.weights is None else values * self.weights.to(values)


class Huber(Robust):
    r"""Huber's function of the residuals: ``D(p, y) = sum_i w_i h(|p_i - y_i| / noise_std)``.

    ``h(u) = u^2 / 2`` up to ``delta``, and ``delta u - delta^2 / 2`` beyond. This is least squares
    for measurements that are as noisy as expected, and the modulus for the others (Huber, Ann.
    Math. Stat. 35, 1964): the pull of an outlier is limited to the pull of a residual of ``delta``
    standard deviations. The term is convex and differentiable.

    Args:
        delta: positive threshold in units of ``noise_std``; the default of 1.345 loses 5 % of
            efficiency if the noise is in fact Gaussian.
        noise_std: standard deviation of the noise without the outliers, in the units of ``y``; a
            number, or one number per item. Without it ``delta`` is in the units of ``y``, but a solve
            that chooses the weight of the prior estimates the level, if ``delta`` is not given
            either.
        weights: nonnegative weights that broadcast against ``y``; 0 for measurements to be ignored.

    >>> term = Huber(delta=1.0)
    >>> term.value(torch.tensor([[[0.5, 10.0]]]), torch.zeros(1, 1, 2))
    tensor([9.6250])
    >>> term.prox(torch.tensor([[[0.5, 10.0]]]), torch.zeros(1, 1, 2), 1.0)
    tensor([[[0.2500, 9.0000]]])
    """

    is_majorizer = True
    #: Set for terms without threshold and level alone: others have the content of older versions, so
    #: that their runs can be resumed.
    has_no_scale = False

    def __init__(
        self,
        delta: float | None = None,
        noise_std: float | Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(noise_std, weights)
        if delta is None and noise_std is None:
            self.has_no_scale = True
        delta = 1.345 if delta is None else delta
        check_range(self, "(0, inf)", delta=delta)
        self.delta = float(delta)

    @property
    def needs_level(self) -> bool:
        return self.has_no_scale and self.noise_std is None

    def _loss(self, u: Tensor, dimensions: int) -> Tensor:
        inner = u.clamp_max(self.delta)
        return inner * (u - 0.5 * inner)

    def _ratio(self, u: Tensor, dimensions: int) -> Tensor:
        return self.delta / u.clamp_min(self.delta)

    def _shrink(self, u: Tensor, step: Tensor, dimensions: int) -> Tensor:
        # The two branches meet at u = delta (1 + step), and each is the larger one on its side.
        return torch.maximum(1 / (1 + step), 1 - step * self.delta / u.clamp_min(self.delta))

    def _steepest(self, dimensions: int) -> float:
        return 1.0

    def __repr__(self) -> str:
        return self._describe(*([] if self.delta == 1.345 else [f"delta={self.delta:g}"]))


class L1(Robust):
    r"""Sum of absolute residuals ``D(p, y) = sum_i w_i |p_i - y_i| / noise_std``.

    It suits impulse noise (Nikolova 2004), for which most measurements are right: the minimizer
    fits a part of the measurements exactly. The term is convex and not differentiable: PDHG uses
    its prox. `grad` is a subgradient, 0 where the fit is exact. As an error model it is Laplace
    noise of scale ``noise_std``.

    Args:
        noise_std: scale of the noise without the outliers, in the units of ``y``; a number, or one
            number per item.
        weights: nonnegative weights that broadcast against ``y``; 0 for measurements to be ignored.

    >>> L1().value(torch.tensor([[[1.0, -3.0]]]), torch.zeros(1, 1, 2))
    tensor([4.])
    >>> L1().prox(torch.tensor([[[1.0, -4.0]]]), torch.zeros(1, 1, 2), 2.0)
    tensor([[[ 0., -2.]]])
    """

    is_smooth = False

    def _loss(self, u: Tensor, dimensions: int) -> Tensor:
        return u

    def _ratio(self, u: Tensor, dimensions: int) -> Tensor:
        return torch.where(u > 0, 1 / u.clamp_min(torch.finfo(u.dtype).tiny), torch.zeros_like(u))

    def _shrink(self, u: Tensor, step: Tensor, dimensions: int) -> Tensor:
        return (1 - step / u.clamp_min(torch.finfo(u.dtype).tiny)).clamp_min(0)

    @property
    def offers(self) -> frozenset[str]:
        # |r|^2 / |s| majorizes |r| except at s = 0, where the minimizer lies.
        return super().offers - {"residual_weights"}

    def __repr__(self) -> str:
        return self._describe()


class Student(Robust):
    r"""Student's t: ``D(p, y) = sum_i w_i (nu + d) / 2 log(1 + |p_i - y_i|^2 / (nu noise_std^2))``.

    The dimension d is 1, or 2 for complex values. An outlier loses its influence altogether as it
    moves away (Lange, Little & Taylor, JASA 84, 1989): Huber's pull stays constant, this pull
    falls. The price is that the term is **not convex**, so the result may depend on the initial
    guess; the result of `Huber` is a good one. ``nu = 1`` is Cauchy's distribution, large nu the
    Gaussian.

    The prox is the best of the real roots of a cubic. `residual_weights` are those of the EM
    algorithm, and majorize.

    Args:
        nu: degrees of freedom, positive.
        noise_std: scale of the distribution, in the units of ``y``; a number, or one number per
            item. Without it the scale is 1, but a solve that chooses the weight of the prior
            estimates it.
        weights: nonnegative weights that broadcast against ``y``; 0 for measurements to be ignored.

    >>> term = Student(nu=1.0)
    >>> term.grad(torch.tensor([[[0.1, 1.0, 100.0]]]), torch.zeros(1, 1, 3)).round(decimals=2)
    tensor([[[0.2000, 1.0000, 0.0200]]])
    """

    is_convex = False
    is_majorizer = True

    def __init__(
        self,
        nu: float = 4.0,
        noise_std: float | Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(noise_std, weights)
        check_range(self, "(0, inf)", nu=nu)
        self.nu = float(nu)

    @property
    def needs_level(self) -> bool:
        return self.noise_std is None

    def convex(self, y: Tensor) -> Huber:
        std = torch.ones(1, dtype=torch.float64) if self.noise_std is None else self.noise_std
        return Huber(noise_std=std / self._steepest(_dimensions(y)) ** 0.5, weights=self.weights)

    def gauss_newton(self, prediction: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        """Return products with the weights of the EM algorithm.

        The Hessian is negative for outliers, and the weights are the majorizer's.
        """
        weights = self.residual_weights(prediction, y)
        return lambda v: weights * v

    def _loss(self, u: Tensor, dimensions: int) -> Tensor:
        return 0.5 * (self.nu + dimensions) * torch.log1p(u * u / self.nu)

    def _ratio(self, u: Tensor, dimensions: int) -> Tensor:
        return (self.nu + dimensions) / (self.nu + u * u)

    def _steepest(self, dimensions: int) -> float:
        return (self.nu + dimensions) / self.nu

    def _shrink(self, u: Tensor, step: Tensor, dimensions: int) -> Tensor:
        """Choose the best root v of ``(v - u) (nu + v^2) + step (nu + d) v = 0``.

        The computation is in units of ``sqrt(nu)`` and in float64.
        """
        q = u.double() / math.sqrt(self.nu)
        strength = step.double() * ((self.nu + dimensions) / self.nu)

        def objective(v: Tensor) -> Tensor:
            return 0.5 * strength * torch.log1p(v * v) + 0.5 * (v - q).square()

        low, high = _outer_roots(q, 1 + strength)
        best = torch.where(objective(high) < objective(low), high, low)
        share = torch.where(
            q > 0, best / q.clamp_min(torch.finfo(q.dtype).tiny), 1 / (1 + strength)
        )
        return share.to(u.dtype)

    def _median(self, dimensions: int) -> float:
        if dimensions == 2:
            return math.sqrt(self.nu * (2 ** (2 / self.nu) - 1))
        from scipy.special import stdtrit

        return float(stdtrit(self.nu, 0.75))

    def __repr__(self) -> str:
        return self._describe(*([] if self.nu == 4 else [f"nu={self.nu:g}"]))


def _outer_roots(q: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest real root of ``v^3 - q v^2 + b v - q``.

    Both lie in [0, q], for ``q >= 0`` and ``b >= 1``.
    """
    # v = w + q / 3 gives w^3 + linear w + constant.
    shift = q / 3
    linear, constant = b - q * shift, (b / 3 - 1 - 2 * shift.square() / 3) * q
    third, half = linear / 3, constant / 2
    discriminant = half.square() + third**3
    # One real root: Cardano's formula, with the sign that does not cancel.
    root = discriminant.clamp_min(0).sqrt()
    larger = -torch.where(half >= 0, 1.0, -1.0) * (half.abs() + root).pow(1 / 3)
    single = larger - third / torch.where(larger == 0, 1.0, larger)
    # Three real roots: the trigonometric formula.
    radius = (-third).clamp_min(0).sqrt()
    angle = (
        torch.acos((-half / radius.pow(3).clamp_min(torch.finfo(q.dtype).tiny)).clamp(-1, 1)) / 3
    )
    three = discriminant <= 0
    low = torch.where(three, 2 * radius * torch.cos(angle + 2 * math.pi / 3), single) + shift
    high = torch.where(three, 2 * radius * torch.cos(angle), single) + shift

    def polish(v: Tensor) -> Tensor:
        """Refine a root by Newton's method."""
        v = v.clamp_min(0).minimum(q)
        for _ in range(3):
            slope = (3 * v - 2 * q) * v + b
            error = ((v - q) * v + b) * v - q
            new = torch.where(
                slope.abs() > 1e-8 * b, v - error / torch.where(slope == 0, 1.0, slope), v
            )
            # A Newton step is taken only if it helps; next to a double root it may not.
            better = (((new - q) * new + b) * new - q).abs() < error.abs()
            v = torch.where(better, new, v)
        return v

    return polish(low), polish(high)


def _dimensions(y: Any) -> int:
    return 2 if y.is_complex() else 1
