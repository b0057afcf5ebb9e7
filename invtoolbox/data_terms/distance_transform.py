"""Mean distance of predicted points to measured points, interpolated in a grid of distances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.core.constants import is_equal
from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.chamfer import PointSetTerm
from invtoolbox.errors import InputError
from invtoolbox.kernels.points.distance_field import (
    Field,
    distance_field,
    grid_shape,
    interpolate,
    value_and_slope,
)

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class _Grid:
    """Measured points, float32, and their distance field.

    This is not a dataclass, because `Settings.to` would change its precision.
    """

    def __init__(self, points: Tensor, field: Field) -> None:
        self.points, self.field = points, field


class DistanceTransform(PointSetTerm):
    r"""Mean distance of the predicted points P to the nearest measured points Q, read from a grid.

    .. math:: \frac{1}{|P|} \sum_{p \in P} t(D(p)), \qquad D(p) \approx \min_{q \in Q} |p - q|

    with t(d) = d for d below the truncation and 0 beyond it. This is the data term of Li et al.,
    "Fast neural scene flow" (ICCV 2023): the grid is computed once, and an iteration costs an
    interpolation. The distance is one way only, so points of Q may stay without a partner.

    The nodes hold the distance to the points at their true places (exact near them, see
    `kernels.distance_field`), and between nodes it is trilinear. So near an isolated point D is too
    large by up to half a cell's diagonal (0.087 m for 0.1 m), and on surfaces by about a quarter of
    a cell. The grid covers Q and a margin. Beyond it, D is the value at the nearest place of the
    grid plus the distance to that place, so the gradient leads back. The prediction is
    ``(batch, N, 3)``, the measurements are ``(batch or 1, M, 3)``, in metres.

    Args:
        cell: distance between two nodes, metres.
        margin: distance by which the grid reaches beyond the measured points, metres.
        truncation: largest distance that counts, metres; None for no truncation.
        budget: largest memory of the grids of all items together, gigabytes; half as much again is
            needed while they are computed.

    Raises:
        InputError: if the grid would be larger than the budget.

    >>> Q = torch.zeros(1, 1, 3)
    >>> DistanceTransform().value(torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.3, 0.0]]]), Q)
    tensor([0.4000])
    """

    is_smooth = True  # almost everywhere, like `Chamfer`
    item_fields: ClassVar[tuple[str, ...]] = ("_grids",)
    _grids: tuple[_Grid, ...] = ()

    def __init__(
        self,
        cell: float = 0.1,
        margin: float = 1.0,
        truncation: float | None = None,
        budget: float = 1.0,
    ) -> None:
        check_range(self, "(0, inf]", cell=cell, budget=budget, truncation=truncation)
        check_range(self, "[0, inf]", margin=margin)
        self.cell, self.margin, self.truncation, self.budget = cell, margin, truncation, budget

    # -- value and gradient ------------------------------------------------------------------------

    def value(self, prediction: Any, y: Any) -> Tensor:
        fields = self._fields(y)
        distances = torch.stack(
            [interpolate(fields[min(k, len(y) - 1)], points) for k, points in enumerate(prediction)]
        )
        return self._truncate(distances, distances).mean(1)

    def grad(self, prediction: Any, y: Any) -> Tensor:
        return self.value_and_grad(prediction, y)[1]

    def value_and_grad(self, prediction: Any, y: Any) -> tuple[Tensor, Tensor]:
        fields = self._fields(y)
        items = [
            value_and_slope(fields[min(k, len(y) - 1)], points)
            for k, points in enumerate(prediction)
        ]
        distances, slopes = (torch.stack(column) for column in zip(*items))
        value = self._truncate(distances, distances).mean(1)
        return value, self._truncate(slopes, distances[..., None]) / prediction.shape[1]

    def _truncate(self, values: Tensor, distances: Tensor) -> Tensor:
        return (
            values
            if self.truncation is None
            else torch.where(distances >= self.truncation, torch.zeros_like(values), values)
        )

    # -- the grids ---------------------------------------------------------------------------------

    def _fields(self, y: Tensor) -> list[Field]:
        """Return the grids that `prepare` computed for these measurements, or new grids."""

        def stored(k: int) -> Field | None:
            grid = self._grids[k] if k < len(self._grids) else None
            fits = (
                grid is not None
                and grid.points.device == y.device
                and is_equal(grid.points, y[k].float())
            )
            return grid.field if grid is not None and fits else None

        fields = [stored(k) for k in range(len(y))]
        if any(field is None for field in fields):
            self._check_size(y)
        return [
            distance_field(y[k].float(), self.cell, self.margin) if field is None else field
            for k, field in enumerate(fields)
        ]

    def _check_size(self, y: Tensor) -> None:
        shapes = [grid_shape(points, self.cell, self.margin) for points in y]
        size = 4e-9 * sum(x * y * z for x, y, z in shapes)
        if size > self.budget:
            largest = " x ".join(map(str, max(shapes)))
            per_item = f" for each of {len(shapes)} items" if len(shapes) > 1 else ""
            affordable = self.cell * (size / self.budget) ** (1 / 3) * 1.02
            raise InputError(
                f"{self!r}: a grid of {largest} nodes{per_item} takes {size:.1f} GB, and the budget is "
                f"{self.budget:g} GB; crop the points, or take a cell of {affordable:.2g} m, or raise "
                "the budget"
            )

    def prepare(self, problem: Problem, solve: Any) -> Self:
        y = problem.y0
        grids = (_Grid(points.float(), field) for points, field in zip(y, self._fields(y)))
        return self._replace(_grids=tuple(grids))

    def check(self, y: Any) -> None:
        self._check_size(y)

    def __repr__(self) -> str:
        return (
            f"DistanceTransform(cell={self.cell:g}, margin={self.margin:g}, "
            f"truncation={self.truncation})"
        )
