"""A network that decodes a few numbers with a Gaussian density: what gradient origin networks and autoencoders are as priors."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior


class GaussianLatents(ImplicitPrior):
    r"""``x = g(z)``, ``z ~ N(mean, C)``: ``S(z) = -log p(z) = 1/2 (z - mean)^T C^{-1} (z - mean)``, up to a constant.

    Args:
        decoder: a network ``(batch, latents) -> (batch, channel, *space)`` whose items do not mix.
        mean: ``(latents,)``.
        covariance: ``(latents, latents)``; the identity by default.

    >>> prior = GaussianLatents(nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (1, 2, 3))), torch.zeros(2))
    >>> prior.decode(prior.initial()).shape, prior.energy({"z": torch.ones(1, 2)}, None)
    (torch.Size([1, 1, 2, 3]), tensor([1.]))
    """

    def __init__(self, decoder: nn.Module, mean: Tensor, covariance: Tensor | None = None) -> None:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in decoder.modules()):
            raise InputError(f"the decoder of {type(self).__name__} has batch normalisation, which mixes items; take one without")
        size = mean.numel()
        covariance = torch.eye(size, dtype=mean.dtype, device=mean.device) if covariance is None else covariance
        if mean.ndim != 1 or tuple(covariance.shape) != (size, size):
            raise InputError(f"latents have a mean (n,) and a covariance (n, n), got {tuple(mean.shape)} and {tuple(covariance.shape)}")
        root, failed = torch.linalg.cholesky_ex(covariance.double())
        if int(failed):
            raise InputError("the covariance of the latents is not positive definite")
        self.decoder, self.mean = decoder, mean
        self.whiten = torch.linalg.inv(root).to(mean)  # W with W^T W = C^{-1}

    def initial(self) -> dict[str, Tensor]:
        return {"z": self.mean[None].clone()}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        image: Tensor = self.decoder(parameters["z"])
        return image

    def energy(self, parameters: dict[str, Tensor], x: Tensor | None) -> Tensor:
        return 0.5 * ((parameters["z"] - self.mean) @ self.whiten.T).square().sum(1)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draws from the prior, ``(n, channel, *space)``."""
        drawn = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        z = self.mean + torch.linalg.solve(self.whiten, drawn.T).T
        with torch.no_grad():
            return self.decode({"z": z})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.decoder).__name__}, {len(self.mean)} latents)"
