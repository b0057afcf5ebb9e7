"""No measurement at all: for what priors alone decide, such as a scene that is edited by score distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.operators.base import Operator
from invtoolbox.tree import tree_leaves


class NoMeasurement(Operator):
    """``A(x)``: nothing, ``(batch, 1, 0)``, of any x; its misfit is 0. The problem is ``Problem(A.measurements(batch), A)``.

    Args:
        domain_shape: of x, where it is an image; scenes have none.

    >>> import invtoolbox as it
    >>> A = NoMeasurement((1, 2, 2))
    >>> problem = it.Problem(A.measurements(), A)
    >>> known = it.priors.Gaussian(torch.full((1, 2, 2), 0.3), 1.0)
    >>> it.solve(problem, 1.0 * known, it.solvers.Adam(learning_rate=0.1), max_iterations=200, progress=False).x.mean()
    tensor(0.3000)
    """

    def __init__(self, domain_shape: tuple[int, ...] = ()) -> None:
        self.domain_shape, self.range_shape = domain_shape, (1, 0)

    def measurements(self, batch: int = 1) -> Tensor:
        """Of so many items, ``(batch, 1, 0)``."""
        return torch.zeros(batch, *self.range_shape)

    def __call__(self, x: Any) -> Tensor:
        return self._forward(x)

    def _forward(self, x: Any) -> Tensor:
        # A part of x without an entry, so that it has a derivative like any prediction.
        leaf = next(
            leaf for _, leaf in tree_leaves(x) if leaf.is_floating_point() or leaf.is_complex()
        )
        return leaf.flatten(1)[:, None, :0]
