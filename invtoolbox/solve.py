"""The one entry point: bind problem, priors, solver and rule for the weight, and run the loop."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar, overload

import torch
from torch import Tensor

from invtoolbox.catalogue.presets import prior_named, solver_named
from invtoolbox.core.inference_mode import outside_inference_mode
from invtoolbox.core.interrupts import DeferredInterrupt
from invtoolbox.core.memory import is_out_of_memory, memory_error
from invtoolbox.core.pytrees import blank_items
from invtoolbox.core.threads import choose_threads, limit_torch_threads
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint, Writer, fingerprint
from invtoolbox.loop.differentiation import differentiate_answer, differentiates_fixed_point
from invtoolbox.loop.run import INVALID, RECORDED, STATUS, Callback, Limits, Loop, ProgressBar, run
from invtoolbox.measurements import report_findings
from invtoolbox.objective.coarse_grids import coarsen_for_search, coarsen_for_start
from invtoolbox.objective.initial_guess import initial_variable, is_scan, leaves_float32
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice import Trials
from invtoolbox.parameter_choice.base import WeightCurve, WeightRule, WeightSearch
from invtoolbox.parameter_choice.trials import Attempt, attempts
from invtoolbox.posteriors.base import SkippingPosterior
from invtoolbox.posteriors.exact import gaussian_posterior
from invtoolbox.priors.base import Prior, PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.binding import Regularization, bind_objective
from invtoolbox.solvers.choice import check_fits, choose
from invtoolbox.solvers.half_quadratic import HalfQuadratic

log = logging.getLogger("invtoolbox")

#: Number of iterations on the grid of the image, if a solver that was chosen starts at the answer on
#: a coarser one. They refine edges; the rest is done where an iteration costs a fraction.
_FINE_ITERATIONS = 64

P = ParamSpec("P")
T = TypeVar("T")


def _on_chosen_threads(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function with the number of threads of its checkpoint, or with the chosen number.

    Errors of allocation become one sentence.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        path = kwargs.get("checkpoint")
        kept = Checkpoint(path) if isinstance(path, (str, Path)) else path
        before = kept.threads() if isinstance(kept, Checkpoint) else None
        with limit_torch_threads(before or choose_threads()):
            try:
                return function(*args, **kwargs)
            except (MemoryError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise memory_error(error) from error
                raise

    return call


@overload
def solve(
    problem: Problem,
    prior: Prior | str | None = None,
    solver: Solver | str | None = None,
    regularization: Regularization = "auto",
    *,
    initial: Tensor | dict[str, Tensor] | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    differentiate: str | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = True,
    check: bool = True,
) -> Solution: ...


@overload
def solve(
    problem: Sequence[Problem],
    prior: Prior | str | None = None,
    solver: Solver | str | None = None,
    regularization: Regularization = "auto",
    *,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    differentiate: str | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    check: bool = True,
) -> list[Solution]: ...


@outside_inference_mode
@_on_chosen_threads
def solve(
    problem: Problem | Sequence[Problem],
    prior: Prior | str | None = None,
    solver: Solver | str | None = None,
    regularization: Regularization = "auto",
    *,
    initial: Tensor | dict[str, Tensor] | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    differentiate: str | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = True,
    check: bool = True,
) -> Solution | list[Solution]:
    r"""Minimize ``D(A(x), y) + regularization * sum_i w_i R_i(x) + S(z)``, ``x = g(z)``, per item.

    Args:
        problem: measurements, operator and data term; a list of problems (of different shapes, for
            example) gives a list of solutions.
        prior: a prior, a sum of priors, a name of ``invtoolbox list priors``, or None.
        solver: settings of an algorithm, or its name. If it is None, a solver that fits is chosen,
            and ``Solution.reason`` states which and why.
        regularization: weight of the explicit priors: a number, one number per item ``(batch,)``, a
            rule or the name of a rule. ``"auto"`` keeps weights that were written (``0.1 *
            prior``). If none was written, it is ``"validation"`` for least squares, linear
            operators and convex priors: it needs no noise level, and about four times the work of
            one solve. For other problems it is the discrepancy principle with the noise level of
            the data term, or with a noise level estimated from the data; if neither is available,
            the L-curve. All rules but ``"discrepancy"`` first solve with several weights (for at
            most half of ``time_limit``); callbacks and history belong to the last solve.
        initial: initial guess: images ``(batch or 1, channel, *space)``, or parameters of the
            implicit prior.
        max_iterations: largest number of iterations; None for the setting of the solver.
        tolerance: bound on the certificate that the solver states; None for the setting of the
            solver. If the solver has a duality gap (`Solver.gap`), the gap must also be within 1e-3
            of a convex objective, or within the tolerance if it is larger. The gap contains an
            estimate of the distance to the minimizer, so it is no proof.
        time_limit: seconds after which items that still run are ``stopped``.
        seed: seed of random draws, which are a function of it and of the iteration.
        device: device that problem and prior are copied to first; None leaves them where they are.
        dtype: precision that problem and prior are converted to first; None keeps it.
        differentiate: ``"implicit"`` makes ``Solution.x`` differentiable in the tensors that
            problem and prior hold, by the implicit function theorem. For total variation, l1 and
            constraints it is the derivative of the fixed point of PDHG, Condat-Vu, ADMM,
            Douglas-Rachford or proximal gradient, as exact as the solve (``tolerance=1e-6``). A
            warning reports items that have not converged.
        callbacks: functions that are called with a `Progress` after every step; one that returns
            True stops the run.
        checkpoint: file that the run is written to, and from which it is resumed if it exists. A
            write that fails is a warning, and a sentence in ``Solution.notes`` if it was the last.
        progress: show a progress bar on a terminal.
        check: look for measurements that do not fit the operator or the noise level
            (`measurements.check_measurements`). What looks wrong is a `MeasurementWarning`, and a
            sentence in ``Solution.notes``.

    Returns:
        The solution, or one solution per problem.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(2, 1, 8), it.operators.Identity((1, 8)))
    >>> solution = it.solve(problem, prior=it.priors.Tikhonov(), regularization=1.0, progress=False)
    >>> solution.x.mean(), solution.status
    (tensor(0.5000), ('converged', 'converged'))
    """
    if not isinstance(problem, Problem):
        if checkpoint is not None or initial is not None:
            raise InputError(
                "a list of problems takes no initial= and no checkpoint=; solve them one by one "
                "for these"
            )
        return [
            solve(
                each,
                prior,
                solver,
                regularization,
                max_iterations=max_iterations,
                tolerance=tolerance,
                time_limit=time_limit,
                seed=seed,
                device=device,
                dtype=dtype,
                differentiate=differentiate,
                callbacks=callbacks,
                progress=progress,
                check=check,
            )
            for each in problem
        ]
    began = time.monotonic()
    _check_settings(max_iterations, tolerance, time_limit, differentiate)
    implicit = differentiate == "implicit"
    notes = report_findings(problem) if check else []
    given = problem.to(device=device, dtype=dtype)
    # The skipped items hold other measurements, and are computed as such until the loop begins.
    skipped, problem = given.skipped, given.without_skipping()
    if extreme := leaves_float32(problem):
        dtype = torch.float64
        problem = problem.to(dtype=dtype)
        notes.append("solved in float64: squares of these measurements leave float32")
    priors = _as_sum(prior).to(device=device, dtype=dtype)
    kept = Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
    resumed = kept is not None and Path(kept.path).exists()
    curve: WeightCurve | None = None
    with torch.no_grad():
        plan = _plan(problem, priors, solver, regularization, seed, implicit, notes)
        objective, algorithm, rule = plan.objective, plan.solver, plan.rule
        content: dict[str, str] = {}
        if kept is not None:  # before any costly step, for it may refuse an input
            parts = {
                "measurements": problem.y if skipped is None else (problem.y, skipped),
                "operator": problem.operator,
                "data term": problem.data_term,
                "unknown parameters": problem.unknown,
                "prior": priors,
                "solver": algorithm,
                "regularization": plan.regularization,
                "initial guess": initial,
                "seed": seed,
            }
            content = fingerprint(parts, kept.key)

        variable = initial_variable(objective, initial, algorithm.starts_at_zero)
        limits = Limits(
            max_iterations=algorithm.max_iterations if max_iterations is None else max_iterations,
            tolerance=algorithm.tolerance if tolerance is None else tolerance,
            deadline=None if time_limit is None else began + time_limit,
        )
        nested = initial is None and algorithm.starts_at_inverse and is_scan(problem)
        # A checkpoint holds the weight, but only one per item.
        if isinstance(rule, WeightSearch) and (not resumed or rule.separate):
            attempt = attempts(solve, algorithm, initial, tolerance, time_limit, seed)
            objective, curve = _search_weight(
                plan, rule, problem, priors, variable, attempt, limits.tolerance, nested
            )
            notes.extend(curve.notes)
        step_rule = rule if isinstance(rule, WeightRule) else None

        coarse = coarsen_for_start(problem) if nested and step_rule is None else None
        if coarse is not None:
            budget = _FINE_ITERATIONS if solver is None else algorithm.max_iterations
            if max_iterations is None:
                limits = dataclasses.replace(limits, max_iterations=budget)
            if not resumed:
                start = algorithm.on_coarse_grid(2 * budget)
                variable = _start_from(
                    coarse, priors, start, objective.regularization, limits.deadline, seed
                )
        elif nested:
            variable = initial_variable(objective, None, False, at_inverse=True)

        working = algorithm.reformulate(objective)
        rough = implicit and differentiates_fixed_point(working, algorithm)
        if rough and kept is not None:
            raise InputError(
                "differentiate='implicit' of an objective that is not smooth takes no checkpoint="
            )
        loop, working = Loop.start(
            algorithm, working, algorithm.start(working, variable), step_rule, keeps_state=rough
        )
        if skipped is not None:
            loop.running = loop.running & ~skipped
            loop.status = loop.status.masked_fill(skipped, INVALID)
        writer = None
        if kept is not None:
            writer = Writer(kept, content)
            loop = writer.resume(loop)
            if isinstance(rule, WeightSearch):
                working = working.with_regularization(loop.weight)
        loop = _run_with_progress(
            loop, working, algorithm, step_rule, limits, callbacks, writer, progress
        )
        if writer is not None and writer.failure:
            notes.append(writer.failure)
        objective, working = (
            dataclasses.replace(o, layout=loop.layout) for o in (objective, working)
        )
        x = working.decode(loop.x)

    if implicit:
        weight = loop.weight
        if isinstance(regularization, Tensor) and regularization.requires_grad:
            weight = regularization.expand(problem.batch)
        x = differentiate_answer(x, objective, working, algorithm, loop, weight)
    parameters, found = _parameters(given, working, loop.x)
    working = working.with_regularization(loop.weight)
    posterior = algorithm.posterior(working, loop.x, None if rough else loop.summary)
    if posterior is None:
        posterior = gaussian_posterior(objective.with_regularization(loop.weight), x, inner_solve)
    rows = (
        torch.stack(loop.history).cpu()
        if loop.history
        else torch.zeros(0, len(RECORDED), problem.batch)
    )
    solution = Solution(
        x=x.to(given.image_dtype) if extreme else x,
        status=tuple(STATUS[int(k)] for k in loop.status),
        iterations=loop.iterations.cpu(),
        history={name: rows[:, k] for k, name in enumerate(RECORDED)},
        regularization=loop.weight,
        parameters=parameters,
        solver=repr(algorithm),
        certificate=algorithm.certificate_name,
        prior=repr(priors),
        reason=plan.reason,
        notes=tuple(notes),
        seconds=time.monotonic() - began,
        seed=seed,
        problem=found,
        weight_search=curve,
        posterior=posterior,
    )
    return solution if skipped is None else _blank(solution, skipped)


@dataclass(frozen=True)
class _Plan:
    """Objective, rule for the weight and solver of one call, and why this solver."""

    objective: Objective
    regularization: Regularization
    rule: WeightRule | WeightSearch | None
    solver: Solver
    reason: str


def _plan(
    problem: Problem,
    priors: PriorSum,
    solver: Solver | str | None,
    regularization: Regularization,
    seed: int,
    implicit: bool,
    notes: list[str],
) -> _Plan:
    """Bind the objective and choose what is not given; append what a user should know to the notes."""
    named = solver_named(solver) if isinstance(solver, str) else solver
    if named is not None and not isinstance(named, Solver):
        raise InputError(f"solver must be one of it.solvers, got {type(named).__name__}")
    by_itself = isinstance(regularization, str) and regularization == "auto"
    if named is not None and named.samples and by_itself:
        regularization = 1.0
    # Without a solver, half-quadratic splitting is chosen for denoisers.
    strength = (HalfQuadratic if named is None else named).denoiser_strength
    objective, rule, why = bind(problem, priors, regularization, seed, strength)
    if named is None:
        algorithm, reason = choose(objective, implicit)
    else:
        check_fits(named, objective)
        algorithm, reason = named, f"{type(named).__name__} was asked for"
    if rule is not None and not objective.terms:
        raise InputError(
            "a rule for the weight needs an explicit prior to weigh, and there is none"
        )
    if why:
        notes.insert(0, why)
    if not algorithm.reformulate(objective).has_value:
        without = next(p for p in objective.explicit_priors if "energy" not in p.offers)
        notes.append(f"history holds no objective: {without!r} has no energy")
    if remark := algorithm.remark(objective):
        notes.append(remark)
    for note in (reason, *notes):
        log.info(note)
    return _Plan(objective, regularization, rule, algorithm, reason)


def _search_weight(
    plan: _Plan,
    rule: WeightSearch,
    problem: Problem,
    priors: PriorSum,
    variable: Tensor,
    attempt: Attempt,
    tolerance: float,
    nested: bool,
) -> tuple[Objective, WeightCurve]:
    """Return the objective with the weight that a search finds, and the weights that it tried."""
    trials = Trials(
        plan.objective,
        problem,
        priors,
        plan.objective.decode(variable),
        attempt,
        rule.separate,
        tolerance,
        plan.solver.max_iterations,
        lambda certificate: plan.solver.coarse(certificate)[1],
        coarsen_for_search(problem) if nested else None,
    )
    curve = rule.choose(trials)
    for note in curve.notes:
        log.info(note)
    return trials.chosen(curve), curve


def _blank(solution: Solution, skipped: Tensor) -> Solution:
    """Set everything that belongs to the skipped items of a batch to NaN."""
    posterior = solution.posterior
    return dataclasses.replace(
        solution,
        x=blank_items(skipped, solution.x),
        regularization=blank_items(skipped, solution.regularization),
        parameters=blank_items(skipped, solution.parameters),
        posterior=None if posterior is None else SkippingPosterior(posterior, skipped),
    )


#: The first reconstructions of priors are of measurements that were checked before.
inner_solve = functools.partial(solve, check=False)


def _start_from(
    coarse: Problem,
    priors: PriorSum,
    solver: Solver,
    weight: Tensor,
    deadline: float | None,
    seed: int,
) -> Tensor:
    """Return the start of a solve: the answer on a grid of half the pixels, where steps are cheap.

    That solve starts on a still coarser grid, with twice as many iterations (nested iteration). What
    a scan determines badly is smooth, and so is found there. On the coarsest grid the start is the
    filtered back-projection.
    """
    left = None if deadline is None else max(1e-3, 0.25 * (deadline - time.monotonic()))
    x = inner_solve(coarse, priors, solver, weight, time_limit=left, seed=seed, progress=False).x
    # Means of the four nearest pixels, item by item.
    return torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")


def _run_with_progress(
    loop: Loop,
    objective: Objective,
    solver: Solver,
    rule: WeightRule | None,
    limits: Limits,
    callbacks: Sequence[Callback],
    writer: Writer | None,
    progress: bool,
) -> Loop:
    """Run the loop with progress bar and checkpoints; Ctrl-C and SIGTERM wait for the step's end."""
    with (
        ProgressBar(
            limits.max_iterations, loop.iteration, type(solver).__name__, enabled=progress
        ) as bar,
        DeferredInterrupt() as interrupt,
    ):

        def after_step(current: Loop, last: bool, final: bool) -> None:
            bar.update(current, last)
            if final:
                if writer is not None:
                    writer.after_step(current, last)
                interrupt.check()

        try:
            return run(loop, objective, solver, rule, limits, callbacks, after_step)
        except KeyboardInterrupt:
            if writer is not None and not interrupt.forced:
                writer.write(loop)
            raise


def _parameters(
    problem: Problem, objective: Objective, variable: Tensor
) -> tuple[dict[str, Tensor], Problem]:
    """Return the parameters that were found, and the problem with the operator that was found."""
    if objective.layout is None:
        return {}, problem
    parameters, unknowns = objective.layout.unpack(variable), objective.unknowns
    if unknowns is None:
        return parameters, problem
    parameters = {k: t for k, t in parameters.items() if k != "x"} | unknowns.values(parameters)
    operator = problem.operator.with_parameters(**{k: parameters[k] for k in unknowns.starts})
    return parameters, problem.with_operator(operator)


def bind(
    problem: Problem,
    priors: PriorSum,
    regularization: Regularization = "auto",
    seed: int = 0,
    denoiser_strength: float = 1.0,
) -> tuple[Objective, WeightRule | WeightSearch | None, str]:
    """Return the objective with prepared priors, the rule for the weight, and why that rule.

    The arguments are those of `solvers.binding.bind_objective`.
    """
    return bind_objective(problem, priors, regularization, inner_solve, seed, denoiser_strength)


def _as_sum(prior: Prior | str | None) -> PriorSum:
    if prior is None:
        return PriorSum()
    if isinstance(prior, str):
        prior = prior_named(prior)
    if not isinstance(prior, Prior):
        raise InputError(
            "prior must be one of it.priors or a subclass of ExplicitPrior or ImplicitPrior, got "
            f"{type(prior).__name__}; it.as_prior converts priors of deepinv and functions"
        )
    return prior.as_sum()


def _check_settings(
    max_iterations: int | None,
    tolerance: float | None,
    time_limit: float | None,
    differentiate: str | None,
) -> None:
    if max_iterations is not None and max_iterations < 0:
        raise InputError(f"max_iterations must not be negative, got {max_iterations}")
    if tolerance is not None and not tolerance >= 0:
        raise InputError(f"tolerance must be a nonnegative number, got {tolerance}")
    if time_limit is not None and not time_limit > 0:
        raise InputError(f"time_limit must be a positive number of seconds, got {time_limit}")
    if differentiate not in (None, "implicit"):
        raise InputError(f"differentiate must be None or 'implicit', got {differentiate!r}")
