"""The posterior over images that a distribution over latents stands for."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from invtoolbox.posterior import Posterior
from invtoolbox.priors.implicit.variational import Variational


@dataclass(frozen=True)
class LatentPosterior(Posterior):
    """Images decoded from draws of the latents; one pass of the decoder a sample.

    Attributes:
        distribution: the family, and the prior that decodes.
        parameters: of it, ``(batch, ...)`` each.
        number: samples behind `mean` (MMSE-x) and `std`.
    """

    distribution: Variational
    parameters: dict[str, Tensor] = field(repr=False)
    number: int = 100

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def draw(self, count: int, generator: Generator) -> Tensor:
        batch = next(iter(self.parameters.values())).shape[0]
        noise = [self.distribution.noise(self.parameters, generator) for _ in range(count)]
        # Sample after sample: as one batch they would need the decoder's memory count times.
        with torch.no_grad():
            samples = [self.distribution.image_of(self.parameters, each)[0] for each in noise]
        stacked = torch.stack(samples)
        assert stacked.shape[1] == batch
        return stacked
