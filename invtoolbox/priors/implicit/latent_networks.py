"""Images decoded from a few latents with a Gaussian density.

`GaussianLatents` is the prior of any decoder, `VariationalAutoencoder` and `GradientOrigin` are
those of two kinds of trained networks, `AutoencoderNetwork` and `GradientOriginNetwork`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior


class GaussianLatents(ImplicitPrior):
    """Images ``x = g(mean + L w)`` with ``w ~ N(0, 1)`` and ``L L^T = C``.

    The energy is ``S(w) = -log p = 1/2 |w|^2``, up to a constant. The parameter is w, the latents
    in units of their standard deviations, so that steps and widths of solvers mean the same for
    every network.

    Args:
        decoder: network ``(batch, latents) -> (batch, channel, *space)`` whose items do not mix.
        mean: mean of the latents, ``(latents,)``.
        covariance: covariance of the latents, ``(latents, latents)``; the identity by default.

    >>> decoder = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (1, 2, 3)))
    >>> prior = GaussianLatents(decoder, torch.zeros(2))
    >>> prior.decode(prior.initial()).shape, prior.energy({"w": torch.ones(1, 2)}, None)
    (torch.Size([1, 1, 2, 3]), tensor([1.]))
    """

    def __init__(self, decoder: nn.Module, mean: Tensor, covariance: Tensor | None = None) -> None:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in decoder.modules()):
            raise InputError(
                f"the decoder of {type(self).__name__} has batch normalization, which mixes "
                "items; take one without"
            )
        size = mean.numel()
        covariance = (
            torch.eye(size, dtype=mean.dtype, device=mean.device)
            if covariance is None
            else covariance
        )
        if mean.ndim != 1 or tuple(covariance.shape) != (size, size):
            raise InputError(
                "latents have a mean (n,) and a covariance (n, n), "
                f"got {tuple(mean.shape)} and {tuple(covariance.shape)}"
            )
        root, failed = torch.linalg.cholesky_ex(covariance.double())
        if int(failed):
            raise InputError("the covariance of the latents is not positive definite")
        self.decoder, self.mean = decoder, mean
        self.root = root.to(mean)

    def initial(self) -> dict[str, Tensor]:
        return {"w": torch.zeros_like(self.mean)[None]}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return map_items(lambda w: self.decoder(self.mean + w @ self.root.T), parameters["w"])

    def energy(self, parameters: dict[str, Tensor], x: Tensor | None) -> Tensor:
        return 0.5 * parameters["w"].square().sum(1)

    def whiten(self, z: Tensor) -> dict[str, Tensor]:
        """Return the parameters of latents as the decoder takes them, ``(batch, latents)``."""
        return {"w": map_items(self._whiten, z)}

    def _whiten(self, z: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.root, (z - self.mean).T, upper=False).T

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw from the prior, ``(n, channel, *space)``."""
        like = self.mean
        w = torch.randn(n, len(like), generator=generator, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            return self.decode({"w": w})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.decoder).__name__}, {len(self.mean)} latents)"


class Encoded(NamedTuple):
    """Result of a variational autoencoder for images in training.

    Attributes:
        x: images decoded from a draw of the latents.
        nats: divergence of the distribution of the latents from the prior, ``(batch,)``.
    """

    x: Tensor
    nats: Tensor


class AutoencoderNetwork(nn.Module):
    """Encoder to means and log variances of latents, and decoder.

    ``q(z | x) = N(m(x), diag(exp v(x)))`` against ``N(0, 1)`` (Kingma and Welling, "Auto-encoding
    variational Bayes", 2014). `training.RateDistortion` trains it: distortion, and the divergence
    ``1/2 sum(m^2 + exp v - v - 1)`` as the rate.

    Args:
        encoder: network ``(batch, channel, *space) -> (batch, 2 latents)``, means first.
        decoder: network ``(batch, latents) -> (batch, channel, *space)``.

    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    >>> decoder = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (1, 3, 4)))
    >>> network = AutoencoderNetwork(encoder, decoder)
    >>> network(torch.rand(5, 1, 3, 4), torch.Generator().manual_seed(0)).nats.shape
    torch.Size([5])
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``m(x)`` and ``v(x)``, ``(batch, latents)`` each."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return mean, log_variance

    def forward(self, x: Tensor, generator: Generator) -> Encoded:
        mean, log_variance = self.moments(x)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        nats = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
        return Encoded(self.decoder(mean + (0.5 * log_variance).exp() * noise), nats)


class VariationalAutoencoder(GaussianLatents):
    """Decoder of a variational autoencoder, with standard normal latents.

    It gives CSGM (Bora et al. 2017) with any solver of the toolbox.

    Args:
        network: trained network.
        latents: number of latents.

    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    >>> decoder = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (1, 3, 4)))
    >>> prior = VariationalAutoencoder(AutoencoderNetwork(encoder, decoder), 2)
    >>> prior.encode(torch.rand(5, 1, 3, 4))["w"].shape
    torch.Size([5, 2])
    """

    def __init__(self, network: AutoencoderNetwork, latents: int) -> None:
        check_range(self, "[1, inf)", latents=latents)
        like = next(network.parameters()).detach()
        super().__init__(
            network.decoder, torch.zeros(latents, dtype=like.dtype, device=like.device)
        )
        self.network = network

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """Return the mean latents of images.

        They serve as an initial guess, ``it.solve(..., initial=prior.encode(x))``.
        """
        with torch.no_grad():
            return self.whiten(self.network.moments(x)[0])


class GradientOriginNetwork(nn.Module):
    """Decoder F whose own gradient is the encoder: ``z(x) = -grad_z |x - F(z)|^2`` at ``z = 0``.

    The network returns ``F(z(x))`` (Bond-Taylor and Willcocks, "Gradient origin networks", ICLR
    2021). The gradient belongs to a sum over each item's own pixels, so z depends neither on the
    other items nor on their number (the paper's code takes the mean over the batch). Training the
    network to return its input, with ``training.L2`` on pairs of an image and itself,
    differentiates through the gradient: activations with a second derivative (ELU, SiLU) learn more
    than ReLU.

    Args:
        decoder: network ``(batch, latents) -> (batch, channel, *space)``, without batch
            normalization.
        latents: number of latents.

    >>> layers = nn.Linear(2, 6), nn.ELU(), nn.Linear(6, 12), nn.Unflatten(1, (1, 3, 4))
    >>> network = GradientOriginNetwork(nn.Sequential(*layers), 2)
    >>> network(torch.rand(5, 1, 3, 4)).shape, network.origin(torch.rand(5, 1, 3, 4)).shape
    (torch.Size([5, 1, 3, 4]), torch.Size([5, 2]))
    """

    def __init__(self, decoder: nn.Module, latents: int) -> None:
        super().__init__()
        check_range(self, "[1, inf)", latents=latents)
        self.decoder, self.latents = decoder, latents

    def origin(self, x: Tensor) -> Tensor:
        """Return ``z(x)``, ``(batch, latents)``."""
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            start = torch.zeros(
                len(x), self.latents, dtype=x.dtype, device=x.device, requires_grad=True
            )
            misfit = (x - self.decoder(start)).square().sum()
            (gradient,) = torch.autograd.grad(misfit, start, create_graph=learning)
        return -gradient

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.origin(x))


class GradientOrigin(GaussianLatents):
    """Decoder of a gradient origin network, with a Gaussian density of its latents.

    Args:
        network: trained network.
        mean, covariance: moments of the latents of images like the unknown one; `fit` measures
            them.

    >>> decoder = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (1, 3, 4)))
    >>> prior = GradientOrigin.fit(GradientOriginNetwork(decoder, 2), torch.rand(50, 1, 3, 4))
    >>> prior.encode(torch.rand(5, 1, 3, 4))["w"].shape
    torch.Size([5, 2])
    """

    def __init__(
        self, network: GradientOriginNetwork, mean: Tensor, covariance: Tensor | None = None
    ) -> None:
        super().__init__(network.decoder, mean, covariance)
        self.network = network

    @classmethod
    def fit(cls, network: GradientOriginNetwork, images: Tensor) -> GradientOrigin:
        """Create the prior with the mean and the covariance of the latents of some images.

        Args:
            network: trained network.
            images: images ``(n, channel, *space)``, more of them than latents.
        """
        if len(images) <= network.latents:
            raise InputError(
                f"the covariance of {network.latents} latents needs more images than that, "
                f"got {len(images)}"
            )
        with torch.no_grad():
            z = network.origin(images)
        return cls(
            network,
            z.mean(0),
            z.T.cov() + 1e-6 * z.var() * torch.eye(network.latents, dtype=z.dtype, device=z.device),
        )

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """Return the latents of images.

        They serve as an initial guess, ``it.solve(..., initial=prior.encode(x))``.
        """
        with torch.no_grad():
            return self.whiten(self.network.origin(x))
