"""An object of one material: its two levels, and the support that tangent rays leave."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.operators.tomography.support import disc_support, ray_support
from invtoolbox.priors.base import ExplicitPrior, Problem
from invtoolbox.priors.images.constraints import Box
from invtoolbox.priors.settings import check_real, replace


class TwoLevel(ExplicitPrior):
    r"""Values at one of two levels, between bounds and inside a support.

    .. math:: R(x) = \frac{1}{high - low} \sum_i (x_i - low) (high - x_i)
              \qquad low \le x_i \le high, \quad x_i = low \text{ outside of the support},

    and infinite elsewhere. R is 0 if every value is at a level. This concave penalty is the
    relaxation of discrete tomography by Schüle, Schnörr, Weber and Hornegger (Discrete Appl. Math.
    151, 2005). It has local minima, so it grows with the iterations: its factor at iteration k is
    ``min(1, k / warm_up)^2``, and the first iterations find the solution of the bounds alone. Give
    the solver a small tolerance, so that it does not stop before. The objective in the history
    changes as the factor grows.

    Args:
        high: upper level, a number above ``low``.
        low: lower level.
        support: "disc" for the disc that fits the tangent rays (`disc_support`), "rays" for the
            pixels without empty rays (`ray_support`), None for the whole image.
        empty: measurement up to which a ray is empty, about six times the noise; for a support.
        warm_up: number of iterations over which the penalty grows.

    Raises:
        InputError: if ``high`` is not above ``low``, for another support, for a support without
            ``empty``, and in `prepare` if the operator has no rays.

    >>> TwoLevel(1.0).energy(torch.tensor([[[0.0, 0.5, 1.0]]]))
    tensor([0.2500])
    >>> TwoLevel(1.0).prox(torch.tensor([[[-1.0, 0.4, 0.7]]]), 0.25)
    tensor([[[0.0000, 0.3000, 0.9000]]])
    """

    is_convex = False
    is_made_from_data = True
    is_smooth = False
    item_fields: ClassVar[tuple[str, ...]] = ("inside",)

    def __init__(
        self,
        high: float,
        low: float = 0.0,
        support: Literal["disc", "rays"] | None = None,
        empty: float | None = None,
        warm_up: int = 0,
    ) -> None:
        if not low < high:
            raise InputError(
                f"the upper level of TwoLevel must be above the lower one, got {high} and {low}"
            )
        check_choice(self, ("disc", "rays", None), support=support)
        if support is not None and empty is None:
            raise InputError(
                "the support of TwoLevel needs empty=, the measurement up to which a ray is empty; "
                "about six times the noise"
            )
        check_range(self, "[0, inf)", warm_up=warm_up)
        self.high, self.low, self.support, self.empty = float(high), float(low), support, empty
        self.warm_up, self.factor = int(warm_up), 1.0
        #: 1 inside the support, ``(batch, 1, *space)``; None before `prepare`.
        self.inside: Tensor | None = None

    def prepare(self, problem: Problem, solve: Any) -> Self:
        if self.support is None or self.empty is None:
            return self
        find = disc_support if self.support == "disc" else ray_support
        return replace(self, inside=find(problem.operator, problem.y, self.empty))

    def at(self, iteration: int) -> Self:
        if not self.warm_up:
            return self
        # The weight of the penalty grows from 0 like a parabola.
        return replace(self, factor=min(1.0, iteration / self.warm_up) ** 2)

    def energy(self, x: Tensor) -> Tensor:
        check_real(x)
        # Clamped, because the bounds hold to rounding only and the parabola is negative outside.
        between = x.clamp(self.low, self.high)
        excess = (between - self.low) * (self.high - between) / (self.high - self.low)
        return self.factor * sum_items(excess) + self._bounds(x).energy(x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Return ``argmin_u R(u) + |u - x|^2 / (2 step)``, value by value.

        If ``step`` is at least half the distance of the levels, the function of u is concave, and
        the nearer level is its minimizer.
        """
        check_real(x)
        # step times the second derivative of R(u) + |u - x|^2 / (2 step).
        curvature = 1 - 2 * self.factor * expand(step, x) / (self.high - self.low)
        middle = (self.low + self.high) / 2
        # u = x + factor step (2 u - low - high) / (high - low) between the levels, so u - middle is
        # (x - middle) / curvature. A tiny curvature in place of one <= 0 sends u to the nearer level,
        # and from the middle itself, where the function has its maximum, to the upper level.
        away = torch.where((curvature <= 0) & (x == middle), 1.0, x - middle)
        u = middle + away / torch.where(curvature > 0, curvature, torch.finfo(x.dtype).tiny)
        return self._bounds(x).prox(u.clamp(self.low, self.high), 1.0)

    def _bounds(self, like: Tensor) -> Box:
        # Outside of the support both bounds are low.
        if self.inside is None:
            return Box(self.low, self.high)
        return Box(self.low, self.low + (self.high - self.low) * self.inside.to(like))

    def __repr__(self) -> str:
        support = "" if self.support is None else f", support={self.support!r}, empty={self.empty}"
        warm_up = f", warm_up={self.warm_up}" if self.warm_up else ""
        return f"TwoLevel({self.high:g}, low={self.low:g}{support}{warm_up})"
