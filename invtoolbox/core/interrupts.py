"""Ctrl-C between two steps: a started step is finished, so that checkpoints are whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message states what is done and how to resume."""


class DeferredInterrupt:
    """Context in which the first Ctrl-C waits for `check`; a second one is raised at once.

    Solvers overwrite their buffers during a step, so an interrupted state is neither the old one
    nor the new one. Outside the main thread, and if the program has its own handler, nothing
    changes.

    Attributes:
        forced: a second Ctrl-C arrived, so a step may be incomplete.
    """

    def __init__(self) -> None:
        self._pending = self.forced = self._installed = False

    def check(self) -> None:
        """Raise the `KeyboardInterrupt` that is pending."""
        if self._pending:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *_: Any) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pending:
            self.forced = True
            raise KeyboardInterrupt
        self._pending = True
