"""Gaussian mixtures, whose energy, score and denoiser are exact at every noise level.

Exactness makes them the test case of samplers. `ConditionalPrior` is the base class of denoisers
with a condition (a class, a text or another embedding), and `ConditionalMixture` is the exact
example.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Generator, Tensor

from invtoolbox.core.constants import constant
from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.matrix import Matrix
from invtoolbox.priors.base import ExplicitPrior


class GaussianMixture(ExplicitPrior):
    """Gaussian mixture ``p(x) = sum_k w_k N(x; m_k, C_k)`` with the energy ``R(x) = -log p(x)``.

    The energy is known up to a constant. With noise of standard deviation sigma the density is
    again a mixture, with covariances ``C_k + sigma^2``. So the score ``grad log p_sigma`` has a
    closed form, and ``denoise(x, sigma) = x + sigma^2 grad log p_sigma(x)`` (Tweedie) is exactly
    the posterior mean. This makes the prior the test of every method that follows a score:
    `solvers.UnadjustedLangevin`, `solvers.DPS`, `solvers.DiffPIR`, `solvers.DDRM`. The posterior of
    a linear problem is a mixture too: `exact_posterior`.

    Args:
        means: means of the components, ``(components, channel, *space)``.
        covariances: one variance for everything; variances of the pixels, shaped as ``means`` (or
            as one of them); or matrices ``(components or 1, n, n)`` over the n pixels of an image,
            channel first and row by row.
        weights: weights of the components, ``(components,)``; equal by default.

    Raises:
        InputError: The shapes do not fit, a covariance is not symmetric and positive definite, or a
            weight is not positive.

    >>> prior = GaussianMixture(torch.tensor([[[-1.0]], [[1.0]]]), 0.25)
    >>> # halfway to the means, at -0.25 and 0.75, with shares 0.12 and 0.88
    >>> prior.denoise(torch.tensor([[[0.5]]]), 0.5)
    tensor([[[0.6308]]])
    """

    def __init__(
        self, means: Tensor, covariances: float | Tensor, weights: Tensor | None = None
    ) -> None:
        if means.ndim < 3 or not bool(means.isfinite().all()):
            raise InputError(
                f"the means of {type(self).__name__} are finite and of shape "
                f"(components, channel, *space), got {tuple(means.shape)}"
            )
        self.means = means
        self.basis, self.spectrum = _decompose(
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
                f"the weights of {type(self).__name__} are {count} positive numbers, "
                f"one per component, got {weights}"
            )
        # Weights add up to 1.
        self.log_weights = (chosen / chosen.sum()).log().to(means.device)
        self.is_convex = True if count == 1 else None

    def energy(self, x: Tensor) -> Tensor:
        """Return ``-log p(x)`` above the minimum of the narrowest component alone, ``(batch,)``."""
        mixture = self.to(x.real.dtype)
        joint, _, _ = mixture._components(x, 0.0)
        # min_k 1/2 log det C_k, which the narrowest component has at its mean. Like `joint`, it
        # leaves out the constant n/2 log(2 pi).
        least = 0.5 * mixture.spectrum.log().sum(1).min()
        return -torch.logsumexp(joint, 1) - least

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return -self.score(x, 0.0)

    def score(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Return ``grad log p_sigma(x)`` of the density with noise of standard deviation sigma.

        ``sigma`` is a number, or one value per item.
        """
        mixture = self.to(x.real.dtype)
        joint, centred, level = mixture._components(x, sigma)
        # -sum_k p(k | x) (C_k + sigma^2)^{-1} (x - m_k), diagonal in the basis of C_k.
        return -mixture._mix(joint.softmax(1), centred / (mixture.spectrum + level)).view(x.shape)

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the posterior mean of x with noise of standard deviation ``sigma``.

        ``sigma`` is a number, or one value per item.
        """
        return self._denoise(x, sigma, self.log_weights)

    def _denoise(self, x: Tensor, sigma: float | Tensor, log_weights: Tensor) -> Tensor:
        """Denoise with weights of the components per item, ``(batch or 1, components)``."""
        mixture = self.to(x.real.dtype)
        joint, centred, level = mixture._components(x, sigma, log_weights)
        shares = joint.softmax(1)
        # sum_k p(k | x) (m_k + C_k (C_k + sigma^2)^{-1} (x - m_k)), a Wiener filter per component.
        filtered = centred * (mixture.spectrum / (mixture.spectrum + level))
        mean = (shares.unsqueeze(2) * mixture.means.flatten(1)).sum(1)
        return (mean + mixture._mix(shares, filtered)).view(x.shape)

    def log_shares(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Return the log probability that x, with noise, came from each component.

        The shape is ``(batch, components)``.
        """
        return self.to(x.real.dtype)._components(x, sigma)[0].log_softmax(1)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw from the prior, ``(n, channel, *space)``."""
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        shape, like = self.means.shape[1:], self.means
        draw = torch.randn(
            n, like[0].numel(), generator=generator, dtype=like.dtype, device=like.device
        )
        # m_k + U sqrt(S) n with C_k = U S U^T and n ~ N(0, 1).
        draw = draw * self.spectrum.expand(len(like), -1)[which].sqrt()
        if self.basis is not None:
            basis = self.basis.expand(len(like), -1, -1)[which]
            draw = (basis @ draw.unsqueeze(2)).squeeze(2)
        return like[which] + draw.view(n, *shape)

    def covariances(self) -> Tensor:
        """Return ``C_k`` as matrices, ``(components, n, n)``."""
        spread = torch.diag_embed(self.spectrum)
        dense = spread if self.basis is None else self.basis @ spread @ self.basis.mT
        return dense.expand(len(self.means), -1, -1)

    # -- the quadratic case of one component

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Return the prox of a single component, where the mode of the posterior is the mean."""
        if len(self.means) > 1:
            return super().prox(x, step)
        # argmin_u R(u) + |u - x|^2 / (2 step) is the posterior mode at noise of variance step.
        step = step.to(x) if isinstance(step, Tensor) else constant(float(step), x)
        return self.denoise(x, step.sqrt())

    def quadratic(self) -> tuple[LinearOperator | None, Tensor | None]:
        if "quadratic" not in self.offers:
            return super().quadratic()
        shape = tuple(self.means.shape[1:])
        # L = S^(-1/2) U^T and b = L m, so that 1/2 |L x - b|^2 = 1/2 (x - m)^T C^{-1} (x - m).
        root = self.spectrum[0].rsqrt().unsqueeze(1)
        L = Matrix(
            torch.diag(root[:, 0]) if self.basis is None else root * self.basis[0].mT, shape, shape
        )
        return L, L(self.means)

    @property
    def offers(self) -> frozenset[str]:
        always = frozenset({"energy", "gradient", "denoise"})
        # A matrix over the pixels is offered only if there is one already, or if it is small.
        small = self.basis is not None or self.means[0].numel() <= 4096
        return (
            always
            if len(self.means) > 1
            else always | {"prox"} | ({"quadratic"} if small else frozenset())
        )

    @property
    def smooth(self) -> bool:
        return True

    def _components(
        self, x: Tensor, sigma: float | Tensor, log_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the terms of the mixture at x.

        They are ``log w_k N(x; m_k, C_k + sigma^2)`` up to a constant, ``(batch, components)``; x -
        m_k in the basis of C_k; and sigma squared.
        """
        if x.shape[1:] != self.means.shape[1:]:
            raise InputError(
                f"{self!r} takes images {tuple(self.means.shape[1:])}, got {tuple(x.shape[1:])}"
            )
        level = sigma.to(x.real) if isinstance(sigma, Tensor) else constant(float(sigma), x.real)
        level = level.square().reshape(-1, 1, 1)
        centred = x.flatten(1).unsqueeze(1) - self.means.flatten(1)
        # U^T (x - m_k), in which the covariance is diagonal.
        if self.basis is not None:
            centred = self._rotate(centred, self.basis.mT)
        # log w_k - 1/2 sum_i (|x_i - m_ki|^2 / v_ki + log v_ki) with v = S + sigma^2; complex
        # differences count by their modulus.
        variances = self.spectrum + level
        prior = (self.log_weights if log_weights is None else log_weights).to(level)
        squares = (centred * centred.conj()).real
        return prior - 0.5 * (squares / variances + variances.log()).sum(2), centred, level

    def _mix(self, shares: Tensor, vectors: Tensor) -> Tensor:
        """Add the components' vectors by their shares, out of their bases: ``(batch, n)``."""
        if self.basis is not None:
            vectors = self._rotate(vectors, self.basis)
        return (shares.unsqueeze(2) * vectors).sum(1)

    def _rotate(self, vectors: Tensor, basis: Tensor) -> Tensor:
        """Multiply the vectors ``(batch, components, n)`` by the basis of their component."""
        basis = basis.to(vectors.dtype)
        return map_items(lambda item: (basis @ item.unsqueeze(3)).squeeze(3), vectors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.means)} x {tuple(self.means.shape[1:])})"


class Gaussian(GaussianMixture):
    """Normal distribution ``x ~ N(mean, C)``, with ``R(x) = 1/2 (x - mean)^T C^{-1} (x - mean)``.

    Args:
        mean: ``(channel, *space)``.
        covariance: a variance, variances of the pixels shaped as the mean, or a matrix ``(n, n)``.

    >>> import invtoolbox as it
    >>> A, data_term = it.operators.Identity((1, 4)), it.data_terms.LeastSquares(noise_std=0.5)
    >>> problem = it.Problem(torch.ones(1, 1, 4), A, data_term)
    >>> it.solve(problem, Gaussian(torch.zeros(1, 4), 0.25), regularization=1.0, progress=False).x
    tensor([[[0.5000, 0.5000, 0.5000, 0.5000]]])
    """

    def __init__(self, mean: Tensor, covariance: float | Tensor) -> None:
        values = torch.as_tensor(covariance, dtype=mean.dtype)
        super().__init__(mean.unsqueeze(0), values.unsqueeze(0) if values.ndim else values)

    def __repr__(self) -> str:
        return f"Gaussian({tuple(self.means.shape[1:])})"


class ConditionalPrior(ExplicitPrior):
    """Base class of priors ``p(x | c)`` that denoise under a condition c.

    `ScoreDistillation` takes a condition for every picture. A subclass writes `denoise_given` and
    `null_condition`. Every solver that takes a denoiser gets the denoiser of the null condition.
    """

    @abstractmethod
    def denoise_given(self, x: Tensor, sigma: float | Tensor, condition: Tensor) -> Tensor:
        """Return the mean clean image, given x with noise and a condition.

        The noise has standard deviation ``sigma`` and the condition is ``(batch, *shape)``. The
        result is differentiable in x and in the condition.
        """

    @abstractmethod
    def null_condition(self) -> Tensor:
        """Return the condition that carries no information, ``(1, *shape)``."""

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        null = self.null_condition()
        return self.denoise_given(x, sigma, null.expand(len(x), *null.shape[1:]))


class ConditionalMixture(ConditionalPrior):
    """Gaussian mixture with embeddings: ``p(k | c) ~ w_k exp(-|c - e_k|^2 / (2 temperature^2))``.

    It is the smallest conditional model whose score is exact, for tests of methods that take
    conditions. The null condition is the mean of the embeddings.

    Args:
        mixture: the Gaussian mixture with the components.
        embeddings: embeddings e_k of the components, ``(components, d)``.
        temperature: distance from an embedding at which a condition still selects it.

    >>> import torch
    >>> mixture = GaussianMixture(torch.tensor([[[-1.0]], [[1.0]]]), 0.25)
    >>> prior = ConditionalMixture(mixture, torch.tensor([[-1.0], [1.0]]), temperature=0.5)
    >>> x = torch.zeros(1, 1, 1)
    >>> prior.denoise(x, 1.0)
    tensor([[[0.]]])
    >>> prior.denoise_given(x, 1.0, torch.tensor([[1.0]]))  # 0.8 for the second component alone
    tensor([[[0.7995]]])
    """

    def __init__(
        self, mixture: GaussianMixture, embeddings: Tensor, temperature: float = 1.0
    ) -> None:
        if embeddings.ndim != 2 or len(embeddings) != len(mixture.means):
            raise InputError(
                f"embeddings are ({len(mixture.means)}, d), one per component, "
                f"got {tuple(embeddings.shape)}"
            )
        check_range(self, "(0, inf]", temperature=temperature)
        self.mixture, self.embeddings, self.temperature = mixture, embeddings, temperature

    def denoise_given(self, x: Tensor, sigma: float | Tensor, condition: Tensor) -> Tensor:
        return self.mixture._denoise(x, sigma, self.log_weights(condition))

    def null_condition(self) -> Tensor:
        return self.embeddings.mean(0, keepdim=True)

    def log_weights(self, condition: Tensor) -> Tensor:
        """Return ``log p(k | c)``, ``(batch, components)``."""
        away = (condition.unsqueeze(1) - self.embeddings).square().sum(2)
        # log of w_k exp(-|c - e_k|^2 / (2 temperature^2)) / sum over the components.
        return (self.mixture.log_weights - away / (2 * self.temperature**2)).log_softmax(1)

    def __repr__(self) -> str:
        return f"ConditionalMixture({self.mixture!r}, temperature={self.temperature:g})"


def _decompose(covariances: Tensor, means: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the eigenvectors and eigenvalues of every covariance.

    The eigenvectors are ``None`` if the pixels are independent. The eigenvalues are
    ``(components or 1, n)``.
    """
    n, count = means[0].numel(), len(means)
    # C = U S U^T; U is the identity for one variance and for variances of the pixels.
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
            f"covariances are a number, of the shape {tuple(means.shape)}, or {(count, n, n)}; "
            f"got {tuple(covariances.shape)}"
        )
    if not bool(((spectrum > 0) & spectrum.isfinite()).all()):
        raise InputError("covariances must be positive definite: some variance is not positive")
    return basis, spectrum
