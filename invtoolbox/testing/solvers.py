"""`check_solver`: test a solver against the contract of all solvers."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.content import digest
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.objective.auxiliaries import with_auxiliary_variables
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.priors.base import Prior, PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import bind, solve
from invtoolbox.solvers.base import Solver
from invtoolbox.testing.common import (
    Checklist,
    Report,
    gap,
    map_parts,
    parts,
    rerun_gap,
    same_tensors,
    tensors_of,
)


def check_solver(
    solver: Solver,
    problem: Problem,
    prior: Prior | None = None,
    *,
    regularization: float = 1.0,
    iterations: int = 25,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    raise_error: bool = True,
) -> Report:
    """Test a solver on a problem with at least two different items.

    The properties are:

    * two calls give bitwise equal results (1e-6 on CUDA), and so does a run that is stopped
      half-way and resumed from its checkpoint;
    * a permuted batch gives the permuted answer to 1e-6, and an item gives the same answer alone
      and in a batch to 1e-5, at a fixed number of iterations (both in float64, because a line
      search amplifies rounding, which depends on the batch, up to a thousandfold in some tens of
      iterations);
    * settings, problem and prior are not written to;
    * the objective of the answer is not above the objective of the start, nor of the image 0;
    * if an item is ``converged``, its certificate is within the tolerance, and running on with a
      tighter one does not improve the objective by more than 100 times the tolerance, relative to
      the gain since the start.

    Args:
        solver: solver with its settings.
        problem: problem with at least two items.
        prior: prior of the problem.
        regularization: weight of the prior.
        iterations: fixed number of iterations.
        tolerance: tolerance of the run to convergence; the solver's own by default.
        max_iterations: largest number of iterations of the run to convergence; the solver's own by
            default.
        raise_error: whether a fault raises an `AssertionError` with one sentence; otherwise it is
            only reported.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.rand(2, 1, 8), it.operators.Identity((1, 8)))
    >>> check_solver(it.solvers.GradientDescent(), problem, it.priors.Tikhonov()).ok
    True
    """
    _require(solver, problem)
    check = Checklist(repr(solver))
    settings, held = copy.deepcopy(solver), tensors_of((problem, prior))

    def run(p: Problem, r: Prior | None, steps: int | None, bound: float | None) -> Solution:
        return solve(
            p, r, solver, regularization, max_iterations=steps, tolerance=bound, progress=False
        )

    first = run(problem, prior, iterations, 0.0)
    second = run(problem, prior, iterations, 0.0)
    on_gpu = parts(first.x)[0].is_cuda
    check.at_most(
        "twice",
        rerun_gap(first.x, second.x),
        1e-6 if on_gpu else 0.0,
        "the solver called twice gives answers that differ by {figure:.1e} relative; keep nothing "
        "between calls, and draw from objective.generator()",
    )
    check.holds(
        "settings are kept",
        repr(settings) == repr(solver) and settings == solver,
        "the solver writes into its own settings; changing values belong into the state",
    )
    _check_items(check, problem, prior, lambda p, r: run(p, r, iterations, 0.0).x)
    _check_converged(
        check,
        solver,
        problem=problem,
        prior=prior,
        regularization=regularization,
        answer=run(problem, prior, max_iterations, tolerance),
        tolerance=tolerance,
    )
    changed = same_tensors(held, tensors_of((problem, prior)))
    check.holds(
        "problem and prior are kept",
        changed is None,
        f"the solver writes into {changed}, 0 being the problem and 1 the prior",
    )
    # A solver that keeps values between calls is another one at resumption, and is refused.
    if changed is None and digest(settings, key="check") == digest(solver, key="check"):
        check.at_most(
            "resumed",
            _resumed_gap(solver, problem, prior, regularization, iterations, first.x),
            1e-6 if on_gpu else 0.0,
            "a run resumed from its checkpoint half-way ends elsewhere than an uninterrupted one, "
            "by {figure:.1e} relative; everything that changes belongs into tensors of the state, "
            "with the batch as their first axis",
        )
    return check.finish(raise_error)


def _require(solver: Any, problem: Problem) -> None:
    """Raise an `InputError` unless a solver and several items are given."""
    if not isinstance(solver, Solver):
        raise InputError(
            f"check_solver takes an object of a subclass of it.solvers.Solver, got {solver!r}; "
            "give the solver with its settings, such as it.solvers.GradientDescent()"
        )
    if problem.batch < 2:
        raise InputError(
            "check_solver needs a problem with at least two items, to test their independence"
        )


def _check_items(
    check: Checklist,
    problem: Problem,
    prior: Prior | None,
    answer: Callable[[Problem, Prior | None], Any],
) -> None:
    """Compare answers of a batch with answers of the permuted batch, and of every item alone."""
    exact = problem.to(dtype=torch.float64)
    finer = None if prior is None else prior.to(torch.float64)
    batch_answer = answer(exact, finer)

    def difference(index: Tensor) -> float:
        selected = answer(exact.select(index), None if finer is None else finer.select(index))
        return gap(selected, _select(batch_answer, index))

    order = torch.arange(problem.batch - 1, -1, -1, device=problem.y0.device)
    check.at_most(
        "permuted batch",
        difference(order),
        1e-6,
        "a permuted batch gives another answer than the permuted one, by {figure:.1e} relative",
    )
    check.at_most(
        "item by item",
        max(difference(order[k : k + 1]) for k in range(problem.batch)),
        1e-5,
        "an item alone gives another answer than in a batch, by {figure:.1e} relative, after the "
        "same number of iterations; steps and tests belong to each item, (batch,)",
    )


def _resumed_gap(
    solver: Solver,
    problem: Problem,
    prior: Prior | None,
    regularization: float,
    iterations: int,
    through: Any,
) -> float:
    with tempfile.TemporaryDirectory() as folder:
        for steps in (iterations // 2, iterations):
            x = solve(
                problem,
                prior,
                solver,
                regularization,
                max_iterations=steps,
                tolerance=0.0,
                progress=False,
                checkpoint=Checkpoint(Path(folder) / "run", key="check"),
            ).x
    return rerun_gap(x, through)


def _check_converged(
    check: Checklist,
    solver: Solver,
    problem: Problem,
    prior: Prior | None,
    regularization: float,
    answer: Solution,
    tolerance: float | None,
) -> None:
    check.holds(
        "does not diverge",
        "diverged" not in answer.status,
        f"item {answer.status.index('diverged') if 'diverged' in answer.status else ''} diverged",
    )
    bound = solver.tolerance if tolerance is None else tolerance
    last = [
        float(answer.history["certificate"][int(n) - 1, k])
        for k, n in enumerate(answer.iterations)
        if answer.status[k] == "converged" and int(n) > 0
    ]
    check.at_most(
        "certificate of converged items",
        max(last, default=0.0),
        bound,
        f"an item is called converged with a certificate of {{figure:.1e}}, "
        f"above the tolerance {bound:.1e}",
    )
    _check_first_step(check, solver, problem, prior, regularization)
    objective, _, _ = bind(problem, _as_sum(prior), regularization)
    if not objective.has_value or objective.layout is not None:
        return
    with torch.no_grad():
        start = problem.zeros() if solver.starts_at_zero else first_guess(problem)
        before, after = objective.value(start), objective.value(answer.x)
        zero = objective.value(torch.zeros_like(start))
    best = torch.minimum(
        torch.where(before.isfinite(), before, zero), torch.where(zero.isfinite(), zero, before)
    )
    rounding = 1e-5 if after.dtype == torch.float32 else 1e-10
    # A misfit of counts is infinite at an image of zeros.
    rise = torch.where(
        best.isfinite(),
        (after - best) / best.abs().clamp_min(1e-30),
        torch.where(after.isfinite(), -1.0, torch.inf),
    )
    check.at_most(
        "objective goes down",
        rise,
        rounding,
        "the objective of the answer is above the objective of the start, or of the image 0, "
        "by {figure:.1e} relative",
    )
    if all(status == "converged" for status in answer.status):
        further: Solution = solve(
            problem,
            prior,
            solver,
            regularization,
            initial=answer.x,
            max_iterations=60,
            tolerance=0.0,
            progress=False,
        )
        with torch.no_grad():
            gain = after - objective.value(further.x)
        gained = torch.where(best.isfinite(), (best - after).abs(), after.abs())
        size = torch.maximum(
            gained, 1e-6 * torch.where(best.isfinite(), best, after).abs()
        ).clamp_min(1e-30)
        check.at_most(
            "converged items have converged",
            gain / size,
            max(100 * bound, rounding),
            "60 iterations more improve a converged item by {figure:.1e} of the gain since the "
            "start",
        )


def _check_first_step(
    check: Checklist, solver: Solver, problem: Problem, prior: Prior | None, regularization: float
) -> None:
    """Check that no item is called converged above the tolerance, and that a step keeps x."""
    objective, _, _ = bind(problem, _as_sum(prior), regularization)
    if objective.layout is not None:
        return
    with torch.no_grad():
        objective = solver.reformulate(objective)
        state = solver.init(
            objective,
            with_auxiliary_variables(
                objective, problem.zeros() if solver.starts_at_zero else first_guess(problem)
            ),
        )
        early = solver.converged(state, 0.0) & (state.certificate > 0)
        start, before = state.x, state.x.clone()
        solver.step(objective.at(0), state)
    check.holds(
        "step keeps x",
        torch.equal(start, before),
        "step writes into state.x, which the loop keeps as the last finite answer; compute a new "
        "tensor and put it into the state by dataclasses.replace",
    )
    check.holds(
        "converged obeys the tolerance",
        not bool(early.any()),
        "converged(state, 0) is True at the start, where the certificate is not 0; "
        "compare it with the tolerance",
    )


def _select(x: Any, index: Tensor) -> Any:
    return map_parts(lambda p: p.index_select(0, index), x)


def _as_sum(prior: Prior | None) -> PriorSum:
    return PriorSum() if prior is None else prior.as_sum()
