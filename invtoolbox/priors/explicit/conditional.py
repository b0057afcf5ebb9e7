"""Denoisers that are told what an image shows: by a class, a text, or any other embedding."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.gaussian_mixture import GaussianMixture


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
