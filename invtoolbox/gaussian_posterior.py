"""The posterior of a linear problem with Gaussian noise and quadratic priors, sampled by perturbing and solving again."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective import Objective
from invtoolbox.operators.base import expand
from invtoolbox.posterior import Posterior
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.priors.composed import ComposedPrior
from invtoolbox.priors.explicit.tikhonov import Tikhonov
from invtoolbox.problem import Problem

#: Values of an image times the samples that are solved in one batch: 16 MB a tensor.
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class GaussianPosterior(Posterior):
    r"""``x | y ~ N(mean, H^{-1})`` with ``H = A^T W A + sum_i w_i L_i^T L_i``.

    That is the posterior where the noise is Gaussian with the precision W that the data term knows, and where
    ``exp(-w_i / 2 |L_i x - b_i|^2)`` is believed as the prior density. No matrix is formed: a sample is the minimiser of the
    same objective with ``y`` perturbed by a draw of the noise and every ``b_i`` by a draw of ``N(0, I / w_i)``, which has exactly that
    distribution (perturb-and-MAP: Papandreou and Yuille 2010; Orieux, Feron and Giovannelli 2012), up to the accuracy of the solver.

    Attributes:
        x: the solution itself, ``(batch, channel, *space)``, which is the mean.
        number: samples behind `std`.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.zeros(1, 1, 4), it.operators.Identity((1, 4)), it.data_terms.LeastSquares(noise_std=0.5))
    >>> solution = it.solve(problem, it.priors.Tikhonov(), regularization=12.0, progress=False)
    >>> solution.posterior.sample(3).shape
    torch.Size([3, 1, 1, 4])
    >>> bool((solution.posterior.std - 0.25).abs().max() < 0.05)
    True
    """

    x: Tensor
    objective: Objective = field(repr=False)
    solve: Any = field(repr=False)
    number: int = 128

    @property
    def mean(self) -> Tensor:
        return self.x

    @property
    def device(self) -> torch.device:
        return self.x.device

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Samples whose numbers in the sequence the generator draws."""
        numbers = torch.randint(1 << 40, (count,), generator=generator, device=generator.device)
        return self._solve(numbers.tolist(), 0)

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Samples number ``first`` to ``first + n`` of a sequence that the seed decides, ``(n, batch, channel, *space)``.

        Every item of the batch sees the same draws.
        """
        if n < 1:
            raise InputError(f"sample takes a whole number of at least 1, got {n}")
        at_once = max(1, _AT_ONCE // max(1, self.mean.numel()))
        numbers = list(range(first, first + n))
        return torch.cat(
            [self._solve(numbers[k : k + at_once], seed) for k in range(0, n, at_once)]
        )

    @cached_property
    def std(self) -> Tensor:
        """The standard deviation of every pixel from ``number`` samples, a few at a time; relative error ``1 / sqrt(2 number)``."""
        at_once = max(1, _AT_ONCE // max(1, self.mean.numel()))
        squared = torch.zeros_like(self.mean)
        for k in range(0, self.number, at_once):
            part = self.sample(min(at_once, self.number - k), first=k)
            squared += (part - self.mean).square().sum(0)
        return (squared / self.number).sqrt()

    def _solve(self, numbers: list[int], seed: int) -> Tensor:
        """The samples of these numbers, solved as one batch."""
        objective, batch = self.objective, self.objective.batch
        items = torch.arange(batch, device=self.mean.device).repeat(len(numbers))
        repeated = objective.select(items)
        draws = [
            Generator(self.mean.device).manual_seed((seed * 1_000_003 + k) % (1 << 62))
            for k in numbers
        ]

        def noise(shape: torch.Size, like: Tensor) -> Tensor:
            """One draw a sample, shared by the items of the batch."""
            each = [
                torch.randn(shape[1:], generator=g, dtype=like.dtype, device=like.device)
                for g in draws
            ]
            return torch.stack(each).repeat_interleave(batch, 0)

        problem = repeated.problem
        D, y = problem.data_term, problem.y
        assert isinstance(D, LeastSquares) and D.noise_std is not None
        scale = expand(D.noise_std, y) if D.noise_std.numel() > 1 else D.noise_std.to(y)
        shift = noise(y.shape, y) * scale
        if D.weights is not None:
            weights = D.weights.to(y).expand_as(y)
            shift = torch.where(
                weights > 0,
                shift / torch.where(weights > 0, weights, torch.ones_like(weights)).sqrt(),
                0.0,
            )
        terms = []
        for weight, prior in repeated.terms:
            L, target = prior.quadratic()
            like = self.mean[:1] if L is None else L(repeated.problem.zeros())
            draw = noise(like.shape, self.mean)
            safe = torch.where(weight > 0, weight, torch.ones_like(weight))
            perturbed = draw / expand(safe.sqrt(), draw) + (
                0 if target is None else target.to(draw)
            )
            moved: ExplicitPrior = Tikhonov(reference=perturbed)
            terms.append(Term(weight, moved if L is None else ComposedPrior(moved, L), True))
        moved_problem = Problem(y + shift, problem.operator, D)
        start = self.mean.repeat(len(numbers), *[1] * (self.mean.ndim - 1))
        x: Tensor = self.solve(
            moved_problem,
            PriorSum(tuple(terms)),
            "cg",
            1.0,
            initial=start,
            tolerance=1e-5,
            max_iterations=1000,
            progress=False,
        ).x
        return x.unflatten(0, (len(numbers), batch))


def gaussian_posterior(objective: Objective, x: Any, solve: Any) -> GaussianPosterior | None:
    """The posterior of a solution, where everything is quadratic and the noise level is known."""
    D = objective.problem.data_term
    known = (
        isinstance(D, LeastSquares)
        and D.noise_std is not None
        and isinstance(objective.problem.y, Tensor)
    )
    real = isinstance(x, Tensor) and not x.is_complex() and not x.requires_grad
    if not (
        known
        and real
        and objective.problem.is_linear
        and objective.layout is None
        and objective.terms
    ):
        return None
    if not all("quadratic" in prior.offers for _, prior in objective.terms) or not bool(
        (objective.regularization > 0).all()
    ):
        return None
    return GaussianPosterior(x, objective, solve)
