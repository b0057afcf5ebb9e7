"""The least value along a line, for every item: a grid first, then golden sections around its best point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: The fraction of an interval at which golden sections look: ``(3 - sqrt 5) / 2``.
_FRACTION = 0.3819660112501051
#: A grid is continued this many points beyond its end, this many times, where the best point lies there.
_FURTHER, _EXTENSIONS = 2, 6

#: ``(positions (k, n), items (n,)) -> values (k, n)``.
Values = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Line:
    """Positions that were looked at, increasing, ``(looked at, batch)``; infinite with value infinity where one was not."""

    positions: Tensor
    values: Tensor
    best: Tensor  # (batch,)


def grid(values: Values, centre: Tensor, spacing: float, points: int) -> Line:
    """The values of ``points`` positions around ``centre (batch,)``, and of more where the least lies at an end.

    An item goes on by itself, so what it looks at does not depend on its company.
    """
    batch = len(centre)
    every = torch.arange(batch, device=centre.device)
    offsets = spacing * (
        torch.arange(points, dtype=centre.dtype, device=centre.device) - (points - 1) / 2
    )
    t = centre + offsets.unsqueeze(1)
    v = _finite(values(t, every)).to(t.dtype)
    for _ in range(_EXTENSIONS):
        last = t.isfinite().sum(0) - 1
        best = v.argmin(0)
        low, high = best == 0, best == last
        items = (low | high).nonzero().flatten()
        if not len(items):
            break
        steps = spacing * torch.arange(1, _FURTHER + 1, dtype=t.dtype, device=t.device).unsqueeze(1)
        ends = t.gather(0, last.unsqueeze(0)).squeeze(0)
        new = torch.where(low[items], t[0, items] - steps, ends[items] + steps)
        more_t, more_v = (
            torch.full((_FURTHER, batch), torch.inf, dtype=t.dtype, device=t.device)
            for _ in range(2)
        )
        more_t[:, items], more_v[:, items] = new, _finite(values(new, items)).to(t.dtype)
        t, v = _sorted(torch.cat([t, more_t]), torch.cat([v, more_v]))
    return Line(t, v, _best(t, v, centre))


def refine(values: Values, line: Line, steps: int) -> Line:
    """Golden sections around the best position of a line, ``steps`` of them for every item."""
    t, v = line.positions, line.values
    every = torch.arange(t.shape[1], device=t.device)
    last = t.isfinite().sum(0) - 1
    k = v.argmin(0)
    left, middle, right = (
        t.gather(0, j.unsqueeze(0)).squeeze(0)
        for j in ((k - 1).clamp_min(0), k, torch.minimum(k + 1, last))
    )
    least = v.gather(0, k.unsqueeze(0)).squeeze(0)
    for _ in range(steps):
        down = middle - left > right - middle
        new = torch.where(
            down, middle - _FRACTION * (middle - left), middle + _FRACTION * (right - middle)
        )
        found = _finite(values(new.unsqueeze(0), every)).squeeze(0).to(t.dtype)
        better = found < least
        # The new position becomes the middle where it is better, and an end of the interval where it is not.
        left = torch.where(better & ~down, middle, torch.where(~better & down, new, left))
        right = torch.where(better & down, middle, torch.where(~better & ~down, new, right))
        middle, least = torch.where(better, new, middle), torch.where(better, found, least)
        t, v = torch.cat([t, new.unsqueeze(0)]), torch.cat([v, found.unsqueeze(0)])
    t, v = _sorted(t, v)
    return Line(t, v, _best(t, v, line.best))


def _finite(values: Tensor) -> Tensor:
    return torch.where(values.isnan(), torch.inf, values)


def _best(t: Tensor, v: Tensor, otherwise: Tensor) -> Tensor:
    """The position of the least value; ``otherwise`` where none is finite."""
    best = t.gather(0, v.argmin(0, keepdim=True)).squeeze(0)
    return torch.where(v.isfinite().any(0), best, otherwise)


def _sorted(t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    order = t.argsort(dim=0, stable=True)
    return t.gather(0, order), v.gather(0, order)
