"""Stochastic PDHG: a primal-dual method that looks at one subset of the measurements a step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from invtoolbox.objective.auxiliaries import with_auxiliaries
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, item_norm
from invtoolbox.solvers.base import (
    Solver,
    State,
    implicit_reason,
)
from invtoolbox.solvers.duality import has_gap, objective_gap
from invtoolbox.solvers.linear_systems import relative
from invtoolbox.solvers.ordered_subsets import subset_indices, subset_reason
from invtoolbox.solvers.splitting import (
    DataSummand,
    PriorSummand,
    Summand,
    operator_norm,
    prior_summands,
    take_primal,
    unsplittable_reason,
)


@dataclass(kw_only=True)
class StochasticPDHGState(State):
    """Duals of the subsets and priors, their back-projections, and the steps."""

    duals: tuple[Tensor, ...]  # of every subset, then of every prior behind an operator
    pulls: tuple[Tensor, ...]  # A^T y, then K_j^T p_j
    ahead: Tensor  # the extrapolated sum of the pulls
    tau: Tensor  # (batch,)
    sigmas: Tensor  # (batch, duals)


@dataclass(frozen=True)
class StochasticPDHG(Solver):
    r"""Stochastic primal-dual hybrid gradient over subsets of the measurements.

    Chambolle, Ehrhardt, Richtarik and Schoenlieb, SIAM J. Optim. 28, 2018, algorithm 1. It
    minimizes ``G(x) + sum_s D_s(A_s x) + sum_j F_j(K_j x)`` over subsets s of the measurements; G
    is one prior with a prox, every F_j is behind a linear operator (total variation). One step
    draws a subset s, each with the probability p = 1 / subsets::

        x   = prox_{tau G}(x - tau v)
        y_s = prox_{sigma_s D_s*}(y_s + sigma_s A_s x),         d_s = the change of A_s^T y_s
        p_j = prox_{sigma_j F_j*}(p_j + sigma_j K_j x),         d_j = the change of K_j^T p_j
        v   = sum_s A_s^T y_s + sum_j K_j^T p_j + d_s / p + sum_j d_j

    One iteration has one step per subset, so that it costs as much as an iteration of `PDHG` (and a
    forward projection more, for the objective and the certificate). The priors are cheap compared
    with a projection and take part in every step.

    Converges almost surely for convex D, G and F_j (ibid., theorem 4.3; Gutierrez, Delplancke and
    Ehrhardt 2022), because with J priors behind operators ``tau sigma_s (1 + J) |A_s|^2 < p`` and
    ``tau sigma_j (1 + J) |K_j|^2 < 1``, norms from the power method. The draws are a function of
    seed and iteration, the same for every item; the objective need not decrease monotonically.
    Certificate: the larger of the primal and the dual residual of the whole problem at the end of a
    pass, and the duality gap, as for `PDHG`.

    Args:
        subset_size: number of views (blocks of the operator) per subset, each subset spread evenly
            over all views.
        ratio: a factor on tau; every sigma is divided by it.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.tensor([[[3.0, 2.0]]]),
    ...     it.operators.Matrix(torch.tensor([[1.0, 1.0], [0.0, 2.0]])),
    ... )
    >>> it.solve(
    ...     problem,
    ...     it.priors.NonNegative(),
    ...     StochasticPDHG(subset_size=1),
    ...     tolerance=1e-5,
    ...     progress=False,
    ... ).x.round(decimals=3)
    tensor([[[2., 1.]]])
    """

    max_iterations: int = 500
    tolerance: float = 1e-3
    subset_size: int = 10
    ratio: float = 1.0

    certificate_name: ClassVar[str] = "larger of relative primal and dual residual"

    def unsupported_reason(self, objective: Objective) -> str | None:
        objective = self.reformulate(objective)
        if reason := implicit_reason(objective, "StochasticPDHG") or unsplittable_reason(
            objective, "StochasticPDHG"
        ):
            return reason
        problem = objective.problem
        if not isinstance(problem.y, Tensor):
            return (
                "StochasticPDHG takes one tensor of measurements, and there are several; use PDHG"
            )
        if "prox" not in problem.data_term.offers:
            return (
                "StochasticPDHG needs the proximal operator of the data term, and "
                f"{problem.data_term!r} has none"
            )
        if not self.ratio > 0:
            return f"StochasticPDHG needs a positive ratio, got {self.ratio}"
        return subset_reason(objective, "StochasticPDHG", self.subset_size)

    def reformulate(self, objective: Objective) -> Objective:
        """Write out auxiliary variables, which leaves no inner minimization in a prox."""
        return with_auxiliaries(objective)

    def init(self, objective: Objective, start: Tensor) -> StochasticPDHGState:
        problem = objective.problem
        subsets, (_, others) = self._subsets(objective), take_primal(prior_summands(objective))
        # One dual per subset of the measurements, then one per prior behind an operator.
        dual: list[Summand] = [*subsets, *others]
        duals = tuple(torch.zeros_like(summand.apply(start)) for summand in dual)
        # A few steps of the power method: the singular vectors of projections are smooth, and the
        # margin below is 5 %.
        norms = torch.stack(
            [
                1.05 * _rough_norm(summand.operator, start)
                if isinstance(summand, DataSummand)
                else operator_norm(summand.operator, start)
                for summand in dual
            ],
            1,
        )
        probabilities = torch.tensor([1 / len(subsets)] * len(subsets) + [1.0] * len(others)).to(
            norms
        )
        # tau sigma < p / ((1 + J) |K|^2), the condition of the theorem, with a margin of 1 %.
        bounds = (
            0.99
            * probabilities
            / ((1 + len(others)) * norms.square().clamp_min(torch.finfo(norms.dtype).tiny))
        )
        tau = self.ratio * _first_step(objective, norms, len(subsets), others, start)
        prediction = problem.operator(start)
        zero = torch.zeros_like(start)
        value, discrepancy = objective.value_at(start, prediction)
        return StochasticPDHGState(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=torch.full_like(tau, torch.inf),
            duals=duals,
            pulls=(zero, *(torch.zeros_like(start) for _ in others)),
            ahead=zero.clone(),
            tau=tau,
            sigmas=bounds / tau.unsqueeze(1),
        )

    def step(self, objective: Objective, state: StochasticPDHGState) -> StochasticPDHGState:
        subsets, (primal, others) = self._subsets(objective), take_primal(prior_summands(objective))
        count, tau, x = len(subsets), state.tau, state.x
        duals, pulls, ahead = list(state.duals), list(state.pulls), state.ahead
        generator = objective.generator()
        for s in torch.randint(
            count, (count,), generator=generator, device=generator.device
        ).tolist():
            # x = prox_{tau G}(x - tau v), then the dual of the subset s and those of all priors.
            x = _primal_update(primal, x, ahead, tau)
            changes = []
            for summand, place, slot in [
                (subsets[s], s, 0),
                *((summand, count + j, 1 + j) for j, summand in enumerate(others)),
            ]:
                q = _dual_update(summand, duals[place], summand.apply(x), state.sigmas[:, place])
                change = summand.adjoint(q - duals[place])
                duals[place], pulls[slot] = q, pulls[slot] + change
                # The subset is extrapolated by 1 / p = count, a prior, whose p is 1, by 1.
                changes.append(change if slot else count * change)
            # v = sum_s A_s^T y_s + sum_j K_j^T p_j + d_s / p + sum_j d_j
            ahead = sum(pulls[1:], pulls[0]) + sum(changes[1:], changes[0])
        new_state = replace(
            state, x=x, duals=tuple(duals), pulls=tuple(pulls), ahead=ahead, tau=tau
        )
        return self._evaluate(objective, new_state, subsets, primal, others)

    def _evaluate(
        self,
        objective: Objective,
        state: StochasticPDHGState,
        subsets: list[DataSummand],
        primal: PriorSummand | None,
        others: tuple[PriorSummand, ...],
    ) -> StochasticPDHGState:
        """Return the state with value, discrepancy and certificate.

        They take a full step of the deterministic method without its adjoint.
        """
        problem, x, tau = objective.problem, state.x, state.tau
        prediction = problem.operator(x)
        indices = subset_indices(problem, self.subset_size)
        images = [prediction[:, :, index] for index in indices]
        # |q - p| / sigma with q = prox_{sigma F*}(p + sigma K x) is the distance of K x to dF*(q).
        residuals = [
            item_norm(_dual_update(summand, p, image, sigma) - p) / sigma
            for summand, p, image, sigma in zip(
                subsets, state.duals, images, state.sigmas.unbind(1)
            )
        ]
        dual = relative(torch.stack(residuals).square().sum(0).sqrt(), item_norm(prediction))
        for j, summand in enumerate(others, len(subsets)):
            image, sigma = summand.apply(x), state.sigmas[:, j]
            # An image with small slopes is not far from optimal for that reason.
            size = torch.maximum(item_norm(image), 1e-2 * item_norm(x))
            change = _dual_update(summand, state.duals[j], image, sigma) - state.duals[j]
            dual = dual.maximum(relative(item_norm(change) / sigma, size))
        # |x - u| / tau with u = prox_{tau G}(x - tau sum_j K_j^T p_j), relative to the largest
        # pull.
        u = _primal_update(primal, x, sum(state.pulls[1:], state.pulls[0]), tau)
        pulled = torch.stack([item_norm(pull) for pull in state.pulls]).amax(0)
        primal_residual = relative(item_norm(x - u) / tau, pulled)
        value, discrepancy = objective.value_at(x, prediction)
        return replace(
            state,
            value=value,
            discrepancy=discrepancy,
            certificate=primal_residual.maximum(dual),
        )

    def has_gap(self, objective: Objective) -> bool:
        return has_gap(objective)

    def gap(self, objective: Objective, state: StochasticPDHGState, distance: Tensor) -> Tensor:
        primal, others = take_primal(prior_summands(objective))
        # Only the priors have duals in the gap; the misfit enters by its gradient.
        count = len(others)
        duals = list(
            zip(others, state.duals[-count:], state.sigmas.unbind(1)[-count:]) if count else ()
        )
        return objective_gap(objective, state.x, distance, primal, state.tau, duals)

    def _subsets(self, objective: Objective) -> list[DataSummand]:
        indices = subset_indices(objective.problem, self.subset_size)
        return [
            DataSummand(1.0, subset.data_term, cast(LinearOperator, subset.operator), subset.y)
            for subset in map(objective.problem.subset, indices)
        ]


def _first_step(
    objective: Objective, norms: Tensor, count: int, others: tuple[PriorSummand, ...], start: Tensor
) -> Tensor:
    """Return tau for guessed sizes, by the rule of `PDHG`.

    The sizes are half the bound of a prior's dual, and an image that moves by a fifth. Over two
    decades of the factor, 0.3 was the best on CT with Gaussian and with Poisson noise, for 3 and 10
    views of 60 per subset.
    """
    problem, weight = objective.problem, 1 + len(others)
    # `squared` bounds (1 + J) |A|^2, because |A|^2 <= sum_s |A_s|^2; `rate` is its product with the
    # curvature of the misfit.
    squared = weight * norms[:, :count].square().sum(1)
    curvature = problem.data_term.curvature(problem.y)
    rate = squared * (
        torch.ones_like(squared) if curvature is None else curvature.to(squared).expand_as(squared)
    )
    sizes = [
        0.5 * math.sqrt(start[0].numel()) * summand.weight * norm
        for summand, norm in zip(others, norms[:, count:].unbind(1))
    ]
    if sizes:
        every = (weight * torch.stack(sizes).square().sum(0)).sqrt()
    else:
        every = squared.sqrt() * item_norm(problem.data_term.grad(0.98 * problem.y, problem.y))
    # The geometric mean of `balance_steps`: distance / every for the sizes, 1 / rate for the
    # misfit.
    distance = 0.2 * item_norm(start)
    tau = 0.3 * (distance / (every * rate)).sqrt() / math.sqrt(count)
    return torch.where(tau.isfinite() & (tau > 0), tau, 1 / (count * squared).sqrt())


def _rough_norm(operator: LinearOperator, like: Tensor) -> Tensor:
    norm = operator.norm(tolerance=1e-2, max_iterations=20, dtype=like.dtype, device=like.device)
    return norm.real.expand(len(like)) if norm.is_complex() else norm.expand(len(like))


def _primal_update(primal: PriorSummand | None, x: Tensor, pull: Tensor, tau: Tensor) -> Tensor:
    """``x = prox_{tau G}(x - tau pull)``."""
    u = torch.addcmul(x, expand(-tau, x), pull)
    return u if primal is None else primal.prox(u, tau)


def _dual_update(summand: Summand, dual: Tensor, image: Tensor, sigma: Tensor) -> Tensor:
    """``q = prox_{sigma F*}(p + sigma K x)``."""
    return summand.prox_conjugate(torch.addcmul(dual, expand(sigma, dual), image), sigma)
