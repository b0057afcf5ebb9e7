"""A free vector at every point: no prior at all, the control of those that are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.priors.implicit.point_flow import PointFlow


class FreeFlow(PointFlow):
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

    def initial(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(self._points()) for name in self._ways()}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Any:
        return (
            (parameters["forward"], parameters["backward"])
            if self.both_ways
            else parameters["forward"]
        )
