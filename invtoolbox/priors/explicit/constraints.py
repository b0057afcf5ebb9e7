"""Constraints: an energy of 0 inside a set and infinity outside; the prox is the projection."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior


class Box(ExplicitPrior):
    """``lower <= x <= upper``, value by value.

    Args:
        lower, upper: numbers, one an item ``(batch,)``, tensors that broadcast against the image with its
            batch axis, or ``None`` for no bound.

    The energy is 0 where the bounds hold to rounding: a value may be outside by 8 units in the last place of
    the largest of the bounds and the item's values, because a solver that mixes feasible images leaves the
    set by that much.

    >>> Box(0, 1).prox(torch.tensor([[[-1.0, 0.5, 2.0]]]), 1.0)
    tensor([[[0.0000, 0.5000, 1.0000]]])
    >>> Box(0, 1).energy(torch.tensor([[[0.5]], [[1.5]]]))
    tensor([0., inf])
    """

    is_convex = True
    is_smooth = False
    is_constraint = True
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
        lower, upper = self._bounds(x)
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
        value = torch.where(inside, 0.0, float("inf")).to(x.dtype)
        # The energy is flat inside; adding nothing keeps it part of the graph, so that its gradient is 0.
        return (
            value + 0 * x.flatten(1)[:, 0] if x.requires_grad and torch.is_grad_enabled() else value
        )

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        check_real(x)
        lower, upper = self._bounds(x)
        if lower is not None:
            x = x.maximum(lower)
        return x if upper is None else x.minimum(upper)

    def _bounds(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        def fitted(bound: Tensor | None) -> Tensor | None:
            return None if bound is None else expand(bound, x) if bound.ndim <= 1 else bound.to(x)

        return fitted(self.lower), fitted(self.upper)

    def __repr__(self) -> str:
        def shown(bound: Tensor | None) -> str:
            if bound is None:
                return "None"
            return f"{float(bound):g}" if bound.numel() == 1 else f"{tuple(bound.shape)}"

        return f"Box({shown(self.lower)}, {shown(self.upper)})"


class NonNegative(Box):
    """``x >= 0``.

    >>> NonNegative().prox(torch.tensor([[[-1.0, 2.0]]]), 1.0)
    tensor([[[0., 2.]]])
    """

    def __init__(self) -> None:
        super().__init__(lower=0.0)

    def __repr__(self) -> str:
        return "NonNegative()"


def _bound(value: float | Tensor | None) -> Tensor | None:
    bound = None if value is None else torch.as_tensor(value, dtype=torch.float64)
    if bound is not None and bool(bound.isnan().any()):
        raise InputError("a bound must not be NaN")
    return bound


def check_real(x: Tensor) -> None:
    if x.is_complex():
        raise InputError("bounds need real images; complex numbers have no order")
