"""Gradient descent whose objective and gradient are solved to an accuracy that follows the run.

`AdaptiveAccuracy` raises the accuracy only where a step needs it; `ScheduledAccuracy` raises it by
a fixed schedule. Both are for an `InexactPrior`, such as the parameters of a prior in
`training.learn_prior`, and for one item.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.objective.objective import Objective
from invtoolbox.priors.inexact import Decoding, InexactPrior
from invtoolbox.solvers.base import Solver, State
from invtoolbox.solvers.lbfgs import Pairs

#: Largest accuracy, and the smallest in units of the rounding error, below which inner solves stall.
_MOST, _LEAST_ROUNDING = 1.0, 100
#: Number of times that a step raises the accuracy of a direction, and halves its length.
_RAISES, _HALVINGS = 12, 6
#: Number of pairs from which the inverse Hessian is estimated.
_MEMORY = 10


@dataclass(kw_only=True)
class InexactState(State):
    """Point, decoded image, gradient and accuracy of an inexact descent."""

    image: Tensor  # (1, n)
    slack: Tensor  # (1,) bound of the distance between the value and the exact value
    gradient: Tensor  # (1, m) in the packed parameters
    error: Tensor  # (1,) bound of the distance to the exact gradient
    adjoint: Tensor  # (1, n)
    accuracy: Tensor  # (1,)
    length: Tensor  # (1,) step length that is tried first
    count: Tensor  # (1,) number of steps
    pairs: Pairs  # memory of L-BFGS


@dataclass(frozen=True)
class InexactDescent(Solver):
    """Base class of the methods here; certificate: ``(|gradient| + its error) / value``.

    If the parameters are logarithms, it bounds the relative change of the value per unit of a
    parameter, to first order.

    Args:
        first: first accuracy of the inner solves, a relative gradient norm, and of the adjoint
            equations, a relative residual.
    """

    max_iterations: int = 200
    tolerance: float = 1e-2
    first: float = 0.1
    certificate_name: ClassVar[str] = "relative hypergradient"
    corrects_values: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "(0, 1]", "first")

    def unsupported_reason(self, objective: Objective) -> str | None:
        if not isinstance(objective.prior.implicit, InexactPrior):
            return f"{type(self).__name__} is for an InexactPrior; see training.learn_prior"
        if objective.batch != 1 or objective.explicit_priors:
            return f"{type(self).__name__} takes one item and no explicit prior"
        return None

    def suits(self, objective: Objective) -> bool:
        return False

    def init(self, objective: Objective, start: Tensor) -> InexactState:
        # `differentiate` fills everything but the accuracy, the length and the memory.
        blank = start.new_zeros(1)
        state = InexactState(
            x=start,
            value=blank,
            discrepancy=blank,
            certificate=blank,
            image=blank,
            slack=blank,
            gradient=start,
            error=blank,
            adjoint=blank,
            accuracy=blank + self.first,
            length=blank,
            count=blank,
            pairs=Pairs.blank(start, _MEMORY),
        )
        decoded = self.decode(objective, start, self.first, None)
        state = self.differentiate(
            objective, state, x=start, decoded=decoded, accuracy=self.first, adjoint=None
        )
        # The first step changes the parameters by 1 in all.
        size = state.gradient.norm().clamp_min(torch.finfo(start.dtype).tiny)
        return replace(state, length=(1 / size)[None])

    def decode(
        self, objective: Objective, x: Tensor, accuracy: float, start: Tensor | None
    ) -> Decoding:
        """Return the image of packed parameters."""
        assert objective.layout is not None
        return _implicit(objective).decode_to(objective.layout.unpack(x), accuracy, start)

    @staticmethod
    def estimate(
        objective: Objective, x: Tensor, decoded: Decoding, adjoint: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the corrected value at packed parameters, and the bound of its error."""
        assert objective.layout is not None
        # The residual of H q = grad g for the q of another point.
        problem = objective.problem
        _, slope = problem.data_term.value_and_grad(decoded.x, problem.y)
        product = _implicit(objective).multiply_hessian(
            objective.layout.unpack(x), decoded, adjoint
        )
        return _corrected(objective, decoded, adjoint, (slope - product).norm()[None])

    def differentiate(
        self,
        objective: Objective,
        state: InexactState,
        x: Tensor,
        decoded: Decoding,
        accuracy: float,
        adjoint: Tensor | None,
    ) -> InexactState:
        """Return the state at packed parameters whose image is known."""
        assert objective.layout is not None
        problem = objective.problem
        value, slope = problem.data_term.value_and_grad(decoded.x, problem.y)
        pull = _implicit(objective).pull_back(
            objective.layout.unpack(x), decoded, slope, accuracy, adjoint
        )
        corrected, slack = _corrected(objective, decoded, pull.adjoint, pull.residual)
        value = corrected if self.corrects_values else value
        gradient = objective.layout.pack(pull.gradient)
        # The error of x changes the slope, and with it the gradient, by the same share.
        curved = _share(slope, decoded.x, problem.y) * decoded.error
        error = pull.error + gradient.norm() * curved / slope.norm().clamp_min(1e-30)
        # While the value may be 0 or less, for all that is known, no change of it is small.
        least = corrected - slack
        certificate = torch.where(least > 0, (gradient.norm() + error) / least, torch.inf)
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=problem.data_term.discrepancy_of(value, decoded.x, problem.y),
            certificate=certificate,
            image=decoded.x,
            slack=slack,
            gradient=gradient,
            error=error,
            adjoint=pull.adjoint,
            accuracy=torch.full_like(state.accuracy, accuracy),
        )


@dataclass(frozen=True)
class AdaptiveAccuracy(InexactDescent):
    r"""Descent that raises the accuracy of the inner solves only if a step needs it (MAID).

    The direction d is the gradient z, multiplied by an estimate of the inverse Hessian from the
    last ten steps (L-BFGS). It is used once the bound of the error of z is at most
    ``(1 - trust) <z, d> / |d|``. A step t is accepted if an upper bound of the new value lies below
    a lower bound of the old one by ``decrease t <z, d>``; both bounds follow from the errors of the
    images. After a step the accuracy falls by ``relax``; if no step is accepted, it rises (Salehi,
    Mukherjee, Roberts and Ehrhardt, arXiv 2308.10098, algorithm 3.1, where d is z). Values are
    those of the exact images to first order, which the adjoint solution gives without work, so that
    their bounds are of second order. The constants of the bounds are estimates
    (`training.PriorParameters`).

    Args:
        trust: share of |z| by which the error of the direction must be smaller.
        decrease: constant of the sufficient decrease.
        relax: factor on the accuracy after an accepted step, at least 1.
        reach: largest change of the parameters in a step.

    >>> AdaptiveAccuracy(first=1e-3)
    AdaptiveAccuracy(max_iterations=200, tolerance=0.01, first=0.001, trust=0.5, decrease=0.0001, relax=1.25, reach=2.0)
    """

    trust: float = 0.5
    decrease: float = 1e-4
    relax: float = 1.25
    reach: float = 2.0
    corrects_values: ClassVar[bool] = True

    def step(self, objective: Objective, state: InexactState) -> InexactState:
        # Algorithm 3.1 of Salehi et al. (arXiv 2308.10098): a direction of descent, then steps t d
        # until F(x - t d) + its error <= F(x) - its error - decrease t <z, d>.
        state, direction = self._trustworthy(objective, state)
        accuracy, slope = float(state.accuracy), float((state.gradient * direction).sum())
        # The natural length of a quasi-Newton step is 1.
        length = state.length if bool(state.pairs.empty) else torch.ones_like(state.length)
        length = length.clamp_max(self.reach / max(float(direction.norm()), 1e-30))
        low = float(state.value - state.slack)
        for _ in range(_HALVINGS):
            x = state.x - length * direction
            decoded = self.decode(objective, x, accuracy, state.image)
            value, slack = self.estimate(objective, x, decoded, state.adjoint)
            high = float(value + slack)
            if high <= low - self.decrease * float(length) * slope:
                relaxed = min(_MOST, self.relax * accuracy)
                new = self.differentiate(objective, state, x, decoded, relaxed, state.adjoint)
                # The memory pairs the step with the change of the gradient along it.
                state.pairs.remember(new.x - state.x, new.gradient - state.gradient)
                return replace(new, pairs=state.pairs, length=length, count=state.count + 1)
            length = 0.5 * length
        return replace(self._raise(objective, state), count=state.count + 1)

    def _trustworthy(
        self, objective: Objective, state: InexactState
    ) -> tuple[InexactState, Tensor]:
        """Raise the accuracy until the direction is one of descent in spite of its error."""
        for _ in range(_RAISES):
            # |e| <= (1 - trust) <z, d> / |d| makes <z - e, d> positive for every error e of z.
            direction = state.pairs.multiply(state.gradient)
            accuracy, slope = float(state.accuracy), float((state.gradient * direction).sum())
            enough = (1 - self.trust) * slope / max(float(direction.norm()), 1e-30)
            if float(state.error) <= enough or accuracy <= _least(state.image):
                break
            state = self._raise(objective, state)
        return state, direction

    def _raise(self, objective: Objective, state: InexactState) -> InexactState:
        """Return the state at the same point with twice the accuracy."""
        accuracy = max(_least(state.image), 0.5 * float(state.accuracy))
        decoded = self.decode(objective, state.x, accuracy, state.image)
        return self.differentiate(objective, state, state.x, decoded, accuracy, state.adjoint)

    def gives_up(self, state: InexactState) -> Tensor | None:
        return state.accuracy <= _least(state.image)


@dataclass(frozen=True)
class ScheduledAccuracy(InexactDescent):
    """Descent with a summable schedule of accuracies (HOAG).

    The accuracy of step k = 1, 2, ... is ``first * 0.9^k``, ``first / k^2`` or ``first / k^3``. The
    step is the reciprocal of an estimated Lipschitz constant, which falls by 5 % if the value falls
    and doubles, with the step undone, if the value grows by a fifth (Pedregosa, ICML 2016).

    Args:
        schedule: the schedule.

    >>> ScheduledAccuracy().schedule
    'cubic'
    """

    schedule: Literal["exponential", "quadratic", "cubic"] = "cubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, ("exponential", "quadratic", "cubic"), "schedule")

    def step(self, objective: Objective, state: InexactState) -> InexactState:
        # Accuracies that sum to a finite number (Pedregosa 2016); the start was k = 1.
        k = int(state.count) + 2
        factor = {"exponential": 0.9**k, "quadratic": k**-2.0, "cubic": k**-3.0}[self.schedule]
        accuracy = max(_least(state.image), self.first * factor)
        x = state.x - state.length * state.gradient
        decoded = self.decode(objective, x, accuracy, state.image)
        value = objective.problem.data_term.value(decoded.x, objective.problem.y)
        if float(value) > 1.2 * float(state.value) or not bool(value.isfinite()):
            return replace(state, length=0.5 * state.length, count=state.count + 1)
        # The estimated Lipschitz constant falls by 5 % with the value.
        growth = 1 / 0.95 if float(value) < float(state.value) else 1.0
        new = self.differentiate(objective, state, x, decoded, accuracy, state.adjoint)
        return replace(new, length=growth * state.length, count=state.count + 1)


def _implicit(objective: Objective) -> InexactPrior:
    implicit = objective.prior.implicit
    assert isinstance(implicit, InexactPrior)
    return implicit


def _corrected(
    objective: Objective, decoded: Decoding, adjoint: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Return the value at the exact image to second order, and the bound of its error.

    With q near ``H^{-1} grad g``, the exact image ``x - H^{-1} grad h`` has the value
    ``g(x) - <q, grad h>`` to first order, and the residual of q bounds the error of that term
    (Becker and Rannacher, Acta Numerica 10, 2001).
    """
    problem = objective.problem
    value, slope = problem.data_term.value_and_grad(decoded.x, problem.y)
    # |g(x*) - g(x) + <q, grad h>| <= |r| |e| + curvature/2 |e|^2 with e the error of x and r the
    # residual of q.
    curvature = _share(slope, decoded.x, problem.y)
    slack = residual * decoded.error + 0.5 * curvature * decoded.error.square()
    return value - (adjoint * decoded.residual).sum()[None], slack


def _least(like: Tensor) -> float:
    """Return the smallest accuracy that inner solves reach in the precision of a tensor."""
    return _LEAST_ROUNDING * torch.finfo(like.dtype).eps


def _share(slope: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the curvature of a squared distance, ``|slope| / |x - y|``."""
    return slope.norm() / (x - y).norm().clamp_min(1e-30)
