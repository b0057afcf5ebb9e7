"""A plain variational autoencoder as an implicit prior."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.priors.implicit.gaussian_latents import GaussianLatents


class Encoded(NamedTuple):
    """What a variational autoencoder makes of images in training."""

    x: Tensor  # decoded from a draw of the latents
    nats: Tensor  # (batch,) the divergence of their distribution from the prior


class AutoencoderNetwork(nn.Module):
    r"""An encoder to means and log variances of latents, and a decoder: ``q(z | x) = N(m(x), diag(exp v(x)))`` against ``N(0, 1)``.

    Kingma and Welling, "Auto-encoding variational Bayes" (2014). `training.RateDistortion` trains it: distortion, and the divergence
    ``1/2 sum(m^2 + exp v - v - 1)`` as the rate.

    Args:
        encoder: ``(batch, channel, *space) -> (batch, 2 latents)``, means first.
        decoder: ``(batch, latents) -> (batch, channel, *space)``.

    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    >>> network = AutoencoderNetwork(encoder, nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (1, 3, 4))))
    >>> network(torch.rand(5, 1, 3, 4), torch.Generator().manual_seed(0)).nats.shape
    torch.Size([5])
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``m(x)`` and ``v(x)``, ``(batch, latents)`` each."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return mean, log_variance

    def forward(self, x: Tensor, generator: Generator) -> Encoded:
        mean, log_variance = self.moments(x)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        nats = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
        return Encoded(self.decoder(mean + (0.5 * log_variance).exp() * noise), nats)


class VariationalAutoencoder(GaussianLatents):
    """The decoder of a variational autoencoder, its latents standard normal; CSGM (Bora et al. 2017) with any solver of the toolbox.

    Args:
        network: trained.
        latents: how many.

    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    >>> network = AutoencoderNetwork(encoder, nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (1, 3, 4))))
    >>> prior = VariationalAutoencoder(network, 2)
    >>> prior.encode(torch.rand(5, 1, 3, 4))["w"].shape
    torch.Size([5, 2])
    """

    def __init__(self, network: AutoencoderNetwork, latents: int) -> None:
        if latents < 1:
            raise InputError(f"a VariationalAutoencoder has at least one latent, got {latents}")
        like = next(network.parameters()).detach()
        super().__init__(
            network.decoder, torch.zeros(latents, dtype=like.dtype, device=like.device)
        )
        self.network = network

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """The mean latents of images: parameters to start from, ``it.solve(..., initial=prior.encode(x))``."""
        with torch.no_grad():
            return self.whitened(self.network.moments(x)[0])
