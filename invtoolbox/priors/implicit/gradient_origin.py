"""Gradient origin networks: a decoder whose own gradient is the encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.priors.implicit.gaussian_latents import GaussianLatents


class GradientOriginNetwork(nn.Module):
    r"""A decoder F with ``z(x) = -grad_z |x - F(z)|^2`` at ``z = 0`` in place of an encoder; it gives back ``F(z(x))``.

    Bond-Taylor and Willcocks, "Gradient origin networks" (ICLR 2021). The gradient is that of a sum over each item's own pixels, so that
    z depends neither on the other items nor on how many there are (the paper's code takes the mean over the batch). Training it to
    give back its input, with ``training.L2`` on pairs of an image and itself, differentiates through the gradient: activations with a
    second derivative (ELU, SiLU) learn more than ReLU.

    Args:
        decoder: ``(batch, latents) -> (batch, channel, *space)``, without batch normalisation.
        latents: how many.

    >>> network = GradientOriginNetwork(nn.Sequential(nn.Linear(2, 6), nn.ELU(), nn.Linear(6, 12), nn.Unflatten(1, (1, 3, 4))), 2)
    >>> network(torch.rand(5, 1, 3, 4)).shape, network.origin(torch.rand(5, 1, 3, 4)).shape
    (torch.Size([5, 1, 3, 4]), torch.Size([5, 2]))
    """

    def __init__(self, decoder: nn.Module, latents: int) -> None:
        super().__init__()
        if latents < 1:
            raise InputError(f"a GradientOriginNetwork has at least one latent, got {latents}")
        self.decoder, self.latents = decoder, latents

    def origin(self, x: Tensor) -> Tensor:
        """``z(x)``, ``(batch, latents)``."""
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            start = torch.zeros(
                len(x), self.latents, dtype=x.dtype, device=x.device, requires_grad=True
            )
            misfit = (x - self.decoder(start)).square().sum()
            (gradient,) = torch.autograd.grad(misfit, start, create_graph=learning)
        return -gradient

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.origin(x))
        return image


class GradientOrigin(GaussianLatents):
    """The decoder of a gradient origin network as an implicit prior, its latents with a Gaussian density.

    Args:
        network: trained.
        mean, covariance: of the latents of images like the one that is looked for; `fitted` measures them.

    >>> network = GradientOriginNetwork(nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (1, 3, 4))), 2)
    >>> prior = GradientOrigin.fitted(network, torch.rand(50, 1, 3, 4))
    >>> prior.encode(torch.rand(5, 1, 3, 4))["w"].shape
    torch.Size([5, 2])
    """

    def __init__(
        self, network: GradientOriginNetwork, mean: Tensor, covariance: Tensor | None = None
    ) -> None:
        super().__init__(network.decoder, mean, covariance)
        self.network = network

    @classmethod
    def fitted(cls, network: GradientOriginNetwork, images: Tensor) -> GradientOrigin:
        """With the mean and the covariance of the latents of some images, ``(n, channel, *space)``, more of them than latents."""
        if len(images) <= network.latents:
            raise InputError(
                f"the covariance of {network.latents} latents needs more images than that, got {len(images)}"
            )
        with torch.no_grad():
            z = network.origin(images)
        return cls(
            network,
            z.mean(0),
            z.T.cov() + 1e-6 * z.var() * torch.eye(network.latents, dtype=z.dtype, device=z.device),
        )

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """The latents of images: parameters to start from, ``it.solve(..., initial=prior.encode(x))``."""
        with torch.no_grad():
            return self.whitened(self.network.origin(x))
