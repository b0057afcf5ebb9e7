"""Robust misfits: a few measurements may be wildly wrong (outliers, salt and pepper, dead views)."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand

#: The median of |n| over the standard deviation, for Gaussian n: real, and complex with that deviation in either part.
_MEDIAN, _MEDIAN_COMPLEX = 0.6744897501960817, math.sqrt(2 * math.log(2))

#: Residuals beyond this multiple of their scale are outliers; each round finds the scale anew without them.
_CLIP, _CLIPPINGS = 3.5, 6


class _Robust(DataTerm):
    """``sum_i w_i rho(|p_i - y_i| / noise_std)``, with a ``rho`` that grows slower than a square; complex values by their modulus.

    The discrepancy of these terms is ``sqrt(m)`` times the median residual over the median of ``|n|``, n the noise, outliers clipped:
    what the square root of the sum of squares would be without them.
    """

    is_of_residual = True
    item_fields: ClassVar[tuple[str, ...]] = ("noise_std", "weights")
    measurement_fields: ClassVar[tuple[str, ...]] = ("weights",)

    def __init__(self, noise_std: float | Tensor | None, weights: Tensor | None) -> None:
        self.noise_std = (
            noise_std if noise_std is None else torch.as_tensor(noise_std, dtype=torch.float64)
        )
        if self.noise_std is not None and not bool(
            ((self.noise_std > 0) & self.noise_std.isfinite()).all()
        ):
            raise InputError(f"noise_std must be positive and finite, got {noise_std}")
        if weights is not None and not bool(((weights >= 0) & weights.isfinite()).all()):
            raise InputError(f"the weights of {type(self).__name__} must be nonnegative and finite")
        self.weights = weights

    @abstractmethod
    def _loss(self, u: Tensor, dimensions: int) -> Tensor:
        """``rho(u)``; values have this many real dimensions."""

    @abstractmethod
    def _ratio(self, u: Tensor, dimensions: int) -> Tensor:
        """``rho'(u) / u``."""

    @abstractmethod
    def _shrunk(self, u: Tensor, step: Tensor, dimensions: int) -> Tensor:
        """``v / u``, v the minimiser of ``step rho(v) + (v - u)^2 / 2``."""

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        return (
            self._weighed(self._loss(self._scaled(prediction - y), _dimensions(y)))
            .flatten(1)
            .sum(1)
        )

    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        residual = prediction - y
        return residual * self.residual_weights(prediction, y)

    def residual_weights(self, prediction: Tensor, y: Tensor) -> Tensor:
        u = self._scaled(prediction - y)
        return self._weighed(self._ratio(u, _dimensions(y))) * self._precision(u)

    def prox(self, prediction: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        residual = prediction - y
        u = self._scaled(residual)
        t = self._weighed((expand(step, u) * self._precision(u)).expand_as(u))
        return y + residual * self._shrunk(u, t, _dimensions(y))

    def _steepest(self, dimensions: int) -> float | None:
        """The largest ``rho''``."""
        return None

    def curvature(self, y: Tensor) -> Tensor | None:
        steepest = self._steepest(_dimensions(y))
        if steepest is None:
            return None
        precision = (
            torch.ones(1, dtype=torch.float64)
            if self.noise_std is None
            else self.noise_std.pow(-2).reshape(-1)
        )
        largest = 1.0 if self.weights is None else self.weights.flatten(1).amax(1).to(torch.float64)
        return (steepest * precision.to(y.device) * largest).to(
            y.real.dtype if y.is_complex() else y.dtype
        )

    # -- the noise -----------------------------------------------------------------------------------------------------

    def discrepancy(self, prediction: Tensor, y: Tensor) -> Tensor:
        u = self._scaled(prediction - y).flatten(1)
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
        """Of ``|n| / noise_std``."""
        return _MEDIAN if dimensions == 1 else _MEDIAN_COMPLEX

    def expected_discrepancy(self, y: Tensor) -> Tensor | None:
        """``sqrt(m)`` with m measurements of positive weight (twice as many where complex)."""
        if self.noise_std is None:
            return None
        if self.weights is None:
            count = torch.full((y.shape[0],), float(y[0].numel()), device=y.device)
        else:
            count = (self.weights > 0).to(y.device).expand_as(y).flatten(1).sum(1)
        return (count * _dimensions(y)).sqrt()

    def with_noise_std(self, noise_std: Tensor) -> Self:
        """The same term with a noise level."""
        other = copy.copy(self)
        other.noise_std = torch.as_tensor(noise_std, dtype=torch.float64)
        return other

    # -- small parts ---------------------------------------------------------------------------------------------------

    def _scaled(self, residual: Tensor) -> Tensor:
        """``|r| / noise_std``."""
        size = residual.abs()
        return size if self.noise_std is None else size / expand(self.noise_std, size)

    def _precision(self, like: Tensor) -> Tensor | float:
        return 1.0 if self.noise_std is None else expand(self.noise_std.pow(-2), like)

    def _weighed(self, values: Tensor) -> Tensor:
        return values if self.weights is None else values * self.weights.to(values)

    def _described(self, *shown: str) -> str:
        if self.noise_std is not None:
            std = self.noise_std.flatten()
            shown = (
                *shown,
                f"noise_std={std.item():.4g}" if len(std) == 1 else f"noise_std=({len(std)},)",
            )
        return f"{type(self).__name__}({', '.join(shown)})"


class Huber(_Robust):
    r"""``D(p, y) = sum_i w_i h(|p_i - y_i| / noise_std)``, ``h(u) = u^2 / 2`` up to ``delta`` and ``delta u - delta^2 / 2`` beyond.

    Least squares for measurements that are as noisy as expected, the modulus for the others (Huber, Ann. Math. Stat. 35, 1964):
    an outlier pulls no harder than ``delta`` standard deviations would. Convex and differentiable.

    Args:
        delta: positive, in units of ``noise_std``; 1.345 loses 5 % of efficiency where the noise is Gaussian after all.
        noise_std: standard deviation of the noise without the outliers, in the units of ``y``; a number, or one an item. Without
            it ``delta`` is in the units of ``y``.
        weights: nonnegative, broadcast against ``y``; 0 for what is not to be looked at.

    >>> term = Huber(delta=1.0)
    >>> term.value(torch.tensor([[[0.5, 10.0]]]), torch.zeros(1, 1, 2))
    tensor([9.6250])
    >>> term.prox(torch.tensor([[[0.5, 10.0]]]), torch.zeros(1, 1, 2), 1.0)
    tensor([[[0.2500, 9.0000]]])
    """

    is_majoriser = True

    def __init__(
        self,
        delta: float = 1.345,
        noise_std: float | Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(noise_std, weights)
        if not (delta > 0 and math.isfinite(delta)):
            raise InputError(f"delta of Huber must be positive and finite, got {delta}")
        self.delta = float(delta)

    def _loss(self, u: Tensor, dimensions: int) -> Tensor:
        inner = u.clamp_max(self.delta)
        return inner * (u - 0.5 * inner)

    def _ratio(self, u: Tensor, dimensions: int) -> Tensor:
        return self.delta / u.clamp_min(self.delta)

    def _shrunk(self, u: Tensor, step: Tensor, dimensions: int) -> Tensor:
        # The two branches meet at u = delta (1 + step), and each is the larger one on its side.
        return torch.maximum(1 / (1 + step), 1 - step * self.delta / u.clamp_min(self.delta))

    def _steepest(self, dimensions: int) -> float:
        return 1.0

    def __repr__(self) -> str:
        return self._described(*([] if self.delta == 1.345 else [f"delta={self.delta:g}"]))


class L1(_Robust):
    r"""``D(p, y) = sum_i w_i |p_i - y_i| / noise_std``: impulse noise (Nikolova 2004), where most measurements are right.

    The minimiser fits a part of the measurements exactly. Convex and not differentiable: PDHG uses its prox. `grad` is a
    subgradient, 0 where the fit is exact. As an error model it is Laplace noise of scale ``noise_std``.

    Args:
        noise_std: the scale of the noise without the outliers, in the units of ``y``; a number, or one an item.
        weights: nonnegative, broadcast against ``y``; 0 for what is not to be looked at.

    >>> L1().value(torch.tensor([[[1.0, -3.0]]]), torch.zeros(1, 1, 2))
    tensor([4.])
    >>> L1().prox(torch.tensor([[[1.0, -4.0]]]), torch.zeros(1, 1, 2), 2.0)
    tensor([[[ 0., -2.]]])
    """

    is_smooth = False

    def __init__(
        self, noise_std: float | Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        super().__init__(noise_std, weights)

    def _loss(self, u: Tensor, dimensions: int) -> Tensor:
        return u

    def _ratio(self, u: Tensor, dimensions: int) -> Tensor:
        return torch.where(u > 0, 1 / u.clamp_min(torch.finfo(u.dtype).tiny), torch.zeros_like(u))

    def _shrunk(self, u: Tensor, step: Tensor, dimensions: int) -> Tensor:
        return (1 - step / u.clamp_min(torch.finfo(u.dtype).tiny)).clamp_min(0)

    @property
    def offers(self) -> frozenset[str]:
        # |r|^2 / |s| majorises |r| but for s = 0, which is where the answer lies.
        return super().offers - {"residual_weights"}

    def __repr__(self) -> str:
        return self._described()


class Student(_Robust):
    r"""``D(p, y) = sum_i w_i (nu + d) / 2 log(1 + |p_i - y_i|^2 / (nu noise_std^2))``: Student's t, d = 1 (2 for complex values).

    An outlier loses its influence altogether as it moves away (Lange, Little & Taylor, JASA 84, 1989): where Huber's pull stays
    constant, this one falls. The price is that the term is **not convex**, so that the answer may depend on the start: begin
    with the answer of `Huber`, say. ``nu = 1`` is Cauchy's distribution, large nu the Gaussian.

    The prox is the best of the real roots of a cubic. `residual_weights` are EM's, and majorise.

    Args:
        nu: degrees of freedom, positive.
        noise_std: the scale of the distribution, in the units of ``y``; a number, or one an item; 1 where not given.
        weights: nonnegative, broadcast against ``y``; 0 for what is not to be looked at.

    >>> term = Student(nu=1.0)
    >>> term.grad(torch.tensor([[[0.1, 1.0, 100.0]]]), torch.zeros(1, 1, 3)).round(decimals=2)
    tensor([[[0.2000, 1.0000, 0.0200]]])
    """

    is_convex = False
    is_majoriser = True

    def __init__(
        self,
        nu: float = 4.0,
        noise_std: float | Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(noise_std, weights)
        if not (nu > 0 and math.isfinite(nu)):
            raise InputError(f"nu of Student must be positive and finite, got {nu}")
        self.nu = float(nu)

    def _loss(self, u: Tensor, dimensions: int) -> Tensor:
        return 0.5 * (self.nu + dimensions) * torch.log1p(u * u / self.nu)

    def _ratio(self, u: Tensor, dimensions: int) -> Tensor:
        return (self.nu + dimensions) / (self.nu + u * u)

    def _steepest(self, dimensions: int) -> float:
        return (self.nu + dimensions) / self.nu

    def _shrunk(self, u: Tensor, step: Tensor, dimensions: int) -> Tensor:
        """The roots v of ``(v - u) (nu + v^2) + step (nu + d) v = 0``, in units of ``sqrt(nu)`` and float64."""
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
        return self._described(*([] if self.nu == 4 else [f"nu={self.nu:g}"]))


def _outer_roots(q: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest real root of ``v^3 - q v^2 + b v - q``, for ``q >= 0`` and ``b >= 1``; both lie in [0, q]."""
    shift = q / 3
    linear, constant = b - q * shift, (b / 3 - 1 - 2 * shift.square() / 3) * q
    third, half = linear / 3, constant / 2
    discriminant = half.square() + third**3
    # One real root: by Cardano, with the sign that does not cancel.
    root = discriminant.clamp_min(0).sqrt()
    larger = -torch.where(half >= 0, 1.0, -1.0) * (half.abs() + root).pow(1 / 3)
    single = larger - third / torch.where(larger == 0, 1.0, larger)
    # Three: by the cosine.
    radius = (-third).clamp_min(0).sqrt()
    angle = (
        torch.acos((-half / radius.pow(3).clamp_min(torch.finfo(q.dtype).tiny)).clamp(-1, 1)) / 3
    )
    three = discriminant <= 0
    low = torch.where(three, 2 * radius * torch.cos(angle + 2 * math.pi / 3), single) + shift
    high = torch.where(three, 2 * radius * torch.cos(angle), single) + shift

    def polish(v: Tensor) -> Tensor:
        v = v.clamp_min(0).minimum(q)
        for _ in range(3):
            slope = (3 * v - 2 * q) * v + b
            error = ((v - q) * v + b) * v - q
            moved = torch.where(
                slope.abs() > 1e-8 * b, v - error / torch.where(slope == 0, 1.0, slope), v
            )
            # Newton's step is kept where it helps: beside a double root it may not.
            better = (((moved - q) * moved + b) * moved - q).abs() < error.abs()
            v = torch.where(better, moved, v)
        return v

    return polish(low), polish(high)


def _dimensions(y: Any) -> int:
    return 2 if y.is_complex() else 1
