"""A network that decodes a few numbers with a Gaussian density: what gradient origin networks and autoencoders are as priors."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior


class GaussianLatents(ImplicitPrior):
    r"""``x = g(mean + L w)``, ``w ~ N(0, 1)``, ``L L^T = C``: ``S(w) = -log p = 1/2 |w|^2``, up to a constant.

    The parameter is w, the latents in units of their standard deviations, so that steps and widths of solvers mean the same for every
    network.

    Args:
        decoder: a network ``(batch, latents) -> (batch, channel, *space)`` whose items do not mix.
        mean: ``(latents,)``.
        covariance: ``(latents, latents)``; the identity by default.

    >>> prior = GaussianLatents(nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (1, 2, 3))), torch.zeros(2))
    >>> prior.decode(prior.initial()).shape, prior.energy({"w": torch.ones(1, 2)}, None)
    (torch.Size([1, 1, 2, 3]), tensor([1.]))
    """

    def __init__(self, decoder: nn.Module, mean: Tensor, covariance: Tensor | None = None) -> None:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in decoder.modules()):
            raise InputError(
                f"the decoder of {type(self).__name__} has batch normalisation, which mixes items; take one without"
            )
        size = mean.numel()
        covariance = (
            torch.eye(size, dtype=mean.dtype, device=mean.device)
            if covariance is None
            else covariance
        )
        if mean.ndim != 1 or tuple(covariance.shape) != (size, size):
            raise InputError(
                f"latents have a mean (n,) and a covariance (n, n), got {tuple(mean.shape)} and {tuple(covariance.shape)}"
            )
        root, failed = torch.linalg.cholesky_ex(covariance.double())
        if int(failed):
            raise InputError("the covariance of the latents is not positive definite")
        self.decoder, self.mean = decoder, mean
        self.root = root.to(mean)

    def initial(self) -> dict[str, Tensor]:
        return {"w": torch.zeros_like(self.mean)[None]}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        image: Tensor = self.decoder(self.mean + parameters["w"] @ self.root.T)
        return image

    def energy(self, parameters: dict[str, Tensor], x: Tensor | None) -> Tensor:
        return 0.5 * parameters["w"].square().sum(1)

    def whitened(self, z: Tensor) -> dict[str, Tensor]:
        """The parameters of latents as the decoder takes them, ``(batch, latents)``."""
        return {"w": torch.linalg.solve_triangular(self.root, (z - self.mean).T, upper=False).T}

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draws from the prior, ``(n, channel, *space)``."""
        drawn = torch.randn(
            n, len(self.mean), generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        with torch.no_grad():
            return self.decode({"w": drawn})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.decoder).__name__}, {len(self.mean)} latents)"
