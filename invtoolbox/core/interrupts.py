"""Ctrl-C, SIGTERM and budgets: how a command ends early, with what it has.

A signal waits until the step of a solver is whole, so that the checkpoint is of that step. A step
that takes longer than `GRACE` is cut and discarded; the checkpoint then belongs to an earlier step.
Batch systems (Slurm, Kubernetes) send SIGTERM before they kill a process.

All stages of a command draw from one `Budget`: the search for a weight, the solve, the comparison
with a simple answer.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Self

from invtoolbox.core.contexts import setting

#: Seconds that a signal waits for the end of a step.
GRACE = 0.5
#: Seconds after which a command whose present call does not return ends without it.
_PATIENCE = 1.2


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the message states what is done and how to resume."""


class OutOfTime(Exception):
    """The time limit ends a step of a solver, or a stage that has no answer yet."""


@dataclass(frozen=True)
class Budget:
    """Time and iterations that the stages of a command may use.

    Attributes:
        deadline: time of ``time.monotonic`` at which every stage ends with its best answer.
        iterations: largest number of iterations at every weight that a rule tries.
        cut: time at which `check_time` ends the present step of a solver.
    """

    deadline: float = math.inf
    iterations: float = math.inf
    cut: float = math.inf

    @property
    def is_spent(self) -> bool:
        """Whether no time is left."""
        return self.deadline < math.inf and time.monotonic() >= self.deadline


_BUDGET: ContextVar[Budget] = ContextVar("budget", default=Budget())  # noqa: B039 (frozen)


def budget() -> Budget:
    """Return the budget of the present block."""
    return _BUDGET.get()


def using(inner: Budget) -> AbstractContextManager[None]:
    """Let a block have this budget."""
    return setting(_BUDGET, inner)


def limit(
    seconds: float | None = None, iterations: int | None = None, share: float = 1.0
) -> AbstractContextManager[None]:
    """Bound what a block may use, within the budget outside of it.

    Args:
        seconds: seconds of the block; None for the remaining ones.
        iterations: iterations at every weight that a rule tries; None for no further bound.
        share: share of these seconds.
    """
    outer, now = _BUDGET.get(), time.monotonic()
    left = min(outer.deadline - now, math.inf if seconds is None else seconds)
    most = min(outer.iterations, math.inf if iterations is None else iterations)
    return using(replace(outer, deadline=now + share * left, iterations=most))


def stepping(deadline: float) -> AbstractContextManager[None]:
    """Let `check_time` end a step at a deadline; a solve within it has its own iterations."""
    return using(Budget(min(_BUDGET.get().deadline, deadline), cut=deadline))


def check_time() -> None:
    """Raise `OutOfTime` if the present step of a solver has reached its deadline."""
    cut = _BUDGET.get().cut
    if cut < math.inf and time.monotonic() >= cut:
        raise OutOfTime


#: Set once a signal has become an exception.
_ANSWERED = threading.Event()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _ANSWERED.set()
    raise KeyboardInterrupt


#: Handlers of each signal that may be replaced: those that a program has not chosen itself.
_REPLACEABLE: dict[signal.Signals, tuple[Any, ...]] = {
    signal.SIGINT: (signal.default_int_handler, _interrupt),
    signal.SIGTERM: (signal.SIG_DFL, _interrupt),
}


def _replace_handlers(handler: Any, *more: signal.Signals) -> dict[signal.Signals, Any]:
    """Set a handler for Ctrl-C, SIGTERM and other signals, and return the handlers before.

    Outside the main thread, and if the program has its own handler, nothing changes.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (*_REPLACEABLE, *more):
            old = signal.getsignal(number)
            if old in _REPLACEABLE.get(number, (signal.SIG_DFL,)):
                signal.signal(number, handler)
                before[number] = old
    return before


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise `KeyboardInterrupt` within a block, as Ctrl-C does.

    Outside the main thread, and if the program has its own handler, nothing changes.
    """
    before = _replace_handlers(_interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def end_without_return() -> Iterator[None]:
    """End the process after a signal, although a call into a library does not return.

    A handler in Python runs between two calls only. All files are replaced as a whole, so an
    earlier checkpoint stays. For commands: a program of one's own is not ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _ANSWERED.clear()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()


def _watch(reader: socket.socket) -> None:
    with reader:
        while numbers := reader.recv(1):
            if numbers[0] not in _REPLACEABLE or _ANSWERED.wait(_PATIENCE):
                continue
            os.write(
                2, b"invtoolbox: stopped within a step; --resume goes on from the one before\n"
            )
            os._exit(130)


class DeferredInterrupt:
    """Context in which a first Ctrl-C or SIGTERM waits for `check`, but at most for `GRACE`.

    Solvers overwrite their buffers during a step, so an interrupted state is neither the old one
    nor the new one. A second signal is raised at once. Outside the main thread, and if the program
    has its own handler, nothing changes.

    Attributes:
        forced: the step was cut, so the state may be incomplete.
    """

    def __init__(self) -> None:
        self._pending = self.forced = False
        self._replaced: dict[signal.Signals, Any] = {}
        #: The signal of a timer, which Windows lacks.
        self._alarm: Any = getattr(signal, "SIGALRM", None)

    def check(self) -> None:
        """Raise the `KeyboardInterrupt` that is pending."""
        if self._pending:
            self._set_timer(0.0)
            _ANSWERED.set()
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        self._replaced = _replace_handlers(self._handle, *([self._alarm] if self._alarm else []))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self._pending:
            self._set_timer(0.0)
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced.clear()
        if kind is None:
            self.check()

    def _set_timer(self, seconds: float) -> None:
        # Again and again: an exception is lost in a function that Python calls by itself.
        if self._alarm in self._replaced:
            signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pending:
            self.forced = True
            _interrupt(number, frame)
        elif number in _REPLACEABLE:
            self._pending = True
            self._set_timer(GRACE)
