"""Smoothed lq norms: `SmoothedNorm`, which a quadratic majorizes, and `HuberNorm`.

Majorization methods (iteratively reweighted least squares) and quasi-Newton methods need this
smoothness.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import sum_items
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
        check_range(self, "(0, 2]", power=power)
        self.smoothing = torch.as_tensor(smoothing, dtype=torch.float64)
        check_range(self, "(0, inf)", "smoothing")
        self.power, self.groups = float(power), groups
        self.is_convex = self.power >= 1

    def energy(self, x: Tensor) -> Tensor:
        squared = self._modulus(x, squared=True)
        eps = expand(self.smoothing, squared)
        # (s^2 + eps^2)^(q/2) - eps^q, s the modulus, for q = 2, q = 1 and any other q.
        if self.power == 2:
            terms = squared
        elif self.power == 1:  # the difference of the two roots, without cancellation
            terms = squared / ((squared + eps * eps).sqrt() + eps)
        else:
            # (s^2 + eps^2)^(q/2) - eps^q = eps^q ((1 + s^2/eps^2)^(q/2) - 1), again without
            # cancellation.
            terms = eps**self.power * torch.expm1(
                0.5 * self.power * torch.log1p(squared / (eps * eps))
            )
        return sum_items(terms)

    def gradient(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if self.power == 2:
            return 2 * x
        # R'(s) x / s, s the modulus.
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
        # R''(0) = q eps^(q - 2).
        return (self.power * self.smoothing ** (self.power - 2)).to(like)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Solve ``s + step R'(s) = |x|`` by Newton's method in a bracket; needs ``power >= 1``."""
        modulus = self._modulus(x, squared=False)
        t = expand(step, modulus)
        if self.power == 2:
            return x / (1 + 2 * expand(step, x))
        # The root lies in [0, |x|]. It is at most |x| / (1 + t w(|x|)), the first s, because
        # s = |x| / (1 + t w(s)) and the weight w(s) = R'(s) / s does not grow with s.
        low, high = torch.zeros_like(modulus), modulus
        s = modulus / (1 + t * self._slope(modulus.square()))
        accuracy = 4 * torch.finfo(s.dtype).eps * modulus.flatten(1).amax(1)
        moves = torch.ones_like(accuracy, dtype=torch.bool)
        for _ in range(40):
            slope = self._slope(s * s)
            # f(s) = s + t R'(s) - |x| grows with s, so its sign decides which end is replaced.
            error = s + t * slope * s - modulus
            low, high = torch.where(error > 0, low, s), torch.where(error > 0, s, high)
            # R''(s) = w (1 + (q - 2) s^2 / (s^2 + eps^2)).
            eps = expand(self.smoothing, s)
            bend = slope * (1 + (self.power - 2) * s * s / (s * s + eps * eps))
            # Newton's step s - f / f', or half the bracket if it leads out of it.
            new = s - error / (1 + t * bend)
            new = torch.where((new >= low) & (new <= high), new, (low + high) / 2)
            # An item that has its root stays, whatever its neighbours need.
            change = (new - s).flatten(1).abs().amax(1)
            s = torch.where(moves.view(-1, *[1] * (s.ndim - 1)), new, s)
            moves = moves & (change > accuracy)
            if not bool(moves.any()):
                break
        # A prox of the modulus keeps the direction: x s / |x|.
        factor = torch.where(
            modulus > 0, s / modulus.clamp_min(torch.finfo(s.dtype).tiny), torch.ones_like(s)
        )
        return x * factor if self.groups is None else self._scale(x, factor)

    @property
    def offers(self) -> frozenset[str]:
        smooth = frozenset({"energy", "gradient", "weights"})
        return smooth | {"prox"} if self.power >= 1 else smooth

    def _slope(self, squared: Tensor) -> Tensor:
        """Return ``R'(s) / s``."""
        # q (s^2 + eps^2)^(q/2 - 1).
        eps = expand(self.smoothing, squared)
        if self.power == 1:
            return torch.addcmul(squared, eps, eps).rsqrt_()
        return self.power * torch.addcmul(squared, eps, eps).pow_(self.power / 2 - 1)

    def _modulus(self, x: Tensor, squared: bool) -> Tensor:
        if self.groups is None:
            if squared:
                return x.real.square() + x.imag.square() if x.is_complex() else x * x
            return x.abs()
        # |x_g| of every group, with an axis of length 1 for its members.
        norm = group_norm(*self.groups.group(x))
        return norm * norm if squared else norm

    def _scale(self, x: Tensor, factor: Tensor) -> Tensor:
        assert self.groups is not None
        grouped, _ = self.groups.group(x)
        return (grouped * factor).flatten(1, 2)

    def _spread(self, x: Tensor, factor: Tensor) -> Tensor:
        """Return the factor of every value, given the factor of its group."""
        assert self.groups is not None
        return factor.expand(self.groups.group(x)[0].shape).flatten(1, 2)

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
        check_range(self, "(0, inf)", threshold=torch.as_tensor(threshold))
        super().__init__(1.0, threshold, groups)

    def energy(self, x: Tensor) -> Tensor:
        modulus = self._modulus(x, squared=False)
        return sum_items(huber(modulus, expand(self.smoothing, modulus)))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        modulus = self._modulus(x, squared=False)
        t, threshold = expand(step, modulus), expand(self.smoothing, modulus)
        # Below a modulus of threshold + step, h is a parabola, whose prox is x / (1 + t / threshold);
        # above, x moves by the step. The branches meet there, each the larger on its side.
        factor = torch.maximum(threshold / (threshold + t), 1 - t / modulus.maximum(threshold))
        return x * factor if self.groups is None else self._scale(x, factor)

    def _slope(self, squared: Tensor) -> Tensor:
        # h'(s) / s = 1 / max(s, threshold).
        return 1 / squared.sqrt().maximum(expand(self.smoothing, squared))

    def __repr__(self) -> str:
        groups = f", groups={self.groups!r}" if self.groups is not None else ""
        return f"HuberNorm({format_setting(self.smoothing)}{groups})"


def huber(norm: Tensor, threshold: Tensor) -> Tensor:
    """Return ``norm^2 / (2 threshold)`` up to the threshold and ``norm - threshold / 2`` beyond."""
    # With m = min(s, threshold): m (s - m / 2) / threshold, one formula for both branches.
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
