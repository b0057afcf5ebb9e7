"""What implicit priors of the flow of points have in common."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.flow_points import flow_points

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class PointFlow(ImplicitPrior):
    """A prior of the flow of a problem's points: forward, or forward and backward under `operators.PointWarpBothWays`."""

    item_fields: ClassVar[tuple[str, ...]] = ("points",)
    points: Tensor | None = None  # ``(1 or batch, N, 3)``, once a problem is known
    both_ways: bool = False

    def prepare(self, problem: Problem, solve: Any) -> Self:
        bound = copy.copy(self)
        bound.points, bound.both_ways = (
            flow_points(problem, repr(self)),
            isinstance(problem.operator.domain_shape[0], tuple),
        )
        return bound

    def _ways(self) -> tuple[str, ...]:
        return ("forward", "backward") if self.both_ways else ("forward",)

    def _points(self) -> Tensor:
        if self.points is None:
            raise InputError(f"{self!r} must be prepared with a problem first; it.solve does so")
        return self.points
