"""Images made from noise by the probability flow of a diffusion prior (`ProbabilityFlow`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior, Problem
from invtoolbox.priors.composed import PriorWrapper
from invtoolbox.priors.settings import check_graph, check_intensity_range, replace

#: Exponent of the schedule of levels (Karras, Aittala, Aila and Laine, NeurIPS 2022, equation 5).
_EXPONENT = 7.0


class ProbabilityFlow(PriorWrapper, ImplicitPrior):
    r"""Image ``x = g(w)`` of noise ``w ~ N(0, 1)``, g the probability flow of a diffusion prior.

    The flow starts at ``x_0 = centre + s_0 w`` and goes through falling noise levels ``s_k`` (DDIM
    without fresh noise; Song, Meng and Ermon, ICLR 2021). D is the denoiser of the prior:

    .. math:: x_{k+1} = \rho x_k + (1 - \rho) D(x_k, s_k), \qquad \rho = s_{k+1} / s_k.

    The last level is 0. The energy is ``S(w) = 1/2 |w|^2``, so solvers of implicit priors find the
    noise of an image that explains measurements. `solvers.invert_flow` finds the noise of a known
    image. If the operator takes complex images, w has noise in both parts.

    Args:
        prior: prior that denoises at every noise level, such as ``diffusion-natural``.
        shape: shape of an image, ``(channel, *space)``.
        steps: number of steps, each with one call of the denoiser.
        levels: first and last positive noise level, as fractions of the intensity range.
        intensity_range: usual values ``(low, high)`` of the image; the centre is their mean.

    >>> import invtoolbox as it
    >>> gaussian = it.priors.Gaussian(torch.full((1, 400), 0.4), 0.01)
    >>> drawn = ProbabilityFlow(gaussian, (1, 400)).sample(1, Generator().manual_seed(0))
    >>> round(float(drawn.mean()), 1), round(float(drawn.std()), 1)
    (0.4, 0.1)
    """

    def __init__(
        self,
        prior: ExplicitPrior,
        shape: Sequence[int],
        steps: int = 20,
        levels: tuple[float, float] = (2.0, 0.003),
        intensity_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        levelled = isinstance(prior, ExplicitPrior) and not prior.fixed_level
        if not levelled or "denoise" not in prior.offers:
            raise InputError(
                "ProbabilityFlow needs a prior that denoises at every noise level, such as "
                f"priors.load('diffusion-natural'), got {prior!r}"
            )
        if steps < 2 or not 0 < levels[1] < levels[0] < math.inf:
            raise InputError(
                "ProbabilityFlow needs at least 2 steps and levels (first, last) that fall, "
                f"got {steps} and {levels}"
            )
        check_intensity_range(intensity_range)
        self.prior, self.shape, self.steps = prior, tuple(shape), steps
        self.levels, self.intensity_range = levels, intensity_range
        self.like = torch.zeros(())

    def prepare(self, problem: Problem, solve: Any) -> Self:
        like = problem.zeros().new_zeros(())
        return replace(super().prepare(problem, solve), like=like)

    @property
    def centre(self) -> float:
        """Middle of the intensity range, the mean of images before the first step."""
        return sum(self.intensity_range) / 2

    def schedule(self) -> list[float]:
        """Return the noise levels in the units of the image, followed by 0."""
        return falling_levels(self.levels, self.intensity_range, self.steps)

    def initial(self) -> dict[str, Tensor]:
        return {"w": self.like.new_zeros(1, *self.shape)}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        schedule = self.schedule()
        x = self.centre + schedule[0] * parameters["w"]
        for level, following in itertools.pairwise(schedule):
            share = following / level
            x = share * x + (1 - share) * self.denoise(x, level)
        return x

    def energy(self, parameters: dict[str, Tensor], x: Tensor | None) -> Tensor:
        return 0.5 * sum_items(parameters["w"].abs().square())

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw from the prior, ``(n, channel, *space)``."""
        device = self.like.device if generator is None else generator.device
        parts = (2,) if self.like.is_complex() else ()
        noise = torch.randn(n, *self.shape, *parts, generator=generator, device=device)
        noise = torch.view_as_complex(noise) if parts else noise
        with torch.no_grad():
            return self.decode({"w": noise.to(self.like)})

    def denoise(self, x: Tensor, level: float) -> Tensor:
        """Return the mean clean images, given images with a noise level."""
        clean = self.prior.denoise(x, x.real.new_full((len(x),), level))
        return check_graph(clean, x, self.prior)

    def __repr__(self) -> str:
        return f"ProbabilityFlow({self.prior!r}, {self.shape}, steps={self.steps})"


def falling_levels(
    levels: tuple[float, float], intensity_range: tuple[float, float], steps: int
) -> list[float]:
    """Return noise levels ``(a + k / (steps - 1) (b - a))^7`` in the units of the image, then 0.

    a and b are the seventh roots of the first and the last positive level.

    Args:
        levels: these two, relative to the width of the intensity range.
        intensity_range: values of the image that correspond to 0 and 1.
        steps: number of positive levels.

    >>> [round(level, 3) for level in falling_levels((2.0, 0.1), (0.0, 1.0), 3)]
    [2.0, 0.524, 0.1, 0.0]
    """
    low, high = intensity_range
    a, b = (((high - low) * level) ** (1 / _EXPONENT) for level in levels)
    return [*((a + k / (steps - 1) * (b - a)) ** _EXPONENT for k in range(steps)), 0.0]
