"""Bounds that follow from rays that miss an object: nothing absorbs along them."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.operators.tomography.support import ray_support
from invtoolbox.priors.base import Problem
from invtoolbox.priors.images.constraints import Box
from invtoolbox.priors.settings import replace

#: Number of views and cells whose mean decides whether a ray is empty.
_VIEWS, _CELLS = 5, 3


class TangentBound(Box):
    """Constraint ``x >= 0``, and ``x = 0`` where rays pass that nothing absorbs.

    What remains is bounded by the tangent rays of the object, which is its convex hull if views of
    all directions are measured. A ray is empty if the mean of the measurements around it, 5 views
    and 3 cells of the detector, is at most ``empty``. The mean contains a quarter of the noise and
    makes the hull a little wider, never narrower. Rays of weight 0 are not used.

    Args:
        empty: measurement up to which a ray is empty, a number or one value per item; about the
            standard deviation of the noise.

    Raises:
        InputError: in `prepare`, if the operator has no rays.

    >>> import invtoolbox as it
    >>> A = it.operators.ParallelBeam((8, 8), torch.linspace(0, 0.1, 5), 8)
    >>> x = torch.zeros(1, 1, 8, 8)
    >>> x[..., 3:5] = 1
    >>> bound = TangentBound(0.01).prepare(it.Problem(A(x), A), it.solve)
    >>> bound.prox(torch.ones(1, 1, 8, 8), 1.0)[0, 0, 3]
    tensor([0., 1., 1., 1., 1., 1., 1., 0.])
    """

    is_made_from_data = True
    item_fields = (*Box.item_fields, "empty")

    def __init__(self, empty: float | Tensor = 0.0) -> None:
        super().__init__(lower=0.0)
        check_range(self, "[0, inf)", empty=empty)
        self.empty = torch.as_tensor(empty, dtype=torch.float64)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        y, weights = problem.y0, getattr(problem.data_term, "weights", None)
        used = torch.ones_like(y) if weights is None else (weights.to(y) > 0).to(y).expand_as(y)
        if y.ndim >= 4:
            # The mean of the rays that are used; without any, there is no evidence of air.
            share = _local_mean(used)
            y = torch.where(share > 0, _local_mean(used * y) / share, torch.inf)
        y = torch.where(used > 0, y, torch.inf)
        inside = ray_support(problem.operator, y, self.empty.to(y))
        return replace(self, upper=torch.where(inside > 0, torch.inf, 0.0))

    def __repr__(self) -> str:
        levels = self.empty.flatten()
        return f"TangentBound({float(levels[0]) if len(levels) == 1 else tuple(levels.tolist())})"


def _local_mean(y: Tensor) -> Tensor:
    """Return means over views and cells next to each other, ``(batch, channel, view, *cells)``."""
    axes = y.ndim - 2
    size = (_VIEWS, *[_CELLS] * (axes - 1))
    size = tuple(min(n, m if m % 2 else m - 1) for n, m in zip(size, y.shape[2:]))
    pool = torch.nn.functional.avg_pool2d if axes == 2 else torch.nn.functional.avg_pool3d
    # Item by item, as the bits of a sum may depend on the number of items.
    half = [n // 2 for n in size]
    means = [
        pool(item[None], size, 1, half, count_include_pad=False)  # type: ignore[operator]
        for item in y
    ]
    return torch.cat(means)
