"""Misfit of one-sided differences, of which only the more plausible side has to hold."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError
from invtoolbox.operators.base import inner


class Bilateral(DataTerm):
    r"""Bilaterally weighted squares of one-sided differences (Cao et al., ECCV 2022).

    The channels of a prediction p are pairs: the difference to the next pixel and to the pixel
    before, as `operators.NormalIntegration` computes them. Of each pair, the smaller difference
    counts more, because a surface is at least continuous on one side of a pixel::

        w_next = sigmoid(k (p_before^2 - p_next^2)),      w_before = 1 - w_next
        D(p, y) = 1/2 <p - y, w (p - y)>

    k = 0 is least squares, which smooths depth discontinuities. The weights are no derivative of an
    energy: `grad` holds them fixed, as the method does, and is not the slope of `value`. Take
    `solvers.Reweighted`.

    Args:
        k: sharpness, in inverse squares of the unit of the predictions. 2 is the authors' value for
            depths in pixels, and for perspective depths.

    >>> term = Bilateral(k=2.0)
    >>> p, y = torch.tensor([[[5.0], [0.5]]]), torch.full((1, 2, 1), 0.5)
    >>> term.residual_weights(p, y).squeeze().round()  # a jump to the next pixel
    tensor([0., 1.])
    """

    is_convex: ClassVar[bool] = False  # type: ignore[misc]

    def __init__(self, k: float = 2.0) -> None:
        check_range(self, "[0, inf)", k=k)
        self.k = float(k)

    def residual_weights(self, prediction: Tensor, y: Tensor) -> Tensor:
        if prediction.shape[1] % 2:
            raise InputError(
                "Bilateral takes pairs of one-sided differences as channels, got "
                f"{prediction.shape[1]} channels"
            )
        next_, before = prediction.unflatten(1, (-1, 2)).unbind(2)
        w = torch.sigmoid(self.k * (before.square() - next_.square()))
        return torch.stack([w, 1 - w], 2).flatten(1, 2)

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        residual = prediction - y
        return 0.5 * inner(residual, self.residual_weights(prediction, y) * residual)

    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Compute ``w (p - y)``, with the weights held fixed."""
        return self.residual_weights(prediction, y) * (prediction - y)

    def __repr__(self) -> str:
        return f"Bilateral(k={self.k:g})"
