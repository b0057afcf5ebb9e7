"""Smoothed lq norms: `SmoothedNorm`, which a quadratic majorizes, and `HuberNorm`.

Majorization methods (iteratively reweighted least squares) and quasi-Newton methods need this
smoothness.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.images.sparsity import L1, GroupL1, group_norm
from invtoolbox.priors.settings import format_setting


class SmoothedNorm(ExplicitPrior):
    """Smoothed lq norm ``R(x) = sum_i (|x_i|^2 + smoothing^2)^(power/2) - smoothing^power``.

    Here ``0 < power <= 2``. For ``|x_i|`` well above the smoothing a term is ``|x_i|^power``; below
    it is the parabola ``power/2 smoothing^(power - 2) |x_i|^2``. The curvature is largest at 0,
    ``power smoothing^(power - 2)``, so a parabola of that curvature majorizes R everywhere (Lanza,
    Morigi, Reichel & Sgallari, SIAM J. Sci. Comput. 37, 2015). The prior is convex for
    ``power >= 1``.

    Args:
        power: exponent, 1 for sparsity, 2 for ``sum |x_i|^2``; below 1 the prior is not convex.
        smoothing: positive, in the units of x; a number, or one value per item.
        groups: grouping of the channels, as in `GroupL1`; ``|x_i|`` is then the Euclidean norm of a
            group of channels.

    >>> SmoothedNorm(power=2.0).energy(torch.tensor([[3.0, 4.0]]))
    tensor([25.])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("smoothing",)
    is_smooth = True
    is_majorizer = True

    def __init__(
        self, power: float = 1.0, smoothing: float | Tensor = 0.1, groups: GroupL1 | None = None
    ) -> None:
        if not 0 < power <= 2:
            raise InputError(f"the power of a smoothed norm must lie in (0, 2], got {power}")
        self.smoothing = torch.as_tensor(smoothing, dtype=torch.float64)
        if not bool(((self.smoothing > 0) & self.smoothing.isfinite()).all()):
            raise InputError(
                f"the smoothing of a norm must be positive and finite, got {smoothing}"
            )
        self.power, self.groups = float(power), groups
        self.is_convex = self.power >= 1

    def energy(self, x: Tensor) -> Tensor:
        squared = self._modulus(x, squared=True)
        eps = expand(self.smoothing, squared)
        if self.power == 2:
            terms = squared
        elif self.power == 1:  # the difference of the two roots, without cancellation
            terms = squared / ((squared + eps * eps).sqrt() + eps)
        else:
            terms = eps**self.power * torch.expm1(
                0.5 * self.power * torch.log1p(squared / (eps * eps))
            )
        return terms.flatten(1).sum(1)

    def gradient(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if self.power == 2:
            return 2 * x
        factor = self._slope(self._modulus(x, squared=True))
        return x * factor if self.groups is None else self._scale(x, factor)

    def weights(self, x: Tensor) -> Tensor:
        """Return ``R'(s) / s``, s the modulus.

        R is concave in the square of s, so these weights majorize it.
        """
        factor = self._slope(self._modulus(x, squared=True))
        return factor if self.groups is None else self._spread(x, factor)

    def curvature(self, like: Tensor) -> Tensor:
        """Return the largest second derivative, ``(batch,)`` or ``()``."""
        return (self.power * self.smoothing ** (self.power - 2)).to(like)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Solve ``s + step R'(s) = |x|`` by Newton's method in a bracket; needs ``power >= 1``."""
        modulus = self._modulus(x, squared=False)
        t = expand(step, modulus)
        if self.power == 2:
            return x / (1 + 2 * expand(step, x))
        low, high, s = (
            torch.zeros_like(modulus),
            modulus,
            modulus / (1 + t * self._slope(modulus.square())),
        )
        for _ in range(40):
            slope = self._slope(s * s)
            error = s + t * slope * s - modulus
            low, high = torch.where(error > 0, low, s), torch.where(error > 0, s, high)
            eps = expand(self.smoothing, s)
            bend = slope * (1 + (self.power - 2) * s * s / (s * s + eps * eps))
            new = s - error / (1 + t * bend)
            new = torch.where((new >= low) & (new <= high), new, (low + high) / 2)
            change, s = (new - s).abs().amax(), new
            if bool(change <= 4 * torch.finfo(s.dtype).eps * modulus.amax()):
                break
        factor = torch.where(
            modulus > 0, s / modulus.clamp_min(torch.finfo(s.dtype).tiny), torch.ones_like(s)
        )
        return x * factor if self.groups is None else self._scale(x, factor)

    @property
    def offers(self) -> frozenset[str]:
        own = frozenset({"energy", "gradient", "weights"})
        return own | {"prox"} if self.power >= 1 else own

    def _slope(self, squared: Tensor) -> Tensor:
        """Return ``R'(s) / s``."""
        eps = expand(self.smoothing, squared)
        if self.power == 1:
            return torch.addcmul(squared, eps, eps).rsqrt_()
        return self.power * torch.addcmul(squared, eps, eps).pow_(self.power / 2 - 1)

    def _modulus(self, x: Tensor, squared: bool) -> Tensor:
        if self.groups is None:
            if squared:
                return x.real.square() + x.imag.square() if x.is_complex() else x * x
            return x.abs()
        norm = group_norm(*self.groups._group(x))
        return norm * norm if squared else norm

    def _scale(self, x: Tensor, factor: Tensor) -> Tensor:
        assert self.groups is not None
        grouped, _ = self.groups._group(x)
        return (grouped * factor).flatten(1, 2)

    def _spread(self, x: Tensor, factor: Tensor) -> Tensor:
        """Return the factor of every value, given the factor of its group."""
        assert self.groups is not None
        return factor.expand(self.groups._group(x)[0].shape).flatten(1, 2)

    def __repr__(self) -> str:
        groups = f", groups={self.groups!r}" if self.groups is not None else ""
        return f"SmoothedNorm(power={self.power:g}{groups})"


class HuberNorm(SmoothedNorm):
    """Huber norm ``R(x) = sum_i h(|x_i|)``, the modulus with a parabola in place of its kink.

    ``h(s) = s^2 / (2 threshold)`` up to the threshold and ``s - threshold / 2`` beyond (Huber
    1964). It is the Moreau envelope of the modulus.

    Args:
        threshold: positive, in the units of x; a number, or one value per item.
        groups: grouping of the channels, as for `SmoothedNorm`.

    >>> HuberNorm(2.0).energy(torch.tensor([[1.0, 5.0]]))
    tensor([4.2500])
    >>> HuberNorm(2.0).prox(torch.tensor([[1.0, 5.0]]), 2.0)
    tensor([[0.5000, 3.0000]])
    """

    def __init__(self, threshold: float | Tensor = 0.1, groups: GroupL1 | None = None) -> None:
        super().__init__(1.0, threshold, groups)

    def energy(self, x: Tensor) -> Tensor:
        modulus = self._modulus(x, squared=False)
        return huber(modulus, expand(self.smoothing, modulus)).flatten(1).sum(1)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        modulus = self._modulus(x, squared=False)
        t, threshold = expand(step, modulus), expand(self.smoothing, modulus)
        # The two branches meet at a modulus of threshold + step; each is the larger on its side.
        factor = torch.maximum(threshold / (threshold + t), 1 - t / modulus.maximum(threshold))
        return x * factor if self.groups is None else self._scale(x, factor)

    def _slope(self, squared: Tensor) -> Tensor:
        return 1 / squared.sqrt().maximum(expand(self.smoothing, squared))

    def __repr__(self) -> str:
        groups = f", groups={self.groups!r}" if self.groups is not None else ""
        return f"HuberNorm({format_setting(self.smoothing)}{groups})"


def huber(norm: Tensor, threshold: Tensor) -> Tensor:
    """Return ``norm^2 / (2 threshold)`` up to the threshold and ``norm - threshold / 2`` beyond."""
    inner = norm.minimum(threshold)
    return inner / threshold * (norm - 0.5 * inner)


def as_smoothed_norm(prior: ExplicitPrior, smoothing: float | Tensor) -> SmoothedNorm | None:
    """Return a smoothed version of a norm, or ``None`` for another kind of prior.

    A norm that is smooth already is returned unchanged.
    """
    if isinstance(prior, SmoothedNorm):
        return prior
    if isinstance(prior, L1) and prior.bounds is None:
        return SmoothedNorm(1.0, smoothing)
    return (
        SmoothedNorm(1.0, smoothing, prior)
        if isinstance(prior, GroupL1) and not prior.nonnegative
        else None
    )
