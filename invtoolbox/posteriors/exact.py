"""Exact posteriors of linear problems with Gaussian noise.

Under quadratic priors it is sampled by perturbing and solving again. Under a Gaussian mixture the
posterior is a mixture again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.core.reductions import draw_normal
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.posteriors.base import Posterior
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.priors.composed import ComposedPrior
from invtoolbox.priors.images.gaussian_mixture import GaussianMixture
from invtoolbox.priors.images.tikhonov import Tikhonov
from invtoolbox.problem import Problem

#: Number of values of an image times the samples of one batch: 16 MB per tensor.
_AT_ONCE = 1 << 22
#: Largest number of pixels for which H is factored: 8 MB per item.
_DENSE = 1024


@dataclass(frozen=True)
class GaussianPosterior(Posterior):
    r"""``x | y ~ N(mean, H^{-1})`` with ``H = A^T W A + sum_i w_i L_i^T L_i``.

    This is the posterior if the noise is Gaussian with the precision W of the data term, and if
    ``exp(-w_i / 2 |L_i x - b_i|^2)`` is the prior density. A sample is the minimizer of the same
    objective with ``y`` perturbed by a draw of the noise and every ``b_i`` by a draw of
    ``N(0, I / w_i)``, which has exactly that distribution (perturb-and-MAP: Papandreou and Yuille
    2010; Orieux, Feron and Giovannelli 2012). Up to 1024 pixels the minimizer is found by the
    Cholesky factor of H, and the standard deviation is exact. For larger images no matrix is
    formed, and the minimizer is found by conjugate gradients.

    Attributes:
        x: the solution itself, ``(batch, channel, *space)``, which is the mean.
        objective: the objective of the solution.
        solve: `invtoolbox.solve`.
        number: number of samples behind `std`, for more than 1024 pixels.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.zeros(1, 1, 4),
    ...     it.operators.Identity((1, 4)),
    ...     it.data_terms.LeastSquares(noise_std=0.5),
    ... )
    >>> solution = it.solve(problem, it.priors.Tikhonov(), regularization=12.0, progress=False)
    >>> solution.posterior.sample(3).shape
    torch.Size([3, 1, 1, 4])
    >>> solution.posterior.std
    tensor([[[0.2500, 0.2500, 0.2500, 0.2500]]])
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
        """Return samples; the generator draws their numbers in the sequence."""
        numbers = torch.randint(1 << 40, (count,), generator=generator, device=generator.device)
        return self._solve(numbers.tolist(), 0)

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Return samples number ``first`` to ``first + n`` of the seed's sequence.

        Their shape is ``(n, batch, channel, *space)``. Every item of the batch uses the same draws.
        """
        check_range("sample", "[1, inf)", n=n)
        at_once = max(1, _AT_ONCE // max(1, self.mean.numel()))
        numbers = list(range(first, first + n))
        return torch.cat(
            [self._solve(numbers[k : k + at_once], seed) for k in range(0, n, at_once)]
        )

    @cached_property
    def std(self) -> Tensor:
        """The standard deviation of every pixel.

        Up to 1024 pixels it is exact. For larger images it comes from ``number`` samples, a few at
        a time; its relative error is ``1 / sqrt(2 number)``.
        """
        if self._factors is not None:
            variances = torch.stack([torch.cholesky_inverse(f).diagonal() for f in self._factors])
            return variances.sqrt().view_as(self.mean).to(self.mean)
        at_once = max(1, _AT_ONCE // max(1, self.mean.numel()))
        squared = torch.zeros_like(self.mean)
        for k in range(0, self.number, at_once):
            chunk = self.sample(min(at_once, self.number - k), first=k)
            squared += (chunk - self.mean).square().sum(0)
        return (squared / self.number).sqrt()

    @cached_property
    def _factors(self) -> list[Tensor] | None:
        """The Cholesky factor of H of every item in float64, for small images."""
        shape = self.mean.shape[1:]
        if shape.numel() > _DENSE:
            return None
        identity = torch.eye(shape.numel(), dtype=self.mean.dtype, device=self.mean.device)
        basis = identity.view(-1, *shape)
        factors = []
        for k in range(self.objective.batch):
            repeated = self.objective.select(torch.full((len(basis),), k, device=basis.device))
            A, D = cast(LinearOperator, repeated.problem.operator), repeated.problem.data_term
            H = A.adjoint(D.weighted(A(basis)))
            for weight, prior in repeated.terms:
                L, _ = prior.quadratic()
                normal = basis if L is None else L.adjoint(L(basis))
                H = H + expand(weight, normal) * normal
            H = H.flatten(1).double()
            factor, failed = torch.linalg.cholesky_ex(0.5 * (H + H.mT))
            if bool(failed):  # a direction that neither data nor priors determine
                return None
            factors.append(factor)
        return factors

    def _minimize(
        self,
        factors: list[Tensor],
        problem: Problem,
        terms: list[tuple[Tensor, LinearOperator | None, Tensor]],
    ) -> Tensor:
        """Return ``H^{-1} (A^T W y + sum_i w_i L_i^T b_i)``, terms the ``(w_i, L_i, b_i)``."""
        right = cast(LinearOperator, problem.operator).adjoint(
            problem.data_term.weighted(problem.y)
        )
        for weight, L, target in terms:
            pulled = target if L is None else L.adjoint(target)
            right = torch.addcmul(right, expand(weight, right), pulled)
        # The bits of a solve with many right-hand sides depend on their number.
        solutions = [
            torch.cholesky_solve(item.reshape(-1, 1).double(), factors[k % len(factors)])
            for k, item in enumerate(right)
        ]
        return torch.stack(solutions).view_as(right).to(right)

    def _solve(self, numbers: list[int], seed: int) -> Tensor:
        """Return the samples of these numbers, solved as one batch."""
        objective, batch = self.objective, self.objective.batch
        items = torch.arange(batch, device=self.mean.device).repeat(len(numbers))
        repeated = objective.select(items)
        draws = [
            Generator(self.mean.device).manual_seed((seed * 1_000_003 + k) % (1 << 62))
            for k in numbers
        ]

        def noise(shape: torch.Size, like: Tensor) -> Tensor:
            return draw_normal(draws, (len(items), *shape[1:]), like.dtype, like.device)

        problem = repeated.problem
        perturbed_problem = Problem(
            problem.y + _noise_like(problem, noise), problem.operator, problem.data_term
        )
        parts = []
        for weight, prior in repeated.terms:
            L, target = prior.quadratic()
            like = self.mean[:1] if L is None else L(repeated.problem.zeros())
            draw = noise(like.shape, self.mean)
            safe = torch.where(weight > 0, weight, torch.ones_like(weight))
            perturbed = draw / expand(safe.sqrt(), draw) + (
                0 if target is None else target.to(draw)
            )
            parts.append((weight, L, perturbed))
        if self._factors is not None:
            x = self._minimize(self._factors, perturbed_problem, parts)
            return x.unflatten(0, (len(numbers), batch))
        terms = []
        for weight, L, perturbed in parts:
            centred: ExplicitPrior = Tikhonov(reference=perturbed)
            terms.append(Term(weight, centred if L is None else ComposedPrior(centred, L), True))
        start = self.mean.repeat(len(numbers), *[1] * (self.mean.ndim - 1))
        x = self.solve(
            perturbed_problem,
            PriorSum(tuple(terms)),
            "cg",
            1.0,
            initial=start,
            tolerance=1e-5,
            max_iterations=1000,
            progress=False,
        ).x
        return x.unflatten(0, (len(numbers), batch))


def _noise_like(problem: Problem, noise: Callable[[torch.Size, Tensor], Tensor]) -> Tensor:
    """Return a draw of the noise of least squares; 0 for measurements without weight."""
    D, y = problem.data_term, problem.y
    assert isinstance(D, LeastSquares) and D.noise_std is not None
    scale = expand(D.noise_std, y) if D.noise_std.numel() > 1 else D.noise_std.to(y)
    drawn = noise(y.shape, y) * scale
    if D.weights is None:
        return drawn
    weights = D.weights.to(y).expand_as(y)
    deviation = torch.where(weights > 0, weights, torch.ones_like(weights)).sqrt()
    return torch.where(weights > 0, drawn / deviation, 0.0)


def gaussian_posterior(objective: Objective, x: Any, solve: Any) -> GaussianPosterior | None:
    """Return the posterior if everything is quadratic and the noise level known, else None."""
    D = objective.problem.data_term
    has_noise_level = (
        isinstance(D, LeastSquares)
        and D.noise_std is not None
        and isinstance(objective.problem.y, Tensor)
    )
    real = isinstance(x, Tensor) and not x.is_complex() and not x.requires_grad
    if not (
        has_noise_level
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


#: Largest number of pixels for which matrices are formed.
_LARGEST = 4096


class MixturePosterior(Posterior):
    """``p(x | y) = sum_k w_k N(x; m_k, S_k)``, item by item, in closed form.

    Attributes:
        shares: w_k, ``(batch, components)``: the probability that x belongs to a component.
        means: m_k, ``(batch, components, channel, *space)``.
        covariances: S_k, ``(batch, components, n, n)``.
        number: number of samples behind an interval of the shape ``"quantile"``; mean and standard
            deviation need none.
    """

    number = 1000

    def __init__(self, shares: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.shares, self.means, self.covariances = shares, means, covariances
        self._roots = torch.linalg.cholesky(covariances)

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def mean(self) -> Tensor:
        return map_items(
            lambda shares, means: torch.einsum("bk,bk...->b...", shares, means),
            self.shares,
            self.means,
        )

    @property
    def covariance(self) -> Tensor:
        """The covariance of the whole mixture, ``(batch, n, n)``."""
        away = (self.means - self.mean.unsqueeze(1)).flatten(2)
        return torch.einsum(
            "bk,bkij->bij", self.shares, self.covariances + away.unsqueeze(3) * away.unsqueeze(2)
        )

    @property
    def std(self) -> Tensor:
        return self.covariance.diagonal(dim1=1, dim2=2).sqrt().view(self.mean.shape)

    def draw(self, count: int, generator: Generator) -> Tensor:
        drawn = [self._one(generator) for _ in range(count)]
        return torch.stack(drawn)

    def _one(self, generator: Generator) -> Tensor:
        like = self.means
        level = torch.rand(1, generator=generator, dtype=like.dtype, device=like.device)
        noise = torch.randn(
            like[0, 0].numel(), generator=generator, dtype=like.dtype, device=like.device
        )
        which = (self.shares.cumsum(1) < level).sum(1).clamp_max(self.shares.shape[1] - 1)
        items = torch.arange(len(like), device=like.device)
        moves = map_items(lambda root: root @ noise, self._roots[items, which])
        return like[items, which] + moves.view(like[:, 0].shape)


def exact_posterior(problem: Problem, prior: GaussianMixture) -> MixturePosterior:
    r"""Return the posterior of ``y = A x + noise``, x of a Gaussian mixture, in closed form.

    Component k has the mean ``m_k + C_k A^T S^{-1} (y - A m_k)``, ``S = A C_k A^T + noise_std^2``,
    the covariance ``C_k - C_k A^T S^{-1} A C_k``, and a share proportional to
    ``w_k N(y; A m_k, S)``. Samplers are tested with it.

    Args:
        problem: a linear operator on images of at most 4096 pixels, under
            ``LeastSquares(noise_std=...)`` without weights.
        prior: the mixture.

    Raises:
        InputError: for any other problem.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.tensor([[[0.6]]]),
    ...     it.operators.Identity((1, 1)),
    ...     it.data_terms.LeastSquares(noise_std=0.5),
    ... )
    >>> posterior = exact_posterior(
    ...     problem, it.priors.GaussianMixture(torch.tensor([[[-1.0]], [[1.0]]]), 0.25)
    ... )
    >>> # The second component, halfway between 1 and 0.6, has the probability 0.92.
    >>> posterior.mean, posterior.shares
    (tensor([[[0.7168]]]), tensor([[0.0832, 0.9168]]))
    """
    D, A = problem.data_term, problem.operator
    has_noise_level = (
        isinstance(D, LeastSquares)
        and D.noise_std is not None
        and D.is_unweighted
        and isinstance(problem.y, Tensor)
    )
    if not isinstance(prior, GaussianMixture):
        raise InputError(
            f"exact_posterior takes a GaussianMixture, got {prior!r}; with Tikhonov and other quadratic "
            "priors it.solve(problem, prior).posterior is exact"
        )
    n = torch.Size(problem.image_shape).numel()
    if (
        not has_noise_level
        or not isinstance(A, LinearOperator)
        or n > _LARGEST
        or problem.image_dtype.is_complex
    ):
        raise InputError(
            f"exact_posterior needs a linear operator on real images of at most {_LARGEST} pixels "
            f"and LeastSquares(noise_std=...) without weights, got {problem!r}"
        )
    like = problem.y
    items = [
        _of_item(problem.select(torch.tensor([k], device=like.device)), prior)
        for k in range(problem.batch)
    ]
    shares, means, covariances = (torch.stack(tensors).to(like) for tensors in zip(*items))
    return MixturePosterior(shares, means, covariances)


def _of_item(problem: Problem, prior: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    """Return shares, means and covariances of one item, in double precision."""
    shape = problem.image_shape
    n = torch.Size(shape).numel()
    identity = torch.eye(n, dtype=problem.y.dtype, device=problem.y.device).view(n, *shape)
    M = cast(LinearOperator, problem.operator)(identity).flatten(1).T.double()
    level = cast(Tensor, cast(LeastSquares, problem.data_term).noise_std).reshape(-1)[0].to(M)
    C, m = prior.covariances().double(), prior.means.flatten(1).double()
    spread = M @ C @ M.T + level.square() * torch.eye(len(M), dtype=M.dtype, device=M.device)
    residual = problem.y.flatten().double() - m @ M.T
    root = torch.linalg.cholesky(spread)
    gain = torch.cholesky_solve(M @ C, root)  # S^{-1} A C
    means = m + torch.einsum("kmn,km->kn", gain, residual)
    covariances = C - C @ M.T @ gain
    white = torch.linalg.solve_triangular(root, residual.unsqueeze(2), upper=False)
    evidence = -0.5 * white.square().sum((1, 2)) - root.diagonal(dim1=1, dim2=2).log().sum(1)
    shares = (prior.log_weights.double() + evidence).softmax(0)
    return shares, means.view(-1, *shape), 0.5 * (covariances + covariances.mT)
