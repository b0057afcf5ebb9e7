"""The solver: a frozen record of settings, and one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective.auxiliaries import with_auxiliary_variables
from invtoolbox.objective.objective import Objective
from invtoolbox.posteriors.base import Posterior
from invtoolbox.priors.base import ExplicitPrior


@dataclass
class State:
    """What a solver carries from step to step. A subclass adds fields.

    Every tensor has the batch as its first axis, and every value that changes is a tensor (a counter too): the loop
    drops finished items from all of them alike, and a checkpoint writes all of them. ``x`` is never written in place,
    because the loop keeps the last finite one; other fields are buffers that a step may overwrite.
    """

    x: Tensor  # the variable: the image, or the packed parameters of an implicit prior
    value: Tensor  # (batch,) the objective at x; NaN where it is not defined or not computed
    discrepancy: Tensor  # (batch,) the size of the misfit at x
    certificate: Tensor  # (batch,) what the tolerance bounds; relative


@dataclass(frozen=True)
class Solver(ABC):
    """Settings of an algorithm. The loop in `solve` calls ``init`` once and ``step`` until every item is done.

    Attributes:
        max_iterations, tolerance: defaults of ``solve``.
        certificate_name: name of the quantity that the tolerance bounds.
        starts_at_zero: the start regularizes, so a run starts at 0 unless the caller passes an initial guess.
        samples: the iterates are draws from ``exp(-D - sum_i w_i R_i)``, so a weight that the user
            leaves out is 1 and no rule chooses it.
        takes_projection: parameters of a constrained implicit prior (``has_projection``) are projected
            after every step.
        takes_unit_step: for a prior with ``unit_step`` the solver keeps to proximal steps whose
            product with the weight is 1.
        per_iteration: unrolled, these settings may differ from step to step, so that each can be learned;
            ``"regularization"`` is the weight of the priors. None: a step cannot be differentiated; see
            `unrolling`.
    """

    max_iterations: int = 500
    tolerance: float = 1e-4

    certificate_name: ClassVar[str] = "relative gradient norm"
    starts_at_zero: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    takes_projection: ClassVar[bool] = False
    takes_unit_step: ClassVar[bool] = False
    per_iteration: ClassVar[tuple[str, ...] | None] = None

    def unsupported_reason(self, objective: Objective) -> str | None:
        """Why this solver cannot minimise the objective; ``None`` where it can."""
        return None

    def reformulate(self, objective: Objective) -> Objective:
        """The objective that the loop hands to ``init`` and ``step``: an equivalent one, where that is easier for this solver."""
        return objective

    def start(self, objective: Objective, variable: Tensor) -> Tensor:
        """The variable of the reformulated objective that a variable of the original one stands for."""
        return with_auxiliary_variables(objective, variable)

    def meets_target(self, objective: Objective) -> bool:
        """Whether this solver meets the target of the objective's rule by itself, so that the loop leaves the weight to it."""
        return False

    def suits(self, objective: Objective) -> bool:
        """Whether this solver, where it fits, is also the one to choose; see `choice`."""
        return True

    @abstractmethod
    def init(self, objective: Objective, start: Tensor) -> Any:
        """The state before the first step."""

    @abstractmethod
    def step(self, objective: Objective, state: Any) -> Any:
        """One iteration, for every item of the batch."""

    def adapt(
        self, objective: Objective, state: Any, variable: Tensor, move: Callable[[Tensor], Tensor]
    ) -> Any:
        """The state once the implicit prior has put another variable in the place of ``state.x``.

        Called by the loop between two steps, where this solver takes adaptations; ``state.statistics`` is then what its evaluations have
        gathered. ``objective`` is that of the new variable, and ``move`` maps tensors of the shape of the old one to that of the new.
        """
        raise InputError(
            f"{type(self).__name__} does not know how to go on when parameters change in number"
        )

    def converged(self, state: Any, tolerance: float) -> Tensor:
        """Which items have reached the tolerance, ``(batch,)`` booleans."""
        certificate: Tensor = state.certificate
        return certificate <= tolerance

    def gives_up(self, state: Any) -> Tensor | None:
        """Which items end here with the status ``stopped``, short of the tolerance, ``(batch,)`` booleans; ``None`` for none ever."""
        return None

    def result(self, state: Any) -> Tensor:
        """The iterate that is the answer: the last one unless a solver says otherwise."""
        x: Tensor = state.x
        return x

    def fixed_point(self, state: Any) -> tuple[Tensor, ...]:
        """What of a state the next one follows from, once step sizes have settled; `apply_map` leaves it as it is at the answer."""
        raise InputError(
            f"the iterates of {type(self).__name__} are not those of a map with a fixed point"
        )

    def at_point(self, objective: Objective, state: Any, point: tuple[Tensor, ...]) -> Any:
        """Return the state with another `fixed_point`, and with the fields that a step and the answer derive from it.

        Unless overridden, the fixed point is x alone and no other field depends on it.
        """
        return replace(state, x=point[0])

    def apply_map(
        self, objective: Objective, state: Any, point: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """The map of which `fixed_point` ends up at a fixed point, differentiable where the objective allows it."""
        return self.fixed_point(self.step(objective, self.at_point(objective, state, point)))

    @property
    def adjustable(self) -> tuple[str, ...]:
        """Those of `per_iteration` that this solver has a number for."""
        return tuple(n for n in self.per_iteration or () if getattr(self, n, None) is not None)

    @classmethod
    def has_fixed_point(cls) -> bool:
        return cls.fixed_point is not Solver.fixed_point

    def summary(self, state: Any) -> Any:
        """Tensors ``(batch, ...)`` that `posterior` needs besides the answer, written down with it when an item is done; or ``None``."""
        return None

    def posterior(self, objective: Objective, answer: Tensor, summary: Any) -> Posterior | None:
        """The distribution that the answers stand for, where the method finds one.

        Args:
            answer, summary: what `result` and `summary` said of every item when it was done.
        """
        return None

    def is_provably_convergent(self, objective: Objective) -> tuple[bool, str]:
        """Whether the conditions of the convergence theorem hold, and which fails or cannot be checked."""
        return False, f"no condition is checked for {type(self).__name__}"


def nonsmooth_reason(objective: Objective, name: str) -> str | None:
    """Why a method that follows gradients does not fit, or ``None``."""
    if not objective.problem.data_term.is_smooth:
        return (
            f"{name} needs a differentiable data term, and {objective.problem.data_term!r} is not"
        )
    return next(
        (
            reason
            for prior in objective.explicit_priors
            if (reason := missing_gradient_reason(prior, name)) is not None
        ),
        None,
    )


def missing_gradient_reason(prior: ExplicitPrior, name: str) -> str | None:
    """Why a prior has no gradient to follow, or ``None``."""
    if "gradient" not in prior.offers:
        return f"{name} needs the gradient of every prior, and {prior!r} has none"
    if not prior.smooth:
        return f"{name} needs every prior to be differentiable, and {prior!r} is not"
    return None


def missing_density_reason(prior: ExplicitPrior, name: str) -> str | None:
    """Why a prior stands for no density whose logarithm has a gradient, or ``None``."""
    if not {"energy", "denoise"} & prior.offers:
        return f"{name} draws from a density, and {prior!r} has neither an energy nor a denoiser"
    return missing_gradient_reason(prior, name)


def implicit_reason(objective: Objective, name: str) -> str | None:
    """Why a method that works on images alone does not fit, or ``None``."""
    if objective.unknowns is not None:
        return f"{name} works on images, and here {', '.join(objective.unknowns.starts)} of the operator are unknown too"
    if objective.prior.implicit is not None:
        return f"{name} works on images, and {objective.prior.implicit!r} is an implicit prior"
    return None


def nonconvex_reason(objective: Objective) -> str | None:
    """What keeps the objective from being convex in x, as far as it is known, or ``None``."""
    if objective.layout is not None:
        return "the image is a nonlinear function of the parameters"
    if not objective.problem.is_linear:
        return f"{objective.problem.operator} is not linear"
    if not objective.problem.data_term.is_convex:
        return f"{objective.problem.data_term!r} is not convex"
    for prior in objective.explicit_priors:
        if prior.is_convex is not True:
            return f"{prior!r} is not known to be convex"
    return None


def inexact_prox_reason(functions: Iterable[ExplicitPrior]) -> str | None:
    """Which proximal operator is not known in closed form, or ``None``."""
    return next(
        (
            f"the prox of {function!r} is itself iterated"
            for function in functions
            if not function.has_exact_prox
        ),
        None,
    )
