"""What diffusion samplers share: a step is a few whole draws, and a posterior is more of them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective import Objective
from invtoolbox.operators.base import LinearOperator
from invtoolbox.posterior import MomentPosterior, Posterior
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.solvers.base import Solver, State, implicit_reason
from invtoolbox.solvers.chain import Chain
from invtoolbox.solvers.unadjusted_langevin import sampling_reason


@dataclass
class DiffusionState(State):
    chain: Chain


@dataclass(frozen=True)
class DiffusionSampler(Solver):
    """Draws from pure noise to an image, guided by the measurements, each independent of the others.

    The solution is the mean of the draws, ``max_iterations`` times ``at_once`` of them; `Solution.posterior` holds mean and standard
    deviation of these and makes new ones on demand. Certificate: the relative Monte-Carlo error of the standard deviation.

    Args:
        at_once: draws of one step, which go through the network as one batch.
    """

    max_iterations: int = 100
    tolerance: float = 0.05
    at_once: int = 1

    certificate_name: ClassVar[str] = "relative Monte-Carlo error of the standard deviation"
    samples: ClassVar[bool] = True
    linear_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise InputError(
                f"{type(self).__name__} makes at least one draw at once, got {self.at_once}"
            )

    @abstractmethod
    def draws(self, objective: Objective, generators: list[Generator]) -> Tensor:
        """One draw a generator, ``(count, batch, channel, *space)``; every item of the batch sees the same random numbers."""

    def misfit(self, objective: Objective) -> str | None:
        name = type(self).__name__
        reason = implicit_reason(objective, name) or sampling_reason(objective, name)
        if reason is not None:
            return reason
        if not isinstance(objective.problem.data_term, LeastSquares) or not isinstance(
            objective.problem.y, Tensor
        ):
            return f"{name} needs Gaussian noise, LeastSquares(noise_std=...), and the data term is {objective.problem.data_term!r}"
        if self.linear_only and not isinstance(objective.problem.operator, LinearOperator):
            return f"{name} needs a linear operator, and {objective.problem.operator} is not"
        return self.prior_reason(objective)

    def prior_reason(self, objective: Objective) -> str | None:
        """Why the priors are none that a diffusion can follow, or ``None``."""
        name = type(self).__name__
        if (
            len(objective.terms) != 1
            or "denoise" not in objective.terms[0][1].offers
            or objective.terms[0][1].fixed_level
        ):
            return (
                f"{name} needs one prior that denoises at every noise level, a Denoiser of a network that takes the level or a "
                f"GaussianMixture, and the prior is {objective.prior!r}"
            )
        if bool((objective.terms[0][0] != 1).any()):
            return f"{name} follows the density of {objective.terms[0][1]!r} itself, so it takes no weight but 1"
        return None

    def init(self, objective: Objective, start: Tensor) -> DiffusionState:
        infinite = torch.full_like(objective.regularization, torch.inf)
        return DiffusionState(
            start,
            objective.nan(),
            torch.full_like(infinite, torch.nan),
            infinite,
            Chain.start(start, 32),
        )

    def step(self, objective: Objective, state: DiffusionState) -> DiffusionState:
        drawn = self.draws(objective, split(objective.generator(), self.at_once))
        first = objective.iteration * self.at_once
        chain = state.chain if first else state.chain.recentred(drawn[0])
        for k, x in enumerate(drawn):
            chain.add(x, first + k + 1)
        x = drawn[-1]
        value, _, discrepancy = objective.data(x)
        certificate = chain.relative_error() if first + self.at_once >= 32 else state.certificate
        return DiffusionState(x, value + objective.prior_value(x), discrepancy, certificate, chain)

    def result(self, state: DiffusionState) -> Tensor:
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

    def is_provably_convergent(self, objective: Objective) -> tuple[bool, str]:
        return False, "the draws follow the posterior approximately, whatever their number"


class DiffusionPosterior(MomentPosterior):
    """Mean and standard deviation of the draws that `solve` made, and new draws."""

    def __init__(self, solver: DiffusionSampler, objective: Objective, chain: Chain) -> None:
        super().__init__(chain.mean(), chain.std())
        self.solver, self.objective = solver, objective
        self.number = int(chain.number.min())

    def draw(self, count: int, generator: Generator) -> Tensor:
        with torch.no_grad():
            return self.solver.draws(self.objective, split(generator, count))


def split(generator: Generator, count: int) -> list[Generator]:
    """One generator a draw, so that a draw does not depend on how many are made at once."""
    seeds = [
        int(torch.randint(1 << 62, (1,), generator=generator, device=generator.device))
        for _ in range(count)
    ]
    return [Generator(generator.device).manual_seed(seed) for seed in seeds]


def the_prior(objective: Objective) -> ExplicitPrior:
    """The one prior of an objective that `DiffusionSampler.misfit` let pass."""
    return objective.terms[0][1]
