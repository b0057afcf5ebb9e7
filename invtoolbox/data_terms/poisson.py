"""Poisson noise: counted photons, emitted (PET, SPECT, microscopy) or transmitted (X-ray CT)."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.data_terms.base import DataTerm, align_setting
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand

# This number of third-order steps gives the Wright omega function exact to rounding in float64.
_OMEGA_STEPS = 4
# A negative mean of this number of rounding errors of the largest mean counts as 0.
_ROUNDING = 8
# Standard deviations of the sum of the counts, and ratio, by which a background is too large.
_CERTAIN, _LARGER = 6.0, 1.1
# Largest mean whose expected deviance comes from a table, its entries, and the counts that are summed.
_TABLED, _ENTRIES, _COUNTS = 30.0, 1200, 100


class _Counts(DataTerm):
    """Base of both models: the Kullback-Leibler divergence of the counts from their mean."""

    is_for_nonnegative = True
    item_fields: ClassVar[tuple[str, ...]] = ("background",)
    measurement_fields: ClassVar[tuple[str, ...]] = ("background",)

    def check(self, y: Any) -> None:
        if isinstance(y, tuple):
            raise InputError(
                f"{self!r} takes one tensor of counts; use data_terms.Stack for several tensors"
            )
        if y.is_complex():
            raise InputError(f"{self!r} takes counts, got complex measurements")
        bad = y < 0
        if bool(bad.any()):
            place = ", ".join(str(int(k)) for k in bad.nonzero()[0])
            raise InputError(
                f"{self!r} takes counts, which are not negative, got {int(bad.sum())} values below "
                f"0, the first at index ({place}); if a background was subtracted, add it back and "
                "give it as background="
            )
        self.check_background(y)

    def check_background(self, y: Tensor) -> None:
        """Raise an `InputError` if no image explains the counts with this background."""

    def align(self, y: Any) -> Self:
        """Return the term whose fields have the axes of ``y``; one number per item keeps its form."""
        changed: dict[str, Tensor] = {}
        for name in self.measurement_fields if isinstance(y, Tensor) else ():
            setting = getattr(self, name)
            what = f"the {name} of {type(self).__name__} has"
            if setting.ndim == 1 and setting.numel() not in (1, len(y)):
                raise InputError(
                    f"{what} {setting.numel()} values, and the measurements have {len(y)} items; "
                    f"give one number, one number per item, or a tensor like {tuple(y.shape)}"
                )
            aligned = setting if setting.ndim <= 1 else align_setting(setting, y, what)
            if aligned is not setting:
                changed[name] = aligned
        return self._replace(**changed) if changed else self

    def expected_discrepancy(self, y: Tensor) -> Tensor | None:
        """Return ``sqrt(m)`` for m measurements.

        Twice the divergence is near m at the true image (Bertero et al. 2010). The approximation
        holds to a few percent if most counts are above about 5.
        """
        return torch.full((y.shape[0],), math.sqrt(y.numel() / y.shape[0]), device=y.device)


class Poisson(_Counts):
    r"""Emission model ``y ~ Poisson(p + background)``.

    ``D(p, y) = sum_i m_i - y_i log m_i + y_i log y_i - y_i`` with the mean ``m = p + background``
    is the Kullback-Leibler divergence. It is at least 0, and 0 if the mean m equals y. It is
    infinite if a mean is negative by more than rounding, or if it is not positive and the count is.

    Args:
        background: mean of the counts that do not come from the image (scatter, dark current), in
            counts: a number, one number per item, or a tensor of at least two axes that broadcasts
            against ``y``.

    `curvature` holds for ``p >= 0`` only, and there is none without a background: use the prox in
    this case.

    >>> term = Poisson()
    >>> term.value(torch.tensor([[[4.0, 4.0]]]), torch.tensor([[[4.0, 0.0]]]))
    tensor([4.])
    >>> term.prox(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 4.0), 1.0).item()  # p^2 + p = 4
    1.561552...
    """

    def __init__(self, background: float | Tensor = 0.0) -> None:
        self.background = torch.as_tensor(background, dtype=torch.float64)
        check_range(self, "[0, inf)", "background")

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        return _divergence(self.mean(prediction), y)

    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        mean = prediction + _field(self.background, prediction)
        # Outside of the domain there is no gradient; this value points back into the domain.
        return 1 - y / mean.clamp_min(torch.finfo(mean.dtype).eps)

    def least_subgradient(self, prediction: Tensor, y: Tensor) -> Tensor:
        # The domain ends at a mean of 0, where every slope up to 1 is a subgradient if y is 0.
        is_end = (self.mean(prediction) <= 0) & (y == 0)
        return torch.where(is_end, 0.0, self.grad(prediction, y))

    def prox(self, prediction: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        """Compute the mean m, the root of ``m^2 + (t - v) m - t y = 0``.

        Here ``v = prediction + background``.
        """
        background, t = _field(self.background, prediction), expand(step, prediction)
        half = (prediction + background - t) / 2
        product = t * y
        root = (half.square() + product).sqrt()
        # half + root cancels if half is negative; the product of the two roots of the equation does
        # not.
        far = root + half.abs()
        mean = torch.where(half >= 0, far, product / far.clamp_min(torch.finfo(far.dtype).tiny))
        return mean - background

    def mean(self, prediction: Tensor) -> Tensor:
        """Return the mean of the counts, ``prediction + background``."""
        return prediction + _field(self.background, prediction)

    def check_background(self, y: Tensor) -> None:
        """Raise an `InputError` if the background alone exceeds the counts of an item.

        The sum of Poisson counts has the variance of its mean, and the image adds to the mean. An
        item without a count, such as an empty slice, is no evidence of another unit.
        """
        background, counts = torch.broadcast_tensors(_field(self.background, y), y)
        expected, counted = (t.flatten(1).double().sum(1) for t in (background, counts))
        certain = expected - _CERTAIN * expected.sqrt()
        is_too_large = (counted > 0) & (certain > counted) & (expected > _LARGER * counted)
        if bool(is_too_large.any()):
            k, size = int(is_too_large.nonzero()[0]), y[0].numel()
            where = "" if len(expected) == 1 else f" of item {k}"
            raise InputError(
                f"the background of {type(self).__name__}, {float(expected[k]) / size:.4g} per "
                f"measurement, exceeds the measured counts{where}, {float(counted[k]) / size:.4g}; "
                "give it in the unit of y, and y with its background"
            )

    def fitting_prediction(self, y: Tensor) -> Tensor:
        """Return ``y - background``, at least 0."""
        return (y - _field(self.background, y)).clamp_min(0)

    def share_inside(self, prediction: Tensor, inner: Tensor, y: Tensor) -> Tensor:
        background = _field(self.background, prediction)
        mean, target = prediction + background, inner + background
        # A count of zero allows a mean of 0; a positive one needs a mean that is not tiny.
        least = torch.where(y > 0, 1e-3 * target.clamp_min(0), 0.0)
        share = (least - mean) / (target - mean).clamp_min(torch.finfo(mean.dtype).tiny)
        return torch.where(mean < least, share, 0.0).flatten(1).amax(1).clamp_max(1)

    def curvature(self, y: Tensor) -> Tensor | None:
        """Return ``max y / background^2``, a bound for ``p >= 0``."""
        if not bool((self.background > 0).all()):
            return None
        return (y / _field(self.background, y).square()).flatten(1).amax(1)

    def __repr__(self) -> str:
        background = _describe(self.background) if bool(self.background.any()) else ""
        return f"Poisson({background})"


class PoissonTransmission(_Counts):
    r"""Transmission model ``y ~ Poisson(I0 exp(-p) + background)`` of line integrals ``p = A x``.

    ``p`` is the line integral of the attenuation.
    ``D(p, y) = sum_i m_i - y_i log m_i + y_i log y_i - y_i`` with the mean ``m`` is at least 0, and
    0 if m equals y. It is convex without a background, and not convex with one.

    Args:
        I0: counts without an object in the beam: a number, one number per item, or a tensor that
            broadcasts against ``y`` (a flat field).
        background: mean of the counts that do not come through the object, as in `Poisson`.

    `curvature` bounds the second derivative for ``p >= 0`` (the maximum curvature of Erdogan &
    Fessler, PMB 44, 1999). Without a background there is a prox, by the Wright omega function.

    >>> term = PoissonTransmission(100.0)
    >>> p = torch.tensor([[[0.5]]])
    >>> term.grad(p, 100.0 * torch.exp(-p)).abs().item() < 1e-4
    True
    """

    item_fields: ClassVar[tuple[str, ...]] = ("I0", "background")
    measurement_fields: ClassVar[tuple[str, ...]] = ("I0", "background")

    def __init__(self, I0: float | Tensor, background: float | Tensor = 0.0) -> None:
        self.I0 = torch.as_tensor(I0, dtype=torch.float64)
        check_range(self, "(0, inf)", "I0")
        self.background = torch.as_tensor(background, dtype=torch.float64)
        check_range(self, "[0, inf)", "background")
        self.is_convex = not bool(self.background.any())

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        if self.is_convex:
            log_mean = _field(self.I0, prediction).log() - prediction
            return _divergence(log_mean.exp(), y, log_mean)
        return _divergence(self._transmission(prediction) + _field(self.background, prediction), y)

    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        transmitted = self._transmission(prediction)
        if self.is_convex:
            return y - transmitted
        mean = transmitted + _field(self.background, prediction)
        return transmitted * (y / mean.clamp_min(torch.finfo(mean.dtype).tiny) - 1)

    def prox(self, prediction: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        """Compute ``s + omega(log(t I0) - s)`` with ``s = prediction - t y``.

        This is the root of ``p = s + t I0 exp(-p)``.
        """
        if not self.is_convex:
            raise InputError(
                f"{self!r} has no proximal operator, because it is not convex with a background"
            )
        # In float64, and with one step of Newton's method: s and omega cancel if t y is large.
        p, counts = prediction.double(), y.double()
        t, I0 = expand(step, p), _field(self.I0, p)
        shifted = p - t * counts
        root = shifted + _wright_omega((t * I0).log() - shifted)
        transmitted = I0 * torch.exp(-root)
        change = (root - p + t * (counts - transmitted)) / (1 + t * transmitted)
        return (root - change).to(prediction)

    @property
    def offers(self) -> frozenset[str]:
        return super().offers if self.is_convex else super().offers - {"prox"}

    def fitting_prediction(self, y: Tensor) -> Tensor:
        """Return ``log(I0 / (y - background))``, with at least half a count per ray."""
        return _field(self.I0, y).log() - (y - _field(self.background, y)).clamp_min(0.5).log()

    def curvature(self, y: Tensor) -> Tensor:
        """Return ``max(I0)``, or ``max(I0, y / 4)`` with a background, for ``p >= 0``."""
        # h''(p) = l - y b l / (l + b)^2 with l = I0 exp(-p) in (0, I0]; the second part is between
        # 0 and y / 4.
        largest = _field(self.I0, y).expand(y.shape).flatten(1).amax(1)
        return largest if self.is_convex else largest.maximum(y.flatten(1).amax(1) / 4)

    def _transmission(self, prediction: Tensor) -> Tensor:
        return _field(self.I0, prediction) * torch.exp(-prediction)

    def __repr__(self) -> str:
        background = f", background={_describe(self.background)}" if not self.is_convex else ""
        return f"PoissonTransmission({_describe(self.I0)}{background})"


def expected_deviance(mean: Tensor) -> Tensor:
    r"""Return ``2 E[mean - Y + Y log(Y / mean)]`` of Poisson counts Y, of the shape of ``mean``.

    It is near 1 for large means, where it follows the series ``1 + 1 / (6 m) + 1 / (6 m^2)``, and
    goes to 0 with the mean.

    Args:
        mean: means of the counts, at least 0.

    >>> expected_deviance(torch.tensor([0.0, 0.01, 1.0, 100.0])).round(decimals=3)
    tensor([0.0000, 0.0920, 1.1470, 1.0020])
    """
    place = mean.clamp(0, _TABLED).sqrt() * ((_ENTRIES - 1) / _TABLED**0.5)
    below = place.floor().clamp_max(_ENTRIES - 2)
    table = _deviances().to(mean)
    first = table[below.long()]
    inside = torch.lerp(first, table[below.long() + 1], place - below)
    large = mean.clamp_min(_TABLED)
    return torch.where(mean < _TABLED, inside, 1 + (1 + 1 / large) / (6 * large))


@functools.cache
def _deviances() -> Tensor:
    """Return expected deviances of means whose square roots are evenly spaced."""
    mean = torch.linspace(0, _TABLED**0.5, _ENTRIES, dtype=torch.float64).square().unsqueeze(1)
    count = torch.arange(_COUNTS, dtype=torch.float64)
    probability = torch.exp(torch.xlogy(count, mean) - mean - torch.lgamma(count + 1))
    # E[mean - Y] = 0
    deviance = torch.xlogy(count, count) - torch.xlogy(count, mean.clamp_min(1e-300))
    return 2 * (probability * deviance).sum(1)


def _divergence(mean: Tensor, y: Tensor, log_mean: Tensor | None = None) -> Tensor:
    """Compute ``sum mean - y log(mean / y) - y``, ``(batch,)``; infinite outside of the domain.

    ``log_mean`` serves a mean that is positive but underflows.
    """
    rounding = _ROUNDING * torch.finfo(mean.dtype).eps * mean.flatten(1).amax(1).clamp_min(0)
    inside = (mean > 0) | ((mean >= expand(-rounding, mean)) & (y == 0))
    if log_mean is not None:
        inside = torch.ones_like(inside)
    usual = (y > 0) & inside
    safe = torch.where(usual, y, 1.0)
    ratio = torch.where(usual, (mean - y) / safe, 0.0)
    # Near the count, the logarithm of 1 + d / y does not cancel against the difference d = mean -
    # y; far below it, 1 + d / y has no digits left.
    near = ratio > -0.5
    if log_mean is None:
        log_mean = torch.where(usual, mean, 1.0).log()
    log_ratio = torch.where(near, torch.where(near, ratio, 0.0).log1p(), log_mean - safe.log())
    terms = mean - y - torch.where(usual, y * log_ratio, 0.0)
    return sum_items(torch.where(inside, terms, float("inf")))


def _wright_omega(z: Tensor) -> Tensor:
    """Return the real solution w of ``w + log w = z`` by a third-order iteration.

    Source: Lawrence, Corless & Jeffrey 2012.
    """
    # exp(z) is accurate for very negative z, z - log z for large z; in between both starts
    # converge.
    w = torch.where(z > 1, z - z.clamp_min(1).log(), z.clamp_max(1).exp())
    w = w.clamp_min(torch.finfo(z.dtype).tiny)
    for _ in range(_OMEGA_STEPS):
        r = z - w - w.log()
        s = 1 + w
        u = 2 * s * (s + 2 * r / 3)
        w = (w * (1 + (r / s) * (u - r) / (u - 2 * r))).clamp_min(torch.finfo(z.dtype).tiny)
    return w


def _field(value: Tensor, like: Tensor) -> Tensor:
    """Expand a number, one number per item, or values that broadcast to a factor of ``like``."""
    return expand(value, like) if value.ndim <= 1 else value.to(like)


def _describe(value: Tensor) -> str:
    return f"{float(value):g}" if value.numel() == 1 else f"{tuple(value.shape)}"
