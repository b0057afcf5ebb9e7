"""Least squares for Gaussian noise, and `Exact` for measurements that hold without noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.reductions import mean_items, sum_items
from invtoolbox.data_terms.base import DataTerm, ResidualTerm
from invtoolbox.operators.base import expand, item_norm


class LeastSquares(ResidualTerm):
    r"""Weighted sum of squares ``D(p, y) = 1/2 sum_i w_i |(p_i - y_i) / noise_std|^2``.

    Without ``noise_std``, ``D(p, y) = 1/2 sum_i w_i |p_i - y_i|^2``.

    Args:
        noise_std: standard deviation of the noise, in the units of ``y``; a number, or one number
            per item ``(batch,)``.
        weights: nonnegative weights that broadcast against ``y``, for example 0 for dead pixels.

    >>> term = LeastSquares(noise_std=0.5)
    >>> term.value(torch.ones(2, 1, 3), torch.zeros(2, 1, 3))
    tensor([6., 6.])
    """

    is_quadratic = True

    def weighted(self, residual: Tensor) -> Tensor:
        if self.weights is not None:
            residual = self.weights.to(residual.real.dtype) * residual
        return residual if self.noise_std is None else residual * self._precision(residual)

    def prox(self, prediction: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        t = expand(step, prediction) * self._precision(prediction)
        if self.weights is not None:
            t = t * self.weights.to(prediction.dtype)
        return prediction + (t / (1 + t)) * (y - prediction)

    def symbol(self, y: Tensor) -> tuple[Tensor, bool]:
        real = y.real
        precision = torch.ones([1] * y.ndim, dtype=real.dtype, device=y.device) * self._precision(
            real
        )
        if self.weights is None or self.weights_are_mask:
            return precision, True
        mean = mean_items(self.weights.to(real).expand_as(real))
        return precision * mean.view(-1, *[1] * (y.ndim - 1)), False

    def curvature(self, y: Tensor) -> Tensor:
        return self._scale_curvature(1.0, y)

    def expected_discrepancy(self, y: Tensor) -> Tensor | None:
        """Return ``sqrt(m)`` for m measurements; with weights, the square root of their sum."""
        if self.noise_std is None:
            return None
        if self.weights is None:
            count = torch.tensor([float(y.numel() // y.shape[0])])
        else:
            count = sum_items(self.weights.expand_as(y))
        # Complex noise has this level in its real and in its imaginary part.
        return (2 * count if y.is_complex() else count).sqrt().expand(y.shape[0]).to(y.device)

    def __repr__(self) -> str:
        return self._describe()


class Exact(DataTerm):
    r"""Constraint ``D(p, y) = 0`` if ``p = y``, and infinite otherwise.

    It serves handles that a user moves, and pixels that are known without noise. A prediction
    counts as equal within 8 units in the last place of the largest number of its item.

    >>> Exact().value(torch.tensor([[[1.0, 2.0]], [[1.0, 2.1]]]), torch.tensor([[[1.0, 2.0]]]))
    tensor([0., inf])
    """

    is_smooth = False
    is_of_residual = True

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        away = (prediction - y).abs().flatten(1).amax(1)
        size = torch.maximum(prediction.abs().flatten(1).amax(1), y.abs().flatten(1).amax(1))
        return torch.where(away <= 8 * torch.finfo(away.dtype).eps * size, 0.0, torch.inf).to(
            away.dtype
        )

    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Return 0, which is the gradient among the predictions that are equal."""
        return torch.zeros_like(prediction)

    def prox(self, prediction: Any, y: Any, step: float | Tensor) -> Any:
        """Return ``y``, expanded to the batch of the prediction."""
        return y.expand_as(prediction).clone()

    def discrepancy(self, prediction: Tensor, y: Tensor) -> Tensor:
        return item_norm(prediction - y)

    def __repr__(self) -> str:
        return "Exact()"
