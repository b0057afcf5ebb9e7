"""A free vector at every point: no prior at all, the control of those that are."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.flow_points import flow_points

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class FreeFlow(ImplicitPrior):
    """Every point has a flow of its own, from 0: ``x = z``, or ``x = (z_forward, z_backward)`` under `operators.PointWarpBothWays`.

    It reaches a lower misfit than any prior, because points move onto their nearest neighbours, which is not where they went. Under
    explicit priors of motion (rigidity of neighbourhoods) it is a parametrisation as good as others.

    >>> import invtoolbox as it
    >>> points = torch.rand(1, 5, 3)
    >>> problem = it.Problem(points + 0.01, it.operators.PointWarp(points), it.data_terms.Chamfer())
    >>> solution = it.solve(problem, FreeFlow(), it.solvers.Adam(learning_rate=1e-3), max_iterations=100, progress=False)
    >>> bool(((solution.x - 0.01).abs() < 2e-3).all())
    True
    """

    item_fields: ClassVar[tuple[str, ...]] = ("points",)

    def __init__(self) -> None:
        self.points: Tensor | None = None
        self.both_ways = False

    def prepare(self, problem: Problem, solve: Any) -> Self:
        bound = copy.copy(self)
        bound.points, bound.both_ways = flow_points(problem, repr(self)), isinstance(problem.operator.domain_shape[0], tuple)
        return bound

    def initial(self) -> dict[str, Tensor]:
        if self.points is None:
            raise InputError("FreeFlow must be prepared with a problem first; it.solve does so")
        names = ("forward", "backward") if self.both_ways else ("forward",)
        return {name: torch.zeros_like(self.points) for name in names}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Any:
        return (parameters["forward"], parameters["backward"]) if self.both_ways else parameters["forward"]
