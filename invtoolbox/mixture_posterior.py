"""The exact posterior of a linear problem under a Gaussian mixture: a mixture again."""

from __future__ import annotations

from typing import cast

import torch
from torch import Generator, Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator
from invtoolbox.posterior import Posterior
from invtoolbox.priors.explicit.gaussian_mixture import GaussianMixture
from invtoolbox.problem import Problem

#: Pixels of an image for which matrices are formed.
_LARGEST = 4096


class MixturePosterior(Posterior):
    """``p(x | y) = sum_k w_k N(x; m_k, S_k)``, item by item, in closed form.

    Attributes:
        shares: w_k, ``(batch, components)``: the probability that x came of a component.
        means: m_k, ``(batch, components, channel, *space)``.
        covariances: S_k, ``(batch, components, n, n)``.
        number: samples behind an interval of the shape ``"quantile"``; mean and standard deviation need none.
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
        return torch.einsum("bk,bk...->b...", self.shares, self.means)

    @property
    def covariance(self) -> Tensor:
        """Of the whole, ``(batch, n, n)``."""
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
        return like[items, which] + (self._roots[items, which] @ noise).view(like[:, 0].shape)


def exact_posterior(problem: Problem, prior: GaussianMixture) -> MixturePosterior:
    r"""The posterior of ``y = A x + noise``, x of a Gaussian mixture, in closed form.

    Of component k the mean is ``m_k + C_k A^T S^{-1} (y - A m_k)``, ``S = A C_k A^T + noise_std^2``, the covariance
    ``C_k - C_k A^T S^{-1} A C_k``, and the share proportional to ``w_k N(y; A m_k, S)``. It is what samplers are tested with.

    Args:
        problem: a linear operator on images of at most 4096 pixels, under ``LeastSquares(noise_std=...)`` without weights.
        prior: the mixture.

    Raises:
        InputError: what is no such problem.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[0.6]]]), it.operators.Identity((1, 1)), it.data_terms.LeastSquares(noise_std=0.5))
    >>> posterior = exact_posterior(problem, it.priors.GaussianMixture(torch.tensor([[[-1.0]], [[1.0]]]), 0.25))
    >>> posterior.mean, posterior.shares  # the second component, halfway between 1 and 0.6, with probability 0.92
    (tensor([[[0.7168]]]), tensor([[0.0832, 0.9168]]))
    """
    D, A = problem.data_term, problem.operator
    known = (
        isinstance(D, LeastSquares)
        and D.noise_std is not None
        and D.weights is None
        and isinstance(problem.y, Tensor)
    )
    n = torch.Size(problem.image_shape).numel()
    if (
        not known
        or not isinstance(A, LinearOperator)
        or n > _LARGEST
        or problem.image_dtype.is_complex
    ):
        raise InputError(
            f"exact_posterior needs a linear operator on real images of at most {_LARGEST} pixels and "
            f"LeastSquares(noise_std=...) without weights, got {problem!r}"
        )
    like = problem.y
    items = [
        _of_item(problem.select(torch.tensor([k], device=like.device)), prior)
        for k in range(problem.batch)
    ]
    shares, means, covariances = (torch.stack(part).to(like) for part in zip(*items))
    return MixturePosterior(shares, means, covariances)


def _of_item(problem: Problem, prior: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    """Shares, means and covariances of one item, in double precision."""
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
