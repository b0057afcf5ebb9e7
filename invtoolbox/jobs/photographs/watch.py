"""Monitoring of a scene that is found: the budget in seconds, the PSNR of views, a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.jobs.photographs.models import SceneModel
from invtoolbox.jobs.photographs.photographs import judge
from invtoolbox.loop.run import Progress

#: Seconds of work before the first measurement, which also shows the first picture.
FIRST = 2.0
#: Share of the seconds of a budget from which on they count.
LATE = 0.05


@dataclass(frozen=True)
class Sample:
    """Quality of the scene at one moment.

    Attributes:
        stage: number of the stage, from 0.
        iteration: iteration of the stage.
        seconds: seconds of work in all stages, without the time of the measurements.
        psnr: mean PSNR over the monitored views, dB.
    """

    stage: int
    iteration: int
    seconds: float
    psnr: float


class Watch:
    """Callback of `solve` that measures the PSNR, moves a bar, and stops when the budget is spent.

    Args:
        model: model that renders the scene.
        pictures: monitored views.
        every: seconds of work between two measurements.
        seconds: seconds of work allowed in all stages; None for no limit.
        steps: number of steps of all stages, if known; the bar counts them if there is no limit
            in seconds.
        progress: show a bar on a terminal.
        spent: seconds of work of earlier runs.
        samples: measurements of earlier runs.
        record: function that is called after every measurement, to save the progress.
        show: function that is called with the scene after every measurement, to show it.
    """

    def __init__(
        self,
        model: SceneModel,
        pictures: PosedPictures,
        every: float,
        seconds: float | None = None,
        steps: int | None = None,
        progress: bool = True,
        spent: float = 0.0,
        samples: Sequence[Sample] = (),
        record: Callable[[], None] = lambda: None,
        show: Callable[[Any], None] = lambda x: None,
    ) -> None:
        self.model, self.pictures = model, pictures
        self.every, self.seconds, self.record, self.show = every, seconds, record, show
        self.spent, self.samples = spent, list(samples)
        self.stage = self.stages = self.iteration = self.steps_before = 0
        self.steps, self.end_share = steps, 1.0
        self.name = ""
        self._since: float | None = None
        self._next = spent + min(every, FIRST)
        self._bar: Any = None
        self._last = 0.0
        if progress:
            from tqdm.auto import tqdm

            by_time = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            total, unit = (round(seconds, 1), "s") if seconds is not None else (steps, "it")
            self._bar = tqdm(
                total=total,
                unit=unit,
                leave=False,
                disable=None,
                bar_format=by_time if seconds is not None else None,
            )

    # -- stages ------------------------------------------------------------------------------------

    def begin(self, stage: int, stages: int, name: str, end_share: float = 1.0) -> None:
        """Start the clock of a stage.

        Args:
            stage: number of the stage, from 0.
            stages: number of stages.
            name: name that the bar shows.
            end_share: share of the budget at which the stage ends.
        """
        self.stage, self.stages, self.name, self.iteration = stage, stages, name, 0
        self.end_share = end_share
        self._since = time.monotonic()

    def end(self) -> None:
        """Stop the clock of a stage."""
        self.spent, self._since = self.worked, None
        self.steps_before += self.iteration

    @property
    def worked(self) -> float:
        """Seconds of work so far."""
        return self.spent + (0.0 if self._since is None else time.monotonic() - self._since)

    def used(self, iteration: int) -> float:
        """Return the share of the budget that is used, from 0 to 1.

        It is the share of the steps or of the seconds, whichever is larger. Seconds count from
        `LATE` of them on, so that a run whose steps end first does not depend on the clock.

        Args:
            iteration: iteration of the stage.
        """
        steps = (self.steps_before + iteration) / self.steps if self.steps else 0.0
        seconds = self.worked / self.seconds if self.seconds is not None else 0.0
        return min(1.0, max(steps, (seconds - LATE) / (1 - LATE)))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a run is the same run with another budget

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.seconds is not None and self.worked >= self.seconds

    # -- measurements ------------------------------------------------------------------------------

    def __call__(self, progress: Progress) -> bool:
        self.iteration = progress.iteration
        if self.worked >= self._next:
            self.look(progress.x)
        self._show()
        return self.is_over or self.used(self.iteration) >= self.end_share < 1

    def look(self, x: Any) -> float:
        """Measure the PSNR, unless it was just measured; the clock stops meanwhile.

        Args:
            x: the scene.
        """
        if self.samples and (self.samples[-1].stage, self.samples[-1].iteration) == (
            self.stage,
            self.iteration,
        ):
            return self.samples[-1].psnr
        running, self.spent, self._since = self._since is not None, self.worked, None
        quality = float(self.quality(x).mean())
        self.samples.append(Sample(self.stage, self.iteration, self.spent, quality))
        self._next = self.spent + self.every
        self.record()
        self.show(x)
        if running:
            self._since = time.monotonic()
        return quality

    def quality(self, x: Any) -> Tensor:
        """Return the PSNR of each monitored view.

        Args:
            x: the scene.
        """
        scores = [
            judge(self.model.look(x, view.cameras).color, view, self.model.shade(), ("psnr",))
            for view in self.pictures.each()
        ]
        return torch.cat([score["psnr"] for score in scores])

    def _show(self) -> None:
        if self._bar is None or self._bar.disable or time.monotonic() - self._last < 0.2:
            return
        self._last = time.monotonic()
        stage = f"stage {self.stage + 1} of {self.stages}, " if self.stages > 1 else ""
        self._bar.set_description_str(f"{stage}{self.name}", refresh=False)
        quality = f"{self.samples[-1].psnr:.2f} dB" if self.samples else "to come"
        # Without a limit in seconds the bar itself counts the iterations.
        counted = f", iteration {self.iteration}" if self.seconds is not None else ""
        self._bar.set_postfix_str(f"PSNR {quality}{counted}", refresh=False)
        done = self.worked if self.seconds is not None else self.steps_before + self.iteration
        self._bar.n = min(done, self._bar.total) if self._bar.total else done
        self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def outlook(samples: Sequence[Sample]) -> str:
    """Return a sentence about the PSNR that more time would bring, empty if a run was too short.

    The gain of the second half of the time, g, is compared with the gain of the quarter before it,
    h: each doubling of the time brings g / h times the gain of the last one (Aitken's
    extrapolation).

    Args:
        samples: measurements during a run.

    >>> outlook([Sample(0, k, 60.0 * k, 30 - 8 / k) for k in range(1, 9)])
    'PSNR was 26.0 dB after 2 min, 28.0 dB after 4 min and 29.0 dB after 8 min; ...'
    """
    times, scores = [s.seconds for s in samples], [s.psnr for s in samples]
    if len(samples) < 4 or times[-1] < 4 * times[0]:
        return ""
    places = [times[-1] / 4, times[-1] / 2, times[-1]]
    quality = [float(q) for q in np.interp(places, times, scores)]
    before, gain = quality[1] - quality[0], quality[2] - quality[1]
    course = [f"{q:.1f} dB after {_duration(t)}" for q, t in zip(quality, places)]
    words = f"PSNR was {course[0]}, {course[1]} and {course[2]}; "
    if gain < 0.1:
        return words + "more time would bring little"
    more = gain * min(1.0, gain / before) if before > 0 else gain
    return words + f"twice the time would bring about {more:.1f} dB if it goes on so"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.3g} min"


def spread(total: int, count: int) -> Tensor:
    """Return at most ``count`` of the numbers below a total, evenly spread.

    Args:
        total: number of numbers.
        count: largest number of results.
    """
    return torch.arange(total) if total <= count else torch.arange(count) * total // count
