"""Sweeps that follow each other, each prepared once, and the flow of any of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from invtoolbox.core.content import digest
from invtoolbox.core.guards import check_choice
from invtoolbox.core.pytrees import tree_map
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse
from invtoolbox.geometry.sweeps import Sweep, Sweeps
from invtoolbox.jobs.flow.ego_motion import Deskew, deskewing
from invtoolbox.jobs.flow.estimation import FlowEstimate, estimate_prepared
from invtoolbox.jobs.flow.methods import Method, uses_window
from invtoolbox.jobs.flow.preparation import (
    Preparation,
    PreparedPair,
    PreparedSweep,
    Relation,
    check_sweep,
    from_sensor,
    prepare_sweep,
    relate,
    sensor_frame,
)
from invtoolbox.jobs.flow.vehicle import (
    box_of_points,
    describe_box,
    pairs_of,
    resting,
    vehicle_box,
)
from invtoolbox.jobs.flow.window import Neighbour, describe_window, place

#: Largest number of sweeps of a window.
LONGEST_WINDOW = 13
#: Distance of the sensor from the origin of the points' frame beyond which it is the frame of a map, metres.
_MAP = 10.0
#: Path of the sensor over which its vehicle is sought, metres.
_PATH = 0.3
#: In place of the digest of a sweep.
UNREADABLE = "cannot be read"
_STILL = torch.eye(4, dtype=torch.float64)


@dataclass(eq=False)
class _Entry:
    """Sweep in the frame of its sensor.

    Attributes:
        given: the sweep as it was given.
        sweep: the sweep in the frame of its sensor.
        origin: level frame of the sensor in the frame that the points were given in.
        preparation: settings.
        relation: motion from the sweep before it; None for the first sweep, and after a gap.
        broken: reason of the gap.
        deskew: deskewing by the motion from the sweep before it; after a gap, to the next one.
        notes: notes on the relation.
        about: notes on the preparation.
    """

    given: Sweep
    sweep: Sweep
    origin: Tensor
    preparation: Preparation
    relation: Relation | None = None
    broken: InputError | None = None
    deskew: Deskew | None = None
    notes: list[str] = field(default_factory=list)
    about: list[str] = field(default_factory=list)

    @cached_property
    def prepared(self) -> PreparedSweep:
        """The prepared sweep, with its trees, heights and normals."""
        return prepare_sweep(self.sweep, self.origin, self.deskew, self.preparation, self.about)


class SweepWindow:
    """The last sweeps of a sequence by their numbers.

    The preparation of a sweep depends on this sweep and the one before it, or the one after it if
    there is none before. So a result is a function of the sweeps of its window, and of the sweep
    before them if the sweeps are deskewed, in whatever order results are asked for.

    Args:
        method: the method.
        preparation: settings.
        frame: level frame of the sensor, ``(4, 4)``, see `settle`.
        seed: seed of the method's draws.
        notes: notes that every result begins with.
        device: device that the method computes on.
    """

    def __init__(
        self,
        method: Method,
        preparation: Preparation,
        frame: Tensor,
        seed: int = 0,
        notes: Sequence[str] = (),
        device: torch.device | str | None = None,
    ) -> None:
        self.method, self.preparation, self.seed = method, preparation, seed
        self.frame, self.notes, self.device = frame, tuple(notes), device
        self._entries: dict[int, _Entry] = {}
        #: Reasons why sweeps could not be added, and digests of those that were read, by number.
        self.refused: dict[int, InputError] = {}
        self.digests: dict[int, str] = {}

    def given(self, number: int) -> Sweep:
        """Return a sweep as it was given.

        Raises:
            InputError: it could not be added.
        """
        return self._entry(number).given

    def period(self, source: int) -> float:
        """Return the seconds to the next sweep, or those since the last one if there is none."""
        later = self._entries.get(source + 1) or self._entries[source]
        assert later.relation is not None
        return later.relation.period

    def load(self, sweeps: Sweeps, numbers: Sequence[int]) -> None:
        """Read the sweeps of a window that are not held yet, and forget all others.

        Args:
            sweeps: the sequence.
            numbers: ascending numbers of the sweeps.
        """
        first, last = numbers[0], numbers[-1]
        if self._entries and min(self._entries) > first:
            self._entries.clear()
        self.keep(first, last)
        for k in range(first, last + 1):
            if k in self._entries or k in self.refused:
                continue
            sweep = self._read(sweeps, k)
            if sweep is None:
                continue
            # The first sweep is deskewed by its motion from the sweep before the window.
            if k == first > 0 and deskewing(sweep, _STILL, 1.0, self.preparation.deskew)[0]:
                before = self._read(sweeps, k - 1)
                if before is not None:
                    self._try(k - 1, before)
            self._try(k, sweep)
        self._entries.pop(first - 1, None)

    def used(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers of a window, and first the sweep before it if it was used."""
        first = self._entries.get(numbers[0])
        depends = first is not None and first.relation is not None and first.deskew is not None
        return [*([numbers[0] - 1] if depends else []), *numbers]

    def _read(self, sweeps: Sweeps, number: int) -> Sweep | None:
        try:
            sweep = sweeps[number]
        except InputError as error:
            self.refused[number], self.digests[number] = error, UNREADABLE
            return None
        if number not in self.digests:
            self.digests[number] = digest(sweep)
        return sweep

    def _try(self, number: int, sweep: Sweep) -> None:
        try:
            self.add(number, sweep)
        except InputError as error:
            self.refused[number] = error

    def _entry(self, number: int) -> _Entry:
        if number not in self._entries:
            raise self.refused.get(number) or InputError(f"sweep {number} is missing")
        return self._entries[number]

    def add(self, number: int, sweep: Sweep) -> None:
        """Add the sweep of a number, and relate it to the sweep before it, if that is present.

        Raises:
            InputError: the sweep holds no usable points.
        """
        sweep = tree_map(lambda tensor: tensor.cpu(), sweep)
        entry = _Entry(sweep, from_sensor(sweep, self.frame), self.frame, self.preparation)
        check_sweep(entry.sweep)
        before = self._entries.get(number - 1)
        if before is not None:
            # Two sweeps that do not belong together are a gap, which no window crosses.
            try:
                check_order(before.sweep, sweep)
                entry.relation = relate(before.sweep, entry.sweep, self.preparation, entry.notes)
                entry.deskew = entry.relation.deskews[1]
                if before.relation is None:
                    before.deskew = entry.relation.deskews[0]
            except InputError as error:
                entry.broken = error
        self._entries[number] = entry

    def check(self, number: int) -> None:
        """Prepare a sweep that follows another one.

        Raises:
            InputError: the two do not belong together, or no point of the sweep can be used.
        """
        entry = self._entries[number]
        if entry.broken is not None:
            raise entry.broken
        if entry.relation is not None:
            _ = entry.prepared

    def keep(self, first: int, last: int) -> None:
        """Forget the sweeps whose numbers are outside of a range."""
        self._entries = {k: entry for k, entry in self._entries.items() if first <= k <= last}
        self.refused = {k: error for k, error in self.refused.items() if first <= k <= last}
        self.digests = {k: text for k, text in self.digests.items() if first - 1 <= k <= last}

    def estimate(self, source: int, numbers: Sequence[int]) -> FlowEstimate:
        """Estimate the flow of a sweep to the next one.

        Args:
            source: number of the sweep.
            numbers: ascending numbers of the sweeps of the window, some of which may be missing. If
                the next sweep is not among them, the sensor is taken to move on as it did since
                the last sweep, and bodies are continued by their tracks.

        Raises:
            InputError: the sweep has no neighbour, or does not belong to its neighbour.
        """
        here = self._entry(source)
        there = self._entry(source + 1) if source + 1 in numbers else None
        later = here if there is None else there
        if later.relation is None:
            raise later.broken or InputError(
                f"{later.sweep.source} has no sweep before it, from which it could be known what moves"
            )
        relation, E = later.relation, later.relation.ego_motion
        # The frame belongs to the next sweep, and E_k moves the frame k - 1 to the frame k.
        placed = {source: E, source + 1: _STILL}
        for k in range(source, numbers[0], -1):
            motion = self._motion(k)
            if motion is None:
                break
            placed[k - 1] = placed[k] @ motion
        for k in range(source + 2, numbers[-1] + 1):
            motion = self._motion(k)
            if motion is None:
                break
            placed[k] = placed[k - 1] @ inverse(motion)
        pair = PreparedPair(
            here.prepared, None if there is None else there.prepared, E, (), relation.period
        )
        notes = [*self.notes, *later.notes, *here.about, *(there.about if there else ())]
        neighbours = []
        for k in (k for k in numbers if k not in (source, source + 1)):
            try:
                neighbours.append(self._place(k, here, placed, relation.period))
            except InputError as error:
                notes.append(f"left out of the window: {error}")
        notes += describe_window(neighbours, 0 if there is None else 1)
        pair = replace(pair, notes=tuple(notes))
        return estimate_prepared(pair, neighbours, self.method, self.seed, self.device)

    def _motion(self, number: int) -> Tensor | None:
        """Return the motion from the frame of the sweep before; None after a gap."""
        entry = self._entries.get(number)
        relation = None if entry is None or number - 1 not in self._entries else entry.relation
        return None if relation is None else relation.ego_motion

    def _place(
        self, number: int, here: _Entry, placed: dict[int, Tensor], period: float
    ) -> Neighbour:
        """Return a sweep of the window in the frame of the pair."""
        entry = self._entry(number)
        if number not in placed:
            raise entry.broken or InputError(
                f"{entry.sweep.source} and {here.sweep.source} are on two sides of a gap"
            )
        step = (entry.sweep.timestamp - here.sweep.timestamp) / period
        if step == 0:
            raise InputError(f"{entry.sweep.source} has no timestamp")
        return place(entry.prepared.cloud, step, placed[number])


def check_order(source: Sweep, target: Sweep) -> None:
    """Raise `InputError` unless the second sweep is later, or both have no time."""
    # Two zeros mean that there are no timestamps.
    if (source.timestamp or target.timestamp) and target.timestamp <= source.timestamp:
        raise InputError(
            f"{target.source}: measured at {target.timestamp:.9g} s, which is not after "
            f"{source.timestamp:.9g} s of {source.source}; sort the sweeps by their time"
        )


def check_pace(method: Method, window: int, latency: int) -> tuple[int, int]:
    """Return the number of sweeps that a method uses, and the latency.

    Raises:
        InputError: one of them is out of bounds, or the method needs the next sweep.
    """
    check_choice("FlowStream", range(2, LONGEST_WINDOW + 1), window=window)
    check_choice("FlowStream", range(int(window)), latency=latency)
    if latency == 0 and not getattr(method, "predicts", False):
        raise InputError(f"{method!r} compares a sweep with the next one; give latency=1, or more")
    return (window, latency) if uses_window(method) else (2, 1)


def settle_first(sweeps: Sweeps, preparation: Preparation) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the level frame of the sensor in the first sweep that can be used, and notes.

    None if no sweep can be used, or if the points are in the frame of a map, in which the sensor
    moves.
    """
    for k in range(len(sweeps)):
        try:
            sweep = sweeps[k]
            check_sweep(sweep)
        except InputError:
            continue
        frame, notes = settle(sweep, preparation)
        return (None, ()) if in_map(frame, preparation) else (frame, notes)
    return None, ()


def settle(sweep: Sweep, preparation: Preparation) -> tuple[Tensor, tuple[str, ...]]:
    """Return the level frame of the sensor for all its sweeps, float64 ``(4, 4)``, and notes.

    Args:
        sweep: a sweep, the first one that can be used.
        preparation: settings.
    """
    notes: list[str] = []
    return sensor_frame(sweep, preparation, notes), tuple(notes)


def settle_vehicle(
    sweeps: Sweeps, frame: Tensor, preparation: Preparation
) -> tuple[Preparation, tuple[str, ...]]:
    """Return the preparation with the box of the sensor's vehicle, and notes.

    Pairs at three places of the sequence are compared; the box of the first pair that shows a
    vehicle holds for all sweeps.

    Args:
        sweeps: the sequence.
        frame: level frame of the sensor.
        preparation: settings; a box that is given stays.
    """
    if preparation.vehicle is not None:
        return preparation, ()
    for k in pairs_of(sweeps):
        try:
            box, path = _vehicle_of(sweeps, frame, preparation, k, k + 1)
            # A slow sensor is compared with its place some sweeps later.
            later = k + math.ceil(_PATH / path) if 0 < path < _PATH else 0
            if box is None and k + 1 < later < min(len(sweeps), k + LONGEST_WINDOW):
                box, path = _vehicle_of(sweeps, frame, preparation, k, later)
        except InputError:
            continue
        if box is not None:
            corners = box_of_points(box, frame)
            return replace(preparation, vehicle=corners), (describe_box(corners),)
        if math.isinf(path):
            break
    return preparation, ()


def _vehicle_of(
    sweeps: Sweeps, frame: Tensor, preparation: Preparation, k: int, later: int
) -> tuple[Tensor | None, float]:
    """Return the box of the vehicle by two sweeps, or None, and the path of the sensor, metres.

    The path is infinite if nothing near the sensor rests in its frame.
    """
    source, target = (from_sensor(sweeps[n], frame) for n in (k, later))
    points = resting(source, target, preparation.ground_settings)
    if not len(points):
        return None, math.inf
    E = relate(source, target, preparation, []).ego_motion
    return vehicle_box(points, E), float(inverse(E)[:2, 3].norm())


def in_map(frame: Tensor, preparation: Preparation) -> bool:
    """Return whether a sensor was found so far away that the points are in a map's frame."""
    return preparation.sensor_origin is None and float(frame[:2, 3].norm()) > _MAP
