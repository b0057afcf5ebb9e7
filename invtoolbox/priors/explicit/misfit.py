"""A misfit as a prior: measurements of another kind than those of the problem, or of other places."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from invtoolbox.priors.base import ExplicitPrior

if TYPE_CHECKING:
    from invtoolbox.data_terms.base import DataTerm


class Misfit(ExplicitPrior):
    r"""``R(p) = D(p, y)``, D a data term; through another operator, ``Misfit(y, D) @ A``, a further misfit ``D(A(x), y)`` with a weight.

    Where stacked operators and `data_terms.Stack` predict everything in every step, this one may look at blocks of its own
    (``ThroughOperator(Misfit(depths, D), A, subset_size=16)``): depths of patches beside the colours of single rays. The misfit of some
    of the blocks counts in proportion for all of them.

    Args:
        y: measurements of an operator, ``(1 or batch, *range_shape)``.
        data_term: how they differ from the prediction.

    >>> import torch
    >>> import invtoolbox as it
    >>> prior = Misfit(torch.tensor([[[1.0, 2.0]]]), it.data_terms.LeastSquares())
    >>> prior.energy(torch.zeros(2, 1, 2))
    tensor([2.5000, 2.5000])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("y", "data_term")

    def __init__(self, y: Tensor, data_term: DataTerm) -> None:
        data_term.check(y)
        self.y, self.data_term, self.share = y, data_term, 1.0
        self.is_convex, self.is_smooth = data_term.is_convex, data_term.is_smooth

    def energy(self, x: Any) -> Tensor:
        # One measurement may serve all items; data terms take as many as there are predictions.
        return self.data_term.value(x, self.y.expand(len(x), *self.y.shape[1:])) / self.share

    def subset(self, index: Any) -> Self:
        other = copy.copy(self)
        other.y, other.data_term = self.y[:, :, index], self.data_term.subset(index, self.y)
        other.share = self.share * other.y.shape[2] / self.y.shape[2]
        return other

    def at(self, iteration: int) -> Self:
        other = copy.copy(self)
        other.data_term = self.data_term.at(iteration)
        return other

    def __repr__(self) -> str:
        return f"Misfit({tuple(self.y.shape)}, {self.data_term!r})"
