"""An operator behind random changes of the picture: augmentations, smoothing noise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.operators.base import Operator, Shape


class Augmented(Operator):
    """Predictions of randomly changed pictures: ``A(x)[:, :, k] = operator(change(x, draw_k))``.

    The misfit of all draws estimates its expectation over the changes, times the number of draws.
    The draws are the blocks of the measurements, so ``Adam(subset_size=8)`` takes 8 of them in
    every step. Random shifts and zooms keep the inversion of a classifier from adversarial noise (Ghiasi
    et al. 2022, Plug-In Inversion), and random noise smooths the classifier (Cohen et al. 2019).

    Args:
        operator: operator with one tensor of measurements, such as ``it.as_operator(network, ...)``.
        change: function of pictures ``(batch, channel, *space)`` and a `torch.Generator` on their
            device that returns changed pictures. It must not write to its argument, and its draws
            must not depend on the number of items.
        draws: number of draws.
        seed: seed of the draws; the k-th draw is a function of ``(seed, k)``.

    >>> import invtoolbox as it
    >>> def shift(x, generator):
    ...     steps = torch.randint(4, (1,), generator=generator, device=x.device)
    ...     return x.roll(int(steps), -1)
    >>> A = Augmented(it.operators.Identity((1, 4)), shift, draws=3)
    >>> A.range_shape, A(torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])).sum(-1)
    ((1, 3, 4), tensor([[[1., 1., 1.]]]))
    """

    def __init__(
        self,
        operator: Operator,
        change: Callable[[Tensor, Generator], Tensor],
        draws: int = 64,
        seed: int = 0,
    ) -> None:
        shape = operator.range_shape
        if shape and isinstance(shape[0], tuple):
            raise InputError(
                f"Augmented takes an operator with one tensor of measurements, and {operator} has "
                "a tuple; put the changes in front of its parts"
            )
        check_range(self, "[1, inf)", draws=draws)
        self.operator, self.change, self.seed = operator, change, seed
        self.drawn = tuple(range(draws))
        self.domain_shape, self.items = operator.domain_shape, operator.items
        self._set_range()

    @property
    def blocks(self) -> int:
        """Number of draws."""
        return len(self.drawn)

    def subset(self, index: Any) -> Operator:
        """Return the operator of some draws: ``A.subset(i)(x) = A(x)[:, :, i]``."""
        augmented = copy.copy(self)
        index = index.cpu() if isinstance(index, Tensor) else index
        augmented.drawn = tuple(torch.tensor(self.drawn)[index].reshape(-1).tolist())
        augmented._set_range()
        return augmented

    def parameters(self) -> dict[str, Tensor]:
        return self.operator.parameters()

    def select(self, index: Tensor) -> Self:
        return self._with_operator(self.operator.select(index))

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        return self._with_operator(self.operator._replace(parameters))

    def _with_operator(self, operator: Operator) -> Self:
        augmented = copy.copy(self)
        augmented.operator, augmented.items = operator, operator.items
        return augmented

    def _set_range(self) -> None:
        channels, *space = cast(Shape, self.operator.range_shape)
        self.range_shape = (channels, len(self.drawn), *space)

    def _forward(self, x: Tensor) -> Tensor:
        predictions = []
        for k in self.drawn:
            seed = (self.seed * 1_000_003 + k) % (1 << 62)
            generator = Generator(x.device).manual_seed(seed)
            predictions.append(self.operator(self.change(x, generator)))
        return torch.stack(predictions, 2)

    def __repr__(self) -> str:
        return f"Augmented({self.operator!r}, draws={len(self.drawn)})"
