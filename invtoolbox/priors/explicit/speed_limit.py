"""Limits of motion: how fast things go, and how suddenly they change their course."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.scenes.vectors import length


class _Limit(ExplicitPrior):
    """The mean of ``r + r^2 / 2`` over vectors, r by how much they are longer than the limit."""

    is_convex = True
    # But for the corner at the limit, where the slope sets in with 1; descent runs into it from one side only.
    is_smooth = True

    def __init__(self, limit: float) -> None:
        if not limit >= 0:
            raise InputError(f"the limit of {type(self).__name__} is not negative, got {limit}")
        self.limit = float(limit)

    def _cost(self, vectors: Tensor) -> Tensor:
        beyond = (length(vectors) - self.limit).clamp_min(0)
        return (beyond + 0.5 * beyond.square()).flatten(1).mean(1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.limit:g})"


class SpeedLimit(_Limit):
    r"""``R(x) = mean of r + r^2 / 2``, ``r = max(0, |x| - limit)``: nothing is faster than so many metres from sweep to sweep.

    A mean over all vectors of ``x`` ``(batch, ..., 3)``, and over those of each part where x has several. At ten sweeps a
    second 6 m is 216 km/h.

    Source: the speed term of Vedder et al., "Neural Eulerian scene flow fields", ICLR 2025.

    Args:
        limit: metres from one sweep to the next.

    >>> SpeedLimit(4.0).energy(torch.tensor([[[0.0, 3.0, 4.0], [1.0, 0.0, 0.0]]]))  # (1 + 1/2) / 2
    tensor([0.7500])
    """

    def __init__(self, limit: float = 6.0) -> None:
        super().__init__(limit)

    def energy(self, x: Any) -> Tensor:
        parts = x if isinstance(x, tuple) else (x,)
        return torch.stack([self._cost(_vectors(part, 3, repr(self))) for part in parts]).mean(0)


class AccelerationLimit(_Limit):
    r"""``R(x) = mean of r + r^2 / 2``, ``r = max(0, |x_{t+1} - x_t| - limit)``, for flows of the same points from sweep to sweep.

    Args:
        limit: by how many metres from one sweep to the next a flow may change; at ten sweeps a second, 0.1 m is 10 m/s^2.

    ``x`` is ``(batch, times, N, 3)``, or a tuple of flows ``(batch, N, 3)`` in the order of time.

    >>> flows = torch.tensor([0.0, 1.0, 3.0])[None, :, None, None] * torch.tensor([1.0, 0.0, 0.0])  # of one point
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


def _vectors(x: Any, axes: int, what: str) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim < axes or x.shape[-1] != 3:
        wanted = "(batch, times, N, 3)" if axes == 4 else "(batch, N, 3)"
        raise InputError(
            f"{what} takes flows {wanted}, got {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}"
        )
    return x
