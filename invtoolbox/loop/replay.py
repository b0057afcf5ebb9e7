"""Run the loop with buffers of a guessed size, and repeat the steps whose buffers were too small.

A GPU sorts pairs of splats and tiles in buffers (`kernels.rendering.pair_buffer`). If the host waited
for the number of pairs at every step, the GPU would be idle meanwhile. So the steps guess the sizes,
and the host reads every few steps whether the guesses were enough. Only then are the steps final,
and only then do callbacks and checkpoints see them. Otherwise the loop goes back to the last final
step, and the steps are repeated with larger buffers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invtoolbox.core.pytrees import tree_map
from invtoolbox.kernels.rendering.pair_buffer import PairBuffers
from invtoolbox.loop.run import ACCELERATED_CHECKS, Callback, Limits, Loop, Progress, run
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.solvers.base import Solver

#: Largest size in bytes of the iterates that wait for their callbacks.
_LARGEST_QUEUE = 1 << 29


def needs_replay(objective: Objective) -> bool:
    """Whether steps may have to be repeated: the operator has pair buffers, on a GPU."""
    return (
        objective.problem.operator.has_pair_buffers
        and objective.regularization.device.type != "cpu"
    )


def run_with_replay(
    loop: Loop,
    objective: Objective,
    solver: Solver,
    rule: WeightRule | None,
    limits: Limits,
    callbacks: Sequence[Callback],
    after_step: Callable[[Loop, bool], None],
) -> Loop:
    """Run the loop as `run` does, for an objective that `needs_replay`.

    Callbacks and ``after_step`` are called for final steps only, up to ten steps at once.
    """
    buffers = PairBuffers()
    replay = _Replay(buffers, callbacks, after_step)
    replayed = ReplayedSolver(solver=solver, buffers=buffers)
    while True:
        try:
            return run(
                loop,
                objective,
                replayed,
                rule,
                limits,
                callbacks=(replay.observe,),
                after_step=replay.after_step,
                read=replay.read,
            )
        except _Repeat:
            replay.restore(loop)


@dataclass(frozen=True)
class ReplayedSolver(Solver):
    """A solver whose steps guess the sizes of their buffers.

    Args:
        solver: the solver that runs.
        buffers: sizes of the buffers.
    """

    solver: Solver = dataclasses.field(kw_only=True)
    buffers: PairBuffers = dataclasses.field(kw_only=True)

    def step(self, objective: Objective, state: Any) -> Any:
        with self.buffers.open():
            return self.solver.step(objective, state)

    def init(self, objective: Objective, start: Tensor) -> Any:
        return self.solver.init(objective, start)

    def adapt(
        self, objective: Objective, state: Any, variable: Tensor, move: Callable[[Tensor], Tensor]
    ) -> Any:
        return self.solver.adapt(objective, state, variable, move)

    def meets_target(self, objective: Objective) -> bool:
        return self.solver.meets_target(objective)

    def converged(self, state: Any, tolerance: float) -> Tensor:
        return self.solver.converged(state, tolerance)

    def gives_up(self, state: Any) -> Tensor | None:
        return self.solver.gives_up(state)

    def gap(self, objective: Objective, state: Any, distance: Tensor) -> Tensor:
        return self.solver.gap(objective, state, distance)

    def result(self, state: Any) -> Tensor:
        return self.solver.result(state)

    def summary(self, state: Any) -> Any:
        return self.solver.summary(state)


class _Repeat(Exception):
    """The steps since the last final one must be repeated."""


class _Replay:
    """The last final step, and what waits until the steps after it are final.

    Sizes are guessed once there is a copy to go back to: after the first ten steps.
    """

    def __init__(
        self,
        buffers: PairBuffers,
        callbacks: Sequence[Callback],
        after_step: Callable[[Loop, bool], None],
    ) -> None:
        self.buffers, self.callbacks, self._after_step = buffers, callbacks, after_step
        self.is_final = True  # whether the latest step is final
        self.copy: Loop | None = None  # at the last final step; None before sizes are guessed
        self.queue: list[Progress] = []  # steps whose callbacks wait
        self.longest_queue = 0
        self.end: int | None = None  # the step at which a callback stopped the run, once known

    def read(self, number: Tensor) -> int:
        """Return a number of the device; repeat the steps if a buffer was too small."""
        count, fits = self.buffers.read(number)
        if not fits:
            raise _Repeat
        return count

    def observe(self, progress: Progress) -> bool:
        """Call the callbacks of all steps if they are final; return whether the run stops."""
        # `run` has read the buffers before at every tenth step.
        self.is_final = self.copy is None or progress.iteration % ACCELERATED_CHECKS == 0
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
        if self.buffers.is_used and (
            self.copy is not None or loop.iteration % ACCELERATED_CHECKS == 0
        ):
            x: Tensor = loop.state.x
            self.copy, self.buffers.may_guess = _copy(loop), True
            self.longest_queue = _LARGEST_QUEUE // max(1, x.numel() * x.element_size())

    def restore(self, loop: Loop) -> None:
        """Set the loop back to the last final step."""
        assert self.copy is not None
        self.queue.clear()
        vars(loop).update(vars(_copy(self.copy)))


def _copy(loop: Loop) -> Loop:
    """Copy what the steps write to; they replace the other tensors of the loop."""
    state, rule_state = tree_map(Tensor.clone, (loop.state, loop.rule_state))
    return dataclasses.replace(loop, state=state, rule_state=rule_state, history=list(loop.history))
