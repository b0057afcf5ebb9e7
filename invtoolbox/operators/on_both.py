"""Two scenes under one operator: what it predicts of each, side by side."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import _Combined
from invtoolbox.operators.base import Operator


class OnBoth(_Combined):
    """``A((x_1, x_2))``: the prediction of the first and behind it, along the channels, that of the second.

    For two models of one scene, `priors.GaussianPair`: measured once, predicted twice, `measurements` repeats what was measured. A subset
    is that of the same blocks for both.

    Args:
        operator: of one of them.

    >>> from invtoolbox.operators import Identity
    >>> A = OnBoth(Identity((1, 3)))
    >>> A((torch.zeros(1, 1, 3), torch.ones(1, 1, 3)))
    tensor([[[0., 0., 0.],
             [1., 1., 1.]]])
    >>> A.measurements(torch.zeros(1, 1, 3)).shape
    torch.Size([1, 2, 3])
    """

    def __init__(self, operator: Operator) -> None:
        super().__init__((operator,))
        self.channelwise = False
        self.domain_shape = ()

    @property
    def operator(self) -> Operator:
        """That of one of them."""
        return self.parts[0]

    @property
    def range_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        shape: Any = self.operator.range_shape
        return (2 * shape[0], *shape[1:])

    def __call__(self, x: Any) -> Tensor:
        first, second = self._pair(x)
        return torch.cat([self.operator(first), self.operator(second)], dim=1)

    def _forward(self, x: Any) -> Tensor:
        return self(x)

    def with_info(self, x: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Of both: the names begin with ``first.`` and ``second.``."""
        seen = [self.operator.with_info(part) for part in self._pair(x)]
        info = {
            f"{which}.{name}": value
            for which, (_, found) in zip(("first", "second"), seen)
            for name, value in found.items()
        }
        return torch.cat([prediction for prediction, _ in seen], dim=1), info

    def _pair(self, x: Any) -> tuple[Any, Any]:
        if not isinstance(x, tuple) or len(x) != 2:
            raise InputError(
                f"{self} takes two scenes, as priors.GaussianPair() makes them, got {type(x).__name__}"
            )
        return x

    def measurements(self, y: Tensor) -> Tensor:
        """Measurements of the one operator as this one predicts them."""
        return torch.cat([y, y], dim=1)

    @property
    def blocks(self) -> int | None:
        return self.operator.blocks

    def drawn(self, count: int, generator: Generator | None = None) -> Tensor:
        return self.operator.drawn(count, generator)

    def subset(self, index: Any) -> Self:
        other = copy.copy(self)
        other.parts = (self.operator.subset(index),)
        return other

    def __repr__(self) -> str:
        return f"OnBoth({self.operator})"
