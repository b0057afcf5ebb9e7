"""Constraints, whose energy is 0 inside a set and infinite outside, and the range of intensities.

The prox of a constraint is the projection onto its set: `Box`, `NonNegative` and `Simplex`.
`intensity_range` measures an image, so that a setting can be a fraction of its range in any unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.settings import check_real, format_setting


class Box(ExplicitPrior):
    """Bounds on every value: ``lower <= x <= upper``.

    The energy is 0 if the bounds hold to rounding. A value may be outside by 8 units in the last
    place of the largest of the bounds and the item's values, because a solver that mixes feasible
    images leaves the set by that much.

    Args:
        lower, upper: numbers, one value per item ``(batch,)``, tensors that broadcast against the
            image with its batch axis, or ``None`` for no bound.

    >>> Box(0, 1).prox(torch.tensor([[[-1.0, 0.5, 2.0]]]), 1.0)
    tensor([[[0.0000, 0.5000, 1.0000]]])
    >>> Box(0, 1).energy(torch.tensor([[[0.5]], [[1.5]]]))
    tensor([0., inf])
    """

    is_convex = True
    is_smooth = False
    is_constraint = True
    fits_slabs = True
    item_fields: ClassVar[tuple[str, ...]] = ("lower", "upper")

    def __init__(
        self, lower: float | Tensor | None = None, upper: float | Tensor | None = None
    ) -> None:
        self.lower, self.upper = _bound(lower), _bound(upper)
        if self.lower is not None and self.upper is not None:
            low, high = (b if b.ndim != 1 else b.view(-1, 1) for b in (self.lower, self.upper))
            if not bool((low <= high).all()):
                raise InputError(
                    f"the lower bound of {type(self).__name__} must not exceed its upper bound, "
                    f"got {lower} and {upper}"
                )

    def energy(self, x: Tensor) -> Tensor:
        check_real(x)
        lower, upper = self.bounds(x)
        # Per item: the largest modulus of values and finite bounds, and the largest violation
        # max(lower - x, x - upper, 0).
        scale = x.detach().abs().flatten(1).amax(1)
        excess = x.new_zeros(x.shape[0])
        for bound, outside in ((lower, lambda b: b - x), (upper, lambda b: x - b)):
            if bound is not None:
                excess = excess.maximum(outside(bound).detach().flatten(1).amax(1))
                finite = bound.abs().masked_fill(bound.isinf(), 0)
                scale = scale.maximum(
                    finite.expand(x.shape).flatten(1).amax(1) if bound.ndim else finite
                )
        # NaN compares false with everything, so an item that is not finite is outside.
        inside = (excess <= 8 * torch.finfo(x.dtype).eps * scale) & excess.isfinite()
        return _indicator(sum_items(~inside[:, None]) == 0, x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        check_real(x)
        lower, upper = self.bounds(x)
        # The projection min(max(x, lower), upper), whatever the step.
        if lower is not None:
            x = x.maximum(lower)
        return x if upper is None else x.minimum(upper)

    def rests(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Return which values are at a bound that keeps them from following ``-gradient``.

        >>> Box(0, 1).rests(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, -1.0, -1.0]))
        tensor([ True, False,  True])
        """
        lower, upper = self.bounds(x)
        # The active set of a projected gradient step: -gradient points out of the box.
        resting = torch.zeros_like(gradient, dtype=torch.bool)
        if lower is not None:
            resting = (x <= lower) & (gradient > 0)
        return resting if upper is None else resting | ((x >= upper) & (gradient < 0))

    def bounds(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return lower and upper bound as tensors that broadcast against an image, or None.

        Args:
            x: image, ``(batch, channel, *space)``.
        """

        def fit(bound: Tensor | None) -> Tensor | None:
            return None if bound is None else expand(bound, x) if bound.ndim <= 1 else bound.to(x)

        return fit(self.lower), fit(self.upper)

    @property
    def is_per_pixel(self) -> bool:
        """Whether a bound is a tensor of the axes of the image."""
        return any(b is not None and b.ndim > 1 for b in (self.lower, self.upper))

    def intersect(self, another: Box) -> Box:
        """Return the box of the values that lie in both boxes.

        Args:
            another: box with bounds of the same number of axes, or with numbers as bounds.

        >>> Box(0, 2).intersect(Box(None, torch.ones(1, 1, 4)))
        Box(0, (1, 1, 4))
        """
        # The larger of the lower bounds, and the smaller of the upper ones.
        return Box(
            _combine(torch.maximum, self.lower, another.lower),
            _combine(torch.minimum, self.upper, another.upper),
        )

    def __repr__(self) -> str:
        return f"Box({format_setting(self.lower)}, {format_setting(self.upper)})"


class NonNegative(Box):
    """Constraint ``x >= 0``.

    >>> NonNegative().prox(torch.tensor([[[-1.0, 2.0]]]), 1.0)
    tensor([[[0., 2.]]])
    """

    fits_slabs = True

    def __init__(self) -> None:
        super().__init__(lower=0.0)

    def __repr__(self) -> str:
        return "NonNegative()"


class Simplex(ExplicitPrior):
    """Probability simplex: ``x >= 0`` and ``sum x = total`` in every channel of every item.

    The sum runs over all axes behind the channel. The prox is the projection, by sorting (Held,
    Wolfe and Crowder 1974; Duchi, Shalev-Shwartz, Singer and Chandra 2008). As the prior of a blur
    kernel it keeps the brightness of the picture:
    ``Problem(y, Blur(...), unknown={"kernel": Simplex()})``.

    Args:
        total: positive sum of the values.

    >>> Simplex().prox(torch.tensor([[[0.5, 0.9, -1.0]]]), 1.0)
    tensor([[[0.3000, 0.7000, 0.0000]]])
    """

    is_convex = True
    is_smooth = False
    is_constraint = True

    def __init__(self, total: float = 1.0) -> None:
        check_range(self, "(0, inf)", total=total)
        self.total = float(total)

    def energy(self, x: Tensor) -> Tensor:
        """Return 0 inside the simplex, to rounding, and infinity elsewhere; shape ``(batch,)``."""
        check_real(x)
        values = x.flatten(2).detach()
        # The rounding of a sum of n values of the size of the total grows like sqrt(n).
        slack = 8 * torch.finfo(x.dtype).eps * self.total * max(1.0, values.shape[-1] ** 0.5)
        inside = (values.amin(2) >= -slack) & ((values.sum(2) - self.total).abs() <= slack)
        return _indicator(inside.all(1), x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Return the nearest point of the simplex, ``max(x - threshold, 0)``.

        The threshold is the one for which the sum is ``total``.
        """
        check_real(x)
        values = x.flatten(2)
        # Duchi et al. 2008, figure 1: mu is x in falling order, and the first j values alone would
        # have the threshold (mu_1 + ... + mu_j - total) / j.
        mu = values.sort(dim=2, descending=True).values
        j = torch.arange(1, values.shape[2] + 1, dtype=x.dtype, device=x.device)
        thresholds = (mu.cumsum(2) - self.total) / j
        # rho, the last j at which mu_j is above its threshold: the number of positive values.
        rho = (mu > thresholds).sum(2, keepdim=True).clamp_min(1)
        return (values - thresholds.gather(2, rho - 1)).clamp_min(0).view_as(x)

    def __repr__(self) -> str:
        return "Simplex()" if self.total == 1 else f"Simplex({self.total:g})"


def intensity_range(image: Tensor, pooling: int = 4, tail: float = 0.005) -> Tensor:
    """Return the difference of two quantiles of the block means of an image, ``(batch,)``.

    The quantiles are ``1 - tail`` and ``tail``, and a block has ``pooling`` pixels per axis. Block
    means contain little of the noise of a first reconstruction, and the quantiles ignore a few
    bright pixels. An image without contrast gives its largest modulus, an image of zeros gives 1.
    Of a complex image it is the range of the modulus.

    >>> intensity_range(torch.tensor([0., 1.]).repeat_interleave(64).view(1, 1, 128))
    tensor([1.])
    """
    values = image.detach().abs() if image.is_complex() else image.detach()
    for axis in range(2, values.ndim):
        # Pixels that fill no block are left out; an axis of few blocks is not pooled.
        blocks = values.shape[axis] // pooling
        if blocks >= pooling:
            values = (
                values.narrow(axis, 0, blocks * pooling)
                .unflatten(axis, (blocks, pooling))
                .mean(axis + 1)
            )
    # The quantiles tail and 1 - tail as order statistics, without interpolation.
    ordered = values.flatten(1).sort(dim=1).values
    cut = int(tail * ordered.shape[1])
    spread = ordered[:, ordered.shape[1] - 1 - cut] - ordered[:, cut]
    # Below 1e-6 of the largest modulus, the spread is rounding: the image has no contrast.
    largest = image.detach().abs().flatten(1).amax(1)
    spread = torch.where(spread > 1e-6 * largest, spread, largest)
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _bound(value: float | Tensor | None) -> Tensor | None:
    bound = None if value is None else torch.as_tensor(value, dtype=torch.float64)
    if bound is not None and bool(bound.isnan().any()):
        raise InputError("a bound must not be NaN")
    return bound


def _combine(
    choose: Callable[[Tensor, Tensor], Tensor], a: Tensor | None, b: Tensor | None
) -> Tensor | None:
    if a is None or b is None:
        return a if b is None else b
    axes = max(a.ndim, b.ndim)
    # One value per item lies along the batch axis.
    a, b = (t.view(-1, *[1] * (axes - 1)) if t.ndim == 1 else t for t in (a, b))
    return choose(a, b)


def _indicator(inside: Tensor, x: Tensor) -> Tensor:
    """Return 0 for items inside the set and infinity for all others, ``(batch,)``."""
    energy = torch.where(inside, 0.0, float("inf")).to(x.dtype)
    # The energy is flat inside; adding 0 times x keeps it in the graph, so that its gradient is 0.
    return (
        energy + 0 * x.flatten(1)[:, 0] if x.requires_grad and torch.is_grad_enabled() else energy
    )
