"""Gaussian mixtures as priors: energy, score and denoiser at every noise level are exact, so samplers can be tested on them.

Denoisers that are told what an image shows: by a class, a text, or any other embedding.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.matrix import Matrix
from invtoolbox.priors.base import ExplicitPrior


class GaussianMixture(ExplicitPrior):
    r"""``p(x) = sum_k w_k N(x; m_k, C_k)`` and ``R(x) = -log p(x)``, up to a constant.

    With noise of standard deviation sigma it is again a mixture, with covariances ``C_k + sigma^2``, so that the score
    ``grad log p_sigma`` has a closed form and ``denoise(x, sigma) = x + sigma^2 grad log p_sigma(x)`` (Tweedie) is the posterior mean,
    exactly. That makes it the test of everything that follows a score: `solvers.UnadjustedLangevin`, `solvers.DPS`, `solvers.DiffPIR`,
    `solvers.DDRM`. The posterior of a linear problem is a mixture too: `exact_posterior`.

    Args:
        means: ``(components, channel, *space)``.
        covariances: one variance for everything; variances of the pixels, shaped as ``means`` (or one of them); or matrices
            ``(components or 1, n, n)`` over the n pixels of an image, channel first and row by row.
        weights: of the components, ``(components,)``; equal ones by default.

    Raises:
        InputError: shapes that do not fit, covariances that are not symmetric and positive definite, weights that are not positive.

    >>> prior = GaussianMixture(torch.tensor([[[-1.0]], [[1.0]]]), 0.25)
    >>> prior.denoise(torch.tensor([[[0.5]]]), 0.5)  # halfway to the means, -0.25 and 0.75, with shares 0.12 and 0.88
    tensor([[[0.6308]]])
    """

    def __init__(
        self, means: Tensor, covariances: float | Tensor, weights: Tensor | None = None
    ) -> None:
        if means.ndim < 3 or not bool(means.isfinite().all()):
            raise InputError(
                f"the means of {type(self).__name__} are finite and (components, channel, *space), got {tuple(means.shape)}"
            )
        self.means = means
        self.basis, self.spectrum = _decomposed(
            torch.as_tensor(covariances, dtype=means.dtype, device=means.device), means
        )
        count = means.shape[0]
        chosen = (
            torch.full((count,), 1 / count, dtype=means.dtype)
            if weights is None
            else torch.as_tensor(weights, dtype=means.dtype)
        )
        if chosen.shape != (count,) or not bool(((chosen > 0) & chosen.isfinite()).all()):
            raise InputError(
                f"the weights of {type(self).__name__} are {count} positive numbers, one a component, got {weights}"
            )
        self.log_weights = (chosen / chosen.sum()).log().to(means.device)
        self.is_convex = True if count == 1 else None

    # -- the density and what follows from it ----------------------------------------------------------------------------------------

    def energy(self, x: Tensor) -> Tensor:
        """``-log p(x)`` less its value at the mean of the narrowest component, were that the only one; ``(batch,)``."""
        joint, _, _ = self._components(x, 0.0)
        least = 0.5 * self.spectrum.log().sum(1).min()
        return -torch.logsumexp(joint, 1) - least

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return -self.score(x, 0.0)

    def score(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """``grad log p_sigma(x)``, p_sigma the density with noise of standard deviation ``sigma``, a number or one an item."""
        joint, centred, level = self._components(x, sigma)
        shares = joint.softmax(1)
        return -self._mixed(shares, centred / (self.spectrum + level)).view(x.shape)

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The posterior mean of x with noise of standard deviation ``sigma``, a number or one an item."""
        return self._denoised(x, sigma, self.log_weights)

    def _denoised(self, x: Tensor, sigma: float | Tensor, log_weights: Tensor) -> Tensor:
        """With the weights of an item's own, ``(batch or 1, components)``."""
        joint, centred, level = self._components(x, sigma, log_weights)
        shares = joint.softmax(1)
        means = (shares @ self.means.flatten(1)).view(x.shape)
        return means + self._mixed(
            shares, centred * (self.spectrum / (self.spectrum + level))
        ).view(x.shape)

    def log_shares(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """The logarithm of the probability that x, with noise, came of each component, ``(batch, components)``."""
        return self._components(x, sigma)[0].log_softmax(1)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draws from the prior, ``(n, channel, *space)``."""
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        shape, like = self.means.shape[1:], self.means
        draw = torch.randn(
            n, like[0].numel(), generator=generator, dtype=like.dtype, device=like.device
        )
        draw = draw * self.spectrum.expand(len(like), -1)[which].sqrt()
        if self.basis is not None:
            basis = self.basis.expand(len(like), -1, -1)[which]
            draw = (basis @ draw.unsqueeze(2)).squeeze(2)
        return like[which] + draw.view(n, *shape)

    def covariances(self) -> Tensor:
        """``C_k`` as matrices, ``(components, n, n)``."""
        spread = torch.diag_embed(self.spectrum)
        dense = spread if self.basis is None else self.basis @ spread @ self.basis.mT
        return dense.expand(len(self.means), -1, -1)

    # -- where there is one component, everything is quadratic -----------------------------------------------------------------------

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Of one component alone: the mode of its posterior is the mean."""
        if len(self.means) > 1:
            return super().prox(x, step)
        return self.denoise(x, torch.as_tensor(step, dtype=x.dtype, device=x.device).sqrt())

    def quadratic(self) -> tuple[LinearOperator | None, Tensor | None]:
        if "quadratic" not in self.offers:
            return super().quadratic()
        shape = tuple(self.means.shape[1:])
        root = self.spectrum[0].rsqrt().unsqueeze(1)
        L = Matrix(
            torch.diag(root[:, 0]) if self.basis is None else root * self.basis[0].mT, shape, shape
        )
        return L, L(self.means)

    @property
    def offers(self) -> frozenset[str]:
        several = frozenset({"energy", "gradient", "denoise"})
        # A matrix of the pixels only where there is one already, or where it is small.
        small = self.basis is not None or self.means[0].numel() <= 4096
        return (
            several
            if len(self.means) > 1
            else several | {"prox"} | ({"quadratic"} if small else frozenset())
        )

    @property
    def smooth(self) -> bool:
        return True

    # -- arithmetic ------------------------------------------------------------------------------------------------------------------

    def _components(
        self, x: Tensor, sigma: float | Tensor, log_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``log w_k N(x; m_k, C_k + sigma^2)`` up to a constant (batch, components), x - m_k in the basis of C_k, and sigma squared."""
        if x.shape[1:] != self.means.shape[1:]:
            raise InputError(
                f"{self!r} takes images {tuple(self.means.shape[1:])}, got {tuple(x.shape[1:])}"
            )
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).square().reshape(-1, 1, 1)
        centred = x.flatten(1).unsqueeze(1) - self.means.flatten(1)
        if self.basis is not None:
            centred = torch.einsum(
                "bki,kij->bkj", centred, self.basis.expand(len(self.means), -1, -1)
            )
        variances = self.spectrum + level
        prior = self.log_weights if log_weights is None else log_weights
        return prior - 0.5 * (centred.square() / variances + variances.log()).sum(2), centred, level

    def _mixed(self, shares: Tensor, vectors: Tensor) -> Tensor:
        """The sum of the components' vectors, out of their bases, by their shares: ``(batch, n)``."""
        if self.basis is not None:
            vectors = torch.einsum(
                "bkj,kij->bki", vectors, self.basis.expand(len(self.means), -1, -1)
            )
        return torch.einsum("bk,bki->bi", shares, vectors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.means)} x {tuple(self.means.shape[1:])})"


class Gaussian(GaussianMixture):
    r"""``x ~ N(mean, C)``: ``R(x) = 1/2 (x - mean)^T C^{-1} (x - mean)``, the mixture of one.

    Args:
        mean: ``(channel, *space)``.
        covariance: a variance, variances of the pixels shaped as the mean, or a matrix ``(n, n)``.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)), it.data_terms.LeastSquares(noise_std=0.5))
    >>> it.solve(problem, Gaussian(torch.zeros(1, 4), 0.25), regularization=1.0, progress=False).x
    tensor([[[0.5000, 0.5000, 0.5000, 0.5000]]])
    """

    def __init__(self, mean: Tensor, covariance: float | Tensor) -> None:
        values = torch.as_tensor(covariance, dtype=mean.dtype)
        super().__init__(mean.unsqueeze(0), values.unsqueeze(0) if values.ndim else values)

    def __repr__(self) -> str:
        return f"Gaussian({tuple(self.means.shape[1:])})"


def _decomposed(covariances: Tensor, means: Tensor) -> tuple[Tensor | None, Tensor]:
    """The eigenvectors of every covariance, None where pixels are independent, and the eigenvalues ``(components or 1, n)``."""
    n, count = means[0].numel(), len(means)
    if covariances.ndim == 0:
        basis, spectrum = None, covariances.expand(1, n).clone()
    elif covariances.shape[1:] == means.shape[1:] and len(covariances) in (1, count):
        basis, spectrum = None, covariances.flatten(1)
    elif tuple(covariances.shape[1:]) == (n, n) and len(covariances) in (1, count):
        if not bool(
            ((covariances - covariances.mT).abs() <= 1e-5 * covariances.abs().amax()).all()
        ):
            raise InputError("covariances must be symmetric matrices")
        values, basis = torch.linalg.eigh(covariances.double())
        spectrum, basis = values.to(means), basis.to(means)
    else:
        raise InputError(
            f"covariances are a number, of the shape {tuple(means.shape)}, or {(count, n, n)}; got {tuple(covariances.shape)}"
        )
    if not bool(((spectrum > 0) & spectrum.isfinite()).all()):
        raise InputError("covariances must be positive definite: some variance is not positive")
    return basis, spectrum


class ConditionalPrior(ExplicitPrior):
    """A prior ``p(x | c)`` that denoises under a condition c, which `solvers.PromptTuning` finds together with the image.

    A subclass writes `denoise_given` and `null_condition`; every solver that takes a denoiser gets that of the null condition.
    """

    @abstractmethod
    def denoise_given(self, x: Tensor, sigma: float | Tensor, condition: Tensor) -> Tensor:
        """The mean clean image, given x with noise of level ``sigma`` and a condition ``(batch, *shape)``, differentiable in both."""

    @abstractmethod
    def null_condition(self) -> Tensor:
        """The condition that says nothing, ``(1, *shape)``."""

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        null = self.null_condition()
        return self.denoise_given(x, sigma, null.expand(len(x), *null.shape[1:]))


class ConditionalMixture(ConditionalPrior):
    r"""A Gaussian mixture whose components have embeddings: ``p(k | c) ~ w_k exp(-|c - e_k|^2 / (2 temperature^2))``.

    The smallest conditional model whose score is exact, to test what tunes conditions with. The null condition is the mean of the
    embeddings.

    Args:
        mixture: the components.
        embeddings: e_k, ``(components, d)``.
        temperature: how far from an embedding a condition still means it.

    >>> import torch
    >>> mixture = GaussianMixture(torch.tensor([[[-1.0]], [[1.0]]]), 0.25)
    >>> prior = ConditionalMixture(mixture, torch.tensor([[-1.0], [1.0]]), temperature=0.5)
    >>> x = torch.zeros(1, 1, 1)
    >>> prior.denoise(x, 1.0), prior.denoise_given(x, 1.0, torch.tensor([[1.0]]))  # the second component's is 0.8
    (tensor([[[0.]]]), tensor([[[0.7995]]]))
    """

    def __init__(
        self, mixture: GaussianMixture, embeddings: Tensor, temperature: float = 1.0
    ) -> None:
        if embeddings.ndim != 2 or len(embeddings) != len(mixture.means):
            raise InputError(
                f"embeddings are ({len(mixture.means)}, d), one a component, got {tuple(embeddings.shape)}"
            )
        if not temperature > 0:
            raise InputError(f"the temperature must be positive, got {temperature}")
        self.mixture, self.embeddings, self.temperature = mixture, embeddings, temperature

    def denoise_given(self, x: Tensor, sigma: float | Tensor, condition: Tensor) -> Tensor:
        return self.mixture._denoised(x, sigma, self.log_weights(condition))

    def null_condition(self) -> Tensor:
        return self.embeddings.mean(0, keepdim=True)

    def log_weights(self, condition: Tensor) -> Tensor:
        """``log p(k | c)``, ``(batch, components)``."""
        away = (condition.unsqueeze(1) - self.embeddings).square().sum(2)
        return (self.mixture.log_weights - away / (2 * self.temperature**2)).log_softmax(1)

    def __repr__(self) -> str:
        return f"ConditionalMixture({self.mixture!r}, temperature={self.temperature:g})"
