"""The alternating direction method of multipliers, also with a denoiser in place of a prox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from invtoolbox.core.arithmetic import add, add_product, overwrite
from invtoolbox.objective.auxiliaries import with_auxiliaries
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.priors.numerical_prox import NumericalProx
from invtoolbox.solvers.base import Solver, State
from invtoolbox.solvers.duality import data_floor, has_gap, objective_gap
from invtoolbox.solvers.linear_systems import relative, solve_quadratic
from invtoolbox.solvers.splitting import (
    PriorSummand,
    balance_penalty,
    copy_of_image,
    denoising_term,
    enters_by_gradient,
    first_penalty,
    operator_norm,
    prior_summands,
    splitting_reason,
    take_primal,
    unit_step_reason,
    unit_step_term,
    with_numerical_prox,
)


@dataclass(kw_only=True)
class ADMMState(State):
    """Splits, scaled duals and penalty of ADMM."""

    splits: tuple[Tensor, ...]  # z_i, the copies of K_i x
    duals: tuple[Tensor, ...]  # u_i, scaled by 1 / rho
    rho: Tensor  # (batch,)
    steps: Tensor  # (batch,)
    prediction: Tensor  # A x
    answer: Tensor  # the z of a constraint, else of the first prior without an operator, or x
    norms: Tensor  # (batch, splits) norms of the K_i
    floor: Tensor  # (batch,) least scale of the dual residual


@dataclass(frozen=True)
class ADMM(Solver):
    r"""ADMM (Boyd et al. 2011, section 3) for a quadratic misfit and priors with a prox.

    Any number of priors may be given::

        x   = argmin D(A x, y) + rho/2 sum_i |K_i x - z_i + u_i|^2
        z_i = prox_{w_i R_i / rho}(K_i x + u_i)
        u_i = u_i + K_i x - z_i

    The first line is closed if the operator knows ``(A^T A + rho)^{-1}`` (a periodic blur, a mask)
    and every K_i is the identity. It is also closed if everything in it is a periodic convolution,
    as total variation and the Sobolev misfit can be: then one FFT divides. Otherwise it takes a few
    warm-started conjugate gradient steps, preconditioned by the periodic convolution next to the
    system if there is such a convolution (a blur that reflects).

    An energy without a prox gets one by gradient descent (`NumericalProx`), which `Solution.notes`
    states.

    A prior that is a denoiser makes this plug-and-play (Venkatakrishnan et al. 2013). The penalty
    decides how strongly it acts. If ``rho`` is not given, it is the weight of the denoiser: the
    denoiser then always works at its own ``sigma``, and the weight is the strength. A denoiser of
    one level, which takes no weight, gets ``rho = 1 / sigma^2`` in units of the noise, as the prox
    of a density would (with the noise level of the data term, or one estimated from y).

    Converges for convex priors and any fixed ``rho > 0`` if the first line is closed. Otherwise the
    theorem needs errors of a finite sum, which a fixed number of inner steps does not promise, so
    the residual of the inner system is part of the certificate. ``rho`` is balanced (Boyd et al.,
    3.4.1) at iterations 5, 10, 20, 40 and 80 only. With a denoiser ADMM converges if the denoiser
    is a prox or averaged, which cannot be checked.

    A learned proximal operator belongs to a prior that need not be convex. Then u is updated before
    z, the order for which Fang, Buchanan and Sulam (ICLR 2024) prove convergence, for weights above
    ``|A^T A|``. The objective of the history then is the augmented Lagrangian,
    ``D(A x) + w R(z) + rho <u, x - z> + rho/2 |x - z|^2``. It does not increase if the first line
    is closed, lies above the objective at z, and has the same limit.

    The answer is the z of a constraint, else of the first prior that is not behind an operator, so
    that constraints hold and the answer has the look of the prior; without such a prior it is x.
    Certificate: the larger of the relative primal and dual residual (ibid., 3.3), and the duality
    gap of a convex objective with the multipliers ``rho u_i`` (`Solver.gap`).

    Args:
        rho: the penalty, in the units of the objective; see above.
        relaxation: over-relaxation (ibid., 3.4.3) in (0, 2); not used with a denoiser.
        inner_iterations: conjugate gradient steps per iteration; their residual is part of the
            certificate.
        iterate: ``"x"`` returns the iterate of the misfit in any case.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[3.0, 0.5, -2.0]]]), it.operators.Identity((1, 3)))
    >>> it.solve(
    ...     problem, it.priors.L1(), ADMM(tolerance=1e-6), regularization=1.0, progress=False
    ... ).x.round(decimals=4)
    tensor([[[ 2.,  0., -1.]]])
    """

    max_iterations: int = 500
    tolerance: float = 1e-3
    rho: float | None = None
    relaxation: float = 1.6
    inner_iterations: int = 3
    iterate: Literal["auto", "x"] = "auto"

    certificate_name: ClassVar[str] = "larger of relative primal and dual residual"
    per_iteration: ClassVar[tuple[str, ...] | None] = ("rho", "regularization")
    takes_unit_step: ClassVar[bool] = True

    def unsupported_reason(self, objective: Objective) -> str | None:
        objective = self.reformulate(objective)
        if reason := splitting_reason(objective, "ADMM"):
            return reason
        if self.rho is not None and not self.rho > 0:
            return f"ADMM needs a positive rho, got {self.rho}"
        return unit_step_reason(objective, "ADMM", None if self.rho is None else 1 / self.rho)

    def reformulate(self, objective: Objective) -> Objective:
        """Write out auxiliary variables, and give every energy without a prox a numerical one."""
        return with_numerical_prox(with_auxiliaries(objective))

    def remark(self, objective: Objective) -> str | None:
        inner = [prior for prior in objective.explicit_priors if enters_by_gradient(prior)]
        if not inner:
            return None
        accuracy = NumericalProx(inner[0]).tolerance
        return f"the prox of {inner[0]!r} is found numerically, to a relative {accuracy:g}"

    def suits(self, objective: Objective) -> bool:
        """Whether a prior is a denoiser, or an image with gaps has convex priors with a prox.

        Gaps are filled by the first line, which sees all of them at once. Methods that step along
        the gradient of the misfit need more iterations, the more the smaller the weight.
        """
        priors = [prior for _, prior in objective.terms]
        if any(map(enters_by_gradient, priors)):
            return False
        sampled = objective.problem.operator.sampled
        return any("denoise" in p.offers for p in priors) or (
            sampled is not None
            and objective.linear_operator.normal_is_diagonal
            and bool((sampled == 0).any())
            and all(p.is_convex is not False and "joint" not in p.offers for p in priors)
        )

    def init(self, objective: Objective, start: Tensor) -> ADMMState:
        problem, summands = objective.problem, prior_summands(objective)
        D, y = problem.data_term, problem.y
        splits = tuple(summand.apply(start).clone() for summand in summands)
        duals = tuple(torch.zeros_like(z) for z in splits)
        prediction = problem.operator(start)
        value = D.value(prediction, y)
        return ADMMState(
            x=start,
            value=value,
            discrepancy=D.discrepancy(prediction, y),
            certificate=torch.full_like(value, torch.inf),
            splits=splits,
            duals=duals,
            rho=self._first_rho(objective, start),
            steps=torch.zeros_like(value),
            prediction=prediction.clone(),
            answer=start,
            norms=torch.stack([operator_norm(s.operator, start) for s in summands], 1),
            floor=data_floor(objective),
        )

    def step(self, objective: Objective, state: ADMMState) -> ADMMState:
        problem, summands = objective.problem, prior_summands(objective)
        D, y = problem.data_term, problem.y
        rho = self._follow_weight(objective, state.rho)
        # The scaled duals are multipliers over rho: another rho is another u (Boyd et al., 3.4.1).
        duals = tuple(u * expand(state.rho / rho, u) for u in state.duals)
        # x = argmin D(A x, y) + rho/2 sum_i |K_i x - z_i + u_i|^2
        x, left = self._primal_update(objective, summands, state, duals, rho)
        prediction = problem.operator(x)
        value, residuals = D.value(prediction, y), _Residuals.zeros(x, rho)
        norms = (1e-2 * state.norms * item_norm(x).unsqueeze(1)).unbind(1)
        splits, multipliers = [], []
        for summand, z, u, least in zip(summands, state.splits, duals, norms):
            # z_i = prox_{w_i R_i / rho}(K_i x + u_i),   u_i = u_i + K_i x - z_i
            image = summand.apply(x)
            z_next, u, energy = self._split_update(objective, summand, image, z, u, rho)
            splits.append(z_next)
            multipliers.append(u)
            gap = residuals.add(summand, image, z, z_next, u, least)
            if unit_step_term(objective) is not None and summand.operator is None:
                # rho <u, x - z> + rho/2 |x - z|^2, which with D and w R makes the augmented
                # Lagrangian of Fang, Buchanan and Sulam.
                value = value + rho * (inner(u, gap) + 0.5 * inner(gap, gap))
            value = value + energy
        primal, dual, certificate = residuals.relative(rho, left, state.floor)
        steps = state.steps + 1
        rho_next = self._balance(objective, rho, primal, dual, steps)
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=D.discrepancy(prediction, y),
            certificate=certificate,
            splits=tuple(splits),
            duals=tuple(u * expand(rho / rho_next, u) for u in multipliers),
            rho=rho_next,
            steps=steps,
            prediction=prediction.clone() if prediction is x else prediction,
            answer=self._answer(summands, splits, x),
        )

    def result(self, state: ADMMState) -> Tensor:
        return state.answer

    def has_gap(self, objective: Objective) -> bool:
        return has_gap(objective)

    def gap(self, objective: Objective, state: ADMMState, distance: Tensor) -> Tensor:
        summands = prior_summands(objective)
        primal, _ = take_primal(summands)
        # rho u_i is a subgradient of w_i R_i at z_i: the optimality of the second line.
        duals = [
            (summand, expand(state.rho, u) * u, state.rho)
            for summand, u in zip(summands, state.duals)
            if summand is not primal
        ]
        return objective_gap(objective, state.answer, distance, primal, 1 / state.rho, duals)

    def fixed_point(self, state: ADMMState) -> tuple[Tensor, ...]:
        return (state.x, *state.splits, *state.duals)

    def at_point(
        self, objective: Objective, state: ADMMState, point: tuple[Tensor, ...]
    ) -> ADMMState:
        x, count = point[0], len(state.splits)
        splits, duals = point[1 : 1 + count], point[1 + count :]
        # The scaled duals belong to the current penalty, which is not balanced any more.
        return replace(
            state,
            x=x,
            splits=splits,
            duals=duals,
            prediction=objective.problem.operator(x),
            answer=self._answer(prior_summands(objective), splits, x),
            rho=self._follow_weight(objective, state.rho),
            steps=torch.full_like(state.steps, torch.inf),
        )

    def _answer(
        self, summands: tuple[PriorSummand, ...], splits: Sequence[Tensor], x: Tensor
    ) -> Tensor:
        copy = copy_of_image(summands, splits)
        return copy if copy is not None and self.iterate == "auto" else x

    # -- the penalty -------------------------------------------------------------------------------

    def _first_rho(self, objective: Objective, start: Tensor) -> Tensor:
        if self.rho is None:
            return first_penalty(objective, start).detach()
        return torch.ones_like(objective.regularization) * self.rho

    def _follow_weight(self, objective: Objective, rho: Tensor) -> Tensor:
        """Return the penalty for the weight of this iteration, which a rule may change."""
        if self.rho is not None:
            return torch.ones_like(rho) * self.rho
        denoising = denoising_term(objective)
        # With rho = w the prox of w R / rho is the denoiser at its own level.
        return denoising[0] if denoising is not None and not denoising[1].fixed_level else rho

    def _balance(
        self, objective: Objective, rho: Tensor, primal: Tensor, dual: Tensor, steps: Tensor
    ) -> Tensor:
        if self.rho is not None or denoising_term(objective) is not None:
            return rho
        return balance_penalty(rho, primal.detach(), dual.detach(), steps)

    # -- the updates -------------------------------------------------------------------------------

    def _primal_update(
        self,
        objective: Objective,
        summands: tuple[PriorSummand, ...],
        state: ADMMState,
        duals: tuple[Tensor, ...],
        rho: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return x (Boyd et al., equation 3.5), and the norm of the residual, ``(batch,)``."""
        problem = objective.problem
        A, D = objective.linear_operator, problem.data_term
        # (A^T W A + rho sum_i K_i^T K_i) d = A^T W (y - A x) + rho sum_i K_i^T (z_i - u_i - K_i x)
        # for the change d of x, which is smaller than x and loses less to rounding.
        right = A.adjoint(D.weighted(problem.y - state.prediction))
        for summand, z, u in zip(summands, state.splits, duals):
            missing = summand.adjoint(add(z - u, summand.apply(state.x), -1.0))
            right = add_product(right, missing, expand(rho, missing))
        change, left = solve_quadratic(
            objective,
            [(rho, summand.operator) for summand in summands],
            right,
            self.inner_iterations,
        )
        return state.x + change, left

    def _split_update(
        self,
        objective: Objective,
        summand: PriorSummand,
        image: Tensor,
        z: Tensor,
        u: Tensor,
        rho: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next z and u (equations 3.6 and 3.7), and the summand's energy, ``(batch,)``.

        ``image`` is ``K x``; the scaled dual u is overwritten.
        """
        # Over-relaxation (3.4.3): relaxation K x + (1 - relaxation) z takes the place of K x.
        relaxation = 1.0 if denoising_term(objective) is not None else self.relaxation
        target = add(torch.lerp(z, image, relaxation), u)
        dual_first = unit_step_term(objective) is not None
        if dual_first:  # the order of Fang, Buchanan and Sulam
            u = add(overwrite(u, target), z, -1.0)
            target = image + u
        # The energy of a prior behind an operator is taken at K x; a constraint holds at z alone.
        if summand.operator is None:
            z, energy = summand.prox_and_value(target, 1 / rho)
        else:
            z, energy = summand.prox(target, 1 / rho), summand.value(image)
        return z, u if dual_first else add(overwrite(u, target), z, -1.0), energy


@dataclass
class _Residuals:
    """Primal and dual residual (Boyd et al., 3.3) and their scales, summed over the splits."""

    primal: Tensor  # (batch,) sum_i |K_i x - z_i|^2
    size: Tensor  # (batch,) sum_i max(|K_i x|, |z_i|)^2
    dual: Tensor  # sum_i K_i^T (z_i - z_i_before)
    pull: Tensor  # sum_i K_i^T u_i

    @classmethod
    def zeros(cls, x: Tensor, rho: Tensor) -> Self:
        return cls(
            torch.zeros_like(rho), torch.zeros_like(rho), torch.zeros_like(x), torch.zeros_like(x)
        )

    def add(
        self,
        summand: PriorSummand,
        image: Tensor,
        z: Tensor,
        z_next: Tensor,
        u: Tensor,
        least: Tensor,
    ) -> Tensor:
        """Add one split, whose scale is at least ``least``, and return ``K x - z``."""
        self.dual = add(self.dual, summand.adjoint(z_next - z))
        self.pull = add(self.pull, summand.adjoint(u))
        gap = image - z_next
        self.primal = self.primal + item_norm(gap).square()
        # An image with small slopes is not far from optimal for that reason.
        self.size = self.size + item_norm(image).maximum(item_norm(z_next)).maximum(least).square()
        return gap

    def relative(self, rho: Tensor, left: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the relative primal and dual residual, and the certificate.

        The multipliers count as at least ``floor``. The certificate is the larger of the two;
        ``left``, the residual of the inner system, adds to the dual residual.
        """
        # r = K x - z relative to K x and z, and s = rho K^T (z - z_before) relative to the
        # multipliers K^T (rho u); rho cancels (Boyd et al., 3.3.1).
        primal = relative(self.primal, self.size).sqrt()
        pulled = torch.maximum(item_norm(self.pull), floor / rho)
        pulled = pulled.clamp_min(torch.finfo(self.size.dtype).tiny)
        dual = item_norm(self.dual) / pulled
        return primal, dual, torch.maximum(primal, dual + left / (rho * pulled))
