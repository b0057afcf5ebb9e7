"""The unadjusted Langevin algorithm: a chain whose states are draws from the posterior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, item_norm
from invtoolbox.posteriors.base import Posterior
from invtoolbox.posteriors.running_moments import Chain, ChainPosterior
from invtoolbox.solvers.base import Solver, State, implicit_reason, missing_density_reason


@dataclass(kw_only=True)
class LangevinState(State):
    """Gradient at the last state of the chain, step, and running moments."""

    slope: Tensor  # gradient of minus the logarithm of the posterior, at x
    step_size: Tensor  # (batch,)
    chain: Chain


@dataclass(frozen=True)
class UnadjustedLangevin(Solver):
    r"""``x <- x - t grad U(x) + sqrt(2 t) n``, n of standard normal numbers.

    With ``U = D + regularization * sum_i w_i R_i`` the states are draws from a density close to
    ``exp(-U)``, and the solution is their mean. A prior with an energy enters by its gradient. A
    denoiser enters by Tweedie's identity, ``grad R(x) = (x - denoise(x, sigma)) / sigma^2``, which
    makes it PnP-ULA (Laumont, De Bortoli, Almansa, Delon, Durmus and Pereyra, SIAM J. Imaging Sci.
    15, 2022, algorithm 1; with ``bounds``, algorithm 2); sigma is the amount by which the prior
    density is smoothed. A weight that the user leaves out is 1.

    `Solution.posterior` holds mean and standard deviation of all states after the burn-in,
    streamed, and up to ``blocks`` of the states. Certificate: the Monte-Carlo standard error of the
    standard deviation, relative (root mean square over the pixels), estimated from the spread of
    blocks of the chain. It does not include the bias of a step of finite size. Along a direction in
    which U has the curvature L the variance comes out larger by ``1 / (1 - t L / 2)``, by a fifth
    in the stiffest direction at the default step. Nor does it include modes that the chain has not
    visited.

    Args:
        burn_in: number of states that are left out at the start.
        step_size: t; by default ``1 / (3 L)``, L the largest curvature of U at the start, by a
            power method on its gradient.
        bounds: ``(low, high)`` to which every state is clipped, if pixels are known to lie between
            them.
        blocks: number of sums, and of kept states; an even number. Memory is three images per
            block.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.ones(1, 1, 400),
    ...     it.operators.Identity((1, 400)),
    ...     it.data_terms.LeastSquares(noise_std=0.5),
    ... )
    >>> prior = it.priors.Gaussian(torch.zeros(1, 400), 0.25)
    >>> solution = it.solve(
    ...     problem, prior, UnadjustedLangevin(burn_in=50, max_iterations=1000), progress=False
    ... )
    >>> [
    ...     round(float(value.mean()), 1) for value in (solution.x, solution.posterior.std)
    ... ]  # exactly 0.5 and 0.35
    [0.5, 0.4]
    """

    max_iterations: int = 20_000
    tolerance: float = 0.05
    burn_in: int = 1000
    step_size: float | None = None
    bounds: tuple[float, float] | None = None
    blocks: int = 32

    certificate_name: ClassVar[str] = "relative Monte-Carlo error of the standard deviation"
    samples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "[0, inf)", "burn_in")
        check_range(self, "[4, inf)", "blocks")
        check_range(self, "(0, inf)", "step_size")
        if self.blocks % 2:
            raise InputError(
                f"UnadjustedLangevin takes an even number of blocks, got {self.blocks}"
            )
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise InputError(f"bounds are (low, high) with low < high, got {self.bounds}")

    def unsupported_reason(self, objective: Objective) -> str | None:
        if reason := implicit_reason(objective, "UnadjustedLangevin") or sampling_reason(
            objective, "UnadjustedLangevin"
        ):
            return reason
        if not objective.problem.data_term.is_smooth:
            return (
                "UnadjustedLangevin needs a differentiable data term, and "
                f"{objective.problem.data_term!r} is not"
            )
        return next(
            (
                why
                for prior in objective.explicit_priors
                if (why := missing_density_reason(prior, "UnadjustedLangevin")) is not None
            ),
            None,
        )

    def init(self, objective: Objective, start: Tensor) -> LangevinState:
        x = start if self.bounds is None else start.clamp(*self.bounds)
        value, slope, discrepancy = _potential(objective, x)
        if self.step_size is None:
            step_size = 1 / (3 * largest_curvature(objective, x, slope))
        else:
            step_size = torch.full_like(discrepancy, self.step_size)
        certificate = torch.full_like(discrepancy, torch.inf)
        return LangevinState(
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=certificate,
            slope=slope,
            step_size=step_size,
            chain=Chain.start(x, self.blocks),
        )

    def step(self, objective: Objective, state: LangevinState) -> LangevinState:
        # The same numbers for every item, a function of seed and iteration.
        noise = torch.randn(
            (1, *state.x.shape[1:]),
            generator=objective.generator(),
            dtype=state.x.dtype,
            device=state.x.device,
        )
        # x <- P(x - t grad U(x) + sqrt(2 t) n), the Euler-Maruyama step of the Langevin diffusion.
        t = expand(state.step_size, state.x)
        x = state.x - t * state.slope + (2 * t).sqrt() * noise
        if self.bounds is not None:
            x = x.clamp(*self.bounds)
        value, slope, discrepancy = _potential(objective, x)
        chain, certificate = state.chain, state.certificate
        number = objective.iteration + 1 - self.burn_in
        # Sums of differences to the first state lose less to rounding than sums of states.
        if number == 1:
            chain = chain.recenter(x)
        # A short chain underestimates its memory, so its error estimate is not used.
        if number >= 1 and chain.add(x, number) and number >= max(4 * self.blocks, self.burn_in):
            certificate = chain.relative_error()
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=certificate,
            slope=slope,
            chain=chain,
        )

    def result(self, state: LangevinState) -> Tensor:
        """Return the mean of the states after the burn-in; before its end, the last state."""
        return torch.where(
            (state.chain.number > 0).view(-1, *[1] * (state.x.ndim - 1)),
            state.chain.mean(),
            state.x,
        )

    def summary(self, state: LangevinState) -> Chain:
        return state.chain

    def posterior(self, objective: Objective, answer: Tensor, summary: Chain) -> Posterior | None:
        return ChainPosterior(summary) if bool((summary.number > 0).all()) else None


def sampling_reason(objective: Objective, name: str) -> str | None:
    """Return why an objective has no density to draw from, or ``None``."""
    if objective.has_rule:
        return f"{name} draws from a density, whose weight no rule can choose; give a number"
    if objective.problem.image_dtype.is_complex:
        return f"{name} draws real images, and {objective.problem.operator} takes complex ones"
    data_term = objective.problem.data_term
    if getattr(data_term, "noise_std", 1.0) is None:
        return f"{name} needs to know the noise: give noise_std, in Python to {data_term!r}"
    return None


def _potential(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``U``, NaN if some prior has no energy, its gradient, and the discrepancy."""
    value, slope, discrepancy = objective.data(x)
    # U = D + sum_i w_i R_i; a denoiser has no value but the slope (x - denoise(x)) / sigma^2.
    generator = objective.generator()
    for weight, prior in objective.terms:
        slope = torch.addcmul(slope, prior.density_gradient(x, generator), expand(weight, slope))
    return value + objective.prior_value(x), slope, discrepancy


def largest_curvature(
    objective: Objective, x: Tensor, slope: Tensor, iterations: int = 30
) -> Tensor:
    """Return the largest eigenvalue of the Hessian of U at x, ``(batch,)``.

    It comes from a power method on differences of the gradient.
    """
    generator = Generator(x.device).manual_seed(0)
    direction = torch.randn(
        (1, *x.shape[1:]), generator=generator, dtype=x.dtype, device=x.device
    ).expand_as(x)
    # A step long enough for the gradient to change in this precision.
    root = x[0].numel() ** 0.5
    reach = torch.finfo(x.dtype).eps ** 0.33 * (1 + item_norm(x) / root) * root
    largest = torch.zeros_like(reach)
    for _ in range(iterations):
        direction = direction / expand(item_norm(direction).clamp_min(1e-30), x)
        # H d = (grad U(x + h d) - grad U(x)) / h
        ahead = _potential(objective, torch.addcmul(x, direction, expand(reach, x)))[1]
        direction = (ahead - slope) / expand(reach, x)
        largest = torch.maximum(largest, item_norm(direction))
    return largest.clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
