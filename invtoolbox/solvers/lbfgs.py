"""Limited-memory BFGS, with bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.priors.base import PriorSum
from invtoolbox.priors.images.constraints import Box
from invtoolbox.solvers.base import Solver, State, nonsmooth_reason
from invtoolbox.solvers.duality import SAFETY, has_gap, objective_gap
from invtoolbox.solvers.gradient_descent import backtrack, gradient_scale
from invtoolbox.solvers.linear_systems import quotient
from invtoolbox.solvers.splitting import PriorSummand

#: Share of its first step below which a line search without a decrease has failed.
_SHORTEST = 1e-3


@dataclass
class Pairs:
    """Memory of L-BFGS: the last steps and the changes of the gradient along them."""

    moves: Tensor  # (batch, memory, n) the last steps s
    changes: Tensor  # (batch, memory, n) the changes d of the gradient along them
    curvatures: Tensor  # (batch, memory) <s, d>, 0 in an empty slot
    place: Tensor  # (batch,) the slot to write next

    @classmethod
    def blank(cls, like: Tensor, memory: int) -> Pairs:
        """Return a memory without pairs for a variable, ``(batch, ...)``."""
        batch, n = like.shape[0], like[0].numel()
        rows = torch.zeros(batch, memory, n, dtype=like.dtype, device=like.device)
        none = torch.zeros(batch, memory, dtype=item_norm(like).dtype, device=like.device)
        place = torch.zeros(batch, dtype=torch.long, device=like.device)
        return cls(rows, torch.zeros_like(rows), none, place)

    @property
    def empty(self) -> Tensor:
        """Items without a pair, ``(batch,)``."""
        return (self.curvatures == 0).all(1)

    def multiply(self, gradient: Tensor, metric: Tensor | None = None) -> Tensor:
        """Return the estimated inverse Hessian times a vector (two-loop recursion, 7.4).

        Args:
            gradient: the vector, ``(batch, ...)``.
            metric: diagonal of the first estimate, up to a factor, ``(batch, n)``; `None` for 1.
        """
        # Nocedal and Wright 2006, algorithm 7.4, from the latest pair to the oldest:
        # alpha_i = <s_i, q> / <s_i, d_i>, q <- q - alpha_i d_i. An empty slot has alpha = 0.
        memory = self.moves.shape[1]
        rows = torch.arange(len(self.place), device=gradient.device)
        q = gradient.flatten(1).clone()
        order = [(self.place - 1 - k) % memory for k in range(memory)]
        alphas = []
        for slot in order:
            alpha = quotient(inner(self.moves[rows, slot], q), self.curvatures[rows, slot])
            q.sub_(self.changes[rows, slot] * alpha[:, None])
            alphas.append(alpha)
        # H_0 = gamma metric with gamma = <s, d> / <d, metric d> of the latest pair (ibid., 7.20).
        latest = self.changes[rows, order[0]]
        curvature = self.curvatures[rows, order[0]]
        squared = inner(latest, latest if metric is None else metric * latest)
        gamma = torch.where(curvature > 0, quotient(curvature, squared), torch.ones_like(curvature))
        q.mul_(gamma[:, None])
        if metric is not None:
            q.mul_(metric)
        # From the oldest pair to the latest: beta = <d_i, q> / <s_i, d_i>,
        # q <- q + s_i (alpha_i - beta).
        for slot, alpha in zip(reversed(order), reversed(alphas)):
            beta = quotient(inner(self.changes[rows, slot], q), self.curvatures[rows, slot])
            q.add_(self.moves[rows, slot] * (alpha - beta)[:, None])
        return q.view_as(gradient)

    def remember(self, move: Tensor, change: Tensor) -> None:
        """Write a pair into each item's next slot, if its curvature is positive enough."""
        move, change = move.flatten(1), change.flatten(1)
        # Items without a good pair keep their memory, so each has its own place.
        curvature = inner(move, change)
        good = (curvature > 1e-8 * item_norm(move) * item_norm(change)).nonzero().squeeze(1)
        slots = self.place[good]
        self.moves[good, slots] = move[good]
        self.changes[good, slots] = change[good]
        self.curvatures[good, slots] = curvature[good]
        self.place = self.place.index_copy(0, good, (slots + 1) % self.moves.shape[1])

    def forget(self, items: Tensor) -> None:
        """Empty the memory of some items, ``(batch,)`` booleans."""
        self.curvatures = self.curvatures.masked_fill(items[:, None], 0)


@dataclass(kw_only=True)
class LBFGSState(State):
    """Gradient and memory of L-BFGS."""

    gradient: Tensor
    pairs: Pairs
    scale: Tensor  # (batch,)
    stalled: Tensor  # (batch,) whether no step along the negative gradient lowers the objective


@dataclass(frozen=True)
class LBFGS(Solver):
    r"""L-BFGS (Nocedal 1980; Nocedal and Wright 2006, algorithm 7.4) with an Armijo line search.

    Each item has its own memory and its own step, so the objective of no item ever increases. A
    pair is kept only if ``<s, d> > 1e-8 |s| |d|``, so the metric stays positive definite without
    Wolfe's second condition.

    A prior `Box` or `NonNegative` bounds x. A value at a bound whose derivative pushes it outwards
    rests; the metric acts on the others, and the line search follows the path of projected steps
    (two-metric projection; Bertsekas 1982, Schmidt, Kim and Sra 2011). The certificate then leaves
    out the values that rest.

    Converges to a stationary point of a continuously differentiable objective that is bounded
    below; linearly if it is strongly convex. An item that no step along its negative gradient
    improves ends with the status ``stopped``. Certificate: ``|grad F(x)|`` relative to its value at
    the start or at 0, the larger.

    Args:
        memory: number of pairs kept per item; they take ``2 * memory`` times the space of x.
        sufficient_decrease: the constant of Armijo's condition.
        scale: size of the changes that values of x make, relative to each other, positive and the
            same for all items; it broadcasts against ``(1, *x.shape[1:])``. Values that the
            measurements determine badly get a large one. The first estimate of the inverse Hessian
            is then a multiple of ``scale^2`` instead of 1.

    Raises:
        InputError: a scale of another shape, or one that is not positive.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    >>> float(it.solve(problem, solver=it.solvers.LBFGS(), progress=False).x.mean())
    1.0
    """

    max_iterations: int = 500
    tolerance: float = 1e-5
    memory: int = 10
    sufficient_decrease: float = 1e-4
    scale: Tensor | None = field(default=None, repr=False)

    def unsupported_reason(self, objective: Objective) -> str | None:
        if not objective.has_value:
            return (
                "LBFGS needs an energy of every prior for its line search, and a prior here has "
                "none"
            )
        boxes = [term.prior for term in objective.prior.terms if isinstance(term.prior, Box)]
        if objective.layout is None and len(boxes) > 1:
            return f"LBFGS takes one prior of bounds, got {boxes[0]} and {boxes[1]}; join them"
        return nonsmooth_reason(_split(objective)[0], "LBFGS")

    def suits(self, objective: Objective) -> bool:
        implicit = objective.prior.implicit
        return objective.layout is None or (implicit is not None and implicit.is_well_scaled)

    def init(self, objective: Objective, start: Tensor) -> LBFGSState:
        self._check_scale(start)
        objective, bounds = _split(objective)
        start = start if bounds is None else bounds.prox(start, 1.0)
        value, gradient, discrepancy = objective.evaluate(start)
        norm = item_norm(_free_gradient(start, gradient, bounds))
        scale = gradient_scale(objective, norm, bounds)
        return LBFGSState(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=_certify(norm / scale, value),
            gradient=gradient,
            pairs=Pairs.blank(start, self.memory),
            scale=scale,
            stalled=torch.zeros_like(norm, dtype=torch.bool),
        )

    def _check_scale(self, x: Tensor) -> None:
        if self.scale is None:
            return
        shape, item_shape = self.scale.shape, x.shape[1:]
        # Items that have converged leave the batch, so a scale cannot have a batch axis.
        scale_shape = shape[1:] if len(shape) == x.ndim and shape[0] == 1 else shape
        fits = len(scale_shape) <= len(item_shape) and all(
            a in (1, b) for a, b in zip(reversed(scale_shape), reversed(item_shape))
        )
        if not fits or not bool((self.scale > 0).all()):
            raise InputError(
                "the scale of LBFGS is positive and has the shape of one item of x, "
                f"{(1, *item_shape)}, got the shape {tuple(shape)} and the least value "
                f"{float(self.scale.amin()):g}"
            )

    def step(self, objective: Objective, state: LBFGSState) -> LBFGSState:
        objective, bounds = _split(objective)
        value = objective.value(state.x)  # the weight may have changed since the last step
        gradient = _free_gradient(state.x, state.gradient, bounds)
        metric = None
        if self.scale is not None:
            metric = self.scale.to(gradient).square().expand(gradient.shape).flatten(1)
        direction = -state.pairs.multiply(gradient, metric)
        # d = -H g over the values that are free; those at rest stay.
        if bounds is not None:
            direction = torch.where(bounds.rests(state.x, state.gradient), 0.0, direction)
        slope = inner(gradient, direction)
        # If rounding has spoiled the metric, follow the negative gradient instead.
        uphill = ~(slope < 0)
        if bool(uphill.any()):
            mask = uphill.view(-1, *[1] * (direction.ndim - 1))
            direction = torch.where(mask, -gradient, direction)
            slope = inner(gradient, direction)
        # Without a pair the length of the gradient is unrelated to x, so the first step is short.
        size = item_norm(state.x)
        first = (
            0.01
            * torch.where(size > 0, size, torch.ones_like(size))
            / item_norm(direction).clamp_min(1e-30)
        )
        trial = torch.where(state.pairs.empty, first, torch.ones_like(slope))

        def projected(step: Tensor) -> tuple[Tensor, Tensor]:
            assert bounds is not None
            straight = torch.addcmul(state.x, expand(step, direction), direction)
            # The path x(t) = P(x + t d), along which <g, x(t) - x> predicts the decrease.
            point = bounds.prox(straight, 1.0)
            return point, inner(gradient, point - state.x).clamp_max(0)

        x, new, taken = backtrack(
            objective,
            x=state.x,
            value=value,
            direction=direction,
            slope=slope,
            trial=trial,
            sufficient_decrease=self.sufficient_decrease,
            path=None if bounds is None else projected,
        )
        # Steps of no length, or of rounding, show that the direction is none of descent. The next one
        # follows the negative gradient; if it fails too, at the same weight, so will all others.
        fails = (taken == 0) | ((taken < _SHORTEST * trial) & (new.value >= value))
        fails &= (gradient.flatten(1) != 0).any(1)
        stalled = fails & state.pairs.empty & (value == state.value)
        state.pairs.remember(x - state.x, new.gradient - state.gradient)
        state.pairs.forget(fails)
        certificate = item_norm(_free_gradient(x, new.gradient, bounds)) / state.scale
        return replace(
            state,
            x=x,
            value=new.value,
            discrepancy=new.discrepancy,
            certificate=_certify(certificate, new.value),
            gradient=new.gradient,
            stalled=stalled,
        )

    def gives_up(self, state: LBFGSState) -> Tensor:
        return state.stalled

    def has_gap(self, objective: Objective) -> bool:
        return has_gap(objective)

    def gap(self, objective: Objective, state: LBFGSState, distance: Tensor) -> Tensor:
        smooth = [(w, prior) for w, prior in objective.terms if not isinstance(prior, Box)]
        bounds = [
            PriorSummand(w, prior, None) for w, prior in objective.terms if isinstance(prior, Box)
        ]
        # A step as long as x at the gradient of the start.
        size = item_norm(state.x) / state.scale
        step = torch.where(size > 0, size, torch.ones_like(size))
        return objective_gap(
            objective,
            state.x,
            SAFETY * distance,
            bounds[0] if bounds else None,
            step,
            smooth=smooth,
        )


def _certify(certificate: Tensor, value: Tensor) -> Tensor:
    """Return the certificate; infinite where the objective is, whose gradient means nothing."""
    return torch.where(value == math.inf, math.inf, certificate)


def _split(objective: Objective) -> tuple[Objective, Box | None]:
    """Return the objective without its bounds on x, and the bounds, `None` if there are none."""
    boxes = [term for term in objective.prior.terms if isinstance(term.prior, Box)]
    if objective.layout is not None or len(boxes) != 1:
        return objective, None
    # Bounds enter by their projection, so the objective that is differentiated has none.
    others = tuple(term for term in objective.prior.terms if term is not boxes[0])
    prior = PriorSum(others, objective.prior.implicit)
    bounds = boxes[0].prior
    assert isinstance(bounds, Box)
    return replace(objective, prior=prior), bounds


def _free_gradient(x: Tensor, gradient: Tensor, bounds: Box | None) -> Tensor:
    """Return the gradient without the values that a bound keeps from following it."""
    if bounds is None:
        return gradient
    return torch.where(bounds.rests(x, gradient), torch.zeros_like(gradient), gradient)
