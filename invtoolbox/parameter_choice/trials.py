"""Solve one problem with many weights: the candidates are the items of one batch."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.interrupts import OutOfTime, budget
from invtoolbox.errors import InputError
from invtoolbox.objective.auxiliaries import with_auxiliaries, with_auxiliary_variables
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightCurve, WeightRule
from invtoolbox.parameter_choice.discrepancy import expected_discrepancy, first_weight
from invtoolbox.parameter_choice.noise import USUAL_NOISE
from invtoolbox.priors.base import PriorSum, Term
from invtoolbox.problem import Problem

#: Number of values of one image (or its measurements) times the items of one batch: 16 MB per
#: tensor.
_AT_ONCE = 1 << 22

#: ``(problem, priors, weight (n,) or a rule, items (n,), max_iterations=None) -> Solution`` of
#: ``n`` items, whose places in the batch are ``items``. With a number of iterations, the rule alone
#: decides when an item is done; without one, the limits are those of `invtoolbox.solve`.
Attempt = Callable[..., Any]
#: Function that a rule evaluates: ``(objective of n items, Solution) -> (n, ...)``.
Measure = Callable[[Objective, Any], Tensor]


@dataclass(frozen=True)
class Trials:
    """Solutions of a problem for the weights that a rule tries.

    Attributes:
        objective: the problem with its prepared priors; its weight is 1.
        problem, priors: problem and priors before they were prepared.
        start: an image at which data term and priors are compared, ``(batch, channel, *space)``.
        attempt: `invtoolbox.solve` with solver, start and budgets filled in.
        separate: whether every prior has a weight of its own; else all of them share one factor.
        tolerance, max_iterations: limits of one solve.
        coarse: function that returns the certificate at which a weight is judged, given that for
            the solver's own settings; see `Solver.coarse`.
        coarse_problem: the problem on a grid on which the same weights are as good, at less work.
    """

    objective: Objective
    problem: Problem
    priors: PriorSum
    start: Any
    attempt: Attempt
    separate: bool = False
    tolerance: float = 1e-4
    max_iterations: int = 500
    coarse: Callable[[float], float] = float
    coarse_problem: Problem | None = None

    def on_coarse_grid(self) -> Trials:
        """Return the trials of the coarse problem if there is one, else these trials."""
        if self.coarse_problem is None:
            return self
        return self.on(self.coarse_problem, first_guess(self.coarse_problem))

    def on(self, problem: Problem, start: Any) -> Trials:
        """Return the trials of another problem, whose weights are those of this one.

        Args:
            problem: the other problem, with as many items.
            start: an image of it.
        """
        prior = self.priors.prepare(problem, None)
        return dataclasses.replace(
            self,
            objective=dataclasses.replace(self.objective, problem=problem, prior=prior),
            problem=problem,
            start=start,
            coarse_problem=None,
        )

    @property
    def batch(self) -> int:
        return self.objective.batch

    @property
    def every(self) -> Tensor:
        """The places of all items, ``(batch,)``."""
        return torch.arange(self.batch, device=self.objective.regularization.device)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """For every term of the sum, the number of its weight; irrelevant for constraints."""
        groups, free = [], 0
        for term in self.priors.terms:
            if term.prior.fixed_level:
                raise InputError(
                    f"{term.prior!r} knows one noise level only, so no rule can choose a weight "
                    "for it; give regularization=1 and choose the solver's step"
                )
            separate = self.separate and not term.prior.is_constraint
            groups.append(free if separate else 0)
            free += separate
        if all(term.prior.is_constraint for term in self.priors.terms):
            raise InputError(
                "a rule for the weight needs an explicit prior to weigh, and there is none"
            )
        return tuple(groups)

    @property
    def number(self) -> int:
        """The number of weights."""
        return max(self.groups) + 1

    def centre(self, noise_std: Tensor | None = None, discrepancy: Tensor | None = None) -> Tensor:
        """Return logarithms of weights to start from, ``(batch, number)``.

        The weight is half the misfit of the noise over the prior's energy.

        Args:
            noise_std: noise level, ``(batch,)``; by default the data term's, or an estimate.
            discrepancy: discrepancy in place of the one of the noise, ``(batch,)``.
        """
        objective, columns = self.objective, []
        noise = noise_size(objective, noise_std) if discrepancy is None else discrepancy
        for k in range(self.number):
            terms = tuple(
                t
                for t, g in zip(objective.prior.terms, self.groups)
                if g == k and not t.prior.is_constraint
            )
            # An energy that is itself a minimization need not be exact here.
            group_objective = with_auxiliaries(
                dataclasses.replace(objective, prior=PriorSum(terms))
            )
            start = (
                with_auxiliary_variables(group_objective, self.start)
                if isinstance(self.start, Tensor)
                else self.start
            )
            columns.append(first_weight(group_objective, start, noise) / self.number)
        return (
            torch.stack(columns, 1)
            .clamp_min(torch.finfo(objective.regularization.dtype).tiny)
            .log()
        )

    def __call__(
        self,
        log_weight: Tensor,
        measure: Measure,
        items: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Solve ``n`` items of the batch with ``k`` weights each and measure the solutions.

        Args:
            log_weight: logarithms of the weights, ``(k, n, number)``.
            measure: function of the solutions; it is called at once, so that they need not be kept.
            items: places of the items in the batch, all of them by default.
            shift: added to the measurements, ``(batch, *y.shape[1:])``; priors that depend on the
                measurements are prepared anew.

        Returns:
            ``(k, n, ...)``; NaN for weights that the time limit left out.

        Raises:
            OutOfTime: no time was left for the first of them.
        """
        items = self.every if items is None else items
        k, n, number = log_weight.shape
        index, weight = items.repeat(k), log_weight.exp().reshape(k * n, number)
        parts: list[Tensor] = []
        for i, w in zip(index.split(self._together), weight.split(self._together)):
            try:
                parts.append(self._measure(i, w, measure, shift))
            except OutOfTime:
                if not parts:
                    raise
                parts.append(torch.full_like(parts[0][:1], math.nan).repeat_interleave(len(i), 0))
        return torch.cat(parts).unflatten(0, (k, n))

    @property
    def _together(self) -> int:
        """The number of items that are solved in one batch."""
        size = max(self.problem.y0[0].numel(), torch.Size(self.problem.image_shape).numel())
        return max(1, _AT_ONCE // size)

    def split(self, places: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return places of items, in parts that are solved together; none for no places.

        Args:
            places: places of some items; all by default.
        """
        places = self.every if places is None else places
        return places.split(self._together) if len(places) else ()

    def follow(
        self,
        rule: WeightRule,
        items: Tensor,
        problem: Problem | None = None,
        max_iterations: int | None = None,
    ) -> Any:
        """Solve some items with one weight that a rule finds during the run.

        Args:
            rule: changes the weight between the steps.
            items: places of the items in the batch.
            problem: another problem with the same unknowns; priors that depend on the measurements
                are prepared for it anew.
            max_iterations: number of iterations after which the run ends although the rule is not
                satisfied; the tolerance is then irrelevant. None for the limits of one solve.

        Returns:
            The `Solution`.
        """
        if self.number != 1:
            raise InputError(f"{rule!r} finds one weight, and there are {self.number}")
        prior = self.objective.prior if problem is None else self.objective.prior.unbind()
        problem = self.problem if problem is None else problem
        return self.attempt(problem.select(items), prior.select(items), rule, items, max_iterations)

    def _measure(
        self, index: Tensor, weight: Tensor, measure: Measure, shift: Tensor | None
    ) -> Tensor:
        problem, prior = self.problem.select(index), self.objective.prior
        if shift is not None:
            problem, prior = copy.copy(problem), prior.unbind()
            problem.y = problem.y + shift.index_select(0, index)
        solution = self.attempt(
            problem, self.weigh(prior.select(index), weight), weight[:, 0], index
        )
        bound = self.objective.select(index).with_regularization(weight[:, 0])
        return measure(dataclasses.replace(bound, prior=self.weigh(bound.prior, weight)), solution)

    def chosen(self, curve: WeightCurve) -> Objective:
        """Return the objective with the weights that a rule chose."""
        weight = curve.chosen.to(self.objective.regularization).reshape(self.batch, self.number)
        prior = self.weigh(self.objective.prior, weight)
        return dataclasses.replace(self.objective, regularization=weight[:, 0].clone(), prior=prior)

    def weigh(self, prior: PriorSum, weight: Tensor) -> PriorSum:
        """Return the sum in which every prior has its own of the weights ``(n, number)``.

        They are relative to the first.
        """
        if self.number == 1:
            return prior
        ratio = weight / weight[:, :1]
        terms = tuple(
            Term(
                ratio[:, g] * torch.as_tensor(t.weight, dtype=ratio.dtype, device=ratio.device),
                t.prior,
                True,
            )
            for t, g in zip(prior.terms, self.groups)
        )
        return PriorSum(terms, prior.implicit)


def attempts(
    solve: Callable[..., Any],
    solver: Any,
    initial: Tensor | dict[str, Tensor] | None,
    tolerance: float | None,
    seed: int,
) -> Attempt:
    """Return the function that solves some items with one weight; its arguments are `Attempt`'s.

    The number of iterations of a trial is a setting of the solver: the weight does not depend on the
    largest number of iterations of the last solve. The budget of a command (`core.interrupts.limit`)
    bounds it, and the iterations at each weight of a walk.

    Args:
        solve: `invtoolbox.solve`.
        solver: the solver.
        initial: initial guess of the last solve.
        tolerance: tolerance of the last solve.
        seed: seed of random draws.
    """

    def attempt(
        problem: Problem,
        priors: PriorSum,
        weight: Tensor | WeightRule,
        items: Tensor,
        max_iterations: int | None = None,
    ) -> Any:
        def pick(value: Any) -> Tensor:
            start = torch.as_tensor(value)
            return start if start.shape[0] == 1 else start.index_select(0, items.to(start.device))

        start: Any = initial
        if isinstance(initial, dict):
            start = {k: pick(t) for k, t in initial.items()}
        elif initial is not None:
            start = pick(initial)
        walks, most = max_iterations is not None, budget().iterations
        if budget().is_spent:
            raise OutOfTime
        # A walk bounds the iterations at each of its weights.
        if not walks and most < solver.max_iterations:
            max_iterations = int(most)
        return solve(
            problem,
            priors,
            solver.coarse(math.inf)[0] if walks else solver,
            weight,
            initial=start,
            max_iterations=max_iterations,
            tolerance=math.inf if walks else tolerance,
            seed=seed,
            progress=False,
            check=False,
        )

    return attempt


def noise_size(objective: Objective, noise_std: Tensor | None = None) -> Tensor:
    """Return the discrepancy of the noise alone, ``(batch,)``.

    A guess if the noise is not known.

    Args:
        objective: problem and priors.
        noise_std: noise level, ``(batch,)``; by default the data term's, or an estimate.
    """
    D, y = objective.problem.data_term, objective.problem.y
    try:
        noise = expected_discrepancy(objective, noise_std)
    except InputError:
        nothing = tuple(map(torch.zeros_like, y)) if isinstance(y, tuple) else torch.zeros_like(y)
        noise = USUAL_NOISE * D.discrepancy(nothing, y)
    return noise.to(objective.regularization).expand(objective.batch)
