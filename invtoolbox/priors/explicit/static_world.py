"""A world that stands still: most of what a sensor sees does not move."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.smoothed_norm import huber
from invtoolbox.priors.flow_points import first_flow
from invtoolbox.scenes.vectors import length


class StaticWorld(ExplicitPrior):
    r"""``R(x) = 1/N sum_i w_i h(|x_i|)``, ``h(s) = s^2 / (2 threshold)`` up to the threshold and ``s - threshold / 2`` beyond.

    A mean over points, in metres, for flows from which the sensor's own motion has been taken: what stands still is held at
    zero, and what moves pays in proportion to its speed, not to the square of it. The flow norm of Floxels, with ``fade_to=0.1`` and
    ``fade_over=100``, holds still at first and then lets go.

    Args:
        weights: of each point, not negative, ``(N,)`` or ``(batch, N)``; or truth values, which points are said to stand. All alike
            where not given.
        threshold: metres.
        fade_to, fade_over: the whole falls evenly to this share of itself over as many iterations of the solver.

    >>> prior = StaticWorld(threshold=0.1)
    >>> prior.energy(torch.tensor([[[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]]]))  # (0 + 5 - 0.05) / 2
    tensor([2.4750])
    """

    is_convex = True
    is_smooth = True
    item_fields: ClassVar[tuple[str, ...]] = ("weights_of_points",)

    def __init__(
        self,
        weights: Tensor | None = None,
        threshold: float = 0.05,
        fade_to: float = 1.0,
        fade_over: int = 0,
    ) -> None:
        if not threshold > 0 or not fade_to >= 0 or fade_over < 0:
            raise InputError(
                "StaticWorld needs a positive threshold, and a fade_to and fade_over that are not negative; got "
                f"{threshold}, {fade_to} and {fade_over}"
            )
        if weights is not None and (weights.ndim not in (1, 2) or not bool((weights >= 0).all())):
            raise InputError(
                f"StaticWorld takes weights (N,) or (batch, N) that are not negative, got shape {tuple(weights.shape)}"
            )
        self.weights_of_points = (
            None if weights is None else torch.atleast_2d(weights).to(torch.float32)
        )
        self.threshold, self.fade_to, self.fade_over, self.share = (
            threshold,
            fade_to,
            fade_over,
            1.0,
        )

    def energy(self, x: Any) -> Tensor:
        weights = self.weights_of_points
        flow = first_flow(x, None if weights is None else weights.shape[1], repr(self))
        cost = huber(
            length(flow), torch.as_tensor(self.threshold, dtype=flow.dtype, device=flow.device)
        )
        return self.share * (cost if weights is None else weights.to(cost) * cost).mean(1)

    def at(self, iteration: int) -> Self:
        if not self.fade_over:
            return self
        other = copy.copy(self)
        other.share = 1.0 + (self.fade_to - 1.0) * min(iteration / self.fade_over, 1.0)
        return other

    def __repr__(self) -> str:
        return f"StaticWorld(threshold={self.threshold:g})"
