"""Cross-entropy of classes, for operators that are classifiers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.reductions import sum_items
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError

#: Largest distance from 1 of the sum of an item's probabilities.
_SUM_TOLERANCE = 1e-3


class CrossEntropy(DataTerm):
    r"""Cross-entropy ``D(p, y) = -sum_k y_k log softmax(p)_k + sum_k y_k log y_k``.

    ``p`` are the outputs of a classifier before the softmax (logits), and ``y`` probabilities of
    the classes: 1 for the wanted class and 0 for the others, or anything between. The classes are
    the channel axis, and the term adds up all positions behind it. The second sum is 0 for a wanted
    class, and otherwise makes the term vanish if ``softmax(p) = y`` (Kullback-Leibler divergence).

    >>> import torch
    >>> wanted = torch.nn.functional.one_hot(torch.tensor([2]), 3).float()
    >>> CrossEntropy().value(torch.zeros(1, 3), wanted)  # log 3
    tensor([1.0986])
    """

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        entropy = sum_items(torch.special.entr(y))
        # A class of probability 0 adds 0, also if its output is -inf.
        shares = torch.where(y > 0, y * prediction.log_softmax(1), 0.0)
        return -sum_items(shares) - entropy

    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        return prediction.softmax(1) * y.sum(1, keepdim=True) - y

    def curvature(self, y: Tensor) -> Tensor:
        """Return 1/2, the largest eigenvalue that the Hessian can have (Boehning 1992)."""
        return 0.5 * y.sum(1).reshape(len(y), -1).amax(1)

    def check(self, y: Any) -> None:
        if isinstance(y, tuple) or y.is_complex():
            raise InputError("CrossEntropy takes one tensor of real probabilities")
        wrong = (y < 0).any(1) | ((y.sum(1) - 1).abs() > _SUM_TOLERANCE)
        if bool(wrong.any()):
            raise InputError(
                "CrossEntropy takes probabilities of the classes, which are not negative and add "
                f"up to 1 along the channel axis, and {int(wrong.sum())} of {wrong.numel()} places "
                "do not; make them of labels by torch.nn.functional.one_hot(labels, classes)"
            )

    def __repr__(self) -> str:
        return "CrossEntropy()"
