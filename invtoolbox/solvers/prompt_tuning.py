"""Diffusion whose condition is tuned to the measurements during sampling (P2L)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator
from invtoolbox.posteriors.base import Posterior
from invtoolbox.posteriors.running_moments import Chain
from invtoolbox.priors.images.gaussian_mixture import ConditionalPrior
from invtoolbox.solvers.deepinv_sampling import draw_normal
from invtoolbox.solvers.diffusion import DiffusionPosterior, DiffusionSampler, split, the_prior
from invtoolbox.solvers.linear_systems import solve_quadratic

#: Conjugate gradient steps of a projection without a closed form.
_INNER = 30


@dataclass(frozen=True)
class PromptTuning(DiffusionSampler):
    r"""Diffusion with a tuned condition: tune, denoise, fit the measurements, add noise again.

    After Chung, Ye, Milanfar and Delbracio, "Prompt-tuning latent diffusion models for inverse
    problems" (P2L, ICML 2024), for any `priors.ConditionalPrior`; every draw and item has a
    condition of its own. With ``x_t`` at noise level s and ``x_0(c) = denoise_given(x_t, s, c)``:

    1. ``tuning_steps`` steps of Adam on ``c -> D(A(x_0(c)), y)``;
    2. every ``projection_every``-th time, ``x_0`` becomes
       ``argmin_x D(A(x), y) + strength / (2 s^2) |x - x_0|^2``;
    3. ``x_t`` goes down to the next level (DDIM), and at the other times down the gradient of
       ``|A(x_0) - y|`` in it.

    Args:
        steps: number of noise levels, from ``levels[0]`` to ``levels[1]`` in equal ratios.
        levels: standard deviations, in units of the image.
        tuning_steps, learning_rate: number of steps and learning rate of Adam on the condition; 0
            steps leave the null condition.
        projection_every: period of the projection; 1 projects every time.
        strength: confidence of the projection in the denoiser.
        guidance: the step down the gradient, in units of the image.
        fresh: the share of fresh noise in the noise that is added back, 0 to 1.
    """

    steps: int = 50
    levels: tuple[float, float] = (3.0, 0.01)
    tuning_steps: int = 5
    learning_rate: float = 0.1
    projection_every: int = 1
    strength: float = 1.0
    guidance: float = 0.1
    fresh: float = 0.5

    linear_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[2, inf)", "steps")
        check_range(self, "[1, inf)", "projection_every")
        check_range(self, "[0, 1]", "fresh")
        if not self.levels[0] > self.levels[1] > 0:
            raise InputError(f"PromptTuning takes falling positive levels, got {self.levels}")

    def prior_reason(self, objective: Objective) -> str | None:
        reason = super().prior_reason(objective)
        if reason is None and not isinstance(the_prior(objective), ConditionalPrior):
            return (
                "PromptTuning tunes the condition of a ConditionalPrior, and "
                f"{the_prior(objective)!r} takes none"
            )
        return reason

    def draws(self, objective: Objective, generators: list[Generator]) -> Tensor:
        return self.draws_and_conditions(objective, generators)[0]

    def draws_and_conditions(
        self, objective: Objective, generators: list[Generator]
    ) -> tuple[Tensor, Tensor]:
        """Return the draws, and the final condition of each, ``(count, batch, *shape)``."""
        # Every draw of every item is an item of its own, with a condition of its own.
        count, device = len(generators), objective.problem.y0.device
        repeated = objective.select(torch.arange(objective.batch, device=device).repeat(count))
        prior = cast(ConditionalPrior, the_prior(objective))
        like = repeated.problem.zeros()

        def noise() -> Tensor:
            return draw_normal(generators, like.shape, like.dtype, device)

        # Levels levels[0] ratio^k, from the first to the last in equal ratios.
        ratio = (self.levels[1] / self.levels[0]) ** (1 / (self.steps - 1))
        null = prior.null_condition().to(like)
        condition = null.expand(len(like), *null.shape[1:]).clone()
        moments = torch.zeros(()), torch.zeros(())
        # x_t at the first level is noise alone, because an image is small next to it.
        x = self.levels[0] * noise()
        clean = x
        for k in range(self.steps):
            level = self.levels[0] * ratio**k
            below = level * ratio if k < self.steps - 1 else 0.0
            for j in range(self.tuning_steps):
                condition, moments = self._tune(
                    repeated,
                    prior,
                    x=x,
                    level=level,
                    condition=condition,
                    moments=moments,
                    number=k * self.tuning_steps + j + 1,
                )
            # x_0(c), and where it is not projected the gradient of |A(x_0) - y|.
            clean, slope = _denoise_and_slope(repeated, prior, x, level, condition)
            # DDIM: the noise in x_t stays, but a share of it is drawn anew with the same variance.
            remaining = (x - clean) / level
            if k % self.projection_every == 0:
                clean, slope = _project(repeated, clean, self.strength / level**2), None
            added = math.sqrt(1 - self.fresh) * remaining + math.sqrt(self.fresh) * noise()
            x = clean + below * added
            if slope is not None:
                x = x - self.guidance * slope
        return clean.unflatten(0, (count, -1)), condition.unflatten(0, (count, -1))

    def _tune(
        self,
        objective: Objective,
        prior: ConditionalPrior,
        x: Tensor,
        level: float,
        condition: Tensor,
        moments: tuple[Tensor, Tensor],
        number: int,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Take one step of Adam (Kingma and Ba 2015) on the condition; every item has its own."""
        # The gradient of D(A(x_0(c)), y) in c goes through the denoiser.
        with torch.enable_grad():
            free = condition.detach().requires_grad_(True)
            misfit = objective.data_value(prior.denoise_given(x, level, free))
            (slope,) = torch.autograd.grad(misfit.sum(), free)
        # m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, c <- c - rate m^ / (sqrt(v^) + epsilon).
        mean = 0.9 * moments[0].to(slope) + 0.1 * slope
        square = 0.999 * moments[1].to(slope) + 0.001 * slope.square()
        step = (mean / (1 - 0.9**number)) / ((square / (1 - 0.999**number)).sqrt() + 1e-8)
        return condition - self.learning_rate * step, (mean, square)

    def posterior(self, objective: Objective, answer: Tensor, summary: Chain) -> Posterior | None:
        return (
            PromptPosterior(self, objective, summary) if bool((summary.number > 0).all()) else None
        )


class PromptPosterior(DiffusionPosterior):
    """Draws whose conditions are known too."""

    solver: PromptTuning

    def conditions(self, n: int, seed: int = 0) -> Tensor:
        """Return the conditions of the first n samples of the seed, ``(n, batch, *shape)``."""
        generator = Generator(self.device).manual_seed(seed % (1 << 62))
        with torch.no_grad():
            return self.solver.draws_and_conditions(self.objective, split(generator, n))[1]


def _denoise_and_slope(
    objective: Objective, prior: ConditionalPrior, x: Tensor, level: float, condition: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return ``x_0``, and the gradient of the norm of its misfit in x."""
    with torch.enable_grad():
        free = x.detach().requires_grad_(True)
        clean = prior.denoise_given(free, level, condition)
        # |A(x_0) - y| in units of the noise, because D is half its square.
        norm = (2 * objective.data_value(clean)).clamp_min(1e-30).sqrt()
        (slope,) = torch.autograd.grad(norm.sum(), free)
    return clean.detach(), slope


def _project(objective: Objective, clean: Tensor, penalty: float) -> Tensor:
    """Return ``argmin_x D(A(x), y) + penalty / 2 |x - clean|^2``."""
    # (A^T W A + penalty) d = -A^T grad D(A x_0) for the change d of x_0.
    problem: Any = objective.problem
    right = -cast(LinearOperator, problem.operator).adjoint(
        problem.data_term.value_and_grad(problem.operator(clean), problem.y)[1]
    )
    rho = torch.full_like(objective.regularization, penalty)
    return clean + solve_quadratic(objective, [(rho, None)], right, _INNER)[0]
