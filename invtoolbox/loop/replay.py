"""Run the loop on a GPU with guesses, and repeat the steps in which a guess was wrong.

A GPU sorts pairs of splats and tiles in buffers (`kernels.rendering.pair_buffer`), and steps have
branches that are rarely taken (`core.rare_branches`). If the host waited at every step for the
number of pairs or for the flag of a branch, the GPU would be idle meanwhile. So the steps guess,
and the host reads every few steps whether the guesses were right. Only then are the steps final,
and only then do callbacks and checkpoints see them. Otherwise the loop goes back to the last final
step, and the steps are repeated with larger buffers, and with every branch read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.pytrees import tree_leaves, tree_map
from invtoolbox.core.rare_branches import RareBranches
from invtoolbox.kernels.rendering.pair_buffer import PairBuffers
from invtoolbox.loop.run import Callback, Limits, Loop, Progress, run
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.solvers.base import Solver

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
