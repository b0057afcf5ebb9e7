"""Flow from every sweep of a sequence to the next one, over workers, with one file per sweep."""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.content import digest
from invtoolbox.core.guards import check_range
from invtoolbox.datasets.sweeps.flow_files import residual_flow
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.geometry.sweeps import Sweep, Sweeps
from invtoolbox.jobs.flow.methods import Method, method_named, uses_window
from invtoolbox.jobs.flow.preparation import Preparation
from invtoolbox.jobs.flow.results import FlowResults, FlowStudy, PairFlow, facts_of_errors
from invtoolbox.jobs.flow.source import SequencePath, describe, open_sequence, plain
from invtoolbox.jobs.flow.sweep_window import (
    LONGEST_WINDOW,
    UNREADABLE,
    SweepWindow,
    check_order,
    check_pace,
    settle,
    settle_first,
    settle_vehicle,
)
from invtoolbox.jobs.flow.vehicle import describe_box
from invtoolbox.jobs.study.driver import Items, parse_items, run_study
from invtoolbox.metrics.flow_evaluation import evaluate

#: Estimator of the flow of a pair; it takes source, target, method, preparation and seed, as
#: `invtoolbox.jobs.flow.estimate` does.
FlowEstimator = Callable[[Sweep, Sweep, Any, Any, int], Any]


#: Default number of sweeps of a window.
WINDOW = 5


@naming_arguments
def flow_sequence(
    sweeps: str | Path | SequencePath | Sweeps,
    folder: str | Path,
    method: Any = "default",
    preparation: Any = None,
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    items: str | Sequence[int] = "all",
    seed: int = 0,
    progress: bool = True,
    estimate: FlowEstimator | None = None,
    key: str | None = None,
    window: int = WINDOW,
    latency: int | None = None,
) -> FlowStudy:
    """Estimate the flow from every sweep of a sequence to its successor.

    A sweep is read and prepared once per worker, and its flow is written before the next one is
    estimated, so memory holds one window per worker. A result depends on the sweeps of its window
    alone, and on the sweep before them if sweeps are deskewed. The last sweep has no successor, and
    so no result. A pair with a damaged, empty or misplaced sweep
    is reported in the study, in a sentence that names the file. A bad sweep costs two results, its
    own result and the result of the sweep before it; all other pairs are done, without the bad
    sweep in their windows.

    Args:
        sweeps: a path or the name of a data set of the catalogue; a `SequencePath` with reader and
            options; or open sweeps. Every worker opens a path itself and must see it under that
            name; an open sequence is sent to the workers with its paths and settings, without the
            sweeps.
        folder: folder for the result files, ``NAME.npz`` with the name of the first sweep of each
            pair; it may not lie in the source.
        method: a name, or a method with settings.
        preparation: preparation of the sweeps; None for the default preparation.
        workers: number of processes, as in `invtoolbox.jobs.study.driver.run_study`. The files are
            the same for any number.
        cluster: address of a Dask scheduler, as in `invtoolbox.jobs.study.driver.run_study`.
        threads: number of threads per worker.
        resume: keep the results in the folder that are whole and belong to the same settings; the
            contents of `method` and `estimate` must be equal (`invtoolbox.core.content`). All
            sweeps are read and compared; a pair of which a sweep has changed, or whose window has,
            because the sequence has grown, is estimated anew.
        overwrite: replace the results in the folder.
        items: choice of sweeps: ``"all"``, a slice of Python such as ``"0:100:10"``, numbers joined
            by commas, or numbers.
        seed: seed of the method's draws, the same for every pair.
        progress: show a bar on a terminal.
        estimate: estimator in place of `invtoolbox.jobs.flow.estimate`; it takes source, target,
            method, preparation and seed, and returns an object with the fields of a `FlowEstimate`.
        key: text that stands for `method` and `estimate`, whose contents are then not compared.
        window: number of sweeps that the method may use per pair, 2 to 13: the pair, and the sweeps
            before and after it (`window_of`). Without a latency the window is centred on the source.
            A further sweep that cannot be read is left out, with
            a note. A method without the attribute `window`, and an estimator in place of the
            default one, use the pair alone.
        latency: number of sweeps after the source that its window holds at most, below `window`;
            the files then hold the flow of `FlowStream`. With 0 all but the first sweep are
            estimated from past sweeps alone. None for the centred window.

    Raises:
        InputError: the window is out of bounds; the sequence has fewer than two sweeps, or cannot
            be opened; the folder lies in it, or holds other results.
        Interrupted: Ctrl-C; finished results stay.
    """
    opening: SequencePath | Sweeps = (
        SequencePath.of(sweeps) if isinstance(sweeps, (str, Path)) else sweeps
    )
    opened = open_sequence(opening)
    where = str(opening.path) if isinstance(opening, SequencePath) else type(opened).__name__
    if isinstance(opening, SequencePath):
        opening.refuse_within(folder)
    check_range("flow_sequence", f"[2, {LONGEST_WINDOW}]", window=window)
    # Two sweeps are the pair without further sweeps; the description holds the number that is used.
    estimator = method
    if estimate is not None:
        window, latency = 2, None
    else:
        # An unknown name is refused here, not once per pair.
        estimator = method_named(method) if isinstance(method, str) else method
        if latency is not None:
            window, latency = check_pace(estimator, window, latency)
        window = window if uses_window(estimator) else 2
    if len(opened) < 2:
        raise InputError(
            f"{where}: flow goes from one sweep to the next, and there "
            f"{'is one' if len(opened) else 'is none'}; give a folder or a recording of at least two"
        )

    chosen = parse_items(items, len(opened) - 1, f"{where}, whose last sweep has no successor,")
    # Folders of results without a latency keep their description.
    numbers = {"seed": seed, "window": window, **({} if latency is None else {"latency": latency})}
    description = _describe_work(opening, method, preparation, estimate, numbers, key)
    # A sensor keeps its place in its frame, so it is sought once, in the first sweep that is whole.
    pace, shared = None, preparation
    if estimate is None:
        shared = preparation or Preparation()
        frame, about = settle_first(opened, shared)
        if frame is not None:
            shared, more = settle_vehicle(opened, frame, shared)
            about += more
        pace = Pace(window, latency, frame, about, uuid.uuid4().hex)
    box = None if shared is None else getattr(shared, "vehicle", None)
    # The arguments of a pair are made when it is read, and hold the sequence but no sweep.
    pairs = Items(
        [opened.names[k] for k in chosen],
        lambda n: (opening, chosen[n], estimate, estimator, shared, seed, pace),
    )
    # A sweep is part of several windows and is read once to compare digests.
    look = functools.cache(lambda k: _digest(opened, k))

    def is_current(number: int, facts: Mapping[str, Any]) -> bool:
        # The facts name the sweeps that a result was computed from, with their digests, and the place
        # of the sensor. They differ if a sweep has changed, or if the sequence has grown and the
        # window has moved.
        index, inputs, place = chosen[number], facts.get("inputs", {}), None
        used = {index, index + 1}
        if pace is not None:
            used |= set(pace.numbers(index, len(opened)))
            place = None if pace.frame is None else pace.frame.tolist()
        # The sweep before the window is an input if sweeps are deskewed.
        used |= {k for k in (min(used) - 1,) if k >= 0 and opened.names[k] in inputs}
        is_same = facts.get("sensor_frame") == place
        is_same &= facts.get("vehicle") == (None if box is None else list(box))
        return is_same and inputs == {opened.names[k]: look(k) for k in used}

    study = run_study(
        estimate_pair,
        pairs,
        folder,
        description,
        workers=workers,
        cluster=cluster,
        threads=threads,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        results=FlowResults(),
        is_current=is_current,
    )
    _HELD.__dict__.clear()
    return FlowStudy(study.folder, study.reports, study.results)


def _describe_work(
    opening: SequencePath | Sweeps,
    method: Any,
    preparation: Any,
    estimate: FlowEstimator | None,
    numbers: Mapping[str, int],
    key: str | None,
) -> dict[str, Any]:
    """Return what two runs must have in common for a folder to be resumed.

    `method` in words serves the reports; its digest detects changes that the words do not show.
    """

    def content(name: str, value: Any) -> str:
        remedy = 'give `flow_sequence(..., key="...")` with a key that changes whenever it changes'
        return digest(value, name, remedy=remedy) if key is None else f"key {key}"

    return {
        "work": "scene flow",
        "sequence": describe(opening),
        "method": plain(method),
        "preparation": plain(preparation),
        **numbers,
        "estimate": getattr(estimate, "__qualname__", ""),
        "method_content": content("method", method),
        "estimate_content": content("estimate", estimate),
    }


@dataclass(frozen=True)
class Pace:
    """Windows of a sequence.

    Attributes:
        size: number of sweeps of a window.
        latency: see `flow_sequence`.
        frame: level frame of the sensor, ``(4, 4)``; None if every window has its own.
        notes: notes that every result begins with.
        token: name of the call, by which a worker recognizes the sweeps that it holds.
    """

    size: int
    latency: int | None
    frame: Tensor | None
    notes: tuple[str, ...]
    token: str

    def numbers(self, index: int, count: int) -> list[int]:
        """Return the numbers of the sweeps in the window of a source, ascending.

        Args:
            index: number of the source.
            count: number of sweeps of the sequence.
        """
        if self.latency is None:
            return sorted([index, index + 1, *window_of(index, self.size, count)])
        # The first sweep has no past, so its successor is used.
        last = max(min(index + self.latency, count - 1), 1)
        return list(range(max(last - self.size + 1, 0), last + 1))


def estimate_pair(
    opening: SequencePath | Sweeps,
    index: int,
    estimate: FlowEstimator | None,
    method: Any,
    preparation: Any,
    seed: int,
    pace: Pace | None = None,
) -> PairFlow:
    """Estimate the flow from a sweep to the next one, and its errors against labels.

    Args:
        opening: the sequence.
        index: number of the first sweep.
        estimate: estimator of pairs; None for a method and the windows of `pace`.
        method: argument of the estimator, or the method.
        preparation: argument of the estimator, or settings with the place of the sensor.
        seed: argument of the estimator, or of the method.
        pace: windows of the sequence, for a method.
    """
    sweeps = open_sequence(opening)
    names = (sweeps.names[index], sweeps.names[index + 1])
    if pace is None:
        source, target = sweeps[index], sweeps[index + 1]
        check_order(source, target)
        inputs = dict(zip(names, (digest(source), digest(target))))
        flow = estimate(source, target, method, preparation, seed)  # type: ignore[misc]
        place = None
    else:
        window, numbers = _window(pace, method, preparation, seed), pace.numbers(index, len(sweeps))
        if pace.frame is None:
            # In the frame of a map the sensor moves, and every window has its own place of it.
            frame, notes = settle(sweeps[index], preparation)
            window = SweepWindow(method, preparation, frame, seed, notes)
        window.load(sweeps, numbers)
        source = window.given(index)
        if index + 1 in numbers:
            target = window.given(index + 1)
        else:
            target = sweeps[index + 1]
            window.digests[index + 1] = digest(target)
        flow = window.estimate(index, numbers)
        used = window.used(sorted({index, index + 1, *numbers}))
        inputs = {sweeps.names[k]: window.digests[k] for k in used}
        place = pace.frame
    # The facts depend on the sweeps alone and hold no seconds, so a resumed run leaves the same files.
    # The 95 % quantile of the speeds is not pulled up by a few wrong points, as a maximum is.
    # Lengths are metres from sweep to sweep; rows that are not measurements are NaN.
    residual = residual_flow(flow.flow, source.points, flow.ego_motion)
    moving = residual[flow.dynamic & flow.valid].norm(dim=1)
    facts: dict[str, Any] = {
        "notes": list(flow.notes),
        "inputs": inputs,
        "source": source.source,
        "target": target.source,
        "moving": len(moving),
        "speed": float(moving.quantile(0.95)) if len(moving) else 0.0,
        "sensor_frame": None if place is None else place.tolist(),
    }
    box = getattr(preparation, "vehicle", None)
    if box is not None:
        facts["vehicle"] = list(box)
    # What was decided about the recording is reported, although all sweeps have it in common.
    about = [*source.meta.get("notes", ()), *(() if box is None else (describe_box(box),))]
    if about:
        facts["recording"] = about
    # Errors belong to the residual flow: the poses give the true E, which is removed from the truth
    # and from the estimate.
    if source.labels is not None and source.pose is not None and target.pose is not None:
        facts["errors"] = facts_of_errors(evaluate(flow, source, next_pose=target.pose))
    return PairFlow(flow, source.points, names, facts)


#: Sweeps that this thread holds of the last call of `flow_sequence`, by the token of the call.
_HELD = threading.local()


def _window(pace: Pace, method: Method, preparation: Preparation, seed: int) -> SweepWindow:
    """Return the sweeps that this thread has prepared in the same call, or an empty window."""
    if getattr(_HELD, "token", None) != pace.token:
        _HELD.token = pace.token
        frame = torch.eye(4, dtype=torch.float64) if pace.frame is None else pace.frame
        _HELD.window = SweepWindow(method, preparation, frame, seed, pace.notes)
    return _HELD.window


def _digest(sweeps: Sweeps, index: int) -> str:
    """Return the digest of the content of a sweep; a sweep that cannot be read has its own text."""
    try:
        return digest(sweeps[index])
    except InputError:
        return UNREADABLE


def window_of(index: int, size: int, count: int) -> list[int]:
    """Return the numbers of the further sweeps in the window of a pair.

    The window is centred on the source, with one sweep more after it if the size is even; at the
    ends of the sequence it is moved inside.

    Args:
        index: number of the source, whose successor is the target.
        size: number of sweeps of the window, at least 2.
        count: number of sweeps of the sequence.

    >>> window_of(8, 5, 42)
    [6, 7, 10]
    >>> window_of(0, 5, 42)
    [2, 3, 4]
    """
    # First sweep of the window: (size - 1) // 2 before the source, moved into [0, count - size].
    size = min(size, count)
    first = min(max(index - (size - 1) // 2, 0), count - size)
    return [k for k in range(first, first + size) if k not in (index, index + 1)]
