"""The one loop, which runs the steps of every solver, and its progress bar.

An item of the batch stops by itself: once its certificate is within the tolerance, or once it turns
non-finite. Its answer is stored at that moment. The item then stays in the batch unread until half
of the batch is done, and the batch is compacted to the running items.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from invtoolbox.core.interrupts import OutOfTime, check_time, stepping
from invtoolbox.core.pytrees import scatter_items, select_items, tree_map, where_items
from invtoolbox.core.rare_branches import is_any
from invtoolbox.core.reductions import mean_items, sum_items
from invtoolbox.errors import InputError
from invtoolbox.loop.stopping import Travel, accept, is_due, is_grid
from invtoolbox.objective.initial_guess import has_domain, move_into_domain
from invtoolbox.objective.objective import Layout, Objective
from invtoolbox.operators.base import item_norm
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.solvers.base import Solver, State

T = TypeVar("T")


class ProgressBar:
    """A tqdm bar with iterations, objective and running items on a terminal; nothing elsewhere.

    It reads the device a few times per second, not at every step.
    """

    def __init__(self, total: int, done: int, name: str, enabled: bool) -> None:
        self._bar: Any = None
        self._last = 0.0
        if enabled:
            from tqdm.auto import tqdm

            # With `disable=None` tqdm checks whether the output is a terminal.
            self._bar = tqdm(
                total=total, initial=done, desc=name, unit="it", leave=False, disable=None
            )

    def update(self, loop: Loop, last: bool) -> None:
        if self._bar is None or self._bar.disable:
            return
        now = time.monotonic()
        if now - self._last < 0.2 and not last:
            return
        self._last = now
        row = loop.history[-1]
        means = {name: f"{float(torch.nanmean(row[k])):.4g}" for k, name in enumerate(RECORDED[:2])}
        self._bar.set_postfix(running=int(loop.running.sum()), **means, refresh=False)
        self._bar.update(loop.iteration - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


#: Meaning of the numbers in `Loop.status`, which checkpoints hold.
STATUS = ("running", "converged", "limit", "diverged", "stopped", "invalid", "early_stopping")
RUNNING, CONVERGED, LIMIT, DIVERGED, STOPPED, INVALID, EARLY_STOPPING = range(7)

#: Number of steps after which the host reads the flags of the items on an accelerator by default.
ACCELERATED_CHECKS = 10

#: Seconds of a step below which the gap is also evaluated once the time is over.
_SHORT = 1.0

#: Quantities recorded after every step, ``(batch,)`` each.
RECORDED = ("objective", "certificate", "discrepancy", "regularization")


@dataclass(frozen=True)
class Progress:
    """Data that a callback receives after a step; a callback that returns True stops the run.

    Attributes:
        iteration: number of steps done.
        running: running items of the original batch, ``(n,)``; the tensors below have n items.
        objective, certificate, discrepancy, regularization: current values, ``(n,)``.
        x: the iterates ``(n, channel, *space)``, decoded if there is an implicit prior.
    """

    iteration: int
    running: Tensor
    objective: Tensor
    certificate: Tensor
    discrepancy: Tensor
    regularization: Tensor
    decode: Callable[[], Any] = field(repr=False)

    @property
    def x(self) -> Any:
        return self.decode()


Callback = Callable[[Progress], Any]


@dataclass
class Loop:
    """The whole run between two steps; all of it goes into a checkpoint."""

    iteration: int
    active: Tensor  # (n,) which items of the original batch the state holds
    running: Tensor  # (n,) which of them are not done
    state: Any
    rule_state: Any  # None without a rule
    x: Tensor  # (batch, ...) the answers of the items that are done
    summary: Any  # of these items: the data of the solver's posterior; None for most solvers
    status: Tensor  # (batch,)
    iterations: Tensor  # (batch,)
    weight: Tensor  # (batch,) the final weight of each item
    layout: Layout | None  # of the variable if it is parameters; an adaptation may change it
    travel: Travel | None  # for the gap of the objective; None if the solver has none
    history: list[Tensor]  # one (4, batch) tensor per step, rows as RECORDED
    keeps_state: bool = False  # whether the summary is the whole state

    @classmethod
    def start(
        cls,
        solver: Solver,
        objective: Objective,
        variable: Tensor,
        rule: WeightRule | None,
        keeps_state: bool = False,
    ) -> tuple[Loop, Objective]:
        """Return the loop before the first step, and the objective with the first weights."""
        batch, device = objective.batch, variable.device
        rule_state = None
        if rule is not None and not solver.meets_target(objective):
            x = variable if objective.layout is None else objective.decode(variable)
            rule_state = rule.init(objective, x)
            objective = objective.with_regularization(rule_state.weight)
        variable = move_into_domain(objective, variable)
        state = solver.init(objective, variable)
        _check_state(solver, "init", state, batch)
        loop = cls(
            iteration=0,
            active=torch.arange(batch, device=device),
            running=torch.ones(batch, dtype=torch.bool, device=device),
            state=state,
            rule_state=rule_state,
            x=solver.result(state).clone(),
            summary=tree_map(Tensor.clone, state if keeps_state else solver.summary(state)),
            status=torch.zeros(batch, dtype=torch.long, device=device),
            iterations=torch.zeros(batch, dtype=torch.long, device=device),
            weight=objective.regularization.clone(),
            layout=objective.layout,
            travel=Travel.start(state.x) if solver.has_gap(objective) else None,
            history=[],
            keeps_state=keeps_state,
        )
        return loop, objective


@dataclass(frozen=True)
class Limits:
    """Limits at which the loop stops, in addition to convergence."""

    max_iterations: int
    tolerance: float
    deadline: float = math.inf  # of time.monotonic()
    when_full: int = LIMIT  # status after the last iteration
    when_given_up: int = STOPPED  # status of items that the solver gives up
    check_every: int = ACCELERATED_CHECKS  # steps between two readings of an accelerator

    def is_check(self, iteration: int) -> bool:
        """Return whether the host reads the flags of an accelerator after this step.

        The first reading is early, because steps guess only once some are known to be final.
        """
        return iteration % self.check_every == 0 or iteration == ACCELERATED_CHECKS


def run(
    loop: Loop,
    objective: Objective,
    solver: Solver,
    rule: WeightRule | None,
    limits: Limits,
    callbacks: Sequence[Callback],
    after_step: Callable[[Loop, bool], None],
    read: Callable[[Tensor], int] = int,
    guessing: Callable[[], AbstractContextManager[None]] = nullcontext,
    step: Callable[[Objective, Any], Any] | None = None,
) -> Loop:
    """Step until every item is done.

    ``after_step(loop, last)`` writes checkpoints and advances the progress bar. For it, items that
    a budget ends are still running, so that a later run with a larger budget continues them.
    ``read`` returns a number of the device, such as the number of running items. Every step runs
    within ``guessing()``. ``step`` takes the place of ``solver.step``.
    """
    step = solver.step if step is None else step
    objective = _continue(loop, objective)
    # On an accelerator the host does not wait for every step. It reads the flags every few steps;
    # until then an item that has converged is frozen by its mask.
    if loop.x.device.type == "cpu":
        limits = dataclasses.replace(limits, check_every=1)
    if loop.iteration == 0:
        done = loop.running & _converged(loop, solver, rule, limits) & ~loop.state.value.isinf()
        _finish(loop, solver, CONVERGED, done)
    last_finite, stop, length = loop.state.x, False, math.inf
    left = bool(loop.running.any())
    has_done = False  # whether an item of the state is done
    while left:
        full, began = loop.iteration >= limits.max_iterations, time.monotonic()
        check_time()
        if full or stop or began >= limits.deadline:
            after_step(loop, True)
            if not full and length < _SHORT and loop.iteration:
                _finish_converged(loop, objective, solver, rule, limits, last=True)
            status = limits.when_full if full else STOPPED if stop else LIMIT
            _end(loop, objective, solver, status, loop.running.clone())
            break
        # A step writes over the state, so a step that may be cut needs a copy.
        may_be_cut = loop.iteration > 0 and began + 2 * length >= limits.deadline < math.inf
        spare = tree_map(Tensor.clone, loop.state) if may_be_cut else None
        try:
            with stepping(limits.deadline), guessing():
                loop.state = step(objective.at(loop.iteration), loop.state)
        except OutOfTime:
            check_time()  # an outer step ends
            # Without a copy, only the answer of the cut state is whole, so nothing is written. Its
            # steps are repeated if one of them made a wrong guess.
            if spare is None:
                read(loop.running.sum())
            else:
                loop.state = spare
                after_step(loop, True)
            _end(loop, objective, solver, LIMIT, loop.running.clone())
            break
        length = time.monotonic() - began
        if loop.iteration == 0:
            _check_state(solver, "step", loop.state, len(loop.active))
        loop.iteration += 1
        if loop.travel is not None:
            loop.travel = loop.travel.update(loop.state.x, loop.state.certificate, loop.iteration)
        objective = _update_weight(loop, objective, rule)
        _record(loop, solver, objective)
        checks = limits.is_check(loop.iteration) or loop.iteration >= limits.max_iterations
        if checks:
            # A sum is non-finite if an entry is; it needs no temporary of the size of x.
            finite = torch.isfinite(sum_items(loop.state.x)) & ~torch.isnan(loop.state.certificate)
            _finish(loop, solver, DIVERGED, loop.running & ~finite, last_finite)
        # Without a tolerance no item is expected to converge, and none is frozen between checks.
        running_items = _RunningItems(read)
        given_up = _given_up(loop, solver, limits, checks)
        if checks or (limits.tolerance > 0 and loop.travel is None):
            _finish_converged(loop, objective, solver, rule, limits, running_items, ending=given_up)
        if given_up is not None:
            _end(loop, objective, solver, limits.when_given_up, loop.running & given_up)
        if checks:
            number = running_items.number if given_up is None else None
            number = read(loop.running.sum()) if number is None else number
            left, has_done = number > 0, number < len(loop.running)
            objective = _compact(loop, objective, number)
            last_finite = loop.state.x
        adaptive = objective.adaptive_prior
        if left and adaptive is not None and adaptive.adapts(loop.iteration):
            with guessing():  # that between two readings no item is done
                has_done = has_done or (not checks and is_any(~loop.running))
            objective = _adapt(loop, objective, solver, has_done)
            last_finite = loop.state.x
        # Every callback is called, also after one of them has stopped the run.
        stop = any([callback(_progress(loop, objective)) is True for callback in callbacks])
        after_step(loop, not left)
    return loop


def _given_up(loop: Loop, solver: Solver, limits: Limits, checks: bool) -> Tensor | None:
    """Return which items the solver gives up, `None` if it never does.

    Between two readings an item within the tolerance goes on: its gap decides at the next one.
    """
    given_up = solver.gives_up(loop.state)
    if given_up is None or checks or loop.travel is None:
        return given_up
    return given_up & ~solver.converged(loop.state, limits.tolerance)


def _finish_converged(
    loop: Loop,
    objective: Objective,
    solver: Solver,
    rule: WeightRule | None,
    limits: Limits,
    running_items: _RunningItems | None = None,
    *,
    ending: Tensor | None = None,
    last: bool = False,
) -> None:
    """Finish the items that are converged after a step; see `_converged`."""
    done = _converged(
        loop, solver, rule, limits, objective, running_items=running_items, ending=ending, last=last
    )
    _finish(loop, solver, CONVERGED, loop.running & done)


class _RunningItems:
    """Number of running items, which is read together with a flag, so that the host waits once.

    Attributes:
        number: number of running items; None if it was not read, or if an item may be converged.
    """

    def __init__(self, read: Callable[[Tensor], int]) -> None:
        self._read = read
        self.number: int | None = None

    def any_within(self, running: Tensor, within: Tensor) -> bool:
        """Return whether a running item is within the tolerance."""
        # One integer holds both: number + (batch + 1) * flag.
        base = len(running) + 1
        flag, number = divmod(self._read(running.sum() + base * (running & within).any()), base)
        self.number = None if flag else number
        return bool(flag)


def _continue(loop: Loop, objective: Objective) -> Objective:
    """Return the objective of a loop that is resumed after a compaction or an adaptation."""
    if len(loop.active) < objective.batch:
        objective = objective.select(loop.active)
    if loop.layout is not None:
        objective = dataclasses.replace(objective, layout=loop.layout)
    if loop.rule_state is not None:
        objective = objective.with_regularization(loop.rule_state.weight)
    return objective


def _update_weight(loop: Loop, objective: Objective, rule: WeightRule | None) -> Objective:
    """Let the rule choose the weight of the next step."""
    if loop.rule_state is None or rule is None:
        return objective
    state = loop.state
    memory = rule.observe(loop.rule_state, objective, state.x, state.certificate)
    loop.rule_state = rule.update(memory, state.discrepancy, state.certificate, loop.iteration)
    return objective.with_regularization(loop.rule_state.weight)


def _converged(
    loop: Loop,
    solver: Solver,
    rule: WeightRule | None,
    limits: Limits,
    objective: Objective | None = None,
    *,
    running_items: _RunningItems | None = None,
    ending: Tensor | None = None,
    last: bool = False,
) -> Tensor:
    """Return which items are converged; after a step, its objective also bounds their gap.

    Items of ``ending`` are decided now, and all of them if no step follows.
    """
    done, state = solver.converged(loop.state, limits.tolerance), loop.state
    if objective is not None:
        state = _move_inside(state, objective, solver, loop.running & done)
        done = done & ~state.value.isinf()
        if loop.travel is not None and limits.tolerance < math.inf:
            running_items = running_items or _RunningItems(int)
            done = _check_gap(
                loop,
                objective,
                solver,
                limits,
                every=limits.check_every,
                within=done,
                state=state,
                running_items=running_items,
                ending=ending,
                last=last or loop.iteration >= limits.max_iterations,
            )
    if loop.rule_state is not None and rule is not None:
        done = done & rule.satisfied(loop.rule_state, loop.state.discrepancy)
    if state is not loop.state:
        loop.state = where_items(done, state, loop.state)
        _correct(loop, 0, done, state.value)
    return done


def _move_inside(state: Any, objective: Objective, solver: Solver, mask: Tensor) -> Any:
    """Return the state with answers at which the misfit is finite, for the items in ``mask``.

    A splitting meets the domain of a misfit, such as positive means of counts, up to its tolerance
    only. The answer moves towards a constant image of its own mean, until its objective is finite.
    """
    if not has_domain(objective):
        return state
    mask = mask & state.value.isinf()
    if mask.device.type == "cpu" and not bool(mask.any()):
        return state
    x = solver.result(state)
    level = mean_items(x)
    inside = move_into_domain(objective, x, level)
    value, _ = objective.value_at(inside, objective.problem.operator(inside))
    finite = dataclasses.replace(solver.with_result(state, inside), value=value)
    return where_items(mask, finite, state)


def _end(loop: Loop, objective: Objective, solver: Solver, status: int, mask: Tensor) -> None:
    """Finish items short of their tolerance; items whose objective is infinite have diverged."""
    loop.state = _move_inside(loop.state, objective, solver, mask)
    if loop.history:
        _correct(loop, 0, mask, loop.state.value)
    infinite = mask & loop.state.value.isinf()
    _finish(loop, solver, DIVERGED, infinite)
    _finish(loop, solver, status, mask & ~infinite)


def _correct(loop: Loop, row: int, mask: Tensor, values: Tensor) -> None:
    """Correct a row of `RECORDED` after the last step, for the items in ``mask``."""
    recorded = loop.history[-1][row]
    values = torch.where(mask, values.detach().to(recorded), recorded[loop.active])
    loop.history[-1][row] = recorded.index_copy(0, loop.active, values)


def _check_gap(
    loop: Loop,
    objective: Objective,
    solver: Solver,
    limits: Limits,
    every: int,
    within: Tensor,
    state: Any,
    running_items: _RunningItems,
    ending: Tensor | None,
    last: bool,
) -> Tensor:
    """Return which items are converged, for those whose certificate is within the tolerance.

    The gap is evaluated only if it decides something. The recorded certificate is corrected.
    """
    assert loop.travel is not None
    alone = last or is_due(loop.iteration, every)
    if not alone and not running_items.any_within(loop.running, within):
        return within
    if not last and not is_grid(loop.iteration, every) and len(loop.history) > every:
        # Between the points of the grid, only items that have just come within the tolerance.
        before = loop.history[-1 - every][1][loop.active]
        is_new = ~(before <= limits.tolerance)
        within = within & (is_new if ending is None else is_new | ending)
        if not alone and not bool((loop.running & within).any()):
            return within
    distance = loop.travel.distance(loop.state.x, loop.state.certificate, loop.iteration)
    answer = solver.result(state)
    if answer is not loop.state.x:  # a copy of a splitting may be further off than the iterate
        distance = distance + item_norm(answer - loop.state.x)
    gap = solver.gap(objective.at(loop.iteration - 1), state, distance)
    done, certificate = accept(gap, within, state.certificate, limits.tolerance, alone)
    _correct(loop, 1, loop.running, certificate)
    return done


def _check_state(solver: Solver, method: str, state: Any, batch: int) -> None:
    """Refuse what is no state of a solver, or holds no number per item.

    Args:
        solver: the solver.
        method: method that has returned the state.
        state: what it has returned.
        batch: number of items.
    """
    name = f"{method} of {type(solver).__name__}"
    if not isinstance(state, State):
        raise InputError(
            f"{name} returns {type(state).__name__}, expected a subclass of it.solvers.State, a "
            "dataclass with x, value, discrepancy and certificate"
        )
    for quantity in ("value", "discrepancy", "certificate"):
        numbers = getattr(state, quantity)
        shape = tuple(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
        if shape != (batch,):
            raise InputError(
                f"{name} returns a state whose {quantity} has the shape {shape} for {batch} items, "
                f"expected ({batch},): reduce over every axis but the first, .flatten(1).sum(1)"
            )


def _weights(loop: Loop, solver: Solver, objective: Objective) -> Tensor:
    return loop.state.regularization if solver.meets_target(objective) else objective.regularization


def _record(loop: Loop, solver: Solver, objective: Objective) -> None:
    state = loop.state
    rows = torch.stack(
        [state.value, state.certificate, state.discrepancy, _weights(loop, solver, objective)]
    ).detach()
    rows = torch.where(loop.running, rows, torch.full_like(rows, float("nan")))
    if len(loop.active) == len(loop.status):
        loop.history.append(rows)
        loop.weight = torch.where(loop.running, rows[3], loop.weight)
        return
    all_rows = rows.new_full((len(RECORDED), len(loop.status)), float("nan"))
    loop.history.append(all_rows.index_copy(1, loop.active, rows))
    loop.weight = loop.weight.index_copy(
        0, loop.active, torch.where(loop.running, rows[3], loop.weight[loop.active])
    )


def _finish(
    loop: Loop, solver: Solver, status: int, mask: Tensor, answer: Tensor | None = None
) -> None:
    """Store the answers of the items in ``mask`` and mark these items as done."""
    if mask.device.type == "cpu" and not bool(mask.any()):
        return
    answer = solver.result(loop.state) if answer is None else answer
    loop.x = _store(loop, mask, answer.to(loop.x.dtype), loop.x)
    summary = loop.state if loop.keeps_state else solver.summary(loop.state)
    loop.summary = _store(loop, mask, summary, loop.summary)
    numbers = torch.full_like(loop.active, status), torch.full_like(loop.active, loop.iteration)
    loop.status, loop.iterations = _store(loop, mask, numbers, (loop.status, loop.iterations))
    loop.running = loop.running & ~mask


def _store(loop: Loop, mask: Tensor, new: T, old: T) -> T:
    """Return ``old``, of the whole batch, with the items of the mask from ``new``."""
    if len(loop.active) == len(loop.status):
        return where_items(~mask, old, new)
    taken = where_items(mask, new, select_items(old, loop.active))
    return scatter_items(loop.active, taken, old)


def _compact(loop: Loop, objective: Objective, left: int) -> Objective:
    """Drop the items that are done, once they are half of the batch."""
    if left == 0 or 2 * left > len(loop.running):
        return objective
    keep = loop.running.nonzero().squeeze(1)
    loop.active, loop.running = loop.active[keep], loop.running[keep]
    loop.state = select_items(loop.state, keep)
    loop.rule_state = select_items(loop.rule_state, keep)
    loop.travel = select_items(loop.travel, keep)
    return objective.select(keep)


def _adapt(loop: Loop, objective: Objective, solver: Solver, has_done: bool) -> Objective:
    """Let the implicit prior replace the parameters.

    The answers of finished items take their shape; ``has_done`` is whether the state holds some.
    """
    after, variable, move = objective.at(loop.iteration).adapt(loop.state.x, loop.state.statistics)
    assert after.layout is not None
    if after.layout != loop.layout:
        done = has_done or len(loop.active) < len(loop.status)
        loop.x = objective.resize(loop.x, after.layout) if done else variable.clone()
        loop.layout = after.layout
    loop.state = solver.adapt(after, loop.state, variable, move)
    return dataclasses.replace(objective, layout=after.layout)


def _progress(loop: Loop, objective: Objective) -> Progress:
    x, last = loop.state.x, loop.history[-1][:, loop.active]
    return Progress(
        iteration=loop.iteration,
        running=loop.active,
        objective=last[0],
        certificate=last[1],
        discrepancy=last[2],
        regularization=last[3],
        decode=lambda: objective.decode(x),
    )
