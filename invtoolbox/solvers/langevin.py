"""Base class of chains that follow a Langevin diffusion: states, running moments, posterior."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import items_are_independent, mean_items
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, item_norm
from invtoolbox.posteriors.base import Posterior
from invtoolbox.posteriors.running_moments import Chain, ChainPosterior, Moments
from invtoolbox.priors.base import ExplicitPrior, PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solvers.base import Solver, State, implicit_reason

#: Number of places of the traces of scalar functionals.
TRACE = 1024
#: Divisor of the burn-in of a chain that is given by its name alone, whose time is limited.
_SHORTER = 8
#: Product of step and curvature above which the bias is noted; the variance is then 1.5 times too
#: large in the stiffest direction.
_LONG_STEP = 2 / 3


@dataclass(kw_only=True)
class ChainState(State):
    """The last states of all chains, and running moments.

    ``x`` is the last state of the first chain.
    """

    states: Tensor  # (batch, chains, channel, *space)
    chain: Chain
    scalars: Chain  # traces (batch, chains, number) of scalar functionals


@dataclass(kw_only=True)
class LangevinState(ChainState):
    """The chains, the gradient at their last states, and the step."""

    slope: Tensor  # gradient of minus the logarithm of the density, like `states`
    step_size: Tensor  # (batch,)
    smoothing: Tensor  # (batch,) parameter of the Moreau-Yosida envelope; 0 without one


@dataclass(frozen=True)
class ChainSampler(Solver):
    """Chains of states and their running moments; a subclass writes `init` and `step`.

    Args:
        burn_in: number of states that are left out at the start of every chain.
        blocks: number of sums, and of kept states, per chain; an even number. Memory is three
            images per block.
        chains: number of chains. They have their own random numbers. The first one begins at the
            initial guess, the others at the guess with noise of the standard deviation of its
            pixels, so that split R-hat shows whether the start is forgotten.
    """

    max_iterations: int = 20_000
    tolerance: float = 0.05
    burn_in: int = 1000
    blocks: int = 32
    chains: int = 1

    certificate_name: ClassVar[str] = "relative Monte-Carlo error of the standard deviation"
    samples: ClassVar[bool] = True
    starts_at_minimizer: ClassVar[bool] = True
    posterior_class: ClassVar[type[ChainPosterior]] = ChainPosterior

    def __post_init__(self) -> None:
        check_range(self, "[0, inf)", "burn_in")
        check_range(self, "[4, inf)", "blocks")
        check_range(self, "[1, inf)", "chains")
        if self.blocks % 2:
            raise InputError(
                f"{type(self).__name__} takes an even number of blocks, got {self.blocks}"
            )

    def alone(self, problem: Problem, priors: PriorSum) -> Self:
        return replace(self, burn_in=self.burn_in // _SHORTER)

    def result(self, state: ChainState) -> Tensor:
        """Return the mean of the states after the burn-in; before its end, the last state."""
        return torch.where(
            (state.chain.number > 0).view(-1, *[1] * (state.x.ndim - 1)),
            state.chain.mean().mean(1),
            state.x,
        )

    def summary(self, state: ChainState) -> Moments:
        return Moments(state.chain, state.scalars)

    def posterior(self, objective: Objective, answer: Tensor, summary: Moments) -> Posterior | None:
        has_states = bool((summary.chain.number > 0).all())
        return self.posterior_class(summary) if has_states else None

    def record(
        self, objective: Objective, state: ChainState, states: Tensor, scalars: Tensor
    ) -> dict[str, Any]:
        """Return the changed fields of a state: last states, running moments and certificate.

        Args:
            objective: the objective, whose iteration counts the states.
            state: the state before the step.
            states: the new states, ``(batch, chains, channel, *space)``.
            scalars: functionals of the new states, ``(batch, chains, number)``.
        """
        chain, traces, certificate = state.chain, state.scalars, state.certificate
        number = objective.iteration + 1 - self.burn_in
        # Sums of differences to the first state lose less to rounding than sums of states.
        if number == 1:
            chain, traces = chain.recenter(states), traces.recenter(scalars)
        if number >= 1:
            traces.add(scalars, number)
            is_full = chain.add(states, number)
            # A short chain underestimates its memory, so its error estimate is not used.
            if is_full and number * self.chains >= max(4 * self.blocks, self.burn_in):
                certificate = chain.relative_error() / self.chains**0.5
                # A chain that does not move has no error, and no draws.
                certificate = certificate.masked_fill(chain.is_constant(), torch.inf)
        return {
            "x": states[:, 0],
            "states": states,
            "chain": chain,
            "scalars": traces,
            "certificate": certificate,
        }

    def rows(self, objective: Objective) -> Objective:
        """Return the objective with one item per chain."""
        if self.chains == 1:
            return objective
        items = torch.arange(objective.batch, device=objective.regularization.device)
        return objective.select(items.repeat_interleave(self.chains))

    def scatter(self, start: Tensor) -> Tensor:
        """Return the starts of all chains, ``(batch, chains, channel, *space)``."""
        if self.chains == 1:
            return start.unsqueeze(1)
        generator = Generator(start.device).manual_seed(self.chains)
        noise = torch.randn(
            (self.chains, *start.shape[1:]),
            generator=generator,
            dtype=start.dtype,
            device=start.device,
        )
        noise[0] = 0
        spread = start.flatten(1).std(1)
        # A flat start has no spread of its own.
        spread = torch.where(spread > 0, spread, start.flatten(1).abs().amax(1).clamp_min(1.0))
        return start.unsqueeze(1) + spread.view(-1, *[1] * start.ndim) * noise

    def traced(self, states: Tensor, value: Tensor) -> Tensor:
        """Return potential and mean of the pixels of every chain, ``(batch, chains, 2)``."""
        mean = mean_items(states.flatten(0, 1)).to(value)
        return torch.stack([value, mean], 1).view(-1, self.chains, 2)


@dataclass(frozen=True)
class LangevinSampler(ChainSampler):
    """Chains of states, draws from a density close to ``exp(-U)``; a subclass writes `advance`.

    Args:
        burn_in, blocks, chains: as in `ChainSampler`.
        step_size: length t of a step; found by default.
        bounds: ``(low, high)`` to which every state is clipped, if pixels are known to lie between
            them.
    """

    step_size: float | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "(0, inf)", "step_size")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise InputError(f"bounds are (low, high) with low < high, got {self.bounds}")

    def needs_weight(self, priors: PriorSum) -> bool:
        terms = [term for term in priors.terms if not term.prior.is_constraint]
        has_weights = any(term.chosen for term in terms)
        return not has_weights and any(lacks_scale(term.prior) for term in terms)

    def unsupported_reason(self, objective: Objective) -> str | None:
        name = type(self).__name__
        if reason := implicit_reason(objective, name) or sampling_reason(objective, name):
            return reason
        if not objective.problem.data_term.is_smooth:
            return (
                f"{name} needs a differentiable data term, and "
                f"{objective.problem.data_term!r} is not"
            )
        return None

    def posterior(self, objective: Objective, answer: Tensor, summary: Moments) -> Posterior | None:
        posterior = super().posterior(objective, answer, summary)
        # The default step is a sixth of the longest stable one.
        if isinstance(posterior, ChainPosterior) and self.step_size is not None:
            with torch.no_grad():
                posterior.bias = self.describe_bias(objective, answer)
        return posterior

    def describe_bias(self, objective: Objective, x: Tensor) -> str:
        """Return a sentence if the step widens the draws, else nothing.

        A direction of curvature c gets the variance ``1 / (c (1 - t c / 2))`` in place of ``1 / c``,
        and the chain is stable for ``t c < 2``.

        Args:
            objective: the objective of the chain.
            x: images at which the curvature is computed, ``(batch, channel, *space)``.
        """
        assert self.step_size is not None
        stiffest = self.stiffness(objective, x)
        product = self.step_size * stiffest
        widened = (product > _LONG_STEP) & (product < 2)
        if not bool(widened.any()):
            return ""
        k = int(torch.where(widened, product, 0.0).argmax())
        share, factor = float(product[k]) / 2, 1 / (1 - float(product[k]) / 2)
        return (
            f"step_size = {self.step_size:.3g} is {share:.2g} of the longest stable one in item {k} "
            f"(2 over the largest curvature, {float(stiffest[k]):.3g}), so the variance in the "
            f"stiffest direction comes out {factor:.2g} times too large; "
            f"{1 / (3 * float(stiffest[k])):.2g}, the default, keeps this factor at 1.2"
        )

    def stiffness(self, objective: Objective, x: Tensor) -> Tensor:
        """Return the largest curvature of the potential of the chain at images, ``(batch,)``."""
        return largest_curvature(objective, x, smooth_potential(objective, x)[1])

    @abstractmethod
    def potential(
        self, objective: Objective, x: Tensor, smoothing: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return U, its gradient and the discrepancy at images ``(batch, channel, *space)``."""

    @abstractmethod
    def choose_step(self, objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return step and smoothing parameter of every item at the start, ``(batch,)`` each."""

    def advance(
        self, objective: Objective, x: Tensor, noise: Tensor, state: LangevinState
    ) -> Tensor:
        """Return the next states of all chains, one image per row: an Euler-Maruyama step.

        Args:
            objective: the objective with one item per row.
            x: the states, ``(batch * chains, channel, *space)``.
            noise: standard normal numbers of the same shape.
            state: the state, whose ``slope`` is the gradient at ``x``.
        """
        # x <- x - t grad U(x) + sqrt(2 t) n, clipped to the bounds afterwards.
        t = expand(state.step_size.repeat_interleave(self.chains), x)
        return x - t * state.slope.flatten(0, 1) + (2 * t).sqrt() * noise

    def init(self, objective: Objective, start: Tensor) -> LangevinState:
        start = self._clip(start)
        step_size, smoothing = self.choose_step(objective, start)
        states = self._clip(self.scatter(start))
        value, slope, discrepancy = self.potential(
            self.rows(objective), states.flatten(0, 1), smoothing.repeat_interleave(self.chains)
        )
        return LangevinState(
            x=states[:, 0],
            value=value.view(-1, self.chains)[:, 0],
            discrepancy=discrepancy.view(-1, self.chains)[:, 0],
            certificate=torch.full_like(step_size, torch.inf),
            states=states,
            slope=slope.view_as(states),
            step_size=step_size,
            smoothing=smoothing,
            chain=Chain.start(states, self.blocks),
            scalars=Chain.start(self.traced(states, value), TRACE),
        )

    def step(self, objective: Objective, state: LangevinState) -> LangevinState:
        # The same numbers for every item, a function of seed and iteration.
        shape, like = state.states.shape, state.x
        noise = torch.randn(
            shape if items_are_independent() else shape[1:],
            generator=objective.generator(),
            dtype=like.dtype,
            device=like.device,
        )
        rows = self.rows(objective)
        noise = noise.expand(shape).flatten(0, 1)
        x = self._clip(self.advance(rows, state.states.flatten(0, 1), noise, state))
        value, slope, discrepancy = self.potential(
            rows, x, state.smoothing.repeat_interleave(self.chains)
        )
        states = x.view(shape)
        return replace(
            state,
            value=value.view(-1, self.chains)[:, 0],
            discrepancy=discrepancy.view(-1, self.chains)[:, 0],
            slope=slope.view(shape),
            **self.record(objective, state, states, self.traced(states, value)),
        )

    def _clip(self, x: Tensor) -> Tensor:
        return x if self.bounds is None else x.clamp(*self.bounds)


def lacks_scale(prior: ExplicitPrior) -> bool:
    """Return whether ``exp(-R)`` is no density of images before R has a weight.

    Squares, norms and total variation have the unit of the image or of its square. Learned priors
    and those that denoise are densities of images as they are.

    >>> from invtoolbox.priors import Gaussian, TotalVariation
    >>> lacks_scale(TotalVariation()), lacks_scale(Gaussian(torch.zeros(1, 4), 1.0))
    (True, False)
    """
    is_learned = type(prior).usual_weight is not ExplicitPrior.usual_weight
    is_norm = "quadratic" in prior.offers or takes_envelope(prior)
    return is_norm and not is_learned and "denoise" not in prior.offers


def takes_envelope(prior: ExplicitPrior) -> bool:
    """Return whether a prior is not smooth and has a prox, so that it enters by its envelope."""
    return "prox" in prior.offers and ("gradient" not in prior.offers or not prior.smooth)


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


def smooth_potential(
    objective: Objective,
    x: Tensor,
    leave_out: Callable[[ExplicitPrior], bool] = lambda prior: False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``U``, NaN if some prior has no energy, its gradient, and the discrepancy.

    Args:
        objective: data term and priors.
        x: images.
        leave_out: whether a prior is left out of U.
    """
    value, slope, discrepancy = objective.data(x)
    # U = D + sum_i w_i R_i; a denoiser has no value but the slope (x - denoise(x)) / sigma^2.
    generator = objective.generator()
    if not any(leave_out(prior) for prior in objective.explicit_priors):
        value = value + objective.prior_value(x)
    else:
        for weight, prior in objective.terms:
            if not leave_out(prior):
                has_energy = "energy" in prior.offers
                value = value + (weight * prior.energy(x) if has_energy else torch.nan)
    for weight, prior in objective.terms:
        if not leave_out(prior):
            pull = prior.density_gradient(x, generator)
            slope = torch.addcmul(slope, pull, expand(weight, slope))
    return value, slope, discrepancy


def largest_curvature(
    objective: Objective,
    x: Tensor,
    slope: Tensor,
    iterations: int = 30,
    leave_out: Callable[[ExplicitPrior], bool] = lambda prior: False,
) -> Tensor:
    """Return the largest eigenvalue of the Hessian of U at x, ``(batch,)``.

    It comes from a power method on differences of the gradient.

    Args:
        objective: data term and priors.
        x: images.
        slope: gradient of U at x.
        iterations: number of products with the Hessian.
        leave_out: whether a prior is left out of U.
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
        ahead = torch.addcmul(x, direction, expand(reach, x))
        ahead = smooth_potential(objective, ahead, leave_out)[1]
        direction = (ahead - slope) / expand(reach, x)
        largest = torch.maximum(largest, item_norm(direction))
    return largest.clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
