"""Priors that compare the unknown with data: a second misfit, and an image that is already known.

`Misfit` adds measurements of another kind or place to a problem. `PriorImage` applies a prior to
the difference from a reference image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator
from invtoolbox.priors.base import ExplicitPrior, Problem
from invtoolbox.priors.composed import PriorWrapper
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.priors.settings import replace

if TYPE_CHECKING:
    from invtoolbox.data_terms.base import DataTerm


class Misfit(ExplicitPrior):
    """Misfit of further measurements as a prior: ``R(p) = D(p, y)``, D a data term.

    Through another operator, ``Misfit(y, D) @ A``, it is a further misfit ``D(A(x), y)`` with a
    weight of its own.

    Stacked operators and `data_terms.Stack` predict all measurements in every step. This prior may
    use blocks of its own (``ThroughOperator(Misfit(depths, D), A, subset_size=16)``), for example
    depths of patches together with the colors of single rays. The misfit of a subset of the blocks
    is scaled up to estimate the misfit of all of them.

    Args:
        y: measurements of an operator, ``(1 or batch, *range_shape)``.
        data_term: misfit between the prediction and y.

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
        # One measurement may serve all items, but data terms need one per prediction.
        return self.data_term.value(x, self.y.expand(len(x), *self.y.shape[1:])) / self.share

    def subset(self, index: Any) -> Self:
        y, data_term = self.y[:, :, index], self.data_term.subset(index, self.y)
        # D of the subset, over its share of the measurements, estimates D of all of them.
        share = self.share * y.shape[2] / self.y.shape[2]
        return replace(self, y=y, data_term=data_term, share=share)

    def at(self, iteration: int) -> Self:
        return replace(self, data_term=self.data_term.at(iteration))

    def __repr__(self) -> str:
        return f"Misfit({tuple(self.y.shape)}, {self.data_term!r})"


class PriorImage(PriorWrapper, ExplicitPrior):
    """Prior of the difference from a known image: ``R(x) = prior(x - reference)``.

    The prior is any explicit prior. The reference may be an earlier scan, a planning CT, another
    contrast or an atlas. Prior-image constrained compressed sensing (PICCS; Chen, Tang & Leng, Med.
    Phys. 35, 2008) is the sum ``alpha * PriorImage(x0) + (1 - alpha) * TotalVariation()``.

    It offers what the inner prior offers, shifted: the prox is ``reference + prox(x - reference)``,
    and if the prior splits as ``F(K x)``, this one splits as ``F(K x - K reference)``.

    Args:
        reference: known image, ``(batch or 1, channel, *space)``.
        prior: explicit prior of the difference; total variation by default.

    >>> import torch
    >>> from invtoolbox.priors import L1
    >>> prior = PriorImage(torch.full((1, 1, 3), 2.0), L1())
    >>> prior.prox(torch.tensor([[[0.0, 2.5, 5.0]]]), 1.0)
    tensor([[[1., 2., 4.]]])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("reference",)

    def __init__(self, reference: Tensor, prior: ExplicitPrior | None = None) -> None:
        self.reference, self.prior = reference, prior if prior is not None else TotalVariation()
        if not isinstance(reference, Tensor) or not bool(reference.isfinite().all()):
            raise InputError("the reference of PriorImage is an image with finite values")
        if not isinstance(self.prior, ExplicitPrior):
            raise InputError(
                f"PriorImage takes one explicit prior, got {prior!r}; add several of them for a sum"
            )
        # A shift changes none of these.
        self.is_convex, self.is_smooth = self.prior.is_convex, self.prior.smooth
        self.is_constraint = self.prior.is_constraint
        self.has_exact_prox = self.prior.has_exact_prox

    def energy(self, x: Tensor) -> Tensor:
        return self.prior.energy(x - self._reference(x))

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.prior.gradient(x - self._reference(x), generator)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        reference = self._reference(x)
        # u = reference + v turns |u - x|^2 into |v - (x - reference)|^2.
        return reference + self.prior.prox(x - reference, step)

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        # F(K (x - reference)) = F(K x - K reference).
        K, F = self.prior.split()
        return K, PriorImage(K(self.reference), F)

    def quadratic(self) -> tuple[LinearOperator | None, Tensor | None]:
        # 1/2 |L (x - reference) - b|^2 = 1/2 |L x - (b + L reference)|^2.
        L, b = self.prior.quadratic()
        # None is the identity for L, and 0 for b.
        shift = self.reference if L is None else L(self.reference)
        return L, shift if b is None else b + shift

    @property
    def offers(self) -> frozenset[str]:
        return self.prior.offers & {"energy", "gradient", "prox", "split", "quadratic"}

    def prepare(self, problem: Problem, solve: Any) -> Self:
        shape = problem.image_shape
        if tuple(self.reference.shape[1:]) != tuple(shape) or self.reference.shape[0] not in (
            1,
            problem.batch,
        ):
            items = f"{'1 or ' if problem.batch > 1 else ''}{problem.batch}"
            raise InputError(
                f"the reference of PriorImage has the shape {tuple(self.reference.shape)}, "
                f"expected ({items}, {', '.join(map(str, shape))})"
            )
        return super().prepare(problem, solve)

    def _reference(self, like: Tensor) -> Tensor:
        return self.reference.to(device=like.device, dtype=like.dtype)

    def __repr__(self) -> str:
        return f"PriorImage(..., {self.prior!r})"
