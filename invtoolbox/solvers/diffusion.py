"""Diffusion samplers: DPS, DiffPIR and DDRM by deepinv, and their common base class.

A step makes a few whole draws, and a posterior makes more of them.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.inference_mode import outside_inference_mode
from invtoolbox.core.interrupts import check_time
from invtoolbox.core.reductions import items_are_independent
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError, MeasurementWarning, warn_user
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, item_norm
from invtoolbox.posteriors.base import MomentPosterior, Posterior
from invtoolbox.posteriors.running_moments import Chain
from invtoolbox.priors.base import ExplicitPrior, PriorSum
from invtoolbox.priors.learned.denoiser import Denoiser
from invtoolbox.priors.settings import check_intensity_range
from invtoolbox.problem import Problem
from invtoolbox.solvers.base import Solver, State, implicit_reason
from invtoolbox.solvers.deepinv_sampling import (
    Network,
    RandomNumbers,
    SingularDecomposition,
    UnitRangeProblem,
    undecomposed_reason,
)
from invtoolbox.solvers.langevin import sampling_reason

#: Number of pixels up to which a sampler by its name alone has its usual settings.
_SMALL = 64 * 64


@dataclass(kw_only=True)
class DiffusionState(State):
    """The running moments of the draws so far."""

    chain: Chain


@dataclass(frozen=True)
class DiffusionSampler(Solver):
    """Independent draws from pure noise to an image, guided by the measurements.

    The solution is the mean of the draws, ``max_iterations`` times ``at_once`` of them.
    `Solution.posterior` holds their mean and standard deviation and makes new draws on demand.
    Certificate: the relative Monte-Carlo error of the standard deviation.

    Args:
        at_once: number of draws per step, which go through the network as one batch.

    Attributes:
        linear_only: whether the operator must be linear.
        quick: settings of a run by the name alone, see `alone`.
    """

    max_iterations: int = 100
    tolerance: float = 0.05
    at_once: int = 1

    certificate_name: ClassVar[str] = "relative Monte-Carlo error of the standard deviation"
    samples: ClassVar[bool] = True
    linear_only: ClassVar[bool] = False
    quick: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "at_once")

    def alone(self, problem: Problem, priors: PriorSum) -> Self:
        # A draw of a small image, or with a score in closed form, takes seconds anyway.
        is_large = problem.zeros()[0].numel() > _SMALL
        is_network = any(isinstance(term.prior, Denoiser) for term in priors.terms)
        return replace(self, **self.quick) if is_large and is_network else self

    @abstractmethod
    def draws(self, objective: Objective, generators: list[Generator]) -> Tensor:
        """Return one draw per generator, ``(count, batch, channel, *space)``.

        Every item of the batch uses the same random numbers.
        """

    def unsupported_reason(self, objective: Objective) -> str | None:
        name = type(self).__name__
        if reason := implicit_reason(objective, name) or sampling_reason(objective, name):
            return reason
        if not isinstance(objective.problem.data_term, LeastSquares) or not isinstance(
            objective.problem.y, Tensor
        ):
            return (
                f"{name} needs Gaussian noise, LeastSquares(noise_std=...), and the data term is "
                f"{objective.problem.data_term!r}"
            )
        if self.linear_only and not isinstance(objective.problem.operator, LinearOperator):
            return f"{name} needs a linear operator, and {objective.problem.operator} is not"
        return self.prior_reason(objective)

    def prior_reason(self, objective: Objective) -> str | None:
        """Return why a diffusion cannot follow the priors, or ``None``."""
        name = type(self).__name__
        if (
            len(objective.terms) != 1
            or "denoise" not in objective.terms[0][1].offers
            or objective.terms[0][1].fixed_level
        ):
            return (
                f"{name} needs one prior that denoises at every noise level, a Denoiser of a "
                "network that takes the level or a GaussianMixture, and the prior is "
                f"{objective.prior!r}"
            )
        if bool((objective.terms[0][0] != 1).any()):
            return (
                f"{name} follows the density of {objective.terms[0][1]!r} itself, so it takes no "
                "weight but 1"
            )
        return None

    def init(self, objective: Objective, start: Tensor) -> DiffusionState:
        self._compare_units(objective)
        infinite = torch.full_like(objective.regularization, torch.inf)
        return DiffusionState(
            x=start,
            value=objective.nan(),
            discrepancy=torch.full_like(infinite, torch.nan),
            certificate=infinite,
            chain=Chain.start(start, 32),
        )

    def _compare_units(self, objective: Objective) -> None:
        """Warn if no image of the intensity range explains the measurements."""
        problem, D = objective.problem, cast(LeastSquares, objective.problem.data_term)
        intensity_range = getattr(self, "intensity_range", None)
        # Only a linear operator has a norm that bounds its measurements.
        if intensity_range is None or not isinstance(problem.operator, LinearOperator):
            return
        # Measurements without weight do not count; a weight above 1 is taken as 1.
        weights = 1.0 if D.weights is None else D.weights
        root = torch.as_tensor(weights, device=problem.y0.device).sqrt().clamp_max(1.0)
        # Noise of n measurements has the norm noise_std sqrt(n); twice that is a generous bound.
        y = problem.y * root
        assert D.noise_std is not None
        noise = 2 * D.noise_std * y[0].numel() ** 0.5
        norm = problem.operator.norm(dtype=problem.zeros().dtype, device=y.device)
        # |y| is at most |A| |x| and the noise.
        least = (item_norm(y) - noise) / (norm * problem.zeros()[0].numel() ** 0.5)
        largest = max(abs(value) for value in intensity_range)
        if bool((least > 2 * largest).any()):
            warn_user(
                f"the measurements belong to images with a root mean square of at least "
                f"{float(least.max()):.3g}, and the intensity_range of {type(self).__name__} is "
                f"{intensity_range}; give the values of black and white as intensity_range to "
                "the sampler, and to the prior too",
                MeasurementWarning,
            )

    def step(self, objective: Objective, state: DiffusionState) -> DiffusionState:
        device = objective.problem.y0.device
        draws = self.draws(objective, split(objective.generator("cpu"), self.at_once, device))
        first = objective.iteration * self.at_once
        # Sums of differences to the first draw lose less to rounding than sums of draws.
        chain = state.chain if first else state.chain.recenter(draws[0])
        for k, x in enumerate(draws):
            chain.add(x, first + k + 1)
        x = draws[-1]
        value, _, discrepancy = objective.data(x)
        # The spread of fewer than 32 draws, the blocks of the chain, says nothing about its error.
        certificate = chain.relative_error() if first + self.at_once >= 32 else state.certificate
        return DiffusionState(
            x=x,
            value=value + objective.prior_value(x),
            discrepancy=discrepancy,
            certificate=certificate,
            chain=chain,
        )

    def result(self, state: DiffusionState) -> Tensor:
        # Before the first draw there is no mean, and the answer is the start.
        return torch.where(
            (state.chain.number > 0).view(-1, *[1] * (state.x.ndim - 1)),
            state.chain.mean(),
            state.x,
        )

    def summary(self, state: DiffusionState) -> Chain:
        return state.chain

    def posterior(self, objective: Objective, answer: Tensor, summary: Chain) -> Posterior | None:
        return (
            DiffusionPosterior(self, objective, summary)
            if bool((summary.number > 0).all())
            else None
        )


class DiffusionPosterior(MomentPosterior):
    """Mean and standard deviation of the draws of `solve`, and new draws.

    An interval allows for their number n: another draw of a normal distribution is within ``mean -+
    t sqrt(1 + 1 / n) std``, t the quantile of Student's distribution with n - 1 degrees of freedom.
    """

    def __init__(self, solver: DiffusionSampler, objective: Objective, chain: Chain) -> None:
        super().__init__(chain.mean(), chain.std())
        self.solver, self.objective = solver, objective
        self.number = int(chain.number.min())

    def interval(
        self, level: float = 0.95, shape: Literal["normal", "quantile"] = "normal"
    ) -> tuple[Tensor, Tensor]:
        low, high = super().interval(level, shape)
        if shape == "quantile":
            return low, high
        if self.number < 2:
            raise InputError("an interval needs at least two draws; make more of them")
        from scipy.special import stdtrit

        # The normal interval is mean -+ z std; t sqrt(1 + 1 / n) takes the place of z.
        ratio = stdtrit(self.number - 1, 0.5 + level / 2) / NormalDist().inv_cdf(0.5 + level / 2)
        factor = float(ratio) * (1 + 1 / self.number) ** 0.5
        return self.mean + factor * (low - self.mean), self.mean + factor * (high - self.mean)

    @outside_inference_mode
    def draw(self, count: int, generator: Generator) -> Tensor:
        with torch.no_grad():
            return self.solver.draws(self.objective, split(generator, count))


def split(generator: Generator, count: int, device: torch.device | None = None) -> list[Generator]:
    """Return one generator per draw, on a device; None for the device of ``generator``.

    A draw then does not depend on the number of draws at once. The host waits for the seeds if
    ``generator`` is on a GPU.
    """
    # One number of the generator seeds each draw.
    seeds = [
        int(torch.randint(1 << 62, (1,), generator=generator, device=generator.device))
        for _ in range(count)
    ]
    device = generator.device if device is None else device
    return [Generator(device).manual_seed(seed) for seed in seeds]


def the_prior(objective: Objective) -> ExplicitPrior:
    """Return the one prior of an objective that `DiffusionSampler.unsupported_reason` accepted."""
    return objective.terms[0][1]


class DeepinvSampler(DiffusionSampler):
    """Base class of samplers of deepinv, which know one operator and one noise level at a time.

    A subclass writes `sample`. Items with an operator or a noise level of their own are drawn one
    by one.

    Attributes:
        noise_factor: factor that makes the random numbers of deepinv's sampler standard normal.
        normalizes: whether the operator is divided by its norm.
    """

    noise_factor: ClassVar[float] = 1.0
    normalizes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        settings: Any = self
        check_intensity_range(settings.intensity_range)
        check_range(self, "[1, inf)", "steps")

    @abstractmethod
    def sample(self, measured: UnitRangeProblem, network: Network) -> Tensor:
        """Return draws in [0, 1] by deepinv's sampler, whose images and noise have that range."""

    def draws_together(self, objective: Objective, generators: list[Generator]) -> Tensor:
        """Return the draws of items that share their operator and their noise level."""
        # u in [0, 1] stands for x = low + (high - low) u.
        settings: Any = self
        low, high = settings.intensity_range
        count = len(generators)
        measured = UnitRangeProblem(objective, count, low, high, normalized=self.normalizes)
        network = Network(the_prior(objective), measured.y, low, high)
        with RandomNumbers(generators, self.noise_factor):
            u = self.sample(measured, network)
        return (low + (high - low) * u.to(measured.y)).unflatten(0, (count, -1))

    def draws(self, objective: Objective, generators: list[Generator]) -> Tensor:
        problem, D = objective.problem, cast(LeastSquares, objective.problem.data_term)
        assert D.noise_std is not None
        # deepinv takes one operator and one noise level for all items.
        if problem.operator.items is None and D.noise_std.numel() == 1:
            return self.draws_together(objective, generators)
        items = torch.arange(objective.batch, device=problem.y0.device).split(1)
        states = [generator.get_state() for generator in generators]
        draws = []
        for item in items:
            # Every item uses the same random numbers, alone and in a batch.
            if not items_are_independent():
                for generator, state in zip(generators, states):
                    generator.set_state(state)
            draws.append(self.draws_together(objective.select(item), generators))
        return torch.cat(draws, 1)


@dataclass(frozen=True)
class DPS(DeepinvSampler):
    r"""The reverse diffusion with a gradient towards the measurements through the denoiser.

    The gradient is ``grad_{x_t} |A(denoise(x_t)) - y|^2``. Chung, Kim, Mccann, Klasky and Ye,
    "Diffusion posterior sampling for general noisy inverse problems" (ICLR 2023), on the
    variance-preserving schedule with the steps of DDPM; the draws have the bits of deepinv's. The
    operator may be nonlinear; each step differentiates the denoiser. Mean and spread are approximate
    even if the score is exact (benchmarks/samplers.py): the method treats the uncertain part of the
    denoised image as known. With a network and a limited time it is below total variation on
    photographs (benchmarks/samplers_by_name.py).

    Args:
        steps: number of diffusion steps, each an evaluation of the denoiser and its derivative.
        weight: weight of the gradient.
        guidance: ``"annealed"`` divides the squared misfit by twice the variance of noise and
            diffusion, so that a weight of 1 is about the likelihood; on Gaussians the mean is
            nearest at 1.5. ``"norm"`` takes the norm of the misfit, as the paper, and needs weights
            in the hundreds, depending on the problem.
        intensity_range: the values ``(low, high)`` of the image that the diffusion maps to 0 and 1;
            denoised values above are not believed.

    >>> import torch, invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.full((1, 1, 50), 0.6),
    ...     it.operators.Identity((1, 50)),
    ...     it.data_terms.LeastSquares(noise_std=0.1),
    ... )
    >>> prior = it.priors.Gaussian(torch.full((1, 50), 0.4), 0.01)
    >>> solution = it.solve(problem, prior, DPS(steps=100, max_iterations=2), progress=False)
    >>> round(float(solution.x.mean()), 1)
    0.5
    """

    steps: int = 1000
    weight: float = 1.5
    guidance: Literal["annealed", "norm"] = "annealed"
    intensity_range: tuple[float, float] = (0.0, 1.0)

    normalizes: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"steps": 100}
    mark: ClassVar[str] = "by its name alone below total variation on photographs"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, ("annealed", "norm"), "guidance")
        check_range(self, "[2, inf)", "steps")

    def sample(self, measured: UnitRangeProblem, network: Network) -> Tensor:
        # The state u = 2 image - 1 lies in [-1, 1]; it has the mean scale * u_0 and the standard
        # deviation scale * level. Both numbers belong to the host, so that a GPU does not wait.
        schedule = _variance_preserving(self.steps)
        y = measured.y
        u = torch.randn(measured.shape, dtype=torch.float64, device=y.device)
        u = u * schedule[0][1] * schedule[0][0]
        for (scale, level), (next_scale, next_level) in itertools.pairwise(schedule):
            check_time()
            clean, slope = self._guide(measured, network, (u / scale + 1) / 2, level / 2)
            # grad log p(u | y): Tweedie's formula for p(u), and half the slope, which is per image.
            score = (scale * (2 * clean - 1) - u) / (scale * level).pow(2) - 0.5 * slope / scale
            # A step of DDPM (Ho, Jain and Abbeel 2020, equation 7) in this notation: the share
            # ratio^2 of the noise's variance remains, and the rest is drawn anew.
            ratio = next_level / level
            share = 1 - (1 - ratio**2)
            fresh = next_level * (1 - share).clamp(min=0).sqrt()
            move = scale * next_scale * level**2 * (1 - ratio * share.clamp(min=0).sqrt()) * score
            u = (next_scale / scale) * u + move
            if fresh > 0:
                u = u + next_scale * fresh * torch.randn_like(u)
        return (u + 1) / 2

    def _guide(
        self, measured: UnitRangeProblem, network: Network, image: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the denoised image and the gradient of the weighted misfit in the noisy image."""
        with torch.enable_grad():
            image = image.requires_grad_(True)
            clean = network(image.float(), level.float()).clip(-1.0, 1.0)
            residual = measured.A(clean) - measured.y
            norm = torch.linalg.vector_norm(residual, dim=tuple(range(1, residual.ndim)))
            misfit = self.weight * norm
            if self.guidance == "annealed":
                # |A(x) - y|^2 / (2 (sigma^2 + level^2)), with the variances of noise and diffusion.
                noise, diffusion = (t.float().to(norm.dtype) for t in (measured.deviation, level))
                misfit = self.weight * norm**2 / (2 * (noise**2 + diffusion**2))
            (slope,) = torch.autograd.grad(misfit.sum(), image)
        return clean.detach(), slope


def _variance_preserving(steps: int) -> list[tuple[Tensor, Tensor]]:
    """Return scale and noise level at equal steps of the time from 1 to 0, on the host.

    The rate of the noise grows from 0.1 to 20 (Song et al. 2021, "Score-based generative modeling
    through stochastic differential equations", appendix C).
    """
    schedule = []
    for t in torch.linspace(1, 0, steps, dtype=torch.float64):
        # scale = exp(-B / 2) with B the integral of the rate, and scale^2 (1 + level^2) = 1.
        scale = torch.exp(-0.5 * (0.1 * t + 0.5 * t**2 * (20.0 - 0.1)))
        schedule.append((scale, (1 / scale**2 - 1) ** 0.5))
    return schedule


@dataclass(frozen=True)
class DiffPIR(DeepinvSampler):
    r"""At every noise level: denoise, a proximal step on the misfit, noise again.

    Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool, "Denoising diffusion models for plug-and-play
    image restoration" (CVPR workshops 2023); the sampling is deepinv's, the proximal step ours.
    Linear operators; no derivative of the denoiser.

    Args:
        steps: number of diffusion steps.
        strength: lambda of the paper: the proximal step minimizes
            ``D(A(u), y) + strength / (2 s^2) |u - x_0|^2`` at noise level s, so that a larger value
            gives the denoiser more weight. 1 is right for a denoiser with an error of s; the paper
            takes 3 to 25, depending on network and problem.
        fresh: zeta of the paper, the share of fresh noise in the noise that is added back, 0 to 1.
            More of it brings the mean nearer, and makes the draws more alike.
        intensity_range: the values ``(low, high)`` of the image that the diffusion maps to 0 and 1;
            denoised values are clipped to it.
    """

    steps: int = 100
    strength: float = 1.0
    fresh: float = 0.3
    intensity_range: tuple[float, float] = (0.0, 1.0)

    linear_only: ClassVar[bool] = True
    # Networks have larger errors than exact scores, of which a larger strength believes more.
    quick: ClassVar[dict[str, Any]] = {"steps": 20, "strength": 4.0, "fresh": 1.0}

    def sample(self, measured: UnitRangeProblem, network: Network) -> Tensor:
        from deepinv.sampling import DiffPIR as Sampler

        # deepinv halves the unit of noise between images in [-1, 1] and [0, 1], and its step counts
        # |.|^2 twice.
        sampler = Sampler(
            network,
            measured,
            sigma=measured.sigma,
            max_iter=self.steps,
            zeta=self.fresh,
            lambda_=2 * self.strength,
            device=measured.y.device,
        )
        # The mean of the first level: grey.
        start = measured.y.new_zeros(measured.shape) + 0.5
        return sampler(measured.y, measured, x_init=start)


@dataclass(frozen=True)
class DDRM(DeepinvSampler):
    r"""Diffusion in the coordinates of the singular value decomposition.

    Each coordinate moves towards its measurement as far as its own noise allows. Kawar, Elad, Ermon
    and Song, "Denoising diffusion restoration models" (NeurIPS 2022); the sampling is deepinv's.
    For masks, periodic convolutions and images of at most 1024 pixels.

    Args:
        steps: number of noise levels, from 1 to 0 in equal steps; 20 as in the paper.
        eta: the share of fresh noise in coordinates that are not measured, or measured less well
            than the level.
        eta_measured: the share of the way that the other coordinates go to their measurement; eta_b
            of the paper.
        intensity_range: the values ``(low, high)`` of the image that the diffusion maps to 0 and 1.
    """

    steps: int = 20
    eta: float = 0.85
    eta_measured: float = 1.0
    intensity_range: tuple[float, float] = (0.0, 1.0)

    linear_only: ClassVar[bool] = True

    # deepinv divides every number by sqrt(2), which is right for the real part of complex numbers
    # only.
    noise_factor: ClassVar[float] = math.sqrt(2)

    def unsupported_reason(self, objective: Objective) -> str | None:
        return super().unsupported_reason(objective) or undecomposed_reason(objective)

    def sample(self, measured: UnitRangeProblem, network: Network) -> Tensor:
        from deepinv.sampling import DDRM as Sampler

        sampler = Sampler(
            network,
            sigmas=np.linspace(1, 0, self.steps),
            eta=self.eta,
            etab=self.eta_measured,
        )
        return sampler(measured.y, SingularDecomposition(measured))
