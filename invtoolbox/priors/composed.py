"""Priors that contain another prior, behind a linear operator or any other."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self, cast

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import tree_leaves, tree_replace
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator
from invtoolbox.priors.base import ExplicitPrior, Prior, Problem
from invtoolbox.priors.settings import replace


class PriorWrapper(Prior):
    """A prior around another one, ``prior``, that passes `prepare`, `at` and `select` on to it."""

    prior: Any

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self._with(self.prior.prepare(problem, solve))

    def unbind(self) -> Self:
        return self._with(self.prior.unbind())

    def at(self, iteration: int) -> Self:
        return self._with(self.prior.at(iteration))

    def select(self, index: Tensor) -> Self:
        return super().select(index)._with(self.prior.select(index))

    def _with(self, prior: Any) -> Self:
        return replace(self, prior=prior)


class ComposedPrior(PriorWrapper, ExplicitPrior):
    """``R(K x)``: a prior of the image behind a linear operator."""

    item_fields: ClassVar[tuple[str, ...]] = ("operator",)

    def __init__(self, prior: ExplicitPrior, operator: LinearOperator) -> None:
        self.prior, self.operator = prior, operator
        self.is_convex, self.is_smooth = prior.is_convex, prior.smooth

    def energy(self, x: Tensor) -> Tensor:
        return self.prior.energy(self.operator(x))

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.operator.adjoint(self.prior.gradient(self.operator(x), generator))

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        if "prox" in self.prior.offers:
            return self.operator, self.prior
        inner, simple = self.prior.split()
        return cast(LinearOperator, inner @ self.operator), simple

    def quadratic(self) -> tuple[LinearOperator | None, Tensor | None]:
        inner, target = self.prior.quadratic()
        composed = self.operator if inner is None else inner @ self.operator
        return cast(LinearOperator, composed), target

    @property
    def offers(self) -> frozenset[str]:
        inner = self.prior.offers
        composed = inner & {"energy", "gradient", "quadratic"}
        return composed | {"split"} if inner & {"prox", "split"} else composed

    def __repr__(self) -> str:
        return f"{self.prior!r} @ {self.operator!r}"


class LearnedWeight(PriorWrapper, ExplicitPrior):
    """``w R(x)``, a prior whose weight w is a parameter that `training.learn_prior` learns.

    The parameter is ``log w``, so w stays positive. A sum of such priors learns one weight per term.

    Args:
        prior: R; smooth if the weight is to be learned, such as `HuberTV` or `Tikhonov`.
        weight: first value of w.

    Raises:
        InputError: The weight is not positive, or the prior has neither an energy nor a gradient.

    >>> import invtoolbox as it
    >>> prior = LearnedWeight(it.priors.Tikhonov(), weight=3.0)
    >>> prior.energy(torch.ones(1, 1, 2)), it.priors.Tikhonov().energy(torch.ones(1, 1, 2))
    (tensor([3.], grad_fn=<MulBackward0>), tensor([1.]))
    """

    def __init__(self, prior: ExplicitPrior, weight: float = 1.0) -> None:
        check_range(self, "(0, inf)", weight=weight)
        if not {"energy", "gradient"} & prior.offers:
            raise InputError(
                f"{prior!r} has neither an energy nor a gradient, so no weight of it can be learned"
            )
        self.prior, self.log_weight = prior, nn.Parameter(torch.tensor(math.log(weight)))
        self.is_convex, self.is_smooth = prior.is_convex, prior.smooth
        self.gradient_has_graph = prior.gradient_has_graph

    @property
    def weight(self) -> Tensor:
        """Weight w, a tensor without axes."""
        return self.log_weight.exp()

    def energy(self, x: Tensor) -> Tensor:
        return self.weight * self.prior.energy(x)

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.weight * self.prior.gradient(x, generator)

    @property
    def offers(self) -> frozenset[str]:
        return self.prior.offers & {"energy", "gradient"}

    def __repr__(self) -> str:
        return f"LearnedWeight({self.prior!r}, weight={float(self.weight.detach()):.4g})"


class ThroughOperator(PriorWrapper, ExplicitPrior):
    r"""``R(A(x))`` for an operator that need not be linear: a prior of pictures of a scene x.

    With a renderer of further cameras, priors of pictures and of depths become priors of scenes:
    ``DepthSmoothness() @ A``, ``ScoreDistillation(score) @ A``, ``Misfit(depths, term) @ A``.
    ``prior @ A`` makes a prior that evaluates the whole prediction. With ``subset_size`` each step
    evaluates that number of blocks of A (rays, pictures, cameras), drawn from the seed and the
    iteration, the same for every item.

    Args:
        prior: prior of the prediction ``A(x)``. Priors of pictures are means over pictures, so a
            subset stands for all of them.
        operator: A; the draws choose among ``operator.blocks``.
        subset_size: number of blocks per step; None for all of them.
        seed: seed of the draws.

    Raises:
        InputError: if the operator has no blocks, or fewer than ``subset_size``.

    >>> import invtoolbox as it
    >>> class Square(it.operators.Operator):
    ...     domain_shape = range_shape = (1, 2)
    ...     def _forward(self, x):
    ...         return x**2
    >>> prior = it.priors.Tikhonov() @ Square()
    >>> x = torch.tensor([[[1.0, 2.0]]])
    >>> prior.energy(x), prior.gradient(x)  # x^4 / 2 and 2 x^3
    (tensor([8.5000]), tensor([[[ 2., 16.]]]))
    """

    item_fields: ClassVar[tuple[str, ...]] = ("operator",)

    def __init__(
        self,
        prior: ExplicitPrior,
        operator: Operator,
        subset_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if subset_size is not None and (
            operator.blocks is None or not 1 <= subset_size <= operator.blocks
        ):
            raise InputError(
                f"subset_size={subset_size} picks from the blocks of {operator}, and it has "
                f"{operator.blocks or 'none'}"
            )
        if not {"energy", "gradient"} & prior.offers:
            raise InputError(
                f"{prior!r} has neither an energy nor a gradient, so there is nothing to carry "
                f"through {operator}"
            )
        self.prior, self.operator, self.subset_size, self.seed = prior, operator, subset_size, seed
        self.is_smooth = prior.smooth
        self.drawn: Tensor | None = None

    def _drawn_parts(self) -> tuple[ExplicitPrior, Operator]:
        """Return prior and operator of the blocks that are drawn for this iteration."""
        if self.drawn is None:
            return self.prior, self.operator
        return self.prior.subset(self.drawn), self.operator.subset(self.drawn)

    def energy(self, x: Any) -> Tensor:
        prior, operator = self._drawn_parts()
        return prior.energy(operator(x))

    def pull(self, x: Any, generator: Generator | None = None) -> Tensor:
        prior, operator = self._drawn_parts()
        return prior.pull(operator(x), generator)

    def gradient(self, x: Any, generator: Generator | None = None) -> Any:
        """Return the gradient as an object of the type of x.

        It holds one tensor for every floating-point tensor of a scene, zeros if the prior does not
        depend on it.
        """
        leaves = dict(tree_leaves(x))
        with torch.enable_grad():
            free = {
                name: t.detach().requires_grad_(t.is_floating_point() or t.is_complex())
                for name, t in leaves.items()
            }
            watched = {name: t for name, t in free.items() if t.requires_grad}
            tracked = tree_replace(x, free)
            total = (
                self.energy(tracked) if "energy" in self.offers else self.pull(tracked, generator)
            )
            slopes = torch.autograd.grad(total.sum(), list(watched.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(t) if slope is None else slope
            for (name, t), slope in zip(watched.items(), slopes)
        }
        return tree_replace(x, {**leaves, **gradients})

    @property
    def offers(self) -> frozenset[str]:
        return (self.prior.offers & {"energy"}) | {"gradient"}

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return super().prepare(problem, solve).at(0)

    def at(self, iteration: int) -> Self:
        present = super().at(iteration)
        if self.subset_size is not None:
            draws = torch.Generator().manual_seed((self.seed * 1_000_003 + iteration) % (1 << 62))
            present.drawn = self.operator.draw_blocks(self.subset_size, draws)
        return present

    def __repr__(self) -> str:
        return f"{self.prior!r} @ {self.operator!r}"
