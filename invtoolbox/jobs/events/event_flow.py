"""Flow and camera motion from events, of one slice or of the clear slices of a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.short_text import ShortText
from invtoolbox.data_terms import Contrast
from invtoolbox.data_terms.contrast import gaussian_blur
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.geometry import CameraMotion, Events, camera_motion
from invtoolbox.jobs.normals.checks import check_intrinsics
from invtoolbox.operators import EventWarp
from invtoolbox.priors import AffineFlow, CameraFlow, FlowSpline
from invtoolbox.priors.implicit.affine_flow import spline_of_affine
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import LBFGS, Adam

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


#: Grid of the flow between which it is linear, (times, rows, columns).
_GRID = (5, 17, 17)
#: Share of the iterations of the affine flow, and of each later stage: blur in pixels, number of
#: reference times, largest number of events, learning rate in pixels per duration, and share of the
#: iterations. More times keep the flow from bending at the ends of the slice. The contrast of few
#: events has many small local maxima, over which Adam goes and in which L-BFGS stays.
_AFFINE_SHARE = 0.15
_STAGES = ((1.0, 5, 25_000, 0.3, 0.5), (0.7, 9, 50_000, 0.15, 0.35))
#: Contrast of the warped events relative to still ones, below which nothing was found to move.
_LEAST_GAIN = 1.1
#: Smaller over larger eigenvalue of the structure tensor of the warped events, below which all edges
#: are parallel, so that the motion along them leaves no trace, and the blur of their picture, pixels.
_PARALLEL, _PARALLEL_BLUR = 0.1, 2.0
#: Error of the flow relative to its root mean square, within which a rotation may explain it.
_ACCURACY = 0.25


@dataclass(frozen=True, eq=False, repr=False)
class EventFlow(ShortText):
    """Flow and motion of a camera, found from its events; one entry per item of a batch.

    Attributes:
        flow: flow in the middle of the time, ``(batch, rows, columns, 2)``, pixels per second,
            columns first.
        twist: velocity v of the camera, of unit length, and its rate of rotation w in radians per
            second, both in its own frame, at K times from the first event to the last one,
            ``(batch, K, 6)``; v is 0 if the camera only turns. The length of v is not determined.
        status: status of each item, of the last stage; "undetermined" if warping hardly raises the
            contrast, so that the flow is 0, or if all edges are parallel, so that the flow is the
            part across them.
        notes: remarks, one sentence each.
        solution: solution of the last stage; its x is the flow on the grid of `operators.EventWarp`
            in pixels per duration.
        operator: pictures of all events of the slices.
        durations: duration of the slice of each item, seconds.
        gain: contrast of the warped events relative to still ones, ``(batch,)``.
        slices: the events that were used, of each item.
        recordings: the events that were given, of each item.
    """

    flow: Tensor
    twist: Tensor
    status: tuple[str, ...]
    notes: tuple[str, ...]
    solution: Solution
    operator: EventWarp
    durations: tuple[float, ...]
    gain: Tensor
    slices: tuple[Events, ...]
    recordings: tuple[Events, ...]

    def at_events(self, item: int = 0) -> Tensor:
        """Return the flow at every given event of an item, ``(N, 2)``, pixels per second.

        After the slice, the flow stays as at its end.

        Args:
            item: number of the item.
        """
        recording, begin = self.recordings[item], float(self.slices[item].times[0])
        times = ((recording.times - begin) / self.durations[item]).float()
        x = self.solution.x[item : item + 1]
        places = recording.places.to(x)
        return self.operator.flow_at(x, places[None], times.to(x)[None])[0] / self.durations[item]

    def pictures(self) -> tuple[Tensor, Tensor]:
        """Return the pictures of still and of warped events, ``(batch, rows, columns)`` each.

        The warped events meet in the middle of the time. The margin is cut off.
        """
        A = self.operator
        middle = A.subset(torch.tensor([len(A.references) // 2]))
        with torch.no_grad():
            pair = middle.measurements(), middle(self.solution.x)
        rows, columns = A.size
        inner = (slice(A.margin, A.margin + rows), slice(A.margin, A.margin + columns))
        still, warped = (picture[:, 0, 0][(slice(None), *inner)] for picture in pair)
        return still, warped


@naming_arguments
def event_flow(
    events: Events | Sequence[Events],
    camera: Any,
    *,
    controls: tuple[int, int, int] = (4, 5, 5),
    smooth: tuple[float, float] = (0.1, 1e-4),
    epipolar: float = 0.05,
    iterations: int = 200,
    most: int = MOST,
    progress: bool = False,
) -> EventFlow:
    r"""Estimate the flow of the picture and the motion of the camera from the events of a camera.

    Of a recording, the first slice is taken in which the motion is clear (`slice_by_motion`); a
    shorter one is taken as it is. The flow, a spline in time and place, maximizes the contrast of
    pictures of the events that it carries to several times (`operators.EventWarp`,
    `data_terms.Contrast`). The start is an affine flow, found from the best of 225 constant flows in
    coarse pictures of few events. The motion of the camera is fitted to the flow
    (`geometry.camera_motion`), and both are then refined together under the epipolar constraint
    (`priors.CameraFlow`).

    Args:
        events: a recording, or a slice in which the picture moves by a few pixels up to a third of
            its side; or a list of them of one sensor, a batch.
        camera: matrix of the intrinsics ``(3, 3)``, pixels, with the centre of the first pixel at
            (0, 0). Events of a lens with distortion are undistorted first
            (``events.undistort(K, lens)``).
        controls: number of control points of the flow in time, rows and columns.
        smooth: weights of second differences of the control points in time and in place.
        epipolar: weight of the squared distances from the epipolar lines; 0 leaves the flow alone,
            and the motion of the camera is fitted to it.
        iterations: number of iterations of all stages together.
        most: largest number of events of the slice.
        progress: show a progress bar.

    Raises:
        InputError: no camera, fewer than 200 events, events at one time, or intrinsics of another
            sensor.

    >>> from invtoolbox.simulation import simulate_events
    >>> simulated = simulate_events(seed=3, count=500)
    >>> found = event_flow(simulated.events, simulated.intrinsics, iterations=6)
    >>> found.flow.shape, found.twist.shape
    (torch.Size([1, 64, 64, 2]), torch.Size([1, 5, 6]))
    """
    recordings = [events] if isinstance(events, Events) else list(events)
    K = _check(recordings, camera)
    check_range("event_flow", f"[{FEWEST}, inf)", most=most)
    items = [slice_by_motion(recording, most) for recording in recordings]
    # Maximize the contrast of the warped events, coarse to fine. The last stage, if it has an
    # epipolar term, finds flow and twist together.
    estimate = affine_estimate(items, max(1, round(_AFFINE_SHARE * iterations)), progress)
    prior: FlowSpline = FlowSpline(controls, smooth)
    start = {"controls": spline_of_affine(estimate.affine, controls)}
    solution: Solution | None = None
    for blur, references, count, rate, share in _STAGES:
        A = EventWarp([thin(item, count) for item in items], references, _GRID)
        problem = Problem(A.measurements(), A, Contrast(blur=blur))
        if solution is not None and epipolar > 0:
            motions = [_fit(A, solution.x, K, k) for k in range(len(items))]
            prior = CameraFlow(
                controls,
                smooth,
                K.float(),
                torch.stack([_ahead_if_unknown(motion) for motion in motions]).float(),
                epipolar * torch.tensor([float(not motion.turns_only) for motion in motions]),
            )
            start["twist"] = prior.twist[:, None].repeat(1, controls[0], 1)
        solution = solve(
            problem,
            prior,
            Adam(learning_rate=rate, iterate="average"),
            initial=start,
            max_iterations=max(1, round(share * iterations)),
            progress=progress,
            check=False,
        )
        start = {"controls": solution.parameters["controls"]}
    assert solution is not None
    return _result(
        recordings, items, problem, solution, prior=prior, K=K, is_clear=estimate.is_clear
    )


def _check(items: list[Events], camera: Any) -> Tensor:
    """Return the intrinsics, after checks of the events and of the camera."""
    if camera is None:
        raise InputError(
            "no camera: event_flow needs the intrinsics (3, 3) in pixels, because events alone do "
            "not tell how far the camera turns; give camera=K, or --camera K.txt"
        )
    if not items:
        raise InputError("event_flow takes at least one slice of events, got none")
    for item in items:
        if not isinstance(item, Events):
            raise InputError(
                f"event_flow takes it.geometry.Events, got {type(item).__name__}; "
                "it.datasets.read_events reads a file"
            )
        if len(item) < FEWEST:
            raise InputError(
                f"{item.source}: {len(item)} events, and a flow takes at least {FEWEST}, because "
                "fewer have the best contrast when all of them move to one point"
            )
        if item.size != items[0].size:
            raise InputError(
                f"{item.source}: a sensor of {item.size[0]} rows and {item.size[1]} columns in a "
                f"batch of {items[0].size[0]} and {items[0].size[1]}; use one sensor"
            )
    K, _ = check_intrinsics(camera, *items[0].size)
    if K is None:
        raise InputError("the camera is a matrix of intrinsics (3, 3), got one number")
    return K


def _fit(A: EventWarp, x: Tensor, K: Tensor, item: int) -> CameraMotion:
    """Fit the motion of the camera, per duration, to the flow in the middle of the time."""
    places, flow = _flow_in_the_middle(A, x[item : item + 1], max(1, min(A.size) // 24))
    # To focal length 1: rays K^-1 (column, row, 1), and their motion K^-1 (u_column, u_row, 0).
    inverse = torch.linalg.inv(K)
    pixels = torch.cat([places.double(), torch.ones(len(places), 1, dtype=torch.float64)], 1)
    rays = (pixels @ inverse.T)[:, :2]
    return camera_motion(rays, flow.double() @ inverse[:2, :2].T, _ACCURACY)


def _flow_in_the_middle(A: EventWarp, x: Tensor, every: int = 1) -> tuple[Tensor, Tensor]:
    """Return pixels, columns first, and the flow of one item there, per duration, ``(N, 2)`` both."""
    axes = [torch.arange(every // 2, side, every) for side in A.size]
    row, column = torch.meshgrid(*axes, indexing="ij")
    places = torch.stack([column, row], -1).flatten(0, 1).to(x)
    times = torch.full((1, len(places)), 0.5).to(x)
    return places, A.flow_at(x, places[None], times)[0]


def _ahead_if_unknown(motion: CameraMotion) -> Tensor:
    """Return the twist, with a velocity along the axis if the camera only turns."""
    if not motion.turns_only:
        return motion.twist
    return torch.cat([motion.twist.new_tensor([0.0, 0.0, 1.0]), motion.twist[3:]])


def _result(
    recordings: list[Events],
    items: list[Events],
    problem: Problem,
    solution: Solution,
    prior: FlowSpline,
    K: Tensor,
    is_clear: Tensor,
) -> EventFlow:
    A = EventWarp(items, _STAGES[-1][1], _GRID)
    durations = tuple(item.duration for item in items)
    names = [f"item {k}: " if len(items) > 1 else "" for k in range(len(items))]
    solution, gain, notes = _determined(A, solution, is_clear, names)
    motions = [_fit(A, solution.x, K, k) for k in range(len(items))]
    twists, flows = [], []
    refined: Tensor | None = None
    if isinstance(prior, CameraFlow):
        refined = prior.prepare(problem, solve).twists(solution.parameters, _GRID[0])
    for k, (motion, duration) in enumerate(zip(motions, durations)):
        _, flow = _flow_in_the_middle(A, solution.x[k : k + 1])
        flows.append(flow.view(*A.size, 2) / duration)
        twist = motion.twist.to(flow).expand(_GRID[0], 6)
        if refined is not None and not motion.turns_only:
            twist = refined[k]
        # From per duration to per second; the velocity keeps its unit length.
        twists.append(torch.cat([twist[:, :3], twist[:, 3:] / duration], 1))
        if motion.turns_only and bool(solution.x[k].any()):
            notes.append(
                f"{names[k]}a rotation explains the flow to within its errors, so the velocity of "
                "the camera is not determined and is 0"
            )
        if len(recordings[k]) > len(items[k]):
            notes.append(
                f"{names[k]}the slice holds the first {len(items[k]):,} of "
                f"{len(recordings[k]):,} events, {duration:.4g} s, in which the motion is clear; "
                "cut the recording to choose another slice"
            )
    return EventFlow(
        flow=torch.stack(flows),
        twist=torch.stack(twists),
        status=solution.status,
        notes=(*(note for item in items for note in item.notes), *notes, *solution.notes),
        solution=solution,
        operator=A,
        durations=durations,
        gain=gain,
        slices=tuple(items),
        recordings=tuple(recordings),
    )


def _determined(
    A: EventWarp, solution: Solution, is_clear: Tensor, names: list[str]
) -> tuple[Solution, Tensor, list[str]]:
    """Return the solution without the part of the flow that the events leave open.

    Also return the contrast of the warped events relative to still ones, ``(batch,)``, and notes.
    """
    x, notes, status = solution.x.clone(), [], list(solution.status)
    term = Contrast(blur=1.0)
    with torch.no_grad():
        pictures = A(x)
        gain = (term.contrast(pictures) / term.contrast(A.measurements())).mean(1)
    middle = gaussian_blur(pictures[:, 0, A.blocks // 2], _PARALLEL_BLUR)
    if A.margin:
        # Outside of the sensor there are no events, and its border is no edge.
        middle = middle[:, A.margin : -A.margin, A.margin : -A.margin]
    for k, (name, factor) in enumerate(zip(names, gain.tolist())):
        if factor < _LEAST_GAIN or not bool(is_clear[k]):
            x[k], status[k] = 0.0, "undetermined"
            notes.append(
                f"{name}warping raises the contrast of the events {factor:.2f}-fold, not clearly more "
                "than that of events at random, so nothing moves, or too little or too much for one "
                "slice, and the flow is 0; take a longer or a shorter slice"
            )
            continue
        # Structure tensor of the warped events: the mean of the outer products of its gradient.
        down, across = torch.gradient(middle[k].double())
        slopes = torch.stack([across.flatten(), down.flatten()])
        values, vectors = torch.linalg.eigh(slopes @ slopes.T)
        if float(values[0]) < _PARALLEL * float(values[1]):
            normal = vectors[:, 1].to(x)
            x[k] = torch.tensordot(torch.outer(normal, normal), x[k], 1)
            status[k] = "undetermined"
            angle = float(torch.rad2deg(torch.atan2(normal[0], -normal[1]))) % 180
            notes.append(
                f"{name}all edges are parallel, at {angle:.0f} degrees from the rows, so the motion "
                "along them leaves no trace, and the flow is the part across them; take a slice "
                "that shows corners"
            )
    return replace(solution, x=x, status=tuple(status)), gain, notes
