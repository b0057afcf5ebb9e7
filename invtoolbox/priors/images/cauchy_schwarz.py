"""Images whose values are few levels, which need not be known."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError, check_name
from invtoolbox.operators.base import expand, inner
from invtoolbox.priors.base import ExplicitPrior

#: Powers p and q of the two vectors ``x^p`` and ``x^q`` that are parallel for the levels.
_POWERS = {"binary": (2, 0), "one-sided": (2, 1), "ternary": (3, 1)}


class CauchySchwarz(ExplicitPrior):
    r"""Penalty on values that are not among a few levels, whose scale a the image decides itself.

    ``R(x) = min_c |x^p - c x^q|^2``, with powers per pixel, is the gap in the inequality of Cauchy
    and Schwarz for the vectors ``x^p`` and ``x^q``, divided by ``|x^q|^2``. It vanishes only if
    every value is a level:

    ==============  ===================  ===================================
    levels          allowed values       energy
    ==============  ===================  ===================================
    ``binary``      ``-a, a``            ``min_a sum (x^2 - a^2)^2``
    ``one-sided``   ``0, a``             ``min_a sum x^2 (x - a)^2``
    ``ternary``     ``-a, 0, a``         ``min_a sum x^2 (x^2 - a^2)^2``
    ==============  ===================  ===================================

    All pixels and channels of an item share a, ``level(x)``. The energy is smooth and not convex.
    The zero image has no energy, so the measurements must exclude it, and the result depends on the
    initial guess: that of another prior, such as total variation, or several random ones as a batch.

    Source: Taner, Wang and Studer, "Cauchy-Schwarz regularizers", ICLR 2025, arXiv:2503.01639. They
    take the gap without the division.

    Args:
        levels: ``"binary"``, ``"one-sided"`` or ``"ternary"``.

    >>> prior, x = CauchySchwarz("one-sided"), torch.tensor([[[0.0, 3.0, 3.0]], [[0.0, 1.0, 2.0]]])
    >>> prior.energy(x).round(decimals=4), prior.level(x).round(decimals=4)
    (tensor([0.0000, 0.8000]), tensor([3.0000, 1.8000]))
    """

    is_convex = False
    is_smooth = True

    def __init__(self, levels: Literal["binary", "one-sided", "ternary"] = "one-sided") -> None:
        check_name("levels", levels, _POWERS)
        self.levels = levels

    def level(self, x: Tensor) -> Tensor:
        """Return the level a that fits each item best, ``(batch,)``; 0 for the zero image.

        Args:
            x: real images, ``(batch, channel, *space)``.
        """
        c = self._parts(x)[2]
        # c is a for the powers (2, 1), and a^2 for (2, 0) and (3, 1).
        return c if self.levels == "one-sided" else c.sqrt()

    def energy(self, x: Tensor) -> Tensor:
        g, h, c = self._parts(x)
        # |x^p - c x^q|^2, equal to |g|^2 - <g, h>^2 / |h|^2, but without the cancellation.
        rest = g - expand(c, h) * h
        return inner(rest, rest)

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        # 2 (x^p - c x^q) (p x^(p-1) - c q x^(q-1)) with q = 0 or 1. The derivative in c vanishes,
        # because c is the minimum.
        (p, q), (g, h, c) = _POWERS[self.levels], self._parts(x)
        scale = expand(c, x)
        slope = p * x ** (p - 1) - (scale if q else 0.0)
        return 2 * (g - scale * h) * slope

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``x^p``, ``x^q`` and the minimizer c, ``(batch,)``."""
        if x.is_complex():
            raise InputError("CauchySchwarz takes real images, and this one is complex")
        p, q = _POWERS[self.levels]
        g, h = x**p, x**q
        squared = inner(h, h)
        # c = <x^p, x^q> / |x^q|^2, the projection of g onto h; 0 for the zero image.
        return (
            g,
            h,
            torch.where(squared > 0, inner(g, h), 0 * squared)
            / squared.clamp_min(torch.finfo(squared.dtype).tiny),
        )

    def __repr__(self) -> str:
        return f"CauchySchwarz({self.levels!r})"
