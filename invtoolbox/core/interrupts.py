"""Ctrl-C and SIGTERM between two steps: a started step is finished, so that checkpoints are whole.

Batch systems (Slurm, Kubernetes) send SIGTERM before they kill a process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the message states what is done and how to resume."""


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise `KeyboardInterrupt` within a block, as Ctrl-C does.

    Outside the main thread, and if the program has its own handler, nothing changes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


#: Handlers of each signal that may be replaced: those that a program has not chosen itself.
_REPLACEABLE = {
    signal.SIGINT: (signal.default_int_handler,),
    signal.SIGTERM: (signal.SIG_DFL, _interrupt),
}


class DeferredInterrupt:
    """Context in which the first Ctrl-C or SIGTERM waits for `check`; a second is raised at once.

    Solvers overwrite their buffers during a step, so an interrupted state is neither the old one
    nor the new one. Outside the main thread, and if the program has its own handler, nothing
    changes.

    Attributes:
        forced: a second signal arrived, so a step may be incomplete.
    """

    def __init__(self) -> None:
        self._pending = self.forced = False
        self._replaced: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raise the `KeyboardInterrupt` that is pending."""
        if self._pending:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number, replaceable in _REPLACEABLE.items():
                handler = signal.getsignal(number)
                if handler in replaceable:
                    signal.signal(number, self._handle)
                    self._replaced[number] = handler
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pending:
            self.forced = True
            raise KeyboardInterrupt
        self._pending = True
