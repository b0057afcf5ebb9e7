"""One problem that is solved, step by step: plan, weight, start, iterations, answer."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.catalogue.presets import priors_named
from invtoolbox.core.decision import Decision
from invtoolbox.core.interrupts import DeferredInterrupt, OutOfTime, budget, limit
from invtoolbox.distributed.checkpoint import RankWriter, whole_content
from invtoolbox.distributed.limits import check_method
from invtoolbox.distributed.slabs import Slabs
from invtoolbox.errors import InputError
from invtoolbox.loop.capture import CapturedSteps, run_with_replay
from invtoolbox.loop.checkpoint import Writer, fingerprint
from invtoolbox.loop.differentiation import differentiate_answer, differentiates_fixed_point
from invtoolbox.loop.run import (
    DIVERGED,
    EARLY_STOPPING,
    INVALID,
    LIMIT,
    STOPPED,
    Limits,
    Loop,
    ProgressBar,
    run,
)
from invtoolbox.measurements import repair_measurements, report_findings
from invtoolbox.objective.coarse_grids import coarsen_for_search, coarsen_for_start
from invtoolbox.objective.crops import SIDE, crop_large
from invtoolbox.objective.first_call import check_first_calls
from invtoolbox.objective.initial_guess import initial_variable, is_scan, leaves_float32
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice import Trials
from invtoolbox.parameter_choice.base import WeightCurve, WeightRule
from invtoolbox.parameter_choice.held_out import accepts, quadratic_model
from invtoolbox.parameter_choice.robust_level import scale_robust
from invtoolbox.parameter_choice.score_rules import SURE
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import attempts
from invtoolbox.parameter_choice.validation import Validation
from invtoolbox.priors.base import PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.binding import Regularization, remark_on_weights, weighable_terms
from invtoolbox.solvers.choice import choose, is_unproven
from invtoolbox.solving.answer import (
    blank_skipped,
    read_history,
    read_parameters,
    read_posterior,
    read_statuses,
)
from invtoolbox.solving.call import Call
from invtoolbox.solving.choices import call_priors_of_user, choose_parts, minimize_first

log = logging.getLogger("invtoolbox")

#: Number of iterations on the grid of the image, if a solver that was chosen starts at the answer on
#: a coarser one. They refine edges; the rest is done where an iteration costs a fraction.
_FINE_ITERATIONS = 64


@dataclass(kw_only=True)
class Run:
    """One problem that is solved: the methods are the steps, in their order.

    Attributes:
        call: arguments of `solve`; of a sampler with the weight and start that `minimize_first` adds.
        asked: arguments of `solve` as they were given.
        solve: solves without checks: first reconstructions, coarse grids, trials of weights.
        start_time: time at which the run began, of ``time.monotonic``.
        original: the problem on the device and in the precision of the call.
        problem: the same without skipped items, and in float64 if its squares need it.
        priors: the priors before they are prepared.
        objective: the problem with prepared priors and, once it is found, the weight.
        regularization: the weight or rule of the call; for a sampler a number instead of
            ``"auto"``.
        rule: rule that finds the weight.
        solver: the solver.
        limits: limits of the loop.
        decisions: records of what was found and chosen, for `Solution.decisions`.
        is_resumed: whether the checkpoint exists.
        curve: the weights that a search has tried.
        content: digests of everything that must be equal for a run to be resumed.
        writer: writer of the checkpoint.
        working: the objective as the solver reformulates it.
    """

    call: Call
    asked: Call
    solve: Callable[..., Solution]
    start_time: float
    original: Problem
    problem: Problem
    priors: PriorSum
    objective: Objective
    regularization: Regularization
    rule: WeightRule | WeightSearch | None
    solver: Solver
    limits: Limits
    decisions: list[Decision]
    is_resumed: bool
    curve: WeightCurve | None = None
    content: dict[str, str] = field(default_factory=dict)
    writer: Writer | None = None
    working: Objective = field(init=False)

    @classmethod
    def plan(cls, problem: Problem, call: Call, solve: Callable[..., Solution]) -> Self:
        """Bind the objective, and choose solver and rule unless the caller did."""
        start_time, dtype, asked = time.monotonic(), call.dtype, call
        decisions: list[Decision] = []
        if call.repair:
            problem, repairs = repair_measurements(problem)
            decisions += [
                Decision(step="repair", outcome="taken", sentence=text) for text in repairs
            ]
        named = priors_named(call.prior)
        priors = PriorSum() if named is None else named.as_sum()
        original = problem.to(device=call.device, dtype=dtype)
        # Written weights belong to the misfit as it was written.
        is_auto = isinstance(call.regularization, str) and call.regularization == "auto"
        if is_auto and not any(term.chosen for term in priors.terms):
            original, remarks = scale_robust(original)
            decisions += [Decision(step="noise", sentence=text) for text in remarks]
        decisions += report_findings(problem, priors) if call.check else ()
        # The skipped items hold other measurements, and are computed as such until the loop begins.
        problem = original.without_skipping()
        if leaves_float32(problem):
            dtype = torch.float64
            problem = problem.to(dtype=dtype)
            sentence = "solved in float64: squares of these measurements leave float32"
            decisions.append(Decision(step="run", sentence=sentence))
        if call.check:
            check_first_calls(problem)
        priors = priors.to(device=call.device, dtype=dtype)
        is_resumed = call.checkpoint is not None and Path(call.checkpoint.path).exists()
        with torch.no_grad(), limit(share=0.5):
            if not is_resumed:  # the checkpoint holds weight and state
                call = minimize_first(problem, priors, call, solve, decisions)
            objective, regularization, rule, solver = choose_parts(
                problem, priors, call, solve, decisions
            )
            if call.check:
                call_priors_of_user(objective, call.initial)
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
            asked=asked,
            solve=solve,
            start_time=start_time,
            original=original,
            problem=problem,
            priors=priors,
            objective=objective,
            regularization=regularization,
            rule=rule,
            solver=solver,
            limits=limits,
            decisions=decisions,
            is_resumed=is_resumed,
        )

    def refuse_changed_content(self) -> None:
        """Compute what a checkpoint must agree with; refuse content that cannot be read."""
        problem, skipped = self.problem, self.original.skipped
        if self.call.checkpoint is not None:
            # Another processor may minimize to other bits, which are no reason to refuse a chain.
            has_weight = self.call.regularization is not self.asked.regularization
            parts = {
                "measurements": problem.y if skipped is None else (problem.y, skipped),
                "operator": problem.operator,
                "data term": problem.data_term,
                "unknown parameters": problem.unknown,
                "prior": self.priors,
                "solver": self.solver,
                "regularization": 1.0 if has_weight else self.regularization,
                "initial guess": self.asked.initial,
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
        # A first reconstruction on the coarse grid, or of a part, would be another one.
        is_free = all(
            prior.is_constraint or not prior.is_made_from_data
            for prior in objective.explicit_priors
        )
        start = self.objective.decode(guess)
        trials = Trials(
            objective,
            problem,
            self.priors,
            start=start,
            attempt=attempts(self.solve, solver, call.initial, call.tolerance, call.seed),
            separate=rule.separate,
            tolerance=tolerance,
            max_iterations=int(min(solver.max_iterations, budget().iterations)),
            coarse=lambda certificate: solver.coarse(certificate)[1],
            coarse_problem=coarsen_for_search(problem)
            if is_free and self.starts_at_inverse
            else None,
        )
        is_ours = isinstance(rule, (Validation, SURE)) and objective.layout is None
        is_local = is_free and is_ours and call.initial is None
        part = crop_large(problem) if is_local else None
        if part is not None:
            sentence = f"the weight was chosen on {SIDE} x {SIDE} pixels of median contrast"
            self.decisions.append(Decision(step="weight", sentence=sentence))
        with limit(share=0.5):
            try:
                self.curve = rule.choose(
                    trials if part is None else trials.on(part.problem, part.cut(start))
                )
            except OutOfTime:
                weight = trials.centre().exp()
                empty = weight.new_empty(len(weight), 0)
                chosen = weight if rule.separate else weight[:, 0]
                self.curve = WeightCurve(rule.name, empty, empty, chosen)
            if budget().is_spent:
                tried = int(self.curve.scores.isfinite().sum(1).min())
                sentence = (
                    f"the time limit ended the search for the weight with {tried} compared; a "
                    "longer one, or a number as regularization, gives a better choice"
                )
                self.decisions.append(Decision(step="weight", outcome="late", sentence=sentence))
        if problem is not self.problem:
            self.curve = self.curve.scale(factor)
        for remark in self.curve.remarks:
            log.info(remark.text(problem.batch))
        self.objective = dataclasses.replace(trials.chosen(self.curve), problem=self.problem)
        self.decisions.extend(self.curve.remarks)

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
            if isinstance(self.rule, WeightSearch) or solver.needs_weight(self.priors):
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
            x = self.solve(coarse, self.priors, solver, weight, seed=seed, progress=False).x
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
            self._note(writer.failure)
        if self.call.capture and on_cpu:
            self._note("capture=True had no effect: CUDA records steps, and a CPU none")
        elif captured is not None and captured.reason is not None:
            self._note(captured.reason)
        elif captured is not None and not captured.recordings:
            self._note(
                "capture=True had no effect: there were too few steps, or weights or schedules "
                "changed at every step"
            )
        return loop

    def _note(self, sentence: str) -> None:
        self.decisions.append(Decision(step="run", sentence=sentence))

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
        parameters, problem = read_parameters(self.original, working, loop.x)
        posterior, findings = read_posterior(loop, solver, working, objective, x, self.solve)
        self._remark_on_answer(loop, problem, x, findings)
        in_float64 = self.problem.image_dtype != self.original.image_dtype
        solution = Solution(
            x=x.to(self.original.image_dtype) if in_float64 else x,
            status=read_statuses(loop, objective, self.problem, x),
            iterations=loop.iterations.cpu(),
            history=read_history(loop),
            regularization=loop.weight,
            parameters=parameters,
            solver=repr(solver),
            certificate=solver.certificate_name,
            prior=repr(self.priors),
            data_term=repr(self.original.data_term),
            tolerance=self.limits.tolerance,
            decisions=tuple(self.decisions),
            seconds=time.monotonic() - self.start_time,
            seed=call.seed,
            problem=problem,
            weight_search=self.curve,
            posterior=posterior,
        )
        skipped = self.original.skipped
        return solution if skipped is None else blank_skipped(solution, skipped)

    def _remark_on_answer(
        self, loop: Loop, problem: Problem, x: Any, findings: list[Decision]
    ) -> None:
        """Append what a user should know about the answer.

        Args:
            loop: the loop after its last step.
            problem: the problem with the operator that was found.
            x: the answer.
            findings: records about draws that are no sound sample.
        """
        is_auto = isinstance(self.regularization, str) and self.regularization == "auto"
        is_written = any(term.chosen for term in weighable_terms(self.priors))
        if is_auto and is_written and isinstance(x, Tensor):
            solved = self.problem
            if solved.unknown:  # the operator of the answer explains the measurements
                solved = solved.with_operator(problem.operator)
            with torch.no_grad():
                self.decisions.extend(remark_on_weights(solved, x))
        steps = int(loop.iterations.max())
        is_cut = steps < self.limits.max_iterations and LIMIT in loop.status
        if self.call.is_sampler_alone and is_cut:
            self._note(
                f"{type(self.solver).__name__} by its name alone ends after {self.call.seconds:g} s, "
                f"here after {steps} of {self.limits.max_iterations} steps; max_iterations= takes "
                "the place of this limit"
            )
        # More states are no remedy for chains that diverge.
        if not bool((loop.status == DIVERGED).all()):
            self.decisions.extend(findings)
