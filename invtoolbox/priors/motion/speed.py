"""Priors of speed and acceleration.

`StaticWorld` favors points at rest, `SpeedLimit` and `AccelerationLimit` bound the motion, and
`AlongField` applies a prior of flows to a field of flow, at the points of the sweeps.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import mean_items
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import length
from invtoolbox.geometry.sweeps import FlowField
from invtoolbox.priors.base import ExplicitPrior, Problem
from invtoolbox.priors.images.smoothed_norm import huber
from invtoolbox.priors.motion.flow_prior import FlowPrior, first_flow, sequence_of
from invtoolbox.priors.settings import replace, require_bound


class StaticWorld(ExplicitPrior):
    """Mean speed of the points, smoothed near rest: ``R(x) = 1/N sum_i w_i h(|x_i|)``.

    ``h(s) = s^2 / (2 threshold)`` up to the threshold and ``s - threshold / 2`` beyond. It is a
    mean over points, in metres, for flows without the sensor's own motion. Static points are held
    at zero; moving points cost in proportion to their speed, not to its square. The flow norm of
    Floxels is this prior with ``fade_to=0.1`` and ``fade_over=100``: it holds points at rest at
    first and then releases them. With a ``limit``, faster points are not slowed at all:
    ``h(min(|x_i|, limit))``. This is not convex and has a kink at the limit, where the slope falls
    to 0.

    Args:
        weights: weight of each point, not negative, ``(N,)`` or ``(batch, N)``, or truth values
            that mark static points; 1 by default.
        threshold: threshold of h, metres.
        fade_to: factor of the energy after ``fade_over`` iterations of the solver; it falls
            linearly.
        fade_over: number of iterations over which the energy falls; 0 keeps it.
        limit: speed beyond which h is constant, metres, at least the threshold; infinite by
            default.

    >>> flow = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]]])
    >>> StaticWorld(threshold=0.1).energy(flow)  # (0 + 5 - 0.05) / 2
    tensor([2.4750])
    >>> StaticWorld(threshold=0.1, limit=0.3).energy(flow)  # (0 + 0.3 - 0.05) / 2
    tensor([0.1250])
    """

    is_convex = True
    # Except at the limit. The kink points upwards, so descent does not stop at it.
    is_smooth = True
    item_fields: ClassVar[tuple[str, ...]] = ("weights_of_points",)

    def __init__(
        self,
        weights: Tensor | None = None,
        threshold: float = 0.05,
        fade_to: float = 1.0,
        fade_over: int = 0,
        limit: float = math.inf,
    ) -> None:
        check_range(self, "(0, inf]", threshold=threshold)
        check_range(self, "[0, inf]", fade_to=fade_to, fade_over=fade_over)
        if not limit >= threshold:
            raise InputError(
                "StaticWorld needs a limit that is not below the threshold, "
                f"got {limit} and {threshold}"
            )
        if weights is not None and (weights.ndim not in (1, 2) or not bool((weights >= 0).all())):
            raise InputError(
                "StaticWorld takes weights (N,) or (batch, N) that are not negative, "
                f"got shape {tuple(weights.shape)}"
            )
        self.weights_of_points = (
            None if weights is None else torch.atleast_2d(weights).to(torch.float32)
        )
        self.threshold, self.share = threshold, 1.0
        self.fade_to, self.fade_over = fade_to, fade_over
        self.limit, self.is_convex = limit, math.isinf(limit)

    def energy(self, x: Any) -> Tensor:
        weights = self.weights_of_points
        flow = first_flow(x, None if weights is None else weights.shape[1], repr(self))
        cost = huber(
            length(flow).clamp_max(self.limit),
            torch.as_tensor(self.threshold, dtype=flow.dtype, device=flow.device),
        )
        return self.share * (cost if weights is None else weights.to(cost) * cost).mean(1)

    def at(self, iteration: int) -> Self:
        if not self.fade_over:
            return self
        return replace(
            self, share=1.0 + (self.fade_to - 1.0) * min(iteration / self.fade_over, 1.0)
        )

    def __repr__(self) -> str:
        limit = "" if math.isinf(self.limit) else f", limit={self.limit:g}"
        return f"StaticWorld(threshold={self.threshold:g}{limit})"


class _Limit(ExplicitPrior):
    """Mean of ``r + r^2 / 2`` over vectors, r the excess of their length over the limit."""

    is_convex = True
    # Except for the corner at the limit, where the slope jumps to 1; descent reaches it from one
    # side only.
    is_smooth = True

    def __init__(self, limit: float) -> None:
        check_range(self, "[0, inf]", limit=limit)
        self.limit = float(limit)

    def _cost(self, vectors: Tensor) -> Tensor:
        beyond = (length(vectors) - self.limit).clamp_min(0)
        return mean_items(beyond + 0.5 * beyond.square())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.limit:g})"


class SpeedLimit(_Limit):
    """Limit of the distance that a point moves from one sweep to the next.

    ``R(x) = mean of r + r^2 / 2``, ``r = max(0, |x| - limit)``. It is a mean over all vectors of
    ``x`` ``(batch, ..., 3)``; if x has several parts, the mean over the parts. At ten sweeps per
    second 6 m is 216 km/h.

    Source: the speed term of Vedder et al., "Neural Eulerian scene flow fields", ICLR 2025.

    Args:
        limit: largest distance from one sweep to the next, metres.

    >>> SpeedLimit(4.0).energy(torch.tensor([[[0.0, 3.0, 4.0], [1.0, 0.0, 0.0]]]))  # (1 + 1/2) / 2
    tensor([0.7500])
    """

    def __init__(self, limit: float = 6.0) -> None:
        super().__init__(limit)

    def energy(self, x: Any) -> Tensor:
        flows = x if isinstance(x, tuple) else (x,)
        return torch.stack([self._cost(_vectors(flow, 3, repr(self))) for flow in flows]).mean(0)


class AccelerationLimit(_Limit):
    """Limit of the change of a flow from one sweep to the next.

    ``R(x) = mean of r + r^2 / 2``, ``r = max(0, |x_{t+1} - x_t| - limit)``, for flows of the same
    points. ``x`` is ``(batch, times, N, 3)``, or a tuple of flows ``(batch, N, 3)`` in the order of
    time.

    Args:
        limit: largest change of a flow from one sweep to the next, metres; at ten sweeps per
            second, 0.1 m is 10 m/s^2.

    >>> flows = torch.zeros(1, 3, 1, 3)  # one point at three times
    >>> flows[..., 0] = torch.tensor([0.0, 1.0, 3.0])[:, None]
    >>> AccelerationLimit(1.0).energy(flows)  # changes of 1 and 2
    tensor([0.7500])
    """

    def __init__(self, limit: float = 0.1) -> None:
        super().__init__(limit)

    def energy(self, x: Any) -> Tensor:
        flows = torch.stack(x, dim=1) if isinstance(x, tuple) else x
        if _vectors(flows, 4, repr(self)).shape[1] < 2:
            raise InputError(
                f"{self!r} compares flows from sweep to sweep, and there is one time only"
            )
        return self._cost(flows[:, 1:] - flows[:, :-1])


class AlongField(ExplicitPrior):
    """Prior of flows, summed over the sweeps of a sequence.

    ``R(F) = sum_t R_t(F(p_t, t, forward))`` at the points ``p_t`` of every sweep. It is for
    problems whose ``x`` is a `geometry.sweeps.FlowField`: rigidity, the static world and limits of
    speed then apply to the field. Every iteration evaluates some of the sweeps, in turn, and scales
    their energy to all of them.

    Args:
        prior: prior of a flow ``(batch, N, 3)``, such as `ARAP` or `StaticWorld`.
        sweeps: number of sweeps that an iteration evaluates.
    """

    def __init__(self, prior: ExplicitPrior, sweeps: int = 2) -> None:
        if not isinstance(prior, ExplicitPrior) or "energy" not in prior.offers:
            raise InputError(f"AlongField takes an explicit prior with an energy, got {prior!r}")
        check_range(self, "[1, inf)", sweeps=sweeps)
        self.prior, self.sweeps, self.first = prior, sweeps, 0
        self.is_smooth = prior.smooth
        self.priors: tuple[ExplicitPrior, ...] = ()
        self.points: tuple[Tensor, ...] = ()
        self.times: tuple[float, ...] = ()

    def prepare(self, problem: Problem, solve: Any) -> Self:
        points, times = sequence_of(problem, repr(self))
        return replace(
            self,
            points=points,
            times=times,
            priors=tuple(
                self.prior.bind(cloud) if isinstance(self.prior, FlowPrior) else self.prior
                for cloud in points
            ),
        )

    def at(self, iteration: int) -> Self:
        return replace(
            self,
            first=iteration * self.sweeps,
            priors=tuple(prior.at(iteration) for prior in self.priors),
        )

    def energy(self, x: Any) -> Tensor:
        require_bound(self, self.points)
        if not isinstance(x, FlowField):
            raise InputError(
                f"{self!r} takes a field of flow, as priors.SpaceTimeFlow() makes it, "
                f"got {type(x).__name__}"
            )
        count = len(self.points)
        turns = sorted({(self.first + k) % count for k in range(min(self.sweeps, count))})
        energies = [self.priors[k].energy(x.flow(self.points[k], self.times[k])) for k in turns]
        return count * torch.stack(energies).mean(0)

    def __repr__(self) -> str:
        return f"AlongField({self.prior!r})"


def _vectors(x: Any, axes: int, what: str) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim < axes or x.shape[-1] != 3:
        shape = "(batch, times, N, 3)" if axes == 4 else "(batch, N, 3)"
        raise InputError(
            f"{what} takes flows {shape}, "
            f"got {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}"
        )
    return x
