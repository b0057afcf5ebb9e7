"""The smoothed lq norm: what a majorisation needs, and what a quasi-Newton method can follow.

Huber total variation: total variation that leaves gentle slopes alone.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.images.sparsity import L1, GroupL1, group_norm


class SmoothedNorm(ExplicitPrior):
    r"""``R(x) = sum_i (|x_i|^2 + smoothing^2)^(power/2) - smoothing^power``, ``0 < power <= 2``.

    For ``|x_i|`` well above the smoothing this is ``|x_i|^power``; below it is the parabola ``power/2
    smoothing^(power - 2) |x_i|^2``. The curvature is largest at 0, ``power smoothing^(power - 2)``, so a
    parabola of that curvature majorises R everywhere (Lanza, Morigi, Reichel & Sgallari, SIAM J. Sci. Comput.
    37, 2015). Convex for ``power >= 1``.

    Args:
        power: 1 for sparsity, 2 for ``sum |x_i|^2``; below 1 the prior is not convex.
        smoothing: positive, in the units of x; a number, or one an item.
        groups: ``|x_i|`` is the Euclidean norm of a group of channels, as `GroupL1` groups them.

    >>> SmoothedNorm(power=2.0).energy(torch.tensor([[3.0, 4.0]]))
    tensor([25.])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("smoothing",)
    is_smooth = True
    is_majoriser = True

    def __init__(
        self, power: float = 1.0, smoothing: float | Tensor = 0.1, groups: GroupL1 | None = None
    ) -> None:
        if not 0 < power <= 2:
            raise InputError(f"the power of a smoothed norm lies in (0, 2], got {power}")
        self.smoothing = torch.as_tensor(smoothing, dtype=torch.float64)
        if not bool(((self.smoothing > 0) & self.smoothing.isfinite()).all()):
            raise InputError(f"the smoothing of a norm is positive and finite, got {smoothing}")
        self.power, self.groups = float(power), groups
        self.is_convex = self.power >= 1

    def energy(self, x: Tensor) -> Tensor:
        squared = self._modulus(x, squared=True)
        eps = expand(self.smoothing, squared)
        if self.power == 2:
            terms = squared
        elif self.power == 1:  # the difference of the two roots, without its cancellation
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
        return x * factor if self.groups is None else self._scaled(x, factor)

    def weights(self, x: Tensor) -> Tensor:
        """``R'(s) / s``, s the modulus: R is concave in its square, so these weights majorise."""
        factor = self._slope(self._modulus(x, squared=True))
        return factor if self.groups is None else self._spread(x, factor)

    def curvature(self, like: Tensor) -> Tensor:
        """The largest second derivative, ``(batch,)`` or ``()``."""
        return (self.power * self.smoothing ** (self.power - 2)).to(like)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Newton's method on ``s + step R'(s) = |x|``, kept inside a bracket; only for ``power >= 1``."""
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
            moved, s = (new - s).abs().amax(), new
            if bool(moved <= 4 * torch.finfo(s.dtype).eps * modulus.amax()):
                break
        factor = torch.where(
            modulus > 0, s / modulus.clamp_min(torch.finfo(s.dtype).tiny), torch.ones_like(s)
        )
        return x * factor if self.groups is None else self._scaled(x, factor)

    @property
    def offers(self) -> frozenset[str]:
        own = frozenset({"energy", "gradient", "weights"})
        return own | {"prox"} if self.power >= 1 else own

    def _slope(self, squared: Tensor) -> Tensor:
        """``R'(s) / s``."""
        eps = expand(self.smoothing, squared)
        if self.power == 1:
            return torch.addcmul(squared, eps, eps).rsqrt_()
        return self.power * torch.addcmul(squared, eps, eps).pow_(self.power / 2 - 1)

    def _modulus(self, x: Tensor, squared: bool) -> Tensor:
        if self.groups is None:
            if squared:
                return x.real.square() + x.imag.square() if x.is_complex() else x * x
            return x.abs()
        norm = group_norm(*self.groups._grouped(x))
        return norm * norm if squared else norm

    def _scaled(self, x: Tensor, factor: Tensor) -> Tensor:
        assert self.groups is not None
        grouped, _ = self.groups._grouped(x)
        return (grouped * factor).flatten(1, 2)

    def _spread(self, x: Tensor, factor: Tensor) -> Tensor:
        """The factor of every value, from that of its group."""
        assert self.groups is not None
        return factor.expand(self.groups._grouped(x)[0].shape).flatten(1, 2)

    def __repr__(self) -> str:
        groups = f", groups={self.groups!r}" if self.groups is not None else ""
        return f"SmoothedNorm(power={self.power:g}{groups})"


class HuberNorm(SmoothedNorm):
    r"""``R(x) = sum_i h(|x_i|)``, ``h(s) = s^2 / (2 threshold)`` up to the threshold and ``s - threshold / 2`` beyond.

    The modulus with its kink replaced by a parabola (Huber 1964), which is its Moreau envelope.

    Args:
        threshold: positive, in the units of x; a number, or one an item.
        groups: as for `SmoothedNorm`.

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
        # The two branches meet at a modulus of threshold + step, and each is the larger one on its side.
        factor = torch.maximum(threshold / (threshold + t), 1 - t / modulus.maximum(threshold))
        return x * factor if self.groups is None else self._scaled(x, factor)

    def _slope(self, squared: Tensor) -> Tensor:
        return 1 / squared.sqrt().maximum(expand(self.smoothing, squared))

    def __repr__(self) -> str:
        shown = (
            f"{float(self.smoothing):g}"
            if self.smoothing.numel() == 1
            else f"{tuple(self.smoothing.shape)}"
        )
        return f"HuberNorm({shown}{f', groups={self.groups!r}' if self.groups is not None else ''})"


def huber(norm: Tensor, threshold: Tensor) -> Tensor:
    """``norm^2 / (2 threshold)`` up to the threshold and ``norm - threshold / 2`` beyond."""
    inner = norm.minimum(threshold)
    return inner / threshold * (norm - 0.5 * inner)


def smoothed(prior: ExplicitPrior, smoothing: float | Tensor) -> SmoothedNorm | None:
    """A smoothed version of a norm, itself where it is smooth already, ``None`` where it is another kind of prior."""
    if isinstance(prior, SmoothedNorm):
        return prior
    if isinstance(prior, L1) and prior.bounds is None:
        return SmoothedNorm(1.0, smoothing)
    return (
        SmoothedNorm(1.0, smoothing, prior)
        if isinstance(prior, GroupL1) and not prior.nonnegative
        else None
    )
