"""Pairs for networks that reconstruct: measurements, and the image that they were taken of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import Operator
from invtoolbox.training.pairs import Crops


class MeasuredPairs(Crops):
    """Crops of images, turned and mirrored, of which ``A x + noise`` is shown, and x wanted.

    Args:
        images: ``(1, channel, rows, columns)``, of any sizes; larger ones are drawn from more often.
        operator: A, of square images; the crops are as large as what it takes.
        noise_std: of Gaussian noise, in the units of the measurements; complex measurements have it in both of their parts.

    >>> import invtoolbox as it
    >>> A = it.operators.Blur(torch.ones(3, 3) / 9, (8, 8))
    >>> pairs = MeasuredPairs([torch.rand(1, 1, 20, 30)], A, noise_std=0.01)
    >>> y, x = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> y.shape, round(float((y - A(x)).std()), 3)
    (torch.Size([4, 1, 8, 8]), 0.01)
    """

    def __init__(self, images: Sequence[Tensor], operator: Operator, noise_std: float) -> None:
        space = operator.domain_shape[1:]
        if len(space) != 2 or space[0] != space[1]:
            raise InputError(
                f"MeasuredPairs crops squares, and {operator} takes images of {' x '.join(map(str, space))}; for others "
                "write a Pairs with a draw of your own"
            )
        if not noise_std >= 0:
            raise InputError(
                f"MeasuredPairs needs a noise_std that is not negative, got {noise_std}"
            )
        super().__init__(images, int(space[0]))
        self.operator, self.noise_std = operator, noise_std

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = self._crops(count, generator)
        with torch.no_grad():
            y = self.operator(x)
        noise = torch.randn(
            (torch.view_as_real(y) if y.is_complex() else y).shape,
            generator=generator,
            dtype=x.dtype,
            device=x.device,
        )
        return y + self.noise_std * (torch.view_as_complex(noise) if y.is_complex() else noise), x

    def _settings(self) -> str:
        parts = ", ".join(
            f"{name} {float(value.detach().abs().double().sum()):.9g}"
            for name, value in self.operator.parameters().items()
        )
        return f"operator={self.operator} ({parts}), noise_std={self.noise_std:g}"
