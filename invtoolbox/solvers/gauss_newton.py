"""Gauss-Newton and Levenberg-Marquardt, for nonlinear problems.

Operators may be nonlinear, geometry unknown, and images may come from networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from invtoolbox.core.constants import convert
from invtoolbox.core.guards import check_choice
from invtoolbox.core.pytrees import where_items
from invtoolbox.objective.linearization import Linearization
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior
from invtoolbox.solvers.base import State, nonsmooth_reason
from invtoolbox.solvers.duality import GradientSolver
from invtoolbox.solvers.gradient_descent import backtrack, gradient_scale
from invtoolbox.solvers.linear_systems import (
    apply_multiplier,
    conjugate_gradients,
    enlarge_symbol,
)


def dual_reason(objective: Objective, name: str) -> str | None:
    """Return why the dual system does not describe the step of an objective, or ``None``."""
    problem = objective.problem
    if problem.y0.is_complex() or problem.operator.complex_images:
        what = "measurements" if problem.y0.is_complex() else "images"
        return (
            f"{name}(inner='dual') takes real numbers, and the {what} of this problem are complex"
        )
    others = [
        prior
        for _, prior in objective.terms
        if objective.layout is not None or not _is_ridge(prior)
    ]
    # The dual system knows the curvature of the misfit and a multiple of the identity, no other.
    if objective.unknowns is not None:
        others += [t.prior for sum_ in objective.unknowns.priors.values() for t in sum_.terms]
    implicit = objective.prior.implicit
    if others or (implicit is not None and _has_energy(implicit)):
        return (
            f"{name}(inner='dual') takes no prior with a curvature but Tikhonov() on an image, got "
            f"{others[0] if others else implicit!r}; leave out inner='dual'"
        )
    return None


def solve_dual(
    objective: Objective, model: Linearization, variable: Tensor, damping: Tensor
) -> Tensor:
    r"""Return the step d with ``(J^T W J + mu I) d = -(J^T s + b)`` of one item.

    ``s`` and ``W`` are gradient and Hessian of the misfit in the m measurements. ``b`` and a part
    of ``mu`` come from `Tikhonov`, the other part is the damping. With ``K = J J^T``,

    .. math:: d = J^T w - b / \mu, \qquad (W K + \mu I) \, w = -s + W J b / \mu

    (the identity of Duncan 1944 and Guttman 1946). The system has m rows, and J costs m backward
    passes. Without damping and priors d is the shortest step if W is invertible.

    Args:
        objective: objective that `dual_reason` accepts.
        model: its linearization at the variable.
        variable: the variable, ``(1, ...)``.
        damping: damping, ``(1,)``.
    """
    J, W = model.rows(), model.curvature()
    with torch.no_grad():
        decoded = objective.decode_parameters(variable)
        slope = objective.problem.data_term.grad(decoded.operator(decoded.x), objective.problem.y)
    # The right-hand side of the dual system starts with -s, a row of all m measurements.
    slopes = slope if isinstance(slope, tuple) else (slope,)
    right = -torch.cat([s.flatten(1) for s in slopes], 1)
    mu = damping + sum((weight for weight, _ in objective.terms), torch.zeros_like(damping))
    # b, the gradient of the priors, and then b / mu.
    pull = torch.zeros_like(variable)
    for weight, prior in objective.terms:
        pull = torch.addcmul(pull, prior.gradient(variable), expand(weight, pull))
    # Without mu there is no prior, and the quotient is 0.
    pull = pull.flatten(1) / torch.where(mu > 0, mu, torch.ones_like(mu))[:, None]
    # -s + W J b / mu
    right = right + (W @ (J @ pull[:, :, None]))[:, :, 0]
    # In double precision, because the matrix is ill conditioned if the measurements are similar.
    system = W.double() @ (J @ J.mT).double()
    if not bool(system.isfinite().all()):
        return torch.full_like(variable, torch.nan)  # the item diverges, and the others go on
    if bool((mu > 0).all()):
        system = system + mu.double()[:, None, None] * torch.eye(J.shape[1], device=J.device)
        w = torch.linalg.solve(system, right.double()[:, :, None])
    else:
        # Without damping the pseudo-inverse gives the shortest w; eigenvalues that are rounding
        # count as 0.
        rounding = J.shape[1] * torch.finfo(J.dtype).eps
        w = torch.linalg.pinv(system, rtol=rounding) @ right.double()[:, :, None]
    # d = J^T w - b / mu
    return ((J.mT @ w.to(J))[:, :, 0] - pull).reshape(variable.shape)


def _is_ridge(prior: ExplicitPrior) -> bool:
    """Whether a prior is ``1/2 |x - b|^2``."""
    return "quadratic" in prior.offers and prior.quadratic()[0] is None


def _has_energy(prior: ImplicitPrior) -> bool:
    kind, base = type(prior), ImplicitPrior
    return kind.energy is not base.energy or kind.decode_and_energy is not base.decode_and_energy


@dataclass(kw_only=True)
class GaussNewtonState(State):
    """Gradient and damping of a Gauss-Newton method."""

    gradient: Tensor
    damping: Tensor  # (batch,) mu; 0 for Gauss-Newton
    growth: Tensor  # (batch,) factor on mu at the next step that fails
    scale: Tensor  # (batch,) scale of the gradient norm


@dataclass(frozen=True)
class GaussNewton(GradientSolver):
    r"""Gauss-Newton with conjugate gradients inside and an Armijo line search.

    Each step solves ``H d = -grad F`` with the generalized Gauss-Newton matrix H (see
    `Linearization`), by at most ``inner_iterations`` conjugate gradient steps, stopped at
    ``inner_tolerance`` relative (a truncated Newton method; Nash 2000). Truncated or not, d is a
    direction of descent if H is positive semidefinite, so the objective never increases.

    The weights of a network, which an implicit prior makes the variable, are stepped item by item:
    their H is nearly singular, and would amplify the rounding of batched products until an item
    gave another answer alone than in a batch. For them `LevenbergMarquardt`, or `Adam`, is the
    better choice.

    Converges to a stationary point of a smooth objective that is bounded below, given that H stays
    bounded and positive definite along the way (Nocedal and Wright 2006, theorem 10.1); if it may
    lose rank, use `LevenbergMarquardt`. Certificate: ``|grad F|`` relative to its value at the
    start or at 0, the larger.

    Args:
        inner_iterations, inner_tolerance: largest number and relative residual of the conjugate
            gradient steps.
        sufficient_decrease: the constant of Armijo's condition.
        preconditioner: ``"fourier"`` divides by the eigenvalues of the quadratic priors under the
            Fourier transform plus the mean curvature of the misfit, item by item. It pays if the
            operator acts pixel by pixel and a prior couples distant pixels, as in registration.
        inner: ``"cg"``, or ``"dual"`` for few measurements and many unknowns, such as the weights
            of a network. The dual system has one row per measurement and is solved exactly
            (`solve_dual`), at the cost of one backward pass per measurement and of the memory of
            the derivative, measurements times unknowns. It pays if the measurements are
            correlated, because conjugate gradients then need more steps than there are
            measurements. `Tikhonov` on an image is the only prior it takes.

    >>> import invtoolbox as it
    >>> square = it.as_operator(lambda x: x**2, domain_shape=(1, 4), range_shape=(1, 4))
    >>> problem = it.Problem(torch.full((1, 1, 4), 9.0), square)
    >>> solution = it.solve(
    ...     problem, solver=it.solvers.GaussNewton(), initial=torch.ones(1, 1, 4), progress=False
    ... )
    >>> round(float(solution.x.mean()), 4)
    3.0
    """

    max_iterations: int = 50
    tolerance: float = 1e-5
    inner_iterations: int = 30
    inner_tolerance: float = 1e-2
    sufficient_decrease: float = 1e-4
    preconditioner: Literal["fourier"] | None = None
    inner: Literal["cg", "dual"] = "cg"

    def __post_init__(self) -> None:
        check_choice(self, ("cg", "dual"), "inner")
        check_choice(self, (None, "fourier"), "preconditioner")

    def unsupported_reason(self, objective: Objective) -> str | None:
        if not objective.has_value:
            return (
                f"{type(self).__name__} needs an energy of every prior, and a prior here has none"
            )
        if self.inner == "dual" and (reason := dual_reason(objective, type(self).__name__)):
            return reason
        return nonsmooth_reason(objective, type(self).__name__)

    def suits(self, objective: Objective) -> bool:
        return objective.unknowns is not None

    def init(self, objective: Objective, start: Tensor) -> GaussNewtonState:
        if self._steps_alone(objective):
            return objective.each_alone(self._init, start)
        return self._init(objective, start)

    def step(self, objective: Objective, state: GaussNewtonState) -> GaussNewtonState:
        if self._steps_alone(objective):
            return objective.each_alone(self._step, state)
        return self._step(objective, state)

    def _init(self, objective: Objective, start: Tensor) -> GaussNewtonState:
        value, gradient, discrepancy = objective.evaluate(start)
        norm = item_norm(gradient)
        scale = gradient_scale(objective, norm)
        return GaussNewtonState(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=norm / scale,
            gradient=gradient,
            damping=torch.zeros_like(norm),
            growth=torch.full_like(norm, 2.0),
            scale=scale,
        )

    def _step(self, objective: Objective, state: GaussNewtonState) -> GaussNewtonState:
        # H d = -grad F, then Armijo's condition along d from the full step (Nocedal and Wright
        # 2006, section 10.3).
        model = Linearization(objective, state.x)
        direction, _ = self._solve(objective, model, state)
        value = objective.value(state.x)  # the weight may have changed since the last step
        slope = inner(state.gradient, direction)
        x, new, _ = backtrack(
            objective,
            x=state.x,
            value=value,
            direction=direction,
            slope=slope,
            trial=torch.ones_like(value),
            sufficient_decrease=self.sufficient_decrease,
        )
        return replace(
            state,
            x=x,
            value=new.value,
            discrepancy=new.discrepancy,
            certificate=item_norm(new.gradient) / state.scale,
            gradient=new.gradient,
        )

    def _solve(
        self, objective: Objective, model: Linearization, state: GaussNewtonState
    ) -> tuple[Tensor, Tensor]:
        """Return ``(H + mu I)^-1 (-grad F)`` and the residual of this system."""
        g, mu = state.gradient, state.damping
        if self.inner == "dual":
            return solve_dual(objective, model, state.x, mu), torch.zeros_like(g)
        return conjugate_gradients(
            lambda v: torch.addcmul(model.product(v), expand(mu, v), v),
            -g,
            self.inner_tolerance,
            self.inner_iterations,
            self._precondition(objective, model, g, mu),
        )

    def _steps_alone(self, objective: Objective) -> bool:
        # The bits of Fourier transforms and of dense systems depend on the number of items.
        return (
            self.preconditioner is not None
            or self.inner == "dual"
            or _amplifies_rounding(objective)
        )

    def _precondition(
        self, objective: Objective, model: Linearization, like: Tensor, damping: Tensor
    ) -> Callable[[Tensor], Tensor] | None:
        """Return the approximate inverse of the Gauss-Newton matrix, or None."""
        if self.preconditioner is None:
            return None
        # The same signs at every step and for every item, so that a call changes nothing.
        draws = torch.Generator(like.device).manual_seed(0)
        signs = torch.randn(1, *like.shape[1:], generator=draws, device=like.device).sign()
        signs = signs.to(like.dtype).expand_as(like)
        # <s, H s> of random signs estimates the trace of H (Hutchinson 1990).
        trace = inner(signs, model.product(signs))
        symbol = torch.zeros((), dtype=like.dtype, device=like.device)
        for weight, prior in objective.terms:
            L = prior.quadratic()[0] if "quadratic" in prior.offers else None
            spectrum = None if L is None else L.normal_symbol()
            if L is not None and spectrum is not None:
                # w L^T L enters by its eigenvalues, so its trace, <s, L^T L s>, is taken out.
                image = L(signs)
                trace = trace - weight * inner(image, image)
                symbol = symbol + expand(weight, like) * convert(spectrum[0], like)
        # Everything else enters by its mean eigenvalue.
        floor = trace.clamp_min(0) / like[0].numel() + damping
        from scipy.fft import next_fast_len

        sizes = tuple(like.shape[2:])
        fast = tuple(next_fast_len(n, real=True) for n in sizes)
        if symbol.ndim > 1 and fast != sizes:
            # Lengths with large prime factors take up to three times as long.
            symbol = enlarge_symbol(symbol, sizes, fast)
        symbol = symbol + expand(floor, like)
        largest = symbol.flatten(1).amax(1) if symbol.ndim > 1 else floor
        inverse = 1 / symbol.clamp_min(1e-9 * float(largest.max())).clamp_min(1e-30)
        return lambda v: apply_multiplier(v, inverse, fast if symbol.ndim > 1 else None)


@dataclass(frozen=True)
class LevenbergMarquardt(GaussNewton):
    r"""Levenberg-Marquardt: Gauss-Newton with damping, ``(H + mu I) d = -grad F``.

    Conjugate gradients solve the system. For each item ``mu`` follows the ratio of the decrease to
    the predicted one (Nielsen 1999; Madsen, Nielsen and Tingleff 2004, algorithm 3.16). A step that
    does not decrease the objective is not taken, so the objective never increases. ``damping`` is
    the first value of ``mu`` in units of the mean curvature along the gradient,
    ``<g, H g> / |g|^2``, and ``sufficient_decrease`` the ratio above which a step is taken.

    Converges to a stationary point of a smooth objective that is bounded below and has a bounded H
    (More 1978). Certificate: ``|grad F|`` relative to its value at the start or at 0, the larger.

    >>> import invtoolbox as it
    >>> square = it.as_operator(lambda x: x**2, domain_shape=(1, 4), range_shape=(1, 4))
    >>> problem = it.Problem(torch.full((1, 1, 4), 9.0), square)
    >>> solution = it.solve(
    ...     problem,
    ...     solver=it.solvers.LevenbergMarquardt(),
    ...     initial=torch.ones(1, 1, 4),
    ...     progress=False,
    ... )
    >>> round(float(solution.x.mean()), 4)
    3.0
    """

    damping: float = 1e-3

    def _init(self, objective: Objective, start: Tensor) -> GaussNewtonState:
        state = super()._init(objective, start)
        # mu_0 = damping <g, H g> / |g|^2; the damping alone if |g| or <g, H g> is 0.
        g = state.gradient
        squared, gHg = inner(g, g), inner(g, Linearization(objective, start).product(g))
        curvature = torch.where(
            (squared > 0) & (gHg > 0),
            gHg / torch.where(squared > 0, squared, torch.ones_like(squared)),
            torch.ones_like(squared),
        )
        return replace(state, damping=self.damping * curvature)

    def _step(self, objective: Objective, state: GaussNewtonState) -> GaussNewtonState:
        model, mu = Linearization(objective, state.x), state.damping
        direction, residual = self._solve(objective, model, state)
        # The decrease of the model, -<g, d> - 1/2 <d, H d>, with H d = -g - residual - mu d, and no
        # further product.
        predicted = 0.5 * (
            inner(direction, residual)
            + mu * inner(direction, direction)
            - inner(direction, state.gradient)
        )
        value = objective.value(state.x)  # the weight may have changed since the last step
        new = objective.evaluate(state.x + direction)
        rounding = 4 * torch.finfo(value.dtype).eps * value.abs()
        decrease = value - new.value
        # The gain ratio of Nielsen (1999): the actual decrease over the predicted one.
        ratio = torch.where(
            predicted > 0,
            decrease / torch.where(predicted > 0, predicted, torch.ones_like(predicted)),
            torch.full_like(predicted, -1.0),
        )
        # Near the minimizer the decrease is below rounding although the model is right: take the
        # step, and count the ratio as 1.
        taken = (ratio > self.sufficient_decrease) | (
            (predicted <= rounding) & (decrease >= -rounding)
        )
        ratio = torch.where(predicted <= rounding, torch.ones_like(ratio), ratio)
        # Accepted: mu <- mu max(1/3, 1 - (2 ratio - 1)^3), growth <- 2. Refused: mu <- growth mu
        # and growth <- 2 growth (Madsen, Nielsen and Tingleff 2004, algorithm 3.16).
        smaller = mu * torch.maximum(torch.full_like(ratio, 1 / 3), 1 - (2 * ratio - 1) ** 3)
        damping = torch.where(taken, smaller, mu * state.growth)
        growth = torch.where(taken, torch.full_like(mu, 2.0), 2 * state.growth)
        old = (state.x, value, state.gradient, state.discrepancy)
        x, value, gradient, discrepancy = where_items(
            taken, (state.x + direction, new.value, new.gradient, new.discrepancy), old
        )
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=item_norm(gradient) / state.scale,
            gradient=gradient,
            damping=damping,
            growth=growth,
        )


def _amplifies_rounding(objective: Objective) -> bool:
    # See `GaussNewton`: the system of a network's weights is nearly singular.
    implicit = objective.prior.implicit
    return implicit is not None and not implicit.is_well_determined
