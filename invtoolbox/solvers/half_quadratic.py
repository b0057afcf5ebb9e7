"""Half-quadratic splitting, for a fixed penalty and for a denoiser whose level falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invtoolbox.objective.gaps import measured
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, item_norm
from invtoolbox.operators.elementary import Identity
from invtoolbox.priors.images.constraints import intensity_range
from invtoolbox.solvers.base import Solver, State
from invtoolbox.solvers.linear_systems import solve_quadratic
from invtoolbox.solvers.splitting import (
    copy_of_image,
    denoising_term,
    first_penalty,
    noise_variance,
    operator_norm,
    prior_summands,
    splitting_reason,
)

#: Least level for ``sigma_end="noise"``, as a fraction of the intensity range; DPIR's.
_LEAST_LEVEL = 0.01
#: Conjugate gradient steps per iteration, and those of a schedule with an operator like a convolution,
#: of which a few are taken unless there is little noise; relative residual of a schedule.
_STEPS, _CHEAP_STEPS, _INNER_TOLERANCE = 5, 200, 1e-3


@dataclass(kw_only=True)
class HalfQuadraticState(State):
    """Splits and penalty of half-quadratic splitting."""

    splits: tuple[Tensor, ...]  # z_i
    penalty: Tensor  # (batch,) the fixed penalty; with a schedule, the largest noise level
    last_level: Tensor  # (batch,) the smallest noise level
    steps: Tensor  # (batch,)
    prediction: Tensor  # A x
    answer: Tensor
    scale: Tensor  # (batch,) |A^T W y|


@dataclass(frozen=True)
class HalfQuadratic(Solver):
    r"""Half-quadratic splitting for a quadratic misfit.

    Geman and Yang 1995; Wang, Yang, Yin and Zhang 2008::

        x   = argmin D(A x, y) + mu/2 sum_i |K_i x - z_i|^2
        z_i = prox_{w_i R_i / mu}(K_i x)

    With a fixed penalty ``mu`` it minimizes ``D(A x, y) + sum_i (w_i R_i)_mu(K_i x)``, every prior
    replaced by its Moreau envelope (the modulus becomes Huber's function with a corner of
    ``w / mu``). As mu grows this approaches the objective itself, ever more slowly.

    With a denoiser that supports several noise levels (plug-and-play; DPIR of Zhang et al., IEEE
    TPAMI 44, 2022) the level falls geometrically from ``sigma_start`` to ``sigma_end`` in
    ``schedule`` steps, and ``mu_k = w sigma^2 / sigma_k^2`` with the prior's own ``sigma`` and
    weight w. The product ``w sigma^2`` is their lambda, 0.23 with a data term that knows its noise
    level. Run it for ``max_iterations=schedule`` to reproduce their method; later steps stay at
    ``sigma_end``. A schedule of one step is at ``sigma_end`` at once: a noisy picture is denoised by
    one call.

    With a denoiser of one level and a fixed penalty it is the fixed-point method of regularization
    by denoising (RED; Romano, Elad and Milanfar, SIAM J. Imaging Sci. 10, 2017). Its limit x, which
    ``iterate="x"`` returns, solves ``A^T W (A x - y) + mu (x - denoise(x)) = 0``. The gradient
    steps of `GradientDescent` for this equation, with ``regularization=mu``, need many times as
    many calls of the denoiser.

    Converges to a minimizer of the half-quadratic objective for convex priors, a fixed ``mu > 0``
    and a closed first line; otherwise the first line takes ``inner_iterations`` warm-started
    conjugate gradient steps. With a denoiser nothing is promised. The answer is the z of a
    constraint, else of the first prior that is not behind an operator, so that constraints hold and
    the answer has the look of the prior; without such a prior it is x. Certificate: the gradient of
    the half-quadratic objective, ``|mu sum_i K_i^T (z_i - z_i_before)|``, relative to
    ``|A^T W y|``; infinite while the schedule runs.

    Args:
        penalty: mu, in the units of the objective; by default such that thresholds are 1 % of the
            intensity range.
        sigma_start: the first level of a denoiser, in the units of the image; 20 % of its intensity
            range by default.
        sigma_end: the last level; the ``sigma`` of the prior by default. ``"noise"`` is the noise
            level of the measurements over the norm of A, but, in a schedule of several steps, at
            least 1 % of the intensity range.
        schedule: number of steps from the first to the last level.
        inner_iterations: conjugate gradient steps per iteration, if the first line is not closed;
            by default 5, and for a schedule with an operator that is close to a periodic
            convolution, as a blur is, at most 200, until the relative residual is 1e-3.
        iterate: ``"x"`` returns the iterate of the misfit in any case.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[3.0, 0.5, -2.0]]]), it.operators.Identity((1, 3)))
    >>> solver = HalfQuadratic(penalty=1.0, tolerance=1e-6)
    >>> it.solve(problem, it.priors.L1(), solver, regularization=1.0, progress=False).x.round(
    ...     decimals=4
    ... )
    tensor([[[1., 0., -0.]]])
    """

    max_iterations: int = 500
    tolerance: float = 1e-4
    penalty: float | None = None
    sigma_start: float | None = None
    sigma_end: float | Literal["noise"] | None = None
    schedule: int = 8
    inner_iterations: int | None = None
    iterate: Literal["auto", "x"] = "auto"

    certificate_name: ClassVar[str] = "relative gradient norm of the half-quadratic objective"
    per_iteration: ClassVar[tuple[str, ...] | None] = ("penalty", "regularization")
    denoiser_strength: ClassVar[float] = 0.23  # DPIR's lambda

    def unsupported_reason(self, objective: Objective) -> str | None:
        if reason := splitting_reason(objective, "HalfQuadratic"):
            return reason
        for name, value in (
            ("penalty", self.penalty),
            ("sigma_start", self.sigma_start),
            ("sigma_end", self.sigma_end),
        ):
            if value is not None and value != "noise" and not value > 0:
                return f"HalfQuadratic needs a positive {name}, got {value}"
        return (
            None
            if self.schedule >= 1
            else f"HalfQuadratic needs a schedule of at least one step, got {self.schedule}"
        )

    def init(self, objective: Objective, start: Tensor) -> HalfQuadraticState:
        problem = objective.problem
        A, D = objective.linear_operator, problem.data_term
        prediction = A(start)
        scale = item_norm(A.adjoint(D.weighted(problem.y)))
        if self._levels(objective):
            usual = 0.2 * intensity_range(start)
            first = usual if self.sigma_start is None else torch.full_like(usual, self.sigma_start)
        elif self.penalty is None:
            first = first_penalty(objective, start, 0.01).detach()
        else:
            first = torch.ones_like(objective.regularization) * self.penalty
        splits = tuple(summand.apply(start).clone() for summand in prior_summands(objective))
        return HalfQuadraticState(
            x=start,
            value=D.value(prediction, problem.y),
            discrepancy=D.discrepancy(prediction, problem.y),
            certificate=torch.full_like(scale, torch.inf),
            splits=splits,
            penalty=first.to(scale),
            last_level=self._last_level(objective, start).to(scale),
            steps=torch.zeros_like(scale),
            prediction=prediction,
            answer=start,
            scale=scale.clamp_min(torch.finfo(scale.dtype).tiny),
        )

    def step(self, objective: Objective, state: HalfQuadraticState) -> HalfQuadraticState:
        problem, summands = objective.problem, prior_summands(objective)
        A, D, y = objective.linear_operator, problem.data_term, problem.y
        mu = self._penalty(objective, state)
        # x = argmin D(A x, y) + mu/2 sum_i |K_i x - z_i|^2, for the change d of x:
        # (A^T W A + mu sum_i K_i^T K_i) d = A^T W (y - A x) + mu sum_i K_i^T (z_i - K_i x).
        right = A.adjoint(D.weighted(y - state.prediction))
        for summand, z in zip(summands, state.splits):
            missing = summand.adjoint(z - summand.apply(state.x))
            right = torch.addcmul(right, expand(mu, missing), missing)
        change, left = solve_quadratic(
            objective,
            [(mu, summand.operator) for summand in summands],
            right,
            self._inner_iterations(objective),
            # A schedule has few steps, in which an error at the border would remain.
            precondition=not self._levels(objective),
            tolerance=_INNER_TOLERANCE if self._levels(objective) else 0.0,
        )
        x = state.x + change
        prediction = A(x)
        value, pull = D.value(prediction, y), torch.zeros_like(x)
        splits = []
        for summand, z in zip(summands, state.splits):
            # z_i = prox_{w_i R_i / mu}(K_i x)
            image = summand.apply(x)
            z_next = summand.prox(image, 1 / mu)
            pull = pull + summand.adjoint(z_next - z)
            splits.append(z_next)
            # The value of a summand behind an operator is taken at the image; a constraint holds at
            # z alone.
            value = value + summand.value(z_next if summand.operator is None else image)
        steps = state.steps + 1
        # The gradient in x is mu sum_i K_i^T (z_i_before - z_i), because the first line was solved
        # for z_i_before, up to its residual.
        certificate = (mu * item_norm(pull) + left) / state.scale
        if self._levels(objective):
            certificate = torch.where(steps < self.schedule, torch.inf, certificate)
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=D.discrepancy(prediction, y),
            certificate=certificate,
            splits=tuple(splits),
            steps=steps,
            prediction=prediction,
            answer=self._answer(objective, splits, x),
        )

    def result(self, state: HalfQuadraticState) -> Tensor:
        return state.answer

    def fixed_point(self, state: HalfQuadraticState) -> tuple[Tensor, ...]:
        return (state.x, *state.splits)

    def at_point(
        self, objective: Objective, state: HalfQuadraticState, point: tuple[Tensor, ...]
    ) -> HalfQuadraticState:
        x, *splits = point
        return replace(
            state,
            x=x,
            splits=tuple(splits),
            prediction=objective.problem.operator(x),
            answer=self._answer(objective, splits, x),
            steps=torch.full_like(state.steps, torch.inf),
        )

    def remark(self, objective: Objective) -> str | None:
        if not any("energy" in prior.offers for _, prior in objective.terms):
            return None
        penalty = "the default penalty" if self.penalty is None else f"penalty={self.penalty:g}"
        return (
            f"HalfQuadratic minimized another objective: with {penalty}, every prior is replaced "
            "by its Moreau envelope; ADMM and PDHG minimize the objective itself"
        )

    def suits(self, objective: Objective) -> bool:
        is_noisy = isinstance(objective.problem.operator, Identity) and len(objective.terms) == 1
        is_once = is_noisy and measured(objective.problem) is None
        return self._levels(objective) and (self.schedule > 1 or is_once)

    def stops_early(self, objective: Objective) -> bool:
        """Whether the iterations follow the schedule, as in DPIR."""
        return self._levels(objective) and self.max_iterations <= self.schedule

    def _answer(self, objective: Objective, splits: Sequence[Tensor], x: Tensor) -> Tensor:
        copy = copy_of_image(prior_summands(objective), splits) if self.iterate == "auto" else None
        return x if copy is None else copy

    def _levels(self, objective: Objective) -> bool:
        """Whether the level of a denoiser follows the schedule."""
        denoising = denoising_term(objective)
        return denoising is not None and not denoising[1].fixed_level and self.penalty is None

    def _inner_iterations(self, objective: Objective) -> int:
        if self.inner_iterations is not None:
            return self.inner_iterations
        is_cheap = objective.linear_operator.normal_symbol() is not None
        return _CHEAP_STEPS if is_cheap and self._levels(objective) else _STEPS

    def _penalty(self, objective: Objective, state: HalfQuadraticState) -> Tensor:
        denoising = denoising_term(objective)
        if self.penalty is not None:
            return torch.ones_like(state.penalty) * self.penalty
        if denoising is None or not self._levels(objective):
            return state.penalty
        # Levels in equal ratios from the first to the last (Zhang et al. 2022), and
        # mu = w sigma^2 / level^2: the prox of w R / mu denoises at `level`.
        weight, prior = denoising
        sigma = torch.as_tensor(prior.sigma, dtype=weight.dtype, device=weight.device)
        last = self.schedule - 1
        done = (state.steps / last).clamp_max(1) if last else torch.ones_like(state.steps)
        first = torch.maximum(state.penalty, state.last_level)
        level = first ** (1 - done) * state.last_level**done
        return weight * (sigma / level).square()

    def _last_level(self, objective: Objective, start: Tensor) -> Tensor:
        ones = torch.ones_like(objective.regularization)
        if not self._levels(objective):
            return torch.zeros_like(ones)
        if self.sigma_end == "noise":
            # Noise of the measurements, in units of the image.
            norm = operator_norm(objective.linear_operator, start)
            noise = noise_variance(objective).sqrt() / norm
            least = _LEAST_LEVEL if self.schedule > 1 else 0
            return torch.maximum(noise, least * intensity_range(start))
        if self.sigma_end is not None:
            return ones * self.sigma_end
        denoising = denoising_term(objective)
        assert denoising is not None
        return ones * torch.as_tensor(denoising[1].sigma, dtype=ones.dtype, device=ones.device)
