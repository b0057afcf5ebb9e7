"""The progress bar: iterations, objective and how many items still run."""

from __future__ import annotations

import time
from typing import Any, Self

import torch

from invtoolbox.loop import RECORDED, Loop


class ProgressBar:
    """A tqdm bar on a terminal, nothing elsewhere. It reads the device a few times a second, not every step."""

    def __init__(self, total: int, done: int, name: str, enabled: bool) -> None:
        self._bar: Any = None
        self._last = 0.0
        if enabled:
            from tqdm.auto import tqdm

            # `disable=None` lets tqdm look whether the output is a terminal.
            self._bar = tqdm(
                total=total, initial=done, desc=name, unit="it", leave=False, disable=None
            )

    def update(self, loop: Loop) -> None:
        if self._bar is None or self._bar.disable:
            return
        now = time.monotonic()
        if now - self._last < 0.2 and bool(loop.running.any()):
            return
        self._last = now
        last = loop.history[-1]
        shown = {
            name: f"{float(torch.nanmean(last[k])):.4g}" for k, name in enumerate(RECORDED[:2])
        }
        self._bar.set_postfix(running=int(loop.running.sum()), **shown, refresh=False)
        self._bar.update(loop.iteration - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
