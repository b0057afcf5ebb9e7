"""ADMM for any variable and any misfit: networks, nonlinear operators, robust misfits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective.auxiliaries import with_auxiliaries
from invtoolbox.objective.objective import Decoded, Objective
from invtoolbox.operators.base import LinearOperator, expand, item_norm
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.priors.images.tikhonov import Tikhonov
from invtoolbox.solvers.base import Solver, State, missing_gradient_reason
from invtoolbox.solvers.duality import has_gap, objective_gap
from invtoolbox.solvers.gradient_descent import gradient_scale
from invtoolbox.solvers.lbfgs import LBFGS, LBFGSState
from invtoolbox.solvers.linear_systems import quotient, relative
from invtoolbox.solvers.splitting import (
    DataSummand,
    PriorSummand,
    balance_penalty,
    copy_of_image,
    denoising_term,
    first_penalty,
    operator_norm,
    summands_of,
    take_primal,
)


@dataclass(kw_only=True)
class NonlinearADMMState(State):
    """Copies, scaled duals and penalty of ADMM, and the memory of the descent in the variable."""

    copies: tuple[Tensor, ...]  # z_i, the copies of K_i x, and of A(x) if the misfit has a kink
    duals: tuple[Tensor, ...]  # u_i, scaled by 1 / rho
    rho: Tensor  # (batch,)
    steps: Tensor  # (batch,)
    descent: LBFGSState  # of the augmented objective
    scale: Tensor  # (batch,) scale of the gradient norm
    norms: Tensor  # (batch, copies) norms of the K_i; 0 for the misfit
    answer: Tensor  # the copy of a constraint if the variable is the image, else the variable


@dataclass(frozen=True)
class NonlinearADMM(Solver):
    r"""ADMM whose first line is a few steps of L-BFGS, so that nothing needs to be linear.

    Minimizes ``f(v) + sum_i w_i R_i(K_i x)`` over the variable v, where ``x = g(v)`` is the image,
    or the output of an implicit prior (a network with total variation). f holds everything that is
    differentiable: the misfit, energies, and the term of the implicit prior. Each R_i has a prox.
    A misfit that is not differentiable (L1) is one more summand, behind the operator::

        v   = v after inner_iterations steps of L-BFGS on f(v) + rho/2 sum_i |K_i g(v) - z_i + u_i|^2
        z_i = prox_{w_i R_i / rho}(K_i x + u_i)
        u_i = u_i + K_i x - z_i

    The steps go on from the last v with the memory of the last steps, whose curvatures a new z does
    not change. ``rho`` is chosen and balanced as in `ADMM`.

    For a convex f of x and exact first lines this is `ADMM`, which converges. No theorem covers a
    nonlinear operator or a network with a fixed number of inner steps: the answer is a stationary
    point once the certificate is small, which is the larger of the primal residual
    ``sum_i |K_i x - z_i|^2``, relative to the copies, and the gradient of the augmented objective,
    relative to the gradient of f at the start. If the variable is the image, the answer is the copy
    of a constraint, so that bounds hold; the image of a network meets bounds to the tolerance.

    Args:
        rho: the penalty, in the units of the objective; chosen by default.
        inner_iterations: steps of L-BFGS per iteration.

    >>> import invtoolbox as it
    >>> A = it.as_operator(torch.exp, domain_shape=(1, 4), range_shape=(1, 4))
    >>> problem = it.Problem(torch.tensor([[[1.0, 1.1, 7.3, 7.5]]]), A)
    >>> prior = it.priors.TotalVariation() + it.priors.Box(0.0, 1.5)
    >>> solution = it.solve(problem, prior, NonlinearADMM(), regularization=0.1, progress=False)
    >>> solution.x.round(decimals=1)
    tensor([[[0.1000, 0.1000, 1.5000, 1.5000]]])
    """

    max_iterations: int = 500
    tolerance: float = 1e-3
    rho: float | None = None
    inner_iterations: int = 5

    certificate_name: ClassVar[str] = "larger of relative primal residual and gradient norm"

    def unsupported_reason(self, objective: Objective) -> str | None:
        if (self.rho is not None and not self.rho > 0) or self.inner_iterations < 1:
            return "NonlinearADMM needs a positive rho and at least one inner iteration"
        objective = self.reformulate(objective)
        D, y = objective.problem.data_term, objective.problem.y
        if not D.is_smooth and ("prox" not in D.offers or isinstance(y, tuple)):
            return (
                "NonlinearADMM needs a data term with a gradient, or with a proximal operator and "
                f"measurements in one tensor, and {D!r} has neither"
            )
        split = _split_terms(objective)
        for _, prior in split:
            if not {"prox", "split", "quadratic"} & prior.offers:
                return (
                    "NonlinearADMM needs an energy with a gradient, or a proximal operator, of "
                    f"every prior, and {prior!r} has neither"
                )
        sums = objective.unknowns.priors.values() if objective.unknowns is not None else ()
        for term in (term for priors in sums for term in priors.terms):
            if reason := missing_gradient_reason(term.prior, "NonlinearADMM"):
                return reason
        implicit = objective.prior.implicit
        if split and implicit is not None and not _gives_images(objective):
            return f"NonlinearADMM splits images, and {implicit!r} gives none"
        return None

    def suits(self, objective: Objective) -> bool:
        """Whether something has a kink."""
        return bool(_split_terms(objective)) or not objective.problem.data_term.is_smooth

    def reformulate(self, objective: Objective) -> Objective:
        """Write out auxiliary variables, which leaves no inner minimization in a prox."""
        return with_auxiliaries(objective)

    def init(self, objective: Objective, start: Tensor) -> NonlinearADMMState:
        decoded = objective.decode_parameters(start)
        summands = _summands(objective, decoded)
        copies = tuple(summand.apply(decoded.x).clone() for summand in summands)
        duals = tuple(torch.zeros_like(z) for z in copies)
        rho = self._first_rho(objective, decoded)
        model = _augmented(objective, copies, duals, rho)
        descent = _DESCENT.init(model, start)
        norm = item_norm(descent.gradient)
        if not objective.problem.data_term.is_smooth:
            # The copy of the prediction fits the start, so the misfit of y gives the scale.
            targets = (*copies[:-1], objective.problem.y)
            model = _augmented(objective, targets, (*duals[:-1], torch.zeros_like(copies[-1])), rho)
            norm = item_norm(model.evaluate(start).gradient)
        value, discrepancy = _value(objective, decoded, summands, copies)
        return NonlinearADMMState(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=torch.full_like(norm, torch.inf),
            copies=copies,
            duals=duals,
            rho=rho,
            steps=torch.zeros_like(norm),
            descent=descent,
            scale=gradient_scale(model, norm),
            norms=_norms(summands, decoded.x, norm),
            answer=start,
        )

    def step(self, objective: Objective, state: NonlinearADMMState) -> NonlinearADMMState:
        rho, duals, descent = state.rho, state.duals, state.descent
        denoising = denoising_term(objective)
        if self.rho is None and denoising is not None and not denoising[1].fixed_level:
            # The denoiser works at its own level, whatever its weight.
            rho = denoising[0]
            duals = tuple(u * expand(state.rho / rho, u) for u in duals)
        model = _augmented(objective, state.copies, duals, rho)
        # v: L-BFGS on f(v) + rho/2 sum_i |K_i g(v) - z_i + u_i|^2, with the memory of the last
        # steps.
        for _ in range(self.inner_iterations):
            descent = _DESCENT.step(model, descent)
        decoded = objective.decode_parameters(descent.x)
        summands = _summands(objective, decoded)
        copies, multipliers = [], []
        # Squared norms of K x - z and of its scale, of z - z_before and of u, summed over the
        # copies.
        gap, size = torch.zeros_like(rho), torch.zeros_like(rho)
        change, pull = torch.zeros_like(rho), torch.zeros_like(rho)
        # An image with small slopes is not far from optimal for that reason, as in `ADMM`.
        x = decoded.x
        extent = item_norm(x) if isinstance(x, Tensor) else torch.zeros_like(rho)
        least = (1e-2 * state.norms * extent.unsqueeze(1)).unbind(1)
        for summand, z, u, floor in zip(summands, state.copies, duals, least):
            # z_i = prox_{w_i R_i / rho}(K_i x + u_i),   u_i = u_i + K_i x - z_i
            image = summand.apply(decoded.x)
            z_next = summand.prox(image + u, 1 / rho)
            u = u + image - z_next
            copies.append(z_next)
            multipliers.append(u)
            gap = gap + item_norm(image - z_next).square()
            length = torch.maximum(item_norm(image), item_norm(z_next)).maximum(floor)
            size = size + length.square()
            change = change + item_norm(z_next - z).square()
            pull = pull + item_norm(u).square()
        # K_i g may be nonlinear, so both residuals are measured in the copies.
        primal, dual = relative(gap, size).sqrt(), relative(change, pull).sqrt()
        steps = state.steps + 1
        is_fixed = self.rho is not None or denoising
        rho_next = rho if is_fixed else balance_penalty(rho, primal, dual, steps)
        # The scaled duals are multipliers over rho: another rho is another u (Boyd et al., 3.4.1).
        multipliers = [u * expand(rho / rho_next, u) for u in multipliers]
        # The gradient at the new copies starts the next iteration, and is the dual residual.
        fresh = _augmented(objective, copies, multipliers, rho_next).evaluate(descent.x)
        descent = replace(descent, value=fresh.value, gradient=fresh.gradient)
        value, discrepancy = _value(objective, decoded, summands, copies)
        copy = None
        if objective.layout is None:
            priors = [s for s in summands if isinstance(s, PriorSummand)]
            copy = copy_of_image(tuple(priors), copies)
        return replace(
            state,
            x=descent.x,
            value=value,
            discrepancy=discrepancy,
            certificate=primal.maximum(item_norm(fresh.gradient) / state.scale),
            copies=tuple(copies),
            duals=tuple(multipliers),
            rho=rho_next,
            steps=steps,
            descent=descent,
            answer=descent.x if copy is None else copy,
        )

    def result(self, state: NonlinearADMMState) -> Tensor:
        return state.answer

    def with_result(self, state: NonlinearADMMState, x: Tensor) -> NonlinearADMMState:
        return replace(state, answer=x)

    def has_gap(self, objective: Objective) -> bool:
        is_split = not objective.problem.data_term.is_smooth
        return has_gap(objective, is_split) and denoising_term(objective) is None

    def gap(self, objective: Objective, state: NonlinearADMMState, distance: Tensor) -> Tensor:
        summands = _summands(objective, objective.decode_parameters(state.answer))
        primal, _ = take_primal(tuple(s for s in summands if isinstance(s, PriorSummand)))
        # rho u_i is a subgradient of w_i R_i at z_i: the optimality of the second line.
        duals = [
            (summand, expand(state.rho, u) * u, state.rho)
            for summand, u in zip(summands, state.duals)
            if summand is not primal
        ]
        smooth = [(w, prior) for w, prior in objective.terms if _enters_by_gradient(prior)]
        return objective_gap(
            objective, state.answer, distance, primal, 1 / state.rho, duals=duals, smooth=smooth
        )

    def _first_rho(self, objective: Objective, decoded: Decoded) -> Tensor:
        """Return the given penalty, or one whose thresholds are a tenth of the intensity range."""
        if self.rho is not None:
            return torch.ones_like(objective.regularization) * self.rho
        rho = first_penalty(objective, decoded.x)
        D, y = objective.problem.data_term, objective.problem.y
        if D.is_smooth or denoising_term(objective) is not None:
            return rho
        slope = D.grad(decoded.operator(decoded.x), y).abs().flatten(1).amax(1)
        # The misfit is split too: its prox moves the prediction by slope / rho, a tenth of the
        # range of y.
        of_misfit = quotient(10 * slope, y.abs().flatten(1).amax(1).expand_as(slope))
        return torch.where(of_misfit > 0, of_misfit, rho)


_DESCENT = LBFGS(memory=5)


def _enters_by_gradient(prior: ExplicitPrior) -> bool:
    return prior.smooth and "energy" in prior.offers and "denoise" not in prior.offers


def _split_terms(objective: Objective) -> list[tuple[Tensor, ExplicitPrior]]:
    return [(w, prior) for w, prior in objective.terms if not _enters_by_gradient(prior)]


def _summands(objective: Objective, decoded: Decoded) -> tuple[PriorSummand | DataSummand, ...]:
    """Return everything that enters by its prox: priors, then a misfit with a kink."""
    priors = summands_of(_split_terms(objective))
    problem = objective.problem
    if problem.data_term.is_smooth:
        return priors
    operator = cast(LinearOperator, decoded.operator)  # of which `apply` alone is used
    return (*priors, DataSummand(1.0, problem.data_term, operator, problem.y))


def _norms(summands: Sequence[PriorSummand | DataSummand], x: Any, like: Tensor) -> Tensor:
    """Return the norms of the K_i for images like x, 0 for a misfit, ``(batch, copies)``."""
    norms = torch.zeros(len(like), len(summands), dtype=like.dtype, device=like.device)
    for k, summand in enumerate(summands):
        if isinstance(summand, PriorSummand):
            norms[:, k] = operator_norm(summand.operator, x)
    return norms


def _augmented(
    objective: Objective, copies: Sequence[Tensor], duals: Sequence[Tensor], rho: Tensor
) -> Objective:
    r"""Return ``f(v) + rho/2 sum_i |K_i g(v) - (z_i - u_i)|^2`` as an objective of its own."""
    terms = [Term(w, prior) for w, prior in objective.terms if _enters_by_gradient(prior)]
    targets = [z - u for z, u in zip(copies, duals)]
    for summand, target in zip(summands_of(_split_terms(objective)), targets):
        # rho/2 |K x - (z - u)|^2 as a prior of weight rho.
        square = Tikhonov(reference=target)
        K = summand.operator
        terms.append(Term(rho, square if K is None else square @ K))
    problem = objective.problem
    if not problem.data_term.is_smooth:
        # rho/2 |A(x) - (z - u)|^2 is least squares with the noise level 1 / sqrt(rho).
        square_misfit = LeastSquares(noise_std=rho.double().rsqrt())
        problem = problem.with_measurements(targets[-1]).with_data_term(square_misfit)
    return replace(
        objective,
        problem=problem,
        prior=PriorSum(tuple(terms), objective.prior.implicit),
        regularization=torch.ones_like(objective.regularization),
        has_rule=False,
        discrepancy_target=None,
    )


def _value(
    objective: Objective,
    decoded: Decoded,
    summands: Sequence[PriorSummand | DataSummand],
    copies: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Return objective and discrepancy; a prior of the image itself is taken at its copy."""
    D, y = objective.problem.data_term, objective.problem.y
    prediction = decoded.operator(decoded.x)
    value = D.value(prediction, y) + objective.parameter_energy(decoded)
    for weight, prior in objective.terms:
        if _enters_by_gradient(prior):
            value = value + weight * prior.energy(decoded.x)
    for summand, z in zip(summands, copies):
        if isinstance(summand, PriorSummand):
            value = value + summand.value(z)
    return value, D.discrepancy(prediction, y)


def _gives_images(objective: Objective) -> bool:
    """Whether the implicit prior decodes to one tensor."""
    implicit = objective.prior.implicit
    assert implicit is not None
    try:
        with torch.no_grad():
            return isinstance(implicit.decode(implicit.initial()), Tensor)
    except InputError:
        return False
