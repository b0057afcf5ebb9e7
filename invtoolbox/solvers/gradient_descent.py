"""Gradient descent with a line search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.objective.objective import Evaluation, Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.priors.images.constraints import Box
from invtoolbox.solvers.base import State, nonsmooth_reason
from invtoolbox.solvers.duality import GradientSolver


@dataclass(kw_only=True)
class DescentState(State):
    """Gradient and trial step of gradient descent."""

    gradient: Tensor
    trial: Tensor  # (batch,) the step to try first
    scale: Tensor  # (batch,) scale of the gradient norm


@dataclass(frozen=True)
class GradientDescent(GradientSolver):
    r"""Gradient descent, ``x <- x - t grad F(x)``, with Barzilai-Borwein steps and a line search.

    The first trial of a step is the step of Barzilai and Borwein (1988). Each item has its own
    step. A step t is accepted once ``F(x - t g) <= F(x) - sufficient_decrease t |g|^2`` (Armijo
    1966), so the objective never increases. If some prior has no energy (RED), ``step_size`` must
    be given and is used as it is.

    Converges to a stationary point for any continuously differentiable objective that is bounded
    below, and to a minimizer if it is convex. Certificate: ``|grad F(x)|`` relative to its value at
    the start or at 0, the larger.

    Args:
        step_size: a fixed step in place of the line search; converges for ``step_size < 2 / L``, L
            the Lipschitz constant.
        sufficient_decrease: the constant of Armijo's condition.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    >>> float(it.solve(problem, solver=it.solvers.GradientDescent(), progress=False).x.mean())
    1.0
    """

    max_iterations: int = 1000
    tolerance: float = 1e-4
    step_size: float | None = None
    sufficient_decrease: float = 1e-4

    sums_over_ranks: ClassVar[bool] = True

    def unsupported_reason(self, objective: Objective) -> str | None:
        if not objective.has_value and self.step_size is None:
            return (
                "GradientDescent without a fixed step_size= needs an energy for its line search, "
                "and a prior here has none"
            )
        return nonsmooth_reason(objective, "GradientDescent")

    per_iteration: ClassVar[tuple[str, ...] | None] = ("step_size", "regularization")

    def init(self, objective: Objective, start: Tensor) -> DescentState:
        value, gradient, discrepancy = objective.evaluate(start)
        norm = item_norm(gradient)
        scale = gradient_scale(objective, norm)
        trial = torch.ones_like(norm) * (1.0 if self.step_size is None else self.step_size)
        return DescentState(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=norm / scale,
            gradient=gradient,
            trial=trial,
            scale=scale,
        )

    def step(self, objective: Objective, state: DescentState) -> DescentState:
        # The slope along -g is -|g|^2.
        direction = -state.gradient
        slope = -inner(state.gradient, state.gradient)
        if self.step_size is not None:
            x = state.x + self.step_size * direction
            new, trial = objective.evaluate(x), state.trial
        else:
            value = objective.value(state.x)  # the weight may have changed since the last step
            x, new, taken = backtrack(
                objective,
                x=state.x,
                value=value,
                direction=direction,
                slope=slope,
                trial=state.trial,
                sufficient_decrease=self.sufficient_decrease,
            )
            trial = _barzilai_borwein(x - state.x, new.gradient - state.gradient, taken).detach()
        certificate = item_norm(new.gradient) / state.scale
        return replace(
            state,
            x=x,
            value=new.value,
            discrepancy=new.discrepancy,
            certificate=certificate,
            gradient=new.gradient,
            trial=trial,
        )

    def fixed_point(self, state: DescentState) -> tuple[Tensor, ...]:
        return (state.x,)

    def apply_map(
        self, objective: Objective, state: DescentState, point: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        # For every step size the fixed point is the point of zero gradient.
        return (point[0] - objective.evaluate(point[0]).gradient,)


def gradient_scale(objective: Objective, start_norm: Tensor, bounds: Box | None = None) -> Tensor:
    """Return the scale of a gradient norm: the norm at the start or at 0, the larger.

    With it a warm start does not require more accuracy. Bounds replace 0 by the point next to it.
    A misfit of counts may have an arbitrarily large gradient there; half of the prediction that fits
    takes the place of both.
    """
    # The parameters of a network or a scene have no point 0 that would mean anything.
    scale = start_norm
    if objective.layout is None:
        if bounds is None:
            at_zero = objective.data_gradient_at_zero()
        else:
            at_zero = objective.data(bounds.prox(objective.problem.zeros(), 1.0)).gradient
        scale = torch.maximum(start_norm, item_norm(at_zero))
        of_counts = objective.slope_of_counts()
        if of_counts is not None:
            scale = torch.where(of_counts > 0, of_counts, scale)
    return scale.clamp_min(torch.finfo(scale.dtype).tiny)


def backtrack(
    objective: Objective,
    x: Tensor,
    value: Tensor,
    direction: Tensor,
    slope: Tensor,
    trial: Tensor,
    sufficient_decrease: float,
    path: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    halvings: int = 40,
) -> tuple[Tensor, Evaluation, Tensor]:
    """Return the first point of the steps ``trial, trial / 2, ...`` that meets Armijo's condition.

    Each item has its own step. Returns the point, the evaluation there, and the step, which is 0
    for an item that no step improves. Rounding is allowed for: near the minimizer a decrease of the
    objective cannot be measured. A ``path`` replaces the straight line: it maps the steps to a
    point and to the change of the objective that the slope predicts there.
    """

    def straight(step: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addcmul(x, expand(step, direction), direction), step * slope

    # F(x(t)) <= F(x) + c (predicted change), with t halved until it holds (Nocedal and Wright 2006,
    # algorithm 3.1); on a straight line the predicted change is t <grad F, d>.
    path = straight if path is None else path
    rounding = 4 * torch.finfo(value.dtype).eps * value.abs()
    step, accepted = trial.clone(), torch.zeros_like(trial, dtype=torch.bool)
    for _ in range(halvings):
        point, change = path(step)
        new = objective.evaluate(point)
        accepted = new.value <= value + sufficient_decrease * change + rounding
        if bool(accepted.all()):
            return point, new, step
        step = torch.where(accepted, step, step / 2)
    # An item that no step improves stays where it is.
    step = torch.where(accepted, step, torch.zeros_like(step))
    point, _ = path(step)
    return point, objective.evaluate(point), step


def _barzilai_borwein(s: Tensor, change: Tensor, taken: Tensor) -> Tensor:
    """Return ``<s, s> / <s, d>``, the inverse of the mean curvature along the last step.

    If the curvature is not positive, return twice the last step.
    """
    # The longer of the two steps of Barzilai and Borwein (1988), with s the step and d the change
    # of the gradient.
    curvature = inner(s, change)
    length = inner(s, s)
    usable = (curvature > 1e-12 * length) & (length > 0)
    fallback = torch.where(taken > 0, 2 * taken, torch.ones_like(taken))
    return torch.where(
        usable, length / torch.where(usable, curvature, torch.ones_like(curvature)), fallback
    )
