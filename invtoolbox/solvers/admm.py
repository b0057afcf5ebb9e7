"""The alternating direction method of multipliers, also with a denoiser in place of a prox."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from invtoolbox.core.in_place import add, add_product, overwrite
from invtoolbox.objective.auxiliaries import with_auxiliaries
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm
from invtoolbox.solvers.base import Solver, State, inexact_prox_reason, nonconvex_reason
from invtoolbox.solvers.linear_systems import is_closed, solve_quadratic
from invtoolbox.solvers.splitting import (
    PriorPiece,
    copy_of_image,
    denoising_term,
    first_penalty,
    prior_pieces,
    splitting_reason,
    unit_step_reason,
    unit_step_term,
)


@dataclass
class ADMMState(State):
    splits: tuple[Tensor, ...]  # z_i, the copies of K_i x
    duals: tuple[Tensor, ...]  # u_i, scaled by 1 / rho
    rho: Tensor  # (batch,)
    steps: Tensor  # (batch,)
    prediction: Tensor  # A x
    answer: Tensor  # the copy z of a constraint, else of the first prior that is not behind an operator, or x


@dataclass(frozen=True)
class ADMM(Solver):
    r"""ADMM (Boyd et al. 2011, section 3) for a quadratic misfit and any number of priors with a prox::

        x   = argmin D(A x, y) + rho/2 sum_i |K_i x - z_i + u_i|^2
        z_i = prox_{w_i R_i / rho}(K_i x + u_i)
        u_i = u_i + K_i x - z_i

    The first line is closed where the operator knows ``(A^T A + rho)^{-1}`` (a periodic blur, a mask) and every K_i is the
    identity, and where everything in it is a periodic convolution, as total variation and the Sobolev misfit can be: then
    one FFT divides. Elsewhere it is a few warm-started conjugate gradients,
    preconditioned by the periodic convolution next to the system where there is one (a blur that reflects).

    A prior that is a denoiser makes this plug-and-play (Venkatakrishnan et al. 2013). The penalty decides how strongly it
    acts. Where ``rho`` is not given it is the weight of the denoiser, so that the denoiser always works at its own
    ``sigma`` and the weight is the strength; a denoiser of one level, which takes no weight, gets ``rho = 1 / sigma^2`` in
    units of the noise, as the prox of a density would (with the noise level of the data term, or one estimated from y).

    Converges for convex priors and any fixed ``rho > 0`` where the first line is closed; where it is not, the theorem needs
    errors of a finite sum, which a fixed number of inner steps does not promise, so what they leave is part of the
    certificate. ``rho`` is balanced (Boyd et al., 3.4.1) at iterations
    5, 10, 20, 40 and 80 only. With a denoiser it converges where that is a prox or averaged, which cannot be checked.
    A learned proximal operator belongs to a prior that need not be convex: then u is moved before z, the order for which Fang, Buchanan
    and Sulam (ICLR 2024) prove convergence, for weights above ``|A^T A|``. The objective of the history then is the augmented Lagrangian,
    ``D(A x) + w R(z) + rho <u, x - z> + rho/2 |x - z|^2``: it does not increase where the first line is closed, lies above the objective
    at z, and ends as that.
    The answer is z of a constraint, else of the first prior that is not behind an operator: constraints hold, and it has the prior's look;
    where there is none, x. Certificate: the larger of the relative primal and dual residual (ibid., 3.3).

    Args:
        rho: the penalty, in the units of the objective; see above.
        relaxation: over-relaxation (ibid., 3.4.3) in (0, 2); not used with a denoiser.
        inner_iterations: conjugate gradient steps an iteration; what they leave is part of the certificate.
        iterate: ``"x"`` returns the side of the misfit in any case.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[3.0, 0.5, -2.0]]]), it.operators.Identity((1, 3)))
    >>> it.solve(problem, it.priors.L1(), ADMM(tolerance=1e-6), regularization=1.0, progress=False).x.round(decimals=4)
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
        reason = splitting_reason(objective, "ADMM")
        if reason is not None:
            return reason
        if self.rho is not None and not self.rho > 0:
            return f"ADMM needs a positive rho, got {self.rho}"
        return unit_step_reason(objective, "ADMM", None if self.rho is None else 1 / self.rho)

    def reformulate(self, objective: Objective) -> Objective:
        """With auxiliary variables written out, which leaves no inner minimisation in a prox."""
        return with_auxiliaries(objective)

    def suits(self, objective: Objective) -> bool:
        return any("denoise" in prior.offers for _, prior in objective.terms)

    def init(self, objective: Objective, start: Tensor) -> ADMMState:
        problem, pieces = objective.problem, prior_pieces(objective)
        D, y = problem.data_term, problem.y
        splits = tuple(piece.apply(start).clone() for piece in pieces)
        duals = tuple(torch.zeros_like(z) for z in splits)
        prediction = problem.operator(start)
        value = D.value(prediction, y)
        return ADMMState(
            start,
            value,
            D.discrepancy(prediction, y),
            torch.full_like(value, torch.inf),
            splits,
            duals,
            self._first_rho(objective, start),
            torch.zeros_like(value),
            prediction.clone(),
            start,
        )

    def step(self, objective: Objective, state: ADMMState) -> ADMMState:
        problem, pieces = objective.problem, prior_pieces(objective)
        D, y = problem.data_term, problem.y
        rho = self._followed(objective, state.rho)
        # The multipliers are rho u: another rho is another u.
        duals = tuple(u * expand(state.rho / rho, u) for u in state.duals)
        x, left = self._least_squares(objective, pieces, state, duals, rho)
        prediction = problem.operator(x)
        value, primal = D.value(prediction, y), torch.zeros_like(rho)
        relaxation = 1.0 if denoising_term(objective) is not None else self.relaxation
        dual_first = unit_step_term(objective) is not None
        multipliers: list[Tensor] = []
        splits, moved, size, pull = (
            [],
            torch.zeros_like(x),
            torch.zeros_like(rho),
            torch.zeros_like(x),
        )
        for piece, z, u in zip(pieces, state.splits, duals):
            image = piece.apply(x)
            target = add(torch.lerp(z, image, relaxation), u)
            if dual_first:
                u = add(overwrite(u, target), z, -1.0)
                target = image + u
            # A piece behind an operator is seen at the image; a constraint holds at z alone.
            if piece.operator is None:
                new, seen = piece.prox_and_value(target, 1 / rho)
            else:
                new, seen = piece.prox(target, 1 / rho), piece.value(image)
            if not dual_first:
                u = add(overwrite(u, target), new, -1.0)
            splits.append(new)
            multipliers.append(u)
            moved = add(moved, piece.adjoint(new - z))
            pull = add(pull, piece.adjoint(u))
            apart = image - new
            primal = primal + item_norm(apart).square()
            if dual_first and piece.operator is None:
                value = value + rho * (inner(u, apart) + 0.5 * inner(apart, apart))
            size = size + torch.maximum(item_norm(image), item_norm(new)).square()
            value = value + seen
        tiny = torch.finfo(size.dtype).tiny
        primal = (primal / size.clamp_min(tiny)).sqrt()
        pulled = item_norm(pull).clamp_min(tiny)
        dual_residual = item_norm(moved) / pulled
        certificate = torch.maximum(primal, dual_residual + left / (rho * pulled))
        steps = state.steps + 1
        rho_next = self._balanced(objective, rho, primal, dual_residual, steps)
        duals = tuple(u * expand(rho / rho_next, u) for u in multipliers)
        own = copy_of_image(pieces, splits)
        answer = own if own is not None and self.iterate == "auto" else x
        return ADMMState(
            x,
            value,
            D.discrepancy(prediction, y),
            certificate,
            tuple(splits),
            duals,
            rho_next,
            steps,
            prediction.clone() if prediction is x else prediction,
            answer,
        )

    def result(self, state: ADMMState) -> Tensor:
        return state.answer

    def fixed_point(self, state: ADMMState) -> tuple[Tensor, ...]:
        return (state.x, *state.splits, *state.duals)

    def at_point(
        self, objective: Objective, state: ADMMState, point: tuple[Tensor, ...]
    ) -> ADMMState:
        x, count = point[0], len(state.splits)
        splits, duals = point[1 : 1 + count], point[1 + count :]
        own = copy_of_image(prior_pieces(objective), splits)
        # The multipliers are measured in the penalty of now, and it is not balanced any more.
        return replace(
            state,
            x=x,
            splits=splits,
            duals=duals,
            prediction=objective.problem.operator(x),
            answer=own if own is not None and self.iterate == "auto" else x,
            rho=self._followed(objective, state.rho),
            steps=torch.full_like(state.steps, torch.inf),
        )

    # -- the penalty ---------------------------------------------------------------------------------------------------

    def _first_rho(self, objective: Objective, start: Tensor) -> Tensor:
        one = torch.ones_like(objective.regularization)
        return one * self.rho if self.rho is not None else first_penalty(objective, start).detach()

    def _followed(self, objective: Objective, rho: Tensor) -> Tensor:
        """A denoiser's weight may change by a rule, and then its penalty does."""
        if self.rho is not None:
            return torch.ones_like(rho) * self.rho
        denoising = denoising_term(objective)
        return denoising[0] if denoising is not None and not denoising[1].fixed_level else rho

    def _balanced(
        self, objective: Objective, rho: Tensor, primal: Tensor, dual: Tensor, steps: Tensor
    ) -> Tensor:
        if self.rho is not None or denoising_term(objective) is not None:
            return rho
        # Without thresholds, on whose two sides rounding would send an item different ways.
        now = torch.stack([steps == 5 * 2**k for k in range(5)]).any(0)
        # Residuals of 1e-5 are rounding as much as anything else.
        return torch.where(
            now,
            rho
            * (primal.detach().clamp_min(1e-5) / dual.detach().clamp_min(1e-5))
            .sqrt()
            .clamp(0.1, 10),
            rho,
        )

    # -- the first line -------------------------------------------------------------------------------------------------

    def _least_squares(
        self,
        objective: Objective,
        pieces: tuple[PriorPiece, ...],
        state: ADMMState,
        duals: tuple[Tensor, ...],
        rho: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """x, and the norm of the residual that it leaves, ``(batch,)``."""
        problem = objective.problem
        A, D = cast(LinearOperator, problem.operator), problem.data_term
        right = A.adjoint(D.weighted(problem.y - state.prediction))
        for piece, z, u in zip(pieces, state.splits, duals):
            missing = piece.adjoint(add(z - u, piece.apply(state.x), -1.0))
            right = add_product(right, missing, expand(rho, missing))
        change, left = solve_quadratic(
            objective, [(rho, piece.operator) for piece in pieces], right, self.inner_iterations
        )
        return state.x + change, left

    def is_provably_convergent(self, objective: Objective) -> tuple[bool, str]:
        objective = self.reformulate(objective)
        reason = nonconvex_reason(objective) or inexact_prox_reason(
            piece.function for piece in prior_pieces(objective)
        )
        if reason is not None:
            return False, reason
        if not is_closed(
            objective,
            [
                (weight, piece.operator)
                for (weight, _), piece in zip(objective.terms, prior_pieces(objective))
            ],
        ):
            return False, "the first line is solved by a fixed number of inner steps"
        return True, "misfit and priors are convex, and rho is constant after 80 iterations"
