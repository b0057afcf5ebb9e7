"""Slices of recordings of an event camera in which the motion is clear, and their affine flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.data_terms import Contrast
from invtoolbox.geometry.events import Events
from invtoolbox.operators import EventWarp
from invtoolbox.priors import AffineFlow
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers import LBFGS

#: Largest number of events of a slice.
MOST = 200_000
#: Fewer events determine no flow: the best contrast is then reached by moving them all to a point.
FEWEST = 200
#: Pixels per event of the first slice that is tried; each further one has twice as many events.
_PIXELS_PER_EVENT = 2
#: Mean length of the flow, in pixels, and contrast relative to still events, from which on the
#: motion within a slice is clear. Events lie on whole pixels, so shorter paths have a direction and
#: a length with errors of several percent.
_CLEAR_LENGTH, _CLEAR_GAIN = 8.0, 1.1
#: Gain of contrast of n events at random by their best affine flow, times the root of n.
_RANDOM_GAIN = 4.0
#: Flows tried at the start lie on a grid up to this share of the shorter side per duration.
_REACH, _TRIED = 0.35, 15
#: Shorter side of the pictures of coarse flows, pixels; their blur, in such pixels; number of
#: reference times; events of the search and of the descent. Under a wider blur, still events are the
#: sharpest if they are few or their brightness changes slowly.
_SIDE, _BLUR, _REFERENCES = 90, 1.5, 5
_SEARCHED, _DESCENDED = 5_000, 20_000


@dataclass(frozen=True, eq=False)
class AffineEstimate:
    """Affine flow of several slices of events.

    Attributes:
        affine: numbers of `priors.AffineFlow`, ``(batch, 2, 3)``, pixels per duration.
        length: mean length of the flow at the events, pixels per duration, ``(batch,)``.
        gain: contrast of the warped events relative to still ones, ``(batch,)``.
        is_clear: whether the gain is larger than that of as many events at random, ``(batch,)``.
    """

    affine: Tensor
    length: Tensor
    gain: Tensor
    is_clear: Tensor


def slice_by_motion(events: Events, most: int = MOST) -> Events:
    """Return the beginning of a recording in which the motion is clear.

    The slice doubles until its affine flow has a mean length of 8 pixels and raises the contrast,
    or until it holds ``most`` events. A rest that is shorter than the slice joins it.

    Args:
        events: the recording.
        most: largest number of events of the slice.

    >>> from invtoolbox.simulation import simulate_events
    >>> recording = simulate_events(seed=3, count=2000).events
    >>> slice_by_motion(recording)
    Events(2,000 in 0.04996 s, 64 x 64 pixels)
    """
    count = max(FEWEST, events.size[0] * events.size[1] // _PIXELS_PER_EVENT)
    while 2 * count < len(events) and count < most:
        first = events[:count]
        if first.duration > 0:
            estimate = affine_estimate([first], iterations=10)
            is_clear = bool(estimate.is_clear) and float(estimate.gain) >= _CLEAR_GAIN
            if is_clear and float(estimate.length) >= _CLEAR_LENGTH:
                return first
        count *= 2
    return events[:most]


def affine_estimate(items: list[Events], iterations: int, progress: bool = False) -> AffineEstimate:
    """Estimate the affine flow of slices of events by the contrast of coarse pictures.

    Args:
        items: slices of one sensor.
        iterations: number of iterations of L-BFGS from the best of 225 constant flows.
        progress: show a progress bar.
    """
    scale = coarse_scale(items[0])
    few = [shrink(thin(item, _SEARCHED), scale) for item in items]
    start = torch.zeros(len(items), 2, 3)
    start[:, :, 0] = _best_constant_flow(few)
    A = EventWarp([shrink(thin(item, _DESCENDED), scale) for item in items], _REFERENCES)
    term = Contrast(blur=_BLUR)
    problem = Problem(A.measurements(), A, term)
    solution = solve(
        problem,
        AffineFlow(),
        LBFGS(),
        initial={"affine": start},
        max_iterations=iterations,
        progress=progress,
        check=False,
    )
    with torch.no_grad():
        gain = (term.contrast(A(solution.x)) / term.contrast(problem.y)).mean(1)
        lengths = A.flow_at(solution.x, A.places, A.times).norm(dim=-1) * A.weights
    count = A.weights.sum(1)
    return AffineEstimate(
        affine=scale * solution.parameters["affine"],
        length=scale * lengths.sum(1) / count,
        gain=gain,
        is_clear=gain > 1 + _RANDOM_GAIN / count.sqrt(),
    )


def coarse_scale(events: Events) -> int:
    """Return the whole number by which the pictures of coarse flows are smaller than the sensor."""
    return max(1, round(min(events.size) / _SIDE))


def thin(events: Events, count: int) -> Events:
    """Return at most ``count`` events, evenly spaced, among them the first and the last one."""
    if len(events) <= count:
        return events
    return events[torch.linspace(0, len(events) - 1, count, dtype=torch.float64).long()]


def shrink(events: Events, scale: int) -> Events:
    """Return the events of a sensor whose pixels are larger by a whole number."""
    if scale == 1:
        return events
    rows, columns = (-(-side // scale) for side in events.size)
    # Pixel centres lie at whole numbers: (p + 1/2) / scale - 1/2.
    places = (events.places + 0.5) / scale - 0.5
    return Events(places, events.times, events.polarity, (rows, columns), events.source)


def _best_constant_flow(items: list[Events]) -> Tensor:
    """Return the best constant flow of each item, ``(batch, 2)``."""
    # An exhaustive search, because the contrast has many local maxima. One reference time is enough,
    # because a constant flow cannot let all events meet at one point.
    A = EventWarp(items, 1, (2, 2, 2))
    y, term = A.measurements(), Contrast(blur=_BLUR)
    best = torch.full((len(items),), torch.inf)
    flow = torch.zeros(len(items), 2)
    speeds = torch.linspace(-_REACH, _REACH, _TRIED) * min(A.size)
    for velocity in torch.cartesian_prod(speeds, speeds):
        x = velocity.view(1, 2, 1, 1, 1).expand(len(items), *A.domain_shape)
        misfit = term.value(A(x), y)
        is_better = misfit < best
        best = torch.where(is_better, misfit, best)
        flow = torch.where(is_better[:, None], velocity, flow)
    return flow
