"""Run the loop on a GPU: steps as a CUDA graph, and steps that guess what the host would read.

A graph is recorded once, and replayed by one launch per step. It repeats the kernels of the
recorded step at the same addresses, with the same numbers of the host. So it serves steps that
depend on their state alone: no draws, no schedule, no decision by the number of the iteration, and
no wait of the host.

A GPU sorts pairs of splats and tiles in buffers (`kernels.rendering.pair_buffer`), and steps have
branches that are rarely taken (`core.rare_branches`). If the host waited at every step for the
number of pairs or for the flag of a branch, the GPU would be idle meanwhile. So the steps guess,
and the host reads every few steps whether the guesses were right. Only then are the steps final,
and only then do callbacks and checkpoints see them. Otherwise the loop goes back to the last final
step, and the steps are repeated with larger buffers, with every branch read, and without the graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from invtoolbox.core.pytrees import tree_leaves, tree_map
from invtoolbox.core.rare_branches import RareBranches, counts_so_far, is_any
from invtoolbox.kernels.rendering.pair_buffer import PairBuffers
from invtoolbox.loop.run import Callback, Limits, Loop, Progress, run
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.solvers.base import Solver

#: Number of steps before the recording. They compile kernels and store constants on the device.
_WARM_UP = 3

#: Number of the replay that is compared with the step, and the largest difference over the largest
#: value; sums by atomic additions differ by less than a hundredth of it.
_COMPARED, _TOLERANCE = 2, 1e-4

Step = Callable[[Objective, Any], Any]


class _UsesIteration(Exception):
    """The step uses the number of the iteration."""


class _NoNumber:
    """Stands for the number of the iteration during the recording; every use raises an error."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise _UsesIteration

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refuse
    __pow__ = __rpow__ = __neg__ = __abs__ = __round__ = __and__ = __rand__ = _refuse
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __hash__ = _refuse  # type: ignore[assignment]
    __int__ = __float__ = __index__ = __bool__ = __str__ = __repr__ = __format__ = _refuse  # type: ignore[assignment]


class _RecordedObjective(Objective):
    """Objective without an iteration, whose generators cannot draw while a step is recorded.

    Priors are passed a generator whether they draw or not. CUDA refuses draws of a generator that
    the graph does not own.
    """

    @classmethod
    def of(cls, objective: Objective) -> _RecordedObjective:
        parts = {part.name: getattr(objective, part.name) for part in dataclasses.fields(objective)}
        return cls(**parts | {"iteration": _NoNumber()})

    def generator(self, device: torch.device | str | None = None) -> torch.Generator:
        recorded = self.problem.y0.device
        if device is not None and torch.device(device) != recorded:
            raise _UsesIteration
        return torch.Generator(recorded)


class CapturedSteps:
    """The steps of a solver, by a graph if they allow one.

    The state is copied into the buffers of the graph before it runs, and out of them afterwards, so
    that no tensor outside shares their memory. If weights, measurements or shapes change, as when
    items are done, the graph is recorded anew.

    Attributes:
        solver: the solver.
        reason: why there is no graph, in one sentence; None if a graph is possible.
        recordings: number of graphs that were recorded.
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.reason: str | None = None
        self.recordings = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._replays = 0  # of the graph
        self._steps = 0  # since the last change of what a graph is bound to
        self._bound: tuple[Any, ...] = ()
        self._sizes: tuple[Any, ...] = ()
        self._inputs: Any = None
        self._outputs: Any = None
        self._flag: Tensor | None = None  # whether a branch of the recorded step must be taken

    def __call__(self, objective: Objective, state: Any) -> Any:
        """Return the state after a step, as `Solver.step` does."""
        if self.reason is not None:
            return self.solver.step(objective, state)
        bound, sizes = _binding(objective), _sizes(state)
        if sizes != self._sizes or not _are_same(bound, self._bound):
            self._bound, self._sizes, self._graph, self._steps = bound, sizes, None, 0
        if self._graph is None:
            self._steps += 1
            if self._steps > _WARM_UP:
                self._record(objective, state)
        if self._graph is None:
            return self.solver.step(objective, state)
        for (_, buffer), (_, leaf) in zip(tree_leaves(self._inputs), tree_leaves(state)):
            buffer.copy_(leaf)
        self._graph.replay()
        self._replays += 1
        if self._flag is not None and is_any(self._flag):
            return self.solver.step(objective, state)
        after = tree_map(Tensor.clone, self._outputs)
        if self._replays != _COMPARED:
            return after
        # The host waits once per graph: a number of the host that changes would be wrong by now.
        expected = self.solver.step(objective, state)
        if not _agree(after, expected):
            self._graph = None
            self.reason = (
                f"capture=True had no effect: a step of {type(self.solver).__name__} depends on "
                "more than its state, because a graph of one step gives another result for the next"
            )
        return expected

    def addresses(self) -> tuple[int, ...]:
        """Return the addresses of the buffers of the state; empty without a graph."""
        if self._graph is None:
            return ()
        both = (self._inputs, self._outputs)
        return tuple(leaf.data_ptr() for _, leaf in tree_leaves(both))

    def _record(self, objective: Objective, state: Any) -> None:
        """Record a step, or state the reason why there is no graph."""
        name = type(self.solver).__name__
        free = _RecordedObjective.of(objective)
        inputs, branches = tree_map(Tensor.clone, state), RareBranches.for_recording()
        graph = torch.cuda.CUDAGraph()
        try:
            # Buffers of pairs that guess nothing: their size is a number of the host.
            with PairBuffers().open(), branches.open(), torch.cuda.graph(graph):
                outputs = self.solver.step(free, inputs)
                flag = branches.take_flag()
        except _UsesIteration:
            self.reason = (
                f"capture=True had no effect: a step of {name} depends on the number of the "
                "iteration, by draws or by a schedule, and a graph repeats one step"
            )
            return
        except RuntimeError as error:
            self.reason = (
                f"capture=True had no effect: a step of {name} cannot be recorded: "
                f"{str(error).splitlines()[0]}"
            )
            return
        if _host_part(outputs) != _host_part(inputs):
            self.reason = (
                f"capture=True had no effect: the state of {name} holds numbers of the host that "
                "change, and a graph repeats one step"
            )
            return
        self._graph, self._inputs, self._outputs, self._flag = graph, inputs, outputs, flag
        self._replays = 0
        self.recordings += 1


def _binding(objective: Objective) -> tuple[Any, ...]:
    """Return what a graph is bound to."""
    problem = objective.problem
    parts = problem.operator, problem.data_term, problem.y0, objective.regularization
    return *parts, objective.layout, objective.prior.implicit, *objective.explicit_priors


def _sizes(state: Any) -> tuple[Any, ...]:
    """Return the numbers that a graph is bound to: shapes, and iterations within a step."""
    return *(leaf.shape for _, leaf in tree_leaves(state)), *counts_so_far()


def _are_same(one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
    return len(one) == len(two) and all(a is b for a, b in zip(one, two))


def _agree(one: Any, two: Any) -> bool:
    """Return whether two states have the same numbers up to rounding."""
    for (_, a), (_, b) in zip(tree_leaves(one), tree_leaves(two)):
        if a.dtype == torch.bool:
            a, b = a.int(), b.int()
        difference, size = (a - b).abs(), b.abs()
        if difference.is_floating_point():  # NaN and infinity may differ from themselves
            difference, size = (t.nan_to_num(0.0, 0.0, 0.0) for t in (difference, size))
        if a.numel() and bool(difference.max() > _TOLERANCE * size.max()):
            return False
    return True


def _host_part(state: Any) -> str:
    """Return the parts of a state that are no tensors, as text."""
    return repr(tree_map(lambda leaf: 0, state))


#: Largest size in bytes of the iterates that wait for their callbacks.
_LARGEST_QUEUE = 1 << 29


#: Largest size in bytes of a state that is copied so that branches can be guessed. The steps of a
#: larger one take so long that a wait does not matter.
_LARGEST_COPY = 1 << 29


def run_with_replay(
    loop: Loop,
    objective: Objective,
    solver: Solver,
    rule: WeightRule | None,
    limits: Limits,
    callbacks: Sequence[Callback],
    after_step: Callable[[Loop, bool], None],
    step: Callable[[Objective, Any], Any] | None = None,
) -> Loop:
    """Run the loop as `run` does, on a GPU.

    If a step has guessed, callbacks and ``after_step`` are called for final steps only, up to ten
    steps, or ``check_every``, at once.
    """
    replay = _Replay(callbacks, after_step, limits)
    while True:
        try:
            run(
                loop,
                objective,
                solver,
                rule,
                limits,
                callbacks=(replay.observe,),
                after_step=replay.after_step,
                read=replay.read,
                guessing=replay.guessing,
                step=step,
            )
            replay.finish()
            return loop
        except _Repeat:
            replay.restore(loop)
        except Exception:
            # A step after a wrong guess may fail on values that it would not have met.
            if not replay.has_guessed_wrongly():
                raise
            replay.restore(loop)


class _Repeat(Exception):
    """The steps since the last final one must be repeated."""


class _Replay:
    """The last final step, and what waits until the steps after it are final.

    Steps guess once there is a copy to go back to: after the first ten steps.
    """

    def __init__(
        self,
        callbacks: Sequence[Callback],
        after_step: Callable[[Loop, bool], None],
        limits: Limits,
    ) -> None:
        self.buffers, self.branches = PairBuffers(), RareBranches()
        self.callbacks, self._after_step, self.limits = callbacks, after_step, limits
        self.is_final = True  # whether the latest step is final
        self.copy: Loop | None = None  # at the last final step; None before anything is guessed
        self.queue: list[Progress] = []  # steps whose callbacks wait
        self.longest_queue = 0
        self.pause, self.next_pause = 0, 1  # in readings, of ten steps each of branches
        self.end: int | None = None  # the step at which a callback stopped the run, once known

    @contextmanager
    def guessing(self) -> Iterator[None]:
        """Let a step guess."""
        with self.buffers.open(), self.branches.open():
            yield

    def read(self, number: Tensor) -> int:
        """Return a number of the device, which is not negative.

        The steps are repeated if a buffer was too small or a branch should have been taken.
        """
        wrong = self.branches.take_flag()
        # The host waits once for both: -1 stands for a wrong guess.
        count, fits = self.buffers.read(number if wrong is None else torch.where(wrong, -1, number))
        if count < 0:
            self._pause_guesses()
        if count < 0 or not fits:
            raise _Repeat
        return count

    def has_guessed_wrongly(self) -> bool:
        """Return whether a guess of a branch was wrong since the last reading, and pause guesses."""
        flag = self.branches.take_flag()
        if flag is None or self.copy is None or not bool(flag):
            return False
        self._pause_guesses()
        return True

    def _pause_guesses(self) -> None:
        # Ten steps without guesses, then 20, 40, ..., if the guesses are wrong again.
        self.branches.may_guess = False
        self.pause, self.next_pause = self.next_pause, 2 * self.next_pause

    def observe(self, progress: Progress) -> bool:
        """Call the callbacks of all steps if they are final; return whether the run stops."""
        # `run` has read the buffers before, at its checks.
        self.is_final = self.copy is None or self.limits.is_check(progress.iteration)
        if self.end is not None:
            return progress.iteration == self.end
        if self.callbacks:
            self.queue.append(progress)
        if not self.is_final and len(self.queue) > self.longest_queue:
            self.read(progress.running.sum())
            self.is_final = True
        return self.is_final and self._call_callbacks()

    def _call_callbacks(self) -> bool:
        while self.queue:
            progress = self.queue.pop(0)
            # Every callback is called, also after one of them has stopped the run.
            if any([callback(progress) is True for callback in self.callbacks]):
                if not self.queue:
                    return True
                self.end = progress.iteration
                raise _Repeat
        return False

    def after_step(self, loop: Loop, last: bool) -> None:
        """Pass final steps on, and copy the loop if later steps may have to be repeated."""
        if last and not self.is_final:
            self.read(loop.running.sum())
            self._call_callbacks()
        elif not self.is_final:
            return
        self._after_step(loop, last)
        guesses = self.branches.is_used and _size(loop.state) <= _LARGEST_COPY
        if (guesses or self.buffers.is_used) and (
            self.copy is not None or self.limits.is_check(loop.iteration)
        ):
            x: Tensor = loop.state.x
            self.copy, self.buffers.may_guess = _copy(loop), True
            self.pause = max(0, self.pause - 1)
            self.branches.may_guess = guesses and self.pause == 0
            self.longest_queue = _LARGEST_QUEUE // max(1, x.numel() * x.element_size())
        else:  # the copy, if there is one, is older than this step
            self.branches.may_guess = False

    def finish(self) -> None:
        """Call the callbacks of the steps before one that was cut, which are final by now."""
        for progress in self.queue:
            for callback in self.callbacks:
                callback(progress)

    def restore(self, loop: Loop) -> None:
        """Set the loop back to the last final step."""
        assert self.copy is not None
        self.queue.clear()
        vars(loop).update(vars(_copy(self.copy)))


def _size(state: Any) -> int:
    """Return the size of the tensors of a state in bytes."""
    return sum(t.numel() * t.element_size() for _, t in tree_leaves(state))


def _copy(loop: Loop) -> Loop:
    """Copy what the steps write to; they replace the other tensors of the loop."""
    state, rule_state = tree_map(Tensor.clone, (loop.state, loop.rule_state))
    return dataclasses.replace(loop, state=state, rule_state=rule_state, history=list(loop.history))
