"""Base class of solvers: settings, one step, and the reasons why a solver does not fit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective.auxiliaries import with_auxiliary_variables
from invtoolbox.objective.objective import Objective
from invtoolbox.posteriors.base import Posterior
from invtoolbox.priors.base import ExplicitPrior, PriorSum
from invtoolbox.problem import Problem


@dataclass(kw_only=True)
class State:
    """The data that a solver carries from step to step. A subclass adds fields.

    Every tensor has the batch as its first axis, and every value that changes is a tensor (a
    counter too): the loop drops finished items from all of them, and a checkpoint writes all of
    them. ``x`` is never written in place, because the loop keeps the last finite one; other fields
    are buffers that a step may overwrite. A state is made by keywords, and a step changes fields of
    it by `dataclasses.replace`.
    """

    x: Tensor  # the variable: the image, or the packed parameters of an implicit prior
    value: Tensor  # (batch,) the objective at x; NaN if it is not defined or not computed
    discrepancy: Tensor  # (batch,) the discrepancy at x
    certificate: Tensor  # (batch,) the relative quantity that the tolerance bounds


@dataclass(frozen=True)
class Solver(ABC):
    """Settings of an algorithm.

    The loop in `solve` calls ``init`` once, and ``step`` until every item is done.

    Attributes:
        max_iterations, tolerance: defaults of ``solve``.
        certificate_name: name of the quantity that the tolerance bounds.
        starts_at_zero: whether the start regularizes, so that a run starts at 0 unless the caller
            passes an initial guess.
        starts_at_inverse: whether a run starts at the filtered back-projection of a scan.
        starts_at_minimizer: whether a run that is given the name of the solver and nothing else
            starts at the answer of the solver that `solve` chooses.
        samples: whether the iterates are draws from ``exp(-D - sum_i w_i R_i)``; a weight that the
            user leaves out is then 1, unless `needs_weight`.
        mark: remark that ``invtoolbox list solvers`` adds to the name; empty for none.
        takes_projection: whether parameters of a constrained implicit prior (``has_projection``)
            are projected after every step.
        takes_unit_step: whether, for a prior with ``unit_step``, the solver keeps to proximal steps
            whose product with the weight is 1.
        denoiser_strength: default product of a denoiser's weight and ``sigma^2``, in units of the
            noise variance; 1 as for the prox of a density.
        per_iteration: positive settings that may differ from step to step of an unrolled solver, so
            that each can be learned; ``"regularization"`` is the weight of the priors. None if a
            step cannot be differentiated; see `unrolling`.
    """

    max_iterations: int = 500
    tolerance: float = 1e-4

    certificate_name: ClassVar[str] = "relative gradient norm"
    starts_at_zero: ClassVar[bool] = False
    starts_at_inverse: ClassVar[bool] = False
    starts_at_minimizer: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    mark: ClassVar[str] = ""
    sums_over_ranks: ClassVar[bool] = False
    takes_projection: ClassVar[bool] = False
    takes_unit_step: ClassVar[bool] = False
    denoiser_strength: ClassVar[float] = 1.0
    per_iteration: ClassVar[tuple[str, ...] | None] = None

    def unsupported_reason(self, objective: Objective) -> str | None:
        """Return why this solver cannot minimize the objective, or ``None`` if it can."""
        return None

    def reformulate(self, objective: Objective) -> Objective:
        """Return the objective that the loop passes to ``init`` and ``step``.

        It is equivalent to the original one and easier for this solver.
        """
        return objective

    def alone(self, problem: Problem, priors: PriorSum) -> Self:
        """Return settings for a run that is given the name of the solver and nothing else.

        A sampler takes fewer steps per draw, so that its time limit is enough for several draws.

        Args:
            problem: the problem.
            priors: the priors as they were given.
        """
        return self

    def needs_weight(self, priors: PriorSum) -> bool:
        """Return whether a run without a weight takes a multiple of the weight of the minimizer.

        Args:
            priors: the priors as they were given.
        """
        return False

    def start(self, objective: Objective, variable: Tensor) -> Tensor:
        """Return the variable of the reformulated objective for a variable of the original one."""
        return with_auxiliary_variables(objective, variable)

    def meets_target(self, objective: Objective) -> bool:
        """Whether the solver itself meets the target of the objective's rule.

        The loop then leaves the weight to the solver, which finds the weight of a discrepancy
        principle inside its step and has a state with a field ``regularization``.
        """
        return False

    def suits(self, objective: Objective) -> bool:
        """Whether this solver, if it fits, is also a good choice; see `choice`."""
        return True

    def is_differentiable(self, objective: Objective) -> bool:
        """Whether a step can be differentiated, as far as the proximal operators are concerned."""
        return True

    def coarse(self, tolerance: float) -> tuple[Self, float]:
        """Return settings for solves that only rank weights, and the certificate that is enough.

        Args:
            tolerance: certificate that is enough for the solver itself.
        """
        return self, tolerance

    def on_coarse_grid(self, max_iterations: int) -> Self:
        """Return settings for a solve on a coarser grid, at whose answer a run starts."""
        return replace(self, max_iterations=max_iterations)

    @abstractmethod
    def init(self, objective: Objective, start: Tensor) -> Any:
        """Return the state before the first step."""

    @abstractmethod
    def step(self, objective: Objective, state: Any) -> Any:
        """Return the state after one iteration of every item of the batch."""

    def adapt(
        self, objective: Objective, state: Any, variable: Tensor, move: Callable[[Tensor], Tensor]
    ) -> Any:
        """Return the state after the implicit prior has replaced ``state.x`` by another variable.

        The loop calls it between two steps. A solver that overrides it accepts parameters that
        change in number (`priors.AdaptivePrior`), and ``state.statistics`` holds what its
        evaluations have gathered.

        Args:
            objective: the objective of the new variable.
            state: the state before.
            variable: the new variable.
            move: function that maps tensors of the shape of the old variable to the shape of the
                new one.
        """
        raise InputError(
            f"{type(self).__name__} does not know how to go on when parameters change in number"
        )

    def converged(self, state: Any, tolerance: float) -> Tensor:
        """Return which items have reached the tolerance, ``(batch,)`` booleans."""
        certificate: Tensor = state.certificate
        return certificate <= tolerance

    def has_gap(self, objective: Objective) -> bool:
        """Whether `gap` is defined; the status ``converged`` then bounds the objective."""
        return False

    def gap(self, objective: Objective, state: Any, distance: Tensor) -> Tensor:
        """Return a bound of ``(F(x) - min F) / F(x)`` at the answer x, ``(batch,)``.

        See `duality.objective_gap`. An item is converged if its certificate is within the tolerance
        and the gap at most 1e-3 (or the tolerance, if it is larger), or if the gap is below the
        square of the tolerance.

        Args:
            objective: objective F of the latest step.
            state: state after that step.
            distance: bound or estimate of the distance of x to the minimizer, ``(batch,)``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no gap")

    def remark(self, objective: Objective) -> str | None:
        """Return a sentence for `Solution.notes`, or ``None``.

        It states that the solver minimizes another objective, or solves a part of every step to
        some accuracy only.
        """
        return None

    def gives_up(self, state: Any) -> Tensor | None:
        """Return which items end with the status ``stopped``, short of the tolerance.

        ``(batch,)`` booleans; ``None`` if the solver never gives up.
        """
        return None

    def stops_early(self, objective: Objective) -> bool:
        """Whether the end of a run, short of the tolerance, is a part of the method.

        The status then is ``early_stopping`` in place of ``stopped``, and in place of ``limit`` if
        the number of iterations is a setting of the solver. Unless overridden: whether the solver
        has no tolerance.
        """
        return self.tolerance == 0

    def result(self, state: Any) -> Tensor:
        """Return the iterate that is the answer: the last one unless overridden."""
        return state.x

    def with_result(self, state: Any, x: Tensor) -> Any:
        """Return the state with another `result`; the iteration does not continue from it."""
        return replace(state, x=x)

    def fixed_point(self, state: Any) -> tuple[Tensor, ...]:
        """Return the tensors of a state that determine the next one, once step sizes have settled.

        At the answer `apply_map` leaves them unchanged.
        """
        raise InputError(
            f"the iterates of {type(self).__name__} do not come from a map with a fixed point"
        )

    def at_point(self, objective: Objective, state: Any, point: tuple[Tensor, ...]) -> Any:
        """Return the state with another `fixed_point`.

        The fields that a step and the answer derive from it change too.

        Unless overridden, the fixed point is x alone and no other field depends on it.
        """
        return replace(state, x=point[0])

    def apply_map(
        self, objective: Objective, state: Any, point: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Apply the map whose fixed point is `fixed_point`; differentiable if the objective is."""
        # z = T(z): one step from the state at z.
        return self.fixed_point(self.step(objective, self.at_point(objective, state, point)))

    @property
    def adjustable(self) -> tuple[str, ...]:
        """Names in `per_iteration` for which this solver has a number."""
        # A setting that is None is found by the solver, so nothing starts from it. The weight of
        # the priors is no attribute of a solver.
        return tuple(n for n in self.per_iteration or () if getattr(self, n, None) is not None)

    @classmethod
    def has_fixed_point(cls) -> bool:
        # A solver that overrides `fixed_point` is a map z -> T(z) whose derivative is defined.
        return cls.fixed_point is not Solver.fixed_point

    def summary(self, state: Any) -> Any:
        """Return tensors ``(batch, ...)`` that `posterior` needs next to the answer, or ``None``.

        The loop stores them with the answer when an item is done.
        """
        return None

    def posterior(self, objective: Objective, answer: Tensor, summary: Any) -> Posterior | None:
        """Return the distribution of the answers, for methods that find one.

        Args:
            objective: the objective that was minimized.
            answer: the `result` of every item when it was done.
            summary: the `summary` of every item when it was done.
        """
        return None


def nonsmooth_reason(objective: Objective, name: str) -> str | None:
    """Return why a method that follows gradients does not fit, or ``None``."""
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
    """Return why a prior has no gradient to follow, or ``None``."""
    if "gradient" not in prior.offers:
        return f"{name} needs the gradient of every prior, and {prior!r} has none"
    if not prior.smooth:
        return f"{name} needs every prior to be differentiable, and {prior!r} is not"
    return None


def missing_density_reason(prior: ExplicitPrior, name: str) -> str | None:
    """Return why a prior has no density whose logarithm has a gradient, or ``None``."""
    if not {"energy", "denoise"} & prior.offers:
        return f"{name} draws from a density, and {prior!r} has neither an energy nor a denoiser"
    return missing_gradient_reason(prior, name)


def implicit_reason(objective: Objective, name: str) -> str | None:
    """Return why a method that works on images alone does not fit, or ``None``."""
    # Both make the variable something else than the image.
    if objective.unknowns is not None:
        return (
            f"{name} works on images, and here {', '.join(objective.unknowns.starts)} of the "
            "operator are unknown too"
        )
    if objective.prior.implicit is not None:
        return f"{name} works on images, and {objective.prior.implicit!r} is an implicit prior"
    return None


def nonconvex_reason(objective: Objective) -> str | None:
    """Return why the objective is not known to be convex in x, or ``None``."""
    # A convex function of A x is convex in x only if A is linear.
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
