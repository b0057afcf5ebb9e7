"""Proximal gradient and its accelerated form, FISTA."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.core.pytrees import scatter_items, select_items, where_items
from invtoolbox.core.rare_branches import is_any
from invtoolbox.objective.initial_guess import is_scan
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm
from invtoolbox.priors.base import ExplicitPrior, PriorSum
from invtoolbox.priors.images.total_variation import TotalVariation, merge_bounds
from invtoolbox.priors.settings import replace
from invtoolbox.solvers.base import (
    Solver,
    State,
    implicit_reason,
)
from invtoolbox.solvers.duality import has_gap, objective_gap
from invtoolbox.solvers.gradient_descent import gradient_scale
from invtoolbox.solvers.splitting import PriorSummand, unit_step_reason, unit_step_term

#: Gradient mapping relative to the subgradient of the prior at which a weight can be judged.
_COARSE = 0.2


@dataclass(kw_only=True)
class ProximalState(State):
    """The point of the next gradient, the momentum and the trial step."""

    prediction: Any  # A(x)
    point: Tensor  # point of the next gradient; x itself without acceleration
    ahead: Any  # A(point)
    momentum: Tensor  # (batch,) t of FISTA; 1 without acceleration
    trial: Tensor  # (batch,) the step to try first
    scale: Tensor  # (batch,)


@dataclass(frozen=True)
class ProximalGradient(Solver):
    r"""Proximal gradient, ``x <- prox_{t R}(x - t grad f(x))``, f the misfit and the smooth priors.

    At most one prior enters through its prox; every other must be differentiable. Each item has its
    own step, found by halving until ``f(u) <= f(x) + <grad f(x), u - x> + |u - x|^2 / (2 t)`` (Beck
    and Teboulle, SIAM J. Imaging Sci. 2, 2009), so no norm is needed, and the operator may be
    nonlinear. A step costs one A and one adjoint.

    The objective never increases. Converges to a minimizer for convex f and R, and to a stationary
    point if R alone is convex. With a denoiser in place of the prox (plug-and-play) it converges if
    the denoiser is a prox or averaged, which cannot be checked. Certificate: the gradient mapping
    ``|x - u| / t``, relative to ``|grad f|`` at the start or at 0, and the duality gap of a convex
    objective (`Solver.gap`).

    Args:
        step_size: a fixed step in place of the search; converges for steps below ``1 / |A|^2``
            (times ``noise_std^2``).

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[3.0, 0.5, -2.0]]]), it.operators.Identity((1, 3)))
    >>> it.solve(problem, it.priors.L1(), ProximalGradient(), regularization=1.0, progress=False).x
    tensor([[[ 2.,  0., -1.]]])
    """

    max_iterations: int = 1000
    tolerance: float = 1e-4
    step_size: float | None = None

    certificate_name: ClassVar[str] = "relative norm of the gradient mapping"
    takes_unit_step: ClassVar[bool] = True
    sums_over_ranks: ClassVar[bool] = True
    per_iteration: ClassVar[tuple[str, ...] | None] = ("step_size", "regularization")
    accelerated: ClassVar[bool] = False

    def reformulate(self, objective: Objective) -> Objective:
        # Total variation and bounds have one prox together.
        return dataclasses.replace(objective, prior=merge_bounds(objective.prior))

    def unsupported_reason(self, objective: Objective) -> str | None:
        name = type(self).__name__
        objective = self.reformulate(objective)
        if not objective.problem.data_term.is_smooth:
            return (
                f"{name} needs a differentiable data term, and {objective.problem.data_term!r} is "
                "not"
            )
        rough = [prior for _, prior in _rough(objective)]
        if len(rough) > 1:
            return (
                f"{name} takes one prior that is not differentiable, and there are {rough[0]!r} "
                f"and {rough[1]!r} (total variation and bounds count as one)"
            )
        if rough and "prox" not in rough[0].offers:
            return f"{name} needs a proximal operator of {rough[0]!r}, and it has none"
        for _, prior in _smooth(objective):
            if "gradient" not in prior.offers:
                return f"{name} needs the gradient of {prior!r}, and it has none"
            if "energy" not in prior.offers and self.step_size is None:
                return (
                    f"{name} without a fixed step_size= needs an energy of {prior!r}, and it has "
                    "none"
                )
        return implicit_reason(objective, name) or unit_step_reason(objective, name, self.step_size)

    def suits(self, objective: Objective) -> bool:
        """Whether a prior has a prox that is no minimum over auxiliary variables."""
        # With a nonlinear operator, a splitting treats variation and bounds apart.
        merged = self.reformulate(objective) if objective.problem.is_linear else objective
        rough = _rough(merged)
        return len(rough) == 1 and not any("joint" in prior.offers for _, prior in rough)

    def is_differentiable(self, objective: Objective) -> bool:
        return all(prior.has_exact_prox for _, prior in _rough(objective))

    def init(self, objective: Objective, start: Tensor) -> ProximalState:
        D, y = objective.problem.data_term, objective.problem.y
        prediction = objective.problem.operator(start)
        gradient = _gradient(objective, start, prediction)
        norm = item_norm(gradient)
        scale = gradient_scale(objective, norm)
        trial = self._first_step(objective, gradient)
        # The energy behind a learned prox costs a solve at a point that is no result of the prox.
        value = objective.nan()
        if unit_step_term(objective) is None:
            value = D.value(prediction, y) + objective.prior_value(start)
        return ProximalState(
            x=start,
            value=value,
            discrepancy=D.discrepancy(prediction, y),
            certificate=torch.full_like(norm, torch.inf),
            prediction=prediction,
            point=start,
            ahead=prediction,
            momentum=torch.ones_like(norm),
            trial=trial,
            scale=scale,
        )

    def _first_step(self, objective: Objective, gradient: Tensor) -> Tensor:
        """Return the inverse curvature along the first gradient.

        No step above it can pass, and few halvings lead to one that passes.
        """
        norm = item_norm(gradient).detach()
        fixed = self._fixed_step(objective, norm)
        if fixed is not None:
            return fixed
        # t = |g|^2 / <A g, W A g>
        A, D = objective.problem.operator, objective.problem.data_term
        if not isinstance(A, LinearOperator) or not D.is_quadratic:
            return torch.ones_like(norm)
        forward = A(gradient.detach())
        curvature = inner(forward, D.weighted(forward)).detach()
        return torch.where(
            curvature > 0,
            norm.square() / torch.where(curvature > 0, curvature, norm),
            torch.ones_like(norm),
        )

    def _fixed_step(self, objective: Objective, like: Tensor) -> Tensor | None:
        """Return the step if it is not searched for, ``(batch,)``, else ``None``."""
        if self.step_size is not None:
            return torch.ones_like(like) * self.step_size
        # Such a prox is known at t w = 1 alone.
        term = unit_step_term(objective)
        return None if term is None else 1 / term[0]

    def step(self, objective: Objective, state: ProximalState) -> ProximalState:
        D, y = objective.problem.data_term, objective.problem.y
        # f(z), the smooth part of the objective at the point of the gradient.
        here = D.value(state.ahead, y) + _smooth_value(objective, state.point)
        if D.is_for_nonnegative and is_any(here.isinf()):
            # The momentum has left the domain of the misfit: the step starts at x.
            point, ahead = where_items(
                here.isinf(), (state.x, state.prediction), (state.point, state.ahead)
            )
            state = dataclasses.replace(state, point=point, ahead=ahead)
            here = D.value(ahead, y) + _smooth_value(objective, point)
        gradient = _gradient(objective, state.point, state.ahead)
        # x = prox_{t R}(z - t grad f(z)), and |x - z| / t is the gradient mapping.
        x, prediction, step, data, energy = self._search(objective, state, gradient, here)
        move = x - state.point
        # A move below the rounding of x does not show the gradient mapping.
        unseen = 0.25 * torch.finfo(step.dtype).eps * item_norm(x)
        length = item_norm(move).maximum(unseen.minimum(step * item_norm(gradient)))
        certificate = length / step / self._scale(state, gradient, move, step)
        point, ahead, momentum = self._extrapolate(objective, state, x, prediction, move)
        # F(x); the energy of the rough prior comes from its prox.
        value = objective.nan()
        if objective.has_value:
            value = data + energy + _smooth_value(objective, x)
        return dataclasses.replace(
            state,
            x=x,
            value=value,
            discrepancy=D.discrepancy(prediction, y),
            certificate=certificate,
            prediction=prediction,
            point=point,
            ahead=ahead,
            momentum=momentum,
            trial=step,
        )

    def _scale(self, state: ProximalState, gradient: Tensor, move: Tensor, step: Tensor) -> Tensor:
        """Return the scale of the gradient mapping, ``(batch,)``."""
        return state.scale

    def _search(
        self, objective: Objective, state: ProximalState, gradient: Tensor, here: Tensor
    ) -> tuple[Tensor, Any, Tensor, Tensor, Tensor]:
        """Return the point after a step that the quadratic model bounds, and its values.

        They are the prediction, the step, the misfit, and the energy of the prox there.
        """
        fixed = self._fixed_step(objective, state.trial)
        first = state.trial if fixed is None else fixed
        x, prediction, step, data, energy, rejected = _trial(
            objective, state.point, state.ahead, gradient, here, first
        )
        for _ in range(60):
            if fixed is not None or not is_any(rejected):
                break
            # Only the items whose step was too long are tried again, because a prox may be most of
            # the work.
            again = rejected.nonzero().squeeze(1)
            point, ahead, slope, value = (
                select_items(t, again) for t in (state.point, state.ahead, gradient, here)
            )
            tried = _trial(objective.select(again), point, ahead, slope, value, step[again] / 2)
            x, prediction, step, data, energy, rejected = scatter_items(
                again, tried, (x, prediction, step, data, energy, rejected)
            )
        return x, prediction, step, data, energy

    def _extrapolate(
        self, objective: Objective, state: ProximalState, x: Tensor, prediction: Any, move: Tensor
    ) -> tuple[Tensor, Any, Tensor]:
        return x, prediction, state.momentum

    def has_gap(self, objective: Objective) -> bool:
        return has_gap(objective)

    def gap(self, objective: Objective, state: ProximalState, distance: Tensor) -> Tensor:
        # F = f + G with G the one prior that enters by its prox.
        rough = [PriorSummand(weight, prior, None) for weight, prior in _rough(objective)]
        return objective_gap(
            objective,
            state.x,
            distance,
            rough[0] if rough else None,
            state.trial,
            smooth=_smooth(objective),
        )

    def fixed_point(self, state: ProximalState) -> tuple[Tensor, ...]:
        return (state.x,)

    def apply_map(
        self, objective: Objective, state: ProximalState, point: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        # One step without momentum, which has the same fixed points.
        (x,) = point
        prediction = objective.problem.operator(x)
        fixed = self._fixed_step(objective, state.trial)
        step = state.trial if fixed is None else fixed
        x = x - expand(step, x) * _gradient(objective, x, prediction)
        for weight, prior in _rough(objective):
            x = prior.prox(x, step * weight)
        return (x,)


@dataclass(frozen=True)
class FISTA(ProximalGradient):
    r"""Accelerated proximal gradient with adaptive restart.

    Beck and Teboulle 2009; O'Donoghue and Candes 2015 for the restart. The gradient is taken at
    ``z = x + (t - 1) / t_next (x - x_before)``. An item forgets its momentum if it points uphill,
    ``<z - x, x - x_before> > 0`` (their gradient scheme), so that ill-chosen momentum costs a few
    steps at most. The prediction ``A z`` follows from the predictions of x by linearity: a step
    costs one A and one adjoint, as without acceleration.

    Converges for convex f and R, the objective as ``O(1 / k^2)`` between restarts; it need not
    decrease monotonically. The certificate is the certificate of `ProximalGradient`, at z.

    On a scan a run starts at the filtered back-projection. On a large 2D scan it starts at the answer
    on a grid of half the pixels, which starts on a still coarser one, with twice as many iterations
    per grid. If the solver was chosen by `solve`, the finest grid then has 64 iterations.

    Args:
        prox_tolerance: relative gap at which the iterated prox of total variation stops within a
            step, if it is larger than the prior's own tolerance; None for the prior's own. The
            duality gap is computed with the prior's own.
        against_prior: whether the certificate is relative to the subgradient of the prior, instead
            of the gradient of the misfit at the start or at 0. It then does not depend on the
            weight; walks over the weights use it.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[3.0, 0.5, -2.0]]]), it.operators.Identity((1, 3)))
    >>> it.solve(problem, it.priors.L1(), FISTA(), regularization=1.0, progress=False).x
    tensor([[[ 2.,  0., -1.]]])
    """

    takes_unit_step: ClassVar[bool] = False
    sums_over_ranks: ClassVar[bool] = True
    prox_tolerance: float | None = None
    against_prior: bool = False

    starts_at_inverse: ClassVar[bool] = True
    accelerated: ClassVar[bool] = True

    def suits(self, objective: Objective) -> bool:
        """Whether the problem is a scan, and the only prior a total variation.

        Products with the operator of a scan are most of the work, and FISTA needs fewer of them
        than splitting methods, which would need iterations of their own for the prior.
        """
        terms = self.reformulate(objective).terms
        # The discrepancy principle is left to solvers that meet its target within one run.
        return (
            is_scan(objective.problem)
            and len(terms) == 1
            and type(terms[0][1]) is TotalVariation
            and objective.discrepancy_target is None
        )

    def coarse(self, tolerance: float) -> tuple[Self, float]:
        inner = max(self.prox_tolerance or 0.0, 1e-2)
        return dataclasses.replace(self, prox_tolerance=inner, against_prior=True), _COARSE

    def on_coarse_grid(self, max_iterations: int) -> Self:
        inner = max(self.prox_tolerance or 0.0, 1e-3)
        return dataclasses.replace(self, max_iterations=max_iterations, prox_tolerance=inner)

    def step(self, objective: Objective, state: ProximalState) -> ProximalState:
        # The prox of total variation is iterated; it need not be exact on a coarse grid, nor in a
        # run that only ranks weights.
        if self.prox_tolerance is not None:
            terms = tuple(
                dataclasses.replace(
                    t,
                    prior=replace(t.prior, tolerance=max(t.prior.tolerance, self.prox_tolerance)),
                )
                if isinstance(t.prior, TotalVariation)
                else t
                for t in objective.prior.terms
            )
            prior = PriorSum(terms, objective.prior.implicit)
            objective = dataclasses.replace(objective, prior=prior)
        return super().step(objective, state)

    def _scale(self, state: ProximalState, gradient: Tensor, move: Tensor, step: Tensor) -> Tensor:
        if not self.against_prior:
            return state.scale
        # The step is x = z - step (gradient + subgradient), z its start.
        pull = item_norm(gradient + move / expand(step, move))
        return torch.maximum(pull, 1e-4 * state.scale)  # smooth priors have no part in it

    def _extrapolate(
        self, objective: Objective, state: ProximalState, x: Tensor, prediction: Any, move: Tensor
    ) -> tuple[Tensor, Any, Tensor]:
        # Restart if <z - x, x - x_before> > 0 (O'Donoghue and Candes 2015, the gradient scheme).
        change = x - state.x
        restart = -inner(move, change) > 0
        before = torch.where(restart, torch.ones_like(state.momentum), state.momentum)
        # t_next = (1 + sqrt(1 + 4 t^2)) / 2, z = x + (t - 1) / t_next (x - x_before) (Beck and
        # Teboulle 2009, equations 4.2 and 4.3).
        momentum = (1 + (1 + 4 * before.square()).sqrt()) / 2
        beta = (before - 1) / momentum
        point = torch.addcmul(x, expand(beta, change), change)
        # A z = A x + beta (A x - A x_before) by linearity.
        A = objective.problem.operator
        if isinstance(A, LinearOperator) and isinstance(prediction, Tensor):
            ahead: Any = prediction + expand(beta, prediction) * (prediction - state.prediction)
        else:
            ahead = A(point)
        return point, ahead, momentum


def _rough(objective: Objective) -> list[tuple[Tensor, ExplicitPrior]]:
    """Return the priors that enter by their prox.

    A denoiser is one of them (plug-and-play), although it has a gradient (RED).
    """
    return [
        (w, prior) for w, prior in objective.terms if not prior.smooth or "denoise" in prior.offers
    ]


def _smooth(objective: Objective) -> list[tuple[Tensor, ExplicitPrior]]:
    return [
        (w, prior) for w, prior in objective.terms if prior.smooth and "denoise" not in prior.offers
    ]


def _smooth_value(objective: Objective, x: Tensor) -> Tensor:
    total = torch.zeros_like(objective.regularization)
    for weight, prior in _smooth(objective):
        if "energy" in prior.offers:
            total = total + weight * prior.energy(x)
    return total


def _trial(
    objective: Objective, point: Tensor, ahead: Any, gradient: Tensor, here: Tensor, step: Tensor
) -> tuple[Tensor, Any, Tensor, Tensor, Tensor, Tensor]:
    """Take a step of this length.

    Returns the new point, its prediction, the step, misfit and energy of the prox there, and which
    items must shorten the step.
    """
    # x = prox_{t w R}(z - t grad f(z))
    x = torch.addcmul(point, expand(-step, gradient), gradient)
    energy = torch.zeros_like(step)
    for weight, prior in _rough(objective):
        x, at_x = prior.prox_and_energy(x, step * weight)
        energy = weight * at_x
    prediction = objective.problem.operator(x)
    data = objective.problem.data_term.value(prediction, objective.problem.y)
    # f(x) - f(z) - <grad f(z), x - z> <= |x - z|^2 / (2 t) (Beck and Teboulle 2009).
    move = x - point
    allowed = inner(move, move) / (2 * step)
    bend, rounding = _quadratic_bend(objective, move, prediction, ahead), 1e-5 * allowed
    if bend is None:
        bend = data + _smooth_value(objective, x) - here - inner(gradient, move)
        rounding = 32 * torch.finfo(here.dtype).eps * here.abs()
    else:
        # The bend of a move d is |A d|^2 / 2, and A d the difference of two rounded predictions.
        weighted = objective.problem.data_term.weighted(prediction)
        error = 8 * torch.finfo(here.dtype).eps * inner(prediction, weighted).clamp_min(0).sqrt()
        rounding = rounding + error * (2 * bend.clamp_min(0)).sqrt()
    # Written so that the search ends for an item that is not finite.
    return x, prediction, step, data, energy, bend > allowed + rounding


def _quadratic_bend(
    objective: Objective, move: Tensor, prediction: Any, ahead: Any
) -> Tensor | None:
    """Return ``f(x) - f(z) - <grad f(z), x - z>`` if f is quadratic, else ``None``.

    As half a square it has no cancellation. Near the minimizer the difference of two values is
    nothing but rounding, which made the search halve the step again and again until nothing moved.
    """
    D = objective.problem.data_term
    if not objective.problem.is_linear or not D.is_quadratic or not isinstance(prediction, Tensor):
        return None
    smooth = _smooth(objective)
    if not all("quadratic" in prior.offers for _, prior in smooth):
        return None
    # 1/2 |A (x - z)|_W^2 + sum_i w_i / 2 |L_i (x - z)|^2
    change = prediction - ahead
    bend = inner(change, D.weighted(change)) / 2
    for weight, prior in smooth:
        L, _ = prior.quadratic()
        image = move if L is None else L(move)
        bend = bend + weight * inner(image, image) / 2
    return bend


def _gradient(objective: Objective, x: Tensor, prediction: Any) -> Tensor:
    """Return the gradient of the misfit and the smooth priors, given ``prediction = A(x)``."""
    A, D, y = objective.problem.operator, objective.problem.data_term, objective.problem.y
    gradient = (
        A.adjoint(D.grad(prediction, y))
        if isinstance(A, LinearOperator)
        else objective.data(x).gradient
    )
    # A^T grad D(A x) + sum_i w_i grad R_i(x)
    smooth = _smooth(objective)
    generator = objective.generator() if smooth else None
    for weight, prior in smooth:
        slope = prior.gradient(x, generator)
        gradient = torch.addcmul(gradient, expand(weight, slope), slope)
    return gradient
