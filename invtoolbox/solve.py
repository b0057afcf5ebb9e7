"""The one entry point: bind problem, priors, solver and rule for the weight, and run the loop."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar, overload

import torch
from torch import Tensor

from invtoolbox.catalogue.presets import priors_named, solver_named
from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.inference_mode import leaving_inference_mode
from invtoolbox.core.interrupts import DeferredInterrupt, OutOfTime, budget, limit
from invtoolbox.core.memory import is_out_of_memory, memory_error
from invtoolbox.core.pytrees import blank_items
from invtoolbox.core.ranks import summing_over
from invtoolbox.core.threads import choose_threads, limit_torch_threads
from invtoolbox.distributed.checkpoint import RankWriter, whole_content
from invtoolbox.distributed.limits import check_call, check_method
from invtoolbox.distributed.slabs import Slabs
from invtoolbox.errors import InputError, check_keywords
from invtoolbox.loop.capture import CapturedSteps
from invtoolbox.loop.checkpoint import Checkpoint, Writer, fingerprint
from invtoolbox.loop.differentiation import differentiate_answer, differentiates_fixed_point
from invtoolbox.loop.replay import run_with_replay
from invtoolbox.loop.run import (
    ACCELERATED_CHECKS,
    DIVERGED,
    EARLY_STOPPING,
    INVALID,
    LIMIT,
    RECORDED,
    STATUS,
    STOPPED,
    Callback,
    Limits,
    Loop,
    ProgressBar,
    run,
)
from invtoolbox.measurements import repair_measurements, report_findings
from invtoolbox.objective.coarse_grids import coarsen_for_search, coarsen_for_start
from invtoolbox.objective.first_call import check_first_calls, check_implicit
from invtoolbox.objective.initial_guess import initial_variable, is_scan, leaves_float32
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import item_norm
from invtoolbox.parameter_choice import Trials
from invtoolbox.parameter_choice.base import WeightCurve, WeightRule
from invtoolbox.parameter_choice.held_out import accepts, quadratic_model
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import attempts
from invtoolbox.parameter_choice.validation import Validation
from invtoolbox.posteriors.base import MappedPosterior
from invtoolbox.posteriors.exact import gaussian_posterior
from invtoolbox.posteriors.running_moments import ChainPosterior
from invtoolbox.priors.base import Prior, PriorSum
from invtoolbox.priors.first_call import check_first_call, is_foreign
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver, nonconvex_reason
from invtoolbox.solvers.binding import Regularization, bind_objective
from invtoolbox.solvers.choice import check_fits, choose, is_unproven
from invtoolbox.solvers.half_quadratic import HalfQuadratic
from invtoolbox.solvers.weights import KEPT, remark_on_weights

log = logging.getLogger("invtoolbox")

#: Number of iterations on the grid of the image, if a solver that was chosen starts at the answer on
#: a coarser one. They refine edges; the rest is done where an iteration costs a fraction.
_FINE_ITERATIONS = 64
#: Size of a prediction, in sizes of what was measured, above which an answer has diverged.
_RUNAWAY = 1e3
#: Seconds after which a sampler ends that is given by its name and without any limit.
SAMPLER_SECONDS = 150

P = ParamSpec("P")
T = TypeVar("T")


def _entry_point(function: Callable[P, T]) -> Callable[P, T]:
    """Check the names of keywords, leave `torch.inference_mode`, and choose the number of threads.

    A checkpoint determines the number. Errors of allocation become one sentence.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        check_keywords(function, kwargs)
        checkpoint = _as_checkpoint(kwargs.get("checkpoint"))
        before = checkpoint.threads() if isinstance(checkpoint, Checkpoint) else None
        with (
            leaving_inference_mode((args, kwargs)) as (positional, keywords),
            limit_torch_threads(before or choose_threads()),
        ):
            try:
                return function(*positional, **keywords)
            except (MemoryError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise memory_error(error) from error
                raise

    return call


@overload
def solve(
    problem: Problem,
    prior: Prior | str | Sequence[Prior | str] | None = None,
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
    check_every: int = ACCELERATED_CHECKS,
    capture: bool = False,
    repair: bool = False,
) -> Solution: ...


@overload
def solve(
    problem: Sequence[Problem],
    prior: Prior | str | Sequence[Prior | str] | None = None,
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
    check_every: int = ACCELERATED_CHECKS,
    capture: bool = False,
    repair: bool = False,
) -> list[Solution]: ...


@_entry_point
def solve(
    problem: Problem | Sequence[Problem],
    prior: Prior | str | Sequence[Prior | str] | None = None,
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
    check_every: int = ACCELERATED_CHECKS,
    capture: bool = False,
    repair: bool = False,
) -> Solution | list[Solution]:
    r"""Minimize ``D(A(x), y) + regularization * sum_i w_i R_i(x) + S(z)``, ``x = g(z)``, per item.

    Args:
        problem: measurements, operator and data term; a list of problems (of different shapes, for
            example) gives a list of solutions.
        prior: a prior, a sum of priors, a name of ``invtoolbox list priors``, names with commas
            between them, a list of priors and names, or None.
        solver: settings of an algorithm, or its name. If it is None, a solver that fits is chosen,
            and ``Solution.reason`` states which and why.
        regularization: weight of the explicit priors: a number, one number per item ``(batch,)``, a
            rule or the name of a rule. ``"auto"`` keeps weights that were written (``0.1 *
            prior``). If none was written, it is ``"validation"`` for least squares, or counts of
            transmitted photons, with linear operators and convex priors: it needs no noise level,
            and about four times the work of one solve. For other problems it is the discrepancy
            principle with the noise level of the data term, or with a noise level estimated from
            the data; if neither is available, the L-curve. All rules but ``"discrepancy"`` first
            solve with several weights (for at most half of ``time_limit``); callbacks and history
            belong to the last solve.
        initial: initial guess: images ``(batch or 1, channel, *space)``, or parameters of the
            implicit prior.
        max_iterations: largest number of iterations; None for the setting of the solver. Weight and
            start do not depend on it, so that a run may be resumed with more.
        tolerance: bound on the certificate that the solver states; None for the setting of the
            solver. If the solver has a duality gap (`Solver.gap`), the gap must also be within 1e-3
            of a convex objective, or within the tolerance if it is larger. The gap contains an
            estimate of the distance to the minimizer, so it is no proof.
        time_limit: seconds after which items that still run end with the status ``limit``. A step
            that would end later is cut and discarded. First reconstructions of priors take at most
            half of the time, and so does a search for the weight of what is left; a search without
            any answer leaves a weight from the size of the noise. A sampler that is given by its
            name alone, without ``max_iterations``, ``tolerance`` and ``checkpoint``, ends after
            150 s, with a note.
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
        check_every: number of steps after which the host reads on an accelerator which items are
            done; a CPU reads after every step. Between two readings the host does not wait. As many
            steps may run in vain after the last item is done, or have to be repeated.
        capture: on CUDA, record a step as a graph and replay it by one launch, if a step depends on
            its state alone: not for draws and schedules. If it has no effect, a sentence in
            ``Solution.notes`` gives the reason.
        repair: first mend what can be mended without harm (`measurements.repair_measurements`):
            dead and hot pixels get weight 0. Every repair is a note.

    Returns:
        The solution, or one solution per problem.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(2, 1, 8), it.operators.Identity((1, 8)))
    >>> solution = it.solve(problem, prior=it.priors.Tikhonov(), regularization=1.0, progress=False)
    >>> solution.x.mean(), solution.status
    (tensor(0.5000), ('converged', 'converged'))
    """
    is_list = isinstance(problem, (list, tuple)) and all(isinstance(p, Problem) for p in problem)
    if not isinstance(problem, Problem) and not is_list:
        raise InputError(
            f"solve takes a Problem or a list of them, got {type(problem).__name__}; "
            "it.solve(it.Problem(y, A), prior), or it.reconstruct(y, A, prior)"
        )
    if not isinstance(problem, Problem) and (checkpoint is not None or initial is not None):
        raise InputError(
            "a list of problems takes no initial= and no checkpoint=; solve them one by one for "
            "these"
        )
    call = Call(
        prior=prior,
        solver=solver,
        regularization=regularization,
        initial=initial,
        max_iterations=max_iterations,
        tolerance=tolerance,
        time_limit=time_limit,
        seed=seed,
        device=device,
        dtype=dtype,
        differentiate=differentiate,
        callbacks=callbacks,
        checkpoint=_as_checkpoint(checkpoint),
        progress=progress,
        check=check,
        check_every=check_every,
        capture=capture,
        repair=repair,
    )
    if isinstance(problem, Problem):
        return _solve(problem, call)
    return [_solve(item, call) for item in problem]


def _solve(problem: Problem, call: Call) -> Solution:
    """Solve one problem in six steps."""
    if isinstance(problem.operator, Slabs):
        call = check_call(problem, call)
        with summing_over(problem.operator.ranks):
            return _solve_here(problem, call)
    with summing_over(None):
        return _solve_here(problem, call)


def _solve_here(problem: Problem, call: Call) -> Solution:
    with limit(SAMPLER_SECONDS if call.is_sampler_alone else call.time_limit):
        steps = Run.plan(problem, call)
        with torch.no_grad():
            steps.refuse_changed_content()  # before anything costs
            steps.find_weight()
            start = steps.start()
    with torch.no_grad():
        loop = steps.iterate(start)
    return steps.answer(loop)


#: The first reconstructions of priors are of measurements that were checked before.
inner_solve = functools.partial(solve, check=False)


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of `solve` except the problem."""

    prior: Prior | str | Sequence[Prior | str] | None
    solver: Solver | str | None
    regularization: Regularization
    initial: Tensor | dict[str, Tensor] | None
    max_iterations: int | None
    tolerance: float | None
    time_limit: float | None
    seed: int
    device: torch.device | str | None
    dtype: torch.dtype | None
    differentiate: str | None
    callbacks: Sequence[Callback]
    checkpoint: Checkpoint | None
    progress: bool
    check: bool
    check_every: int = ACCELERATED_CHECKS
    capture: bool = False
    repair: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", _precision_named(self.dtype))
        check_range("solve", "[0, inf]", max_iterations=self.max_iterations)
        check_range("solve", "[0, inf]", tolerance=self.tolerance)
        check_range("solve", "(0, inf]", time_limit=self.time_limit)
        check_choice("solve", (False, True), capture=self.capture)
        if not isinstance(self.check_every, Integral):
            raise InputError(f"check_every is a whole number of steps, got {self.check_every!r}")
        check_range("solve", "[1, inf)", check_every=self.check_every)
        check_choice("solve", (None, "implicit"), differentiate=self.differentiate)

    @cached_property
    def is_sampler_alone(self) -> bool:
        """Whether the solver is a sampler by its name, and nothing limits its number of draws."""
        limits = (self.time_limit, self.max_iterations, self.tolerance, self.checkpoint)
        is_unlimited = all(bound is None for bound in limits)
        return is_unlimited and isinstance(self.solver, str) and solver_named(self.solver).samples


@dataclass(kw_only=True)
class Run:
    """One problem that is solved: the methods are the steps, in their order.

    Attributes:
        call: arguments of `solve`.
        start_time: time at which the run began, of ``time.monotonic``.
        original: the problem on the device and in the precision of the call.
        problem: the same without skipped items, and in float64 if its squares need it.
        priors: the priors before they are prepared.
        objective: the problem with prepared priors and, once it is found, the weight.
        regularization: the weight or rule of the call; 1 instead of ``"auto"`` for a sampler.
        rule: rule that finds the weight.
        solver, reason: the solver, and why it was chosen.
        limits: limits of the loop.
        weight_choice: how the weight was chosen, also one of the notes; empty if it was given.
        notes: sentences for the user.
        is_resumed: whether the checkpoint exists.
        curve: the weights that a search has tried.
        content: digests of everything that must be equal for a run to be resumed.
        writer: writer of the checkpoint.
        working: the objective as the solver reformulates it.
    """

    call: Call
    start_time: float
    original: Problem
    problem: Problem
    priors: PriorSum
    objective: Objective
    regularization: Regularization
    rule: WeightRule | WeightSearch | None
    solver: Solver
    reason: str
    limits: Limits
    weight_choice: str
    notes: list[str]
    is_resumed: bool
    curve: WeightCurve | None = None
    content: dict[str, str] = field(default_factory=dict)
    writer: Writer | None = None
    working: Objective = field(init=False)

    @classmethod
    def plan(cls, problem: Problem, call: Call) -> Self:
        """Bind the objective, and choose solver and rule unless the caller did."""
        start_time, dtype = time.monotonic(), call.dtype
        repairs: tuple[str, ...] = ()
        if call.repair:
            problem, repairs = repair_measurements(problem)
        priors = _as_sum(call.prior)
        original = problem.to(device=call.device, dtype=dtype)
        notes = [*repairs, *(report_findings(problem, priors) if call.check else ())]
        # The skipped items hold other measurements, and are computed as such until the loop begins.
        problem = original.without_skipping()
        if leaves_float32(problem):
            dtype = torch.float64
            problem = problem.to(dtype=dtype)
            notes.append("solved in float64: squares of these measurements leave float32")
        if call.check:
            check_first_calls(problem)
        priors = priors.to(device=call.device, dtype=dtype)
        is_resumed = call.checkpoint is not None and Path(call.checkpoint.path).exists()
        with torch.no_grad(), limit(share=0.5):
            objective, regularization, rule, why, solver, reason = _choose(
                problem, priors, call, notes
            )
            if call.check:
                _call_priors_of_user(objective, call.initial)
        if isinstance(problem.operator, Slabs):
            check_method(objective, solver)
        is_early = solver.stops_early(objective)
        is_by_design = is_early or (call.solver is None and is_unproven(objective))
        is_by_design = is_by_design and call.max_iterations is None
        limits = Limits(
            solver.max_iterations if call.max_iterations is None else call.max_iterations,
            solver.tolerance if call.tolerance is None else call.tolerance,
            budget().deadline,
            when_full=EARLY_STOPPING if is_by_design else LIMIT,
            when_given_up=EARLY_STOPPING if is_early else STOPPED,
            check_every=call.check_every,
        )
        return cls(
            call=call,
            start_time=start_time,
            original=original,
            problem=problem,
            priors=priors,
            objective=objective,
            regularization=regularization,
            rule=rule,
            solver=solver,
            reason=reason,
            limits=limits,
            weight_choice=why,
            notes=notes,
            is_resumed=is_resumed,
        )

    def refuse_changed_content(self) -> None:
        """Compute what a checkpoint must agree with; refuse content that cannot be read."""
        problem, skipped = self.problem, self.original.skipped
        if self.call.checkpoint is not None:
            parts = {
                "measurements": problem.y if skipped is None else (problem.y, skipped),
                "operator": problem.operator,
                "data term": problem.data_term,
                "unknown parameters": problem.unknown,
                "prior": self.priors,
                "solver": self.solver,
                "regularization": self.regularization,
                "initial guess": self.call.initial,
                "seed": self.call.seed,
            }
            if isinstance(problem.operator, Slabs):
                parts = whole_content(problem.operator, parts)
            self.content = fingerprint(parts, self.call.checkpoint.key)

    @cached_property
    def initial_guess(self) -> Tensor:
        """The variable at the start, unless a better start of a scan is computed."""
        return initial_variable(self.objective, self.call.initial, self.solver.starts_at_zero)

    @property
    def starts_at_inverse(self) -> bool:
        """Whether the start is an analytic inversion of a scan, on a coarser grid if it is large."""
        return self.call.initial is None and self.solver.starts_at_inverse and is_scan(self.problem)

    def find_weight(self) -> None:
        """Let a rule that tries several weights choose one, unless the checkpoint holds it."""
        guess, rule, call = self.initial_guess, self.rule, self.call
        # A checkpoint holds the weight, but only one per item.
        if not isinstance(rule, WeightSearch) or (self.is_resumed and not rule.separate):
            return
        problem, objective, solver, tolerance = (
            self.problem,
            self.objective,
            self.solver,
            self.limits.tolerance,
        )
        factor = objective.regularization
        if isinstance(rule, Validation) and accepts(objective):
            problem, factor = quadratic_model(problem)
        if problem is not self.problem:  # counts: their logarithms predict each other
            objective = dataclasses.replace(objective, problem=problem)
            solver, _ = choose(objective)
            tolerance = solver.tolerance
        # A first reconstruction on the coarse grid would be another one.
        is_coarse = self.starts_at_inverse and all(
            prior.is_constraint or not prior.is_made_from_data
            for prior in objective.explicit_priors
        )
        trials = Trials(
            objective,
            problem,
            self.priors,
            start=self.objective.decode(guess),
            attempt=attempts(solve, solver, call.initial, call.tolerance, call.seed),
            separate=rule.separate,
            tolerance=tolerance,
            max_iterations=int(min(solver.max_iterations, budget().iterations)),
            coarse=lambda certificate: solver.coarse(certificate)[1],
            coarse_problem=coarsen_for_search(problem) if is_coarse else None,
        )
        with limit(share=0.5):
            try:
                self.curve = rule.choose(trials)
            except OutOfTime:
                weight = trials.centre().exp()
                empty = weight.new_empty(len(weight), 0)
                chosen = weight if rule.separate else weight[:, 0]
                self.curve = WeightCurve(rule.name, empty, empty, chosen)
            if budget().is_spent:
                tried = int(self.curve.scores.isfinite().sum(1).min())
                self.notes.append(
                    f"the time limit ended the search for the weight with {tried} compared; a "
                    "longer one, or a number as regularization, gives a better choice"
                )
        if problem is not self.problem:
            self.curve = self.curve.scale(factor)
        for note in self.curve.notes:
            log.info(note)
        self.objective = dataclasses.replace(trials.chosen(self.curve), problem=self.problem)
        self.notes.extend(self.curve.notes)

    def start(self) -> Loop:
        """Return the loop before its first step, or as the checkpoint holds it."""
        solver, checkpoint, skipped = self.solver, self.call.checkpoint, self.original.skipped
        variable = self._choose_start()
        working = solver.reformulate(self.objective)
        keeps_state = self.call.differentiate == "implicit" and differentiates_fixed_point(
            working, solver
        )
        if keeps_state and checkpoint is not None:
            raise InputError(
                "differentiate='implicit' of an objective that is not smooth takes no checkpoint="
            )
        variable = solver.start(working, variable)
        loop, self.working = Loop.start(
            solver, working, variable, self._step_rule, keeps_state=keeps_state
        )
        if skipped is not None:
            loop.running = loop.running & ~skipped
            loop.status = loop.status.masked_fill(skipped, INVALID)
        if checkpoint is not None:
            A = self.problem.operator
            self.writer = (
                RankWriter(checkpoint, self.content, A)
                if isinstance(A, Slabs)
                else Writer(checkpoint, self.content)
            )
            loop = self.writer.resume(loop)
            if isinstance(self.rule, WeightSearch):
                self.working = self.working.with_regularization(loop.weight)
        return loop

    @property
    def _step_rule(self) -> WeightRule | None:
        return self.rule if isinstance(self.rule, WeightRule) else None

    def _choose_start(self) -> Tensor:
        """Return the variable at the start; from a coarse grid, fewer iterations are left."""
        if not self.starts_at_inverse:
            return self.initial_guess
        coarse = coarsen_for_start(self.problem) if self._step_rule is None else None
        if coarse is None:
            return initial_variable(self.objective, None, False, at_inverse=True)
        is_chosen = self.call.solver is None
        iterations = _FINE_ITERATIONS if is_chosen else self.solver.max_iterations
        if self.call.max_iterations is None:
            when_full = EARLY_STOPPING if is_chosen else self.limits.when_full
            self.limits = dataclasses.replace(
                self.limits, max_iterations=iterations, when_full=when_full
            )
        if self.is_resumed:
            return self.initial_guess
        return self._solve_on_coarse_grid(coarse, self.solver.on_coarse_grid(2 * iterations))

    def _solve_on_coarse_grid(self, coarse: Problem, solver: Solver) -> Tensor:
        """Return the start of a solve: the answer on a grid of half the pixels.

        There steps are cheap. That solve starts on a still coarser grid, with twice as many
        iterations (nested iteration). What a scan determines badly is smooth, and so is found
        there. On the coarsest grid the start is the filtered back-projection.
        """
        weight, seed = self.objective.regularization, self.call.seed
        with limit(share=0.25):
            x = inner_solve(coarse, self.priors, solver, weight, seed=seed, progress=False).x
        # Means of the four nearest pixels, item by item.
        return torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")

    def iterate(self, loop: Loop) -> Loop:
        """Run the loop with progress bar and checkpoints.

        Ctrl-C and SIGTERM wait for the end of a step.
        """
        writer, name, most = self.writer, type(self.solver).__name__, self.limits.max_iterations
        with (
            ProgressBar(most, loop.iteration, name, enabled=self.call.progress) as bar,
            DeferredInterrupt() as interrupt,
        ):

            def after_step(current: Loop, last: bool) -> None:
                bar.update(current, last)
                if writer is not None:
                    writer.after_step(current, last)
                interrupt.check()

            on_cpu = self.working.regularization.device.type == "cpu"
            run_steps = run if on_cpu else run_with_replay
            captured = CapturedSteps(self.solver) if self.call.capture and not on_cpu else None
            try:
                loop = run_steps(
                    loop,
                    self.working,
                    self.solver,
                    self._step_rule,
                    limits=self.limits,
                    callbacks=self.call.callbacks,
                    after_step=after_step,
                    step=captured,
                )
            except KeyboardInterrupt:
                if writer is not None and writer.writes_when_interrupted and not interrupt.forced:
                    writer.write(loop)
                raise
        if writer is not None and writer.failure:
            self.notes.append(writer.failure)
        if self.call.capture and on_cpu:
            self.notes.append("capture=True had no effect: CUDA records steps, and a CPU none")
        elif captured is not None and captured.reason is not None:
            self.notes.append(captured.reason)
        elif captured is not None and not captured.recordings:
            self.notes.append(
                "capture=True had no effect: there were too few steps, or weights or schedules "
                "changed at every step"
            )
        return loop

    def _statuses(self, loop: Loop, objective: Objective, x: Any) -> Tensor:
        """Return the statuses, ``diverged`` for answers that run away while they are still finite.

        Nothing keeps the iterates of a prior without a convex energy (plug-and-play) from growing.
        """
        fit = self.problem.data_term.fitting_prediction(self.problem.y)
        if (
            nonconvex_reason(objective) is None
            or not self.problem.is_linear
            or not isinstance(fit, Tensor)
            or not isinstance(x, Tensor)
        ):
            return loop.status
        with torch.no_grad():
            size, usual = item_norm(self.problem.operator(x)), item_norm(fit)
        runs_away = (size > _RUNAWAY * usual) & (usual > 0) & (loop.status != INVALID)
        return loop.status.masked_fill(runs_away, DIVERGED)

    def answer(self, loop: Loop) -> Solution:
        """Return the solution: the image with derivative and posterior, NaN for skipped items."""
        solver, call, weight = self.solver, self.call, loop.weight
        objective = dataclasses.replace(self.objective, layout=loop.layout)
        working = dataclasses.replace(self.working, layout=loop.layout)
        with torch.no_grad():
            x = working.decode(loop.x)
        if call.differentiate == "implicit":
            if isinstance(call.regularization, Tensor) and call.regularization.requires_grad:
                weight = call.regularization.expand(self.problem.batch)
            x = differentiate_answer(x, objective, working, solver, loop, weight)
        parameters, problem = _parameters(self.original, working, loop.x)
        if self.weight_choice.startswith(KEPT) and isinstance(x, Tensor):
            solved = self.problem
            if solved.unknown:  # the operator of the answer explains the measurements
                solved = solved.with_operator(problem.operator)
            with torch.no_grad():
                remark = remark_on_weights(solved, x)
            self.notes.extend([remark] if remark else [])
        working = working.with_regularization(loop.weight)
        posterior = solver.posterior(working, loop.x, None if loop.keeps_state else loop.summary)
        finding = ""
        if isinstance(posterior, ChainPosterior):
            finding = posterior.finding()
        elif posterior is None and solver.samples:
            finding = (
                "the run ended before its first draw, so that x is no mean of draws, and there is "
                "no posterior; give a larger max_iterations or time_limit, or a shorter burn_in"
            )
        elif posterior is None:
            bound = objective.with_regularization(loop.weight)
            posterior = gaussian_posterior(bound, x, inner_solve)
        steps = int(loop.iterations.max())
        if call.is_sampler_alone and steps < self.limits.max_iterations and LIMIT in loop.status:
            self.notes.append(
                f"{type(solver).__name__} by its name alone ends after {SAMPLER_SECONDS} s, here "
                f"after {steps} of {self.limits.max_iterations} steps; max_iterations= takes the "
                "place of this limit"
            )
        # More states are no remedy for chains that diverge.
        if finding and not bool((loop.status == DIVERGED).all()):
            self.notes.append(finding)
        rows = (
            torch.stack(loop.history).cpu()
            if loop.history
            else torch.zeros(0, len(RECORDED), self.problem.batch)
        )
        in_float64 = self.problem.image_dtype != self.original.image_dtype
        solution = Solution(
            x=x.to(self.original.image_dtype) if in_float64 else x,
            status=tuple(STATUS[int(k)] for k in self._statuses(loop, objective, x)),
            iterations=loop.iterations.cpu(),
            history={name: rows[:, k] for k, name in enumerate(RECORDED)},
            regularization=loop.weight,
            parameters=parameters,
            solver=repr(solver),
            certificate=solver.certificate_name,
            prior=repr(self.priors),
            data_term=repr(self.original.data_term),
            tolerance=self.limits.tolerance,
            weight_choice=self.weight_choice,
            reason=self.reason,
            notes=tuple(self.notes),
            seconds=time.monotonic() - self.start_time,
            seed=call.seed,
            problem=problem,
            weight_search=self.curve,
            posterior=posterior,
        )
        skipped = self.original.skipped
        return solution if skipped is None else _blank(solution, skipped)


def _choose(
    problem: Problem, priors: PriorSum, call: Call, notes: list[str]
) -> tuple[Objective, Regularization, WeightRule | WeightSearch | None, str, Solver, str]:
    """Bind the objective and choose what is not given; append what a user should know to the notes.

    Returns the objective, the regularization, the rule for the weight and why this rule, the solver
    and why this solver.
    """
    named = solver_named(call.solver) if isinstance(call.solver, str) else call.solver
    if named is not None and not isinstance(named, Solver):
        got = type(named).__name__
        if isinstance(named, type):
            got = f"the class {named.__name__}; pass an object of it, {named.__name__}()"
        raise InputError(f"solver must be one of it.solvers or a subclass of Solver, got {got}")
    regularization = call.regularization
    by_itself = isinstance(regularization, str) and regularization == "auto"
    if named is not None and named.samples and by_itself:
        regularization = 1.0
    # Without a solver, half-quadratic splitting is chosen for denoisers.
    strength = (HalfQuadratic if named is None else named).denoiser_strength
    objective, rule, why = bind(problem, priors, regularization, call.seed, strength)
    if call.check:
        check_implicit(objective)
    if named is None:
        solver, reason = choose(objective, call.differentiate == "implicit")
    else:
        check_fits(named, objective)
        if named.samples and rule is not None:
            raise InputError(
                f"{type(named).__name__} draws from a density, whose weight no rule can choose; give "
                "a number as regularization, or leave it out"
            )
        solver, reason = named, f"{type(named).__name__} was asked for"
    if rule is not None and not objective.terms:
        raise InputError(
            "a rule for the weight needs an explicit prior to weigh, and there is none"
        )
    if why:
        notes.insert(0, why)
    if not solver.reformulate(objective).has_value:
        without = next(p for p in objective.explicit_priors if "energy" not in p.offers)
        notes.append(f"history holds no objective: {without!r} has no energy")
    if remark := solver.remark(objective):
        notes.append(remark)
    if objective.layout is None and call.check:
        zeros = problem.zeros()
        notes += filter(None, (prior.remark(zeros) for prior in objective.explicit_priors))
    for note in (reason, *notes):
        log.info(note)
    return objective, regularization, rule, why, solver, reason


def _call_priors_of_user(objective: Objective, initial: Tensor | dict[str, Tensor] | None) -> None:
    """Refuse priors of the user that no solver can use, unless x has a form of its own.

    They are called with the initial guess of the user, or with zeros.
    """
    if objective.layout is None:
        for term in objective.prior.terms:
            if is_foreign(term.prior):
                check_first_call(term.prior, initial_variable(objective, initial, at_zero=True))


def _blank(solution: Solution, skipped: Tensor) -> Solution:
    """Set everything that belongs to the skipped items of a batch to NaN."""
    posterior = solution.posterior
    return dataclasses.replace(
        solution,
        x=blank_items(skipped, solution.x),
        regularization=blank_items(skipped, solution.regularization),
        parameters=blank_items(skipped, solution.parameters),
        posterior=None
        if posterior is None
        else MappedPosterior(posterior, functools.partial(blank_items, skipped)),
    )


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


def _precision_named(dtype: Any) -> torch.dtype | None:
    """Return a precision in which operators compute, also of its name or NumPy's type."""
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    name = getattr(dtype, "__name__", name)  # numpy.float64 is a class
    if name not in ("float32", "float64", "complex64", "complex128"):
        raise InputError(
            f"dtype must be torch.float32 or torch.float64, got {dtype}; solvers compute in no other "
            "precision"
        )
    precision: torch.dtype = getattr(torch, name)
    return precision


def _as_checkpoint(checkpoint: Any) -> Any:
    return Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint


def _as_sum(prior: Any) -> PriorSum:
    priors = priors_named(prior)
    return PriorSum() if priors is None else priors.as_sum()
