"""Distributions over the latents of an implicit prior.

`Variational` is an implicit prior whose variable is such a distribution, and `LatentPosterior` is
the posterior over images that it stands for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from invtoolbox.core.reductions import sum_items
from invtoolbox.operators.base import expand
from invtoolbox.posteriors.base import Posterior
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.composed import PriorWrapper

Family = Literal["uniform", "gaussian", "dirac"]

#: Bounds of a width, and of the factor on a pixel's own standard deviation (Biquard et al. 2025 and
#: 2024).
WIDTHS, PIXEL_FACTORS = (1.5e-5, 20.0), (1e-4, 3.0)
#: Name of this factor among the parameters, and suffix of the name of a latent for its width; both
#: are logarithms.
PIXEL, WIDTH = "pixel_log_factor", "_log_width"


class Variational(PriorWrapper, ImplicitPrior):
    """Distribution over latents, with its mean m and its widths a as parameters.

    ``q(z) = prod U(z_i; m_i, a_i)`` or ``prod N(z_i; m_i, a_i^2)``. `decode_and_energy` draws one z
    and gives an unbiased estimate of the weighted divergence
    ``w KL(q | p) = w (E[S(z)] - entropy(q))``, up to the constant of S. The entropy of the uniform
    distribution is ``sum log a`` over all latents. For the Gaussian, ``log q`` is evaluated at the
    draw with its parameters held fixed: this changes no expectation, and if the posterior is
    Gaussian the gradient has no noise left at the optimum (Roeder, Wu and Duvenaud, NeurIPS 2017).

    With ``pixels``, an image is the decoded image plus noise of the standard deviation ``b s(z)``,
    s given by the prior's second decoder, with the divergence ``1/2 sum (b^2 - 2 log b - 1)``
    (Biquard et al. 2024).

    Widths are kept between bounds by projection, so a width at its bound is free to come back.
    Without a generator the mean is decoded.

    Args:
        prior: implicit prior that decodes the latents, with their energy S.
        family: ``"uniform"``, ``"gaussian"`` or ``"dirac"``.
        weight: w, one value per item, ``(batch,)``.
        start: first value of a.
        pixels: whether the noise of the pixels is part of the distribution.
    """

    item_fields: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(
        self,
        prior: ImplicitPrior,
        family: Family,
        weight: Tensor,
        start: float = 1.0,
        pixels: bool = False,
    ) -> None:
        self.prior, self.family, self.weight = prior, family, weight
        self.first_width, self.pixels = start, pixels

    def initial(self) -> dict[str, Tensor]:
        return self.widen(self.prior.initial())

    def widen(self, latents: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters of the distribution around latents."""
        if self.family == "dirac":
            return latents
        parameters = latents | {
            name + WIDTH: torch.full_like(t, math.log(self.first_width))
            for name, t in latents.items()
        }
        if self.pixels:
            std = self.prior.pixel_std(latents)
            assert std is not None
            parameters[PIXEL] = torch.zeros_like(std)
        return parameters

    def latents(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean."""
        return {
            name: t
            for name, t in parameters.items()
            if name + WIDTH in parameters or self.family == "dirac"
        }

    def noise(self, parameters: dict[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """Draw standard noise of every latent, and of the pixels: ``(1, ...)`` each.

        The draw is the same for every item.
        """
        drawn = {}
        for name, mean in self.latents(parameters).items():
            draw = torch.rand if self.family == "uniform" else torch.randn
            drawn[name] = draw(
                1, *mean.shape[1:], generator=generator, dtype=mean.dtype, device=mean.device
            )
            if self.family == "uniform":
                drawn[name] -= 0.5
        if self.pixels:
            like = parameters[PIXEL]
            drawn[PIXEL] = torch.randn(
                1, *like.shape[1:], generator=generator, dtype=like.dtype, device=like.device
            )
        return drawn

    def image_of(
        self, parameters: dict[str, Tensor], noise: dict[str, Tensor]
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return the image and the latents of a draw."""
        drawn = {
            name: mean + parameters[name + WIDTH].exp() * noise[name]
            for name, mean in self.latents(parameters).items()
        }
        x = self.prior.decode(drawn)
        if self.pixels:
            std = self.prior.pixel_std(drawn)
            assert std is not None
            x = x + parameters[PIXEL].exp() * std * noise[PIXEL]
        return x, drawn

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Any:
        if generator is None or self.family == "dirac":
            return self.prior.decode(self.latents(parameters), generator)
        return self.image_of(parameters, self.noise(parameters, generator))[0]

    def decode_and_energy(
        self, parameters: dict[str, Tensor], generator: Generator | None = None
    ) -> tuple[Any, Tensor]:
        if generator is None or self.family == "dirac":
            x, energy = self.prior.decode_and_energy(self.latents(parameters), generator)
            return x, expand(self.weight, energy) * energy
        x, drawn = self.image_of(parameters, self.noise(parameters, generator))
        divergence = self.prior.energy(drawn, x)
        for name, z in drawn.items():
            log_width = parameters[name + WIDTH]
            if self.family == "uniform":
                divergence = divergence - sum_items(log_width)
            else:
                # -log q(z) = sum 1/2 ((z - m)^2 / a^2 + log 2 pi) + log a.
                away = (z - parameters[name].detach()) * torch.exp(-log_width.detach())
                divergence = divergence - sum_items(
                    0.5 * (away.square() + math.log(2 * math.pi)) + log_width.detach()
                )
        if self.pixels:
            log_b = parameters[PIXEL]
            divergence = divergence + sum_items(0.5 * (torch.exp(2 * log_b) - 1) - log_b)
        return x, self.weight * divergence

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        """Return the weighted energy at the mean."""
        return self.weight * self.prior.energy(self.latents(parameters), x)

    def project(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        bounded = {}
        for name, t in parameters.items():
            if name == PIXEL or name.endswith(WIDTH):
                low, high = PIXEL_FACTORS if name == PIXEL else WIDTHS
                bounded[name] = t.clamp(math.log(low), math.log(high))
        return parameters | bounded | self.prior.project(self.latents(parameters))

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        return dict.fromkeys(parameters, 1.0) | self.prior.learning_rates(self.latents(parameters))

    def __repr__(self) -> str:
        return f"Variational({self.prior!r}, {self.family!r})"


@dataclass(frozen=True)
class LatentPosterior(Posterior):
    """Posterior of images decoded from draws of the latents, with one decoder pass per sample.

    Attributes:
        distribution: the family of distributions, and the prior that decodes.
        parameters: parameters of the distribution, ``(batch, ...)`` each.
        number: number of samples behind `mean` (MMSE-x) and `std`.
    """

    distribution: Variational
    parameters: dict[str, Tensor] = field(repr=False)
    number: int = 100

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def draw(self, count: int, generator: Generator) -> Tensor:
        noise = [self.distribution.noise(self.parameters, generator) for _ in range(count)]
        # Sample after sample: one batch of samples would need count times the decoder's memory.
        with torch.no_grad():
            samples = [self.distribution.image_of(self.parameters, draw)[0] for draw in noise]
        return torch.stack(samples)
