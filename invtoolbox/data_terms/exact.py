"""Measurements that hold exactly: a constraint in place of a misfit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.operators.base import item_norm


class Exact(DataTerm):
    r"""``D(p, y) = 0`` where ``p = y``, and infinite elsewhere: handles that a user moves, pixels that are known without noise.

    A prediction counts as equal within 8 units in the last place of the largest number of its item.

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
        """0, which it is among the predictions that are equal."""
        return torch.zeros_like(prediction)

    def prox(self, prediction: Any, y: Any, step: float | Tensor) -> Any:
        """``y``, expanded to the batch of the prediction."""
        return y.expand_as(prediction).clone()

    def discrepancy(self, prediction: Tensor, y: Tensor) -> Tensor:
        return item_norm(prediction - y)

    def __repr__(self) -> str:
        return "Exact()"
