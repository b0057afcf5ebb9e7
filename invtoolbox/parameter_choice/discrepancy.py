"""The discrepancy principle: as much regularization as the noise allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import item_norm
from invtoolbox.parameter_choice.base import RuleState, WeightRule
from invtoolbox.parameter_choice.noise import describe_noise, noise_std_of
from invtoolbox.priors.first_call import is_foreign
from invtoolbox.problem import Problem, fitted_back_projection

#: A weight is judged once the certificate is below the first number, and the discrepancy changes by
#: less than the second, a fraction of its distance to the target.
_CERTIFIED = 0.1
_SETTLED = 0.05
_LEAST_WAIT, _LONGEST_WAIT = 4, 60  # steps between two weights
_LARGEST_MOVE = math.log(10.0)
_LARGEST_WEIGHT = math.log(1e10)  # relative to the first weight, either way
#: Largest relative change of a value that depends on the residual alone, from rounding.
_SAME = 1e-3


@dataclass
class DiscrepancyState(RuleState):
    """The bracket and the secant of the search for the weight, with the last judged weight."""

    target: Tensor  # (batch,)
    first: Tensor  # (batch,) log of the first weight
    low: Tensor  # (batch,) log of the largest weight known to be too small; -inf if none is
    high: Tensor  # (batch,) log of the smallest weight known to be too large
    last_weight: Tensor  # (batch,) log of the last judged weight; NaN at first
    last_error: Tensor  # (batch,) log of discrepancy over target for that weight
    slope: Tensor  # (batch,) d log discrepancy / d log weight
    discrepancy: Tensor  # (batch,) after the last step
    waited: Tensor  # (batch,) steps since the weight changed


@dataclass(frozen=True)
class DiscrepancyPrinciple(WeightRule):
    r"""The weight at which ``discrepancy(A(x), y) = tau * expected discrepancy`` (Morozov 1966).

    Each item has its own weight. For least squares the expected discrepancy is ``|noise|``,
    ``sqrt(m) noise_std`` for m measurements (in units of ``noise_std`` if the data term has one).
    Some solvers find the weight inside their step. For the others it is sought between steps, by
    the secant method in ``log discrepancy`` over ``log weight`` inside a bracket. A weight is
    judged only once solver and discrepancy have settled, and a bracket that was wrong because the
    solver was still moving is opened again.

    Args:
        tau: a little above 1, so that the noise is not fitted. The image that is closest to the
            truth fits as much of the noise as it has degrees of freedom, so the weight comes out
            too large by a factor of about 2: on the problems of ``benchmarks/parameter_choice.py``
            that costs 0.8 dB in the median, and 0.5 dB with tau = 0.98. A fixed tau below 1 is no
            remedy: with many more measurements than unknowns the target lies below every residual,
            and the weight runs to zero. `CompensatedDiscrepancy` finds the right distance below 1
            for the problem at hand, and loses 0.15 dB.
        noise_std: standard deviation of the noise, ``(batch,)`` or a number; by default the data
            term's, and if it has none, `estimate_noise_std` of the measurements.
        tolerance: relative distance of the discrepancy from its target within which the weight is
            kept.
    """

    tau: float = 1.01
    noise_std: float | Tensor | None = None
    tolerance: float = 0.005

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "tau", "tolerance")

    def target(self, objective: Objective) -> Tensor:
        problem = objective.problem
        return self.tau * expected_discrepancy(objective, self.noise_std).to(
            objective.regularization
        ).expand(problem.batch)

    def init(self, objective: Objective, x: Tensor) -> DiscrepancyState:
        weight, nan = first_weight(objective, x), objective.nan()
        return DiscrepancyState(
            weight=weight,
            target=self.target(objective).clone(),
            first=weight.log(),
            low=torch.full_like(nan, -torch.inf),
            high=torch.full_like(nan, torch.inf),
            last_weight=nan,
            last_error=nan.clone(),
            slope=torch.full_like(nan, 0.3),
            discrepancy=nan.clone(),
            waited=torch.zeros_like(nan),
        )

    def update(
        self, state: DiscrepancyState, discrepancy: Tensor, certificate: Tensor, iteration: int
    ) -> DiscrepancyState:
        tiny = torch.finfo(discrepancy.dtype).tiny
        error = discrepancy.clamp_min(tiny).log() - state.target.clamp_min(tiny).log()
        drift = (discrepancy.clamp_min(tiny).log() - state.discrepancy.clamp_min(tiny).log()).abs()
        waited = state.waited + 1
        still = (drift <= _SETTLED * error.abs()) & (certificate <= _CERTIFIED)
        settled = still & (waited >= _LEAST_WAIT) | (waited >= _LONGEST_WAIT)
        look = settled & (error.abs() > self.tolerance) & discrepancy.isfinite()
        weight = state.weight.log()
        # The slope between the last two weights that were judged; the discrepancy increases with
        # the weight.
        apart = weight - state.last_weight
        slope = torch.where(
            look & (apart.abs() > 1e-3), (error - state.last_error) / apart, state.slope
        )
        slope = torch.where(slope.isfinite(), slope, state.slope).clamp(0.03, 2.0)
        low = torch.where(look & (error < 0), torch.maximum(state.low, weight), state.low)
        high = torch.where(look & (error > 0), torch.minimum(state.high, weight), state.high)
        # If a bracket closes without meeting the target, one of its sides was judged too early.
        closed = look & (high - low < 1e-3)
        low, high = (
            torch.where(closed & (error > 0), -torch.inf, low),
            torch.where(closed & (error < 0), torch.inf, high),
        )
        new = weight - (error / slope).clamp(-_LARGEST_MOVE, _LARGEST_MOVE)
        outside = (new <= low) | (new >= high)
        new = torch.where(outside & (high - low).isfinite(), (low + high) / 2, new)
        new = torch.where(look, new, weight).clamp(
            state.first - _LARGEST_WEIGHT, state.first + _LARGEST_WEIGHT
        )
        return DiscrepancyState(
            weight=torch.where(look, new.exp(), state.weight),
            target=state.target,
            first=state.first,
            low=low,
            high=high,
            last_weight=torch.where(look, weight, state.last_weight),
            last_error=torch.where(look, error, state.last_error),
            slope=slope,
            discrepancy=discrepancy,
            waited=torch.where(look, torch.zeros_like(waited), waited),
        )

    def satisfied(self, state: DiscrepancyState, discrepancy: Tensor) -> Tensor:
        near = (discrepancy - state.target).abs() <= 1.5 * self.tolerance * state.target
        return near | ((state.weight.log() - state.first).abs() >= _LARGEST_WEIGHT)

    def describe(self, objective: Objective) -> str:
        problem = objective.problem
        D = problem.data_term
        is_stated = self.noise_std is None and D.expected_discrepancy(problem.y) is not None
        level = f"the noise level of {type(D).__name__}"
        noise = level if is_stated else describe_noise(problem, self.noise_std)
        return f"the discrepancy principle chooses the weight, tau = {self.tau:g}, with {noise}"


def expected_discrepancy(objective: Objective, noise_std: float | Tensor | None = None) -> Tensor:
    """Return the discrepancy at the true image, ``(batch,)``.

    It follows from ``noise_std``, the data term, or an estimate of the noise.
    """
    D, y = objective.problem.data_term, objective.problem.y
    expected = D.expected_discrepancy(y)
    if noise_std is None and expected is not None:
        return expected
    if D.measures_residual:
        level = noise_std_of(objective.problem, noise_std)
        return level * (y[0].numel() * (2 if y.is_complex() else 1)) ** 0.5
    if not hasattr(D, "with_noise_std"):
        raise InputError(
            f"the noise level of {D!r} is not known, and it takes none: give regularization= a "
            "number"
        )
    device = objective.problem.y0.device
    std = (
        noise_std_of(objective.problem)
        if noise_std is None
        else torch.as_tensor(noise_std, dtype=torch.float64, device=device)
    )
    bare: Tensor = D.with_noise_std(std).expected_discrepancy(y)
    # Without a noise level the misfit is in the units of y, otherwise in units of that level.
    unit = getattr(D, "noise_std", None)
    return bare * (std if unit is None else std / unit.to(std))


def measure_residual(problem: Problem) -> Problem:
    """Return the problem whose data term measures its discrepancy by residuals, if it is the user's.

    The scale of the value of such a term is not known, but that of its residuals is the noise. It
    is so for terms that depend on ``prediction - y`` alone, as two random measurements show.

    Args:
        problem: measurements, operator and data term.
    """
    term, y = problem.data_term, problem.y
    overrides = [
        name
        for name in ("discrepancy", "expected_discrepancy", "with_noise_std")
        if getattr(type(term), name, None) is not getattr(DataTerm, name, None)
    ]
    if overrides or term.is_quadratic or not isinstance(y, Tensor) or not is_foreign(term):
        return problem
    try:
        with torch.no_grad():
            (first, second), residual = _shifted_measurements(y)
            least, value, shifted = (
                term.value(first, first),
                term.value(first + residual, first),
                term.value(second + residual, second),
            )
    except (ArithmeticError, AssertionError, RuntimeError, ValueError):
        return problem  # a term that refuses other measurements is no function of the residual
    # Relative to what the residual adds, because a value may contain a large constant.
    added = torch.where(least.isfinite(), value - least, value).abs()
    if not bool(((value - shifted).abs() <= _SAME * added).all()):
        return problem
    return problem.with_data_term(term._replace(is_of_residual=True, measures_residual=True))


def _shifted_measurements(y: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return two random measurements between 0 and the values of ``y``, and a residual for both.

    Predictions stay in this range too, because some terms take no others, such as the cross-entropy
    of shares.
    """
    generator = torch.Generator().manual_seed(0)
    shares = [torch.rand(y.shape, generator=generator).to(y) for _ in range(3)]
    real = y.abs() if y.is_complex() else y
    low, high = real.amin().clamp_max(0), real.amax().clamp_min(0)
    first, second = (low + 0.9 * (high - low) * share for share in shares[:2])
    return (first, second), 0.1 * (high - low) * shares[2]


def first_weight(objective: Objective, x: Tensor, noise: Tensor | None = None) -> Tensor:
    """Return a first weight, ``(batch,)``; ``objective.regularization`` is 1.

    It changes with the units as the right weight does. If every prior has an energy, data term and
    priors are balanced at ``x`` (a back-projection, or the user's start): half the misfit of the
    noise over the energy. Otherwise their gradients are balanced. ``noise`` is the discrepancy of
    the noise, by default the target of the discrepancy principle.
    """
    ones = torch.ones_like(objective.regularization)
    if objective.has_value:
        target = objective.discrepancy_target
        if noise is None:
            noise = objective.data(x).discrepancy if target is None else target(objective)
        energy = objective.prior_value(x)
        if objective.layout is not None and isinstance(x, Tensor):
            # The first image of a network is nearly constant, and has little variation.
            image = fitted_back_projection(objective.problem)
            if image.shape == x.shape:
                energy = torch.maximum(energy, objective.prior_value(image))
        if bool((energy == 0).any()):  # a start of zeros, for example, has no total variation
            energy = torch.where(
                energy == 0,
                objective.prior_value(fitted_back_projection(objective.problem)),
                energy,
            )
        usable = (energy > 0) & energy.isfinite() & (noise > 0)
        return torch.where(
            usable, 0.5 * noise.square() / energy.clamp_min(torch.finfo(energy.dtype).tiny), ones
        )
    slopes = [
        w.view(-1, *[1] * (x.ndim - 1)) * p.gradient(x, objective.generator())
        for w, p in objective.terms
        if "gradient" in p.offers
    ]
    if not slopes:
        return ones
    pull, data = (
        item_norm(sum(slopes[1:], slopes[0])),
        item_norm(objective.data(objective.problem.zeros()).gradient),
    )
    return torch.where(
        (pull > 0) & (data > 0), 0.01 * data / pull.clamp_min(torch.finfo(pull.dtype).tiny), ones
    )
