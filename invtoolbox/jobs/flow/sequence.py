"""Flow from every sweep of a sequence to the next one, over workers, with one file per sweep."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from invtoolbox.core.content import digest
from invtoolbox.core.guards import check_range
from invtoolbox.datasets.sweeps.flow_files import residual_flow
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep, Sweeps
from invtoolbox.jobs.flow.results import FlowResults, FlowStudy, PairFlow, facts_of_errors
from invtoolbox.jobs.flow.source import SequencePath, describe, open_sequence, plain
from invtoolbox.jobs.study.driver import Items, parse_items, run_study
from invtoolbox.metrics.flow_evaluation import evaluate

#: Estimator of the flow of a pair; it takes source, target, method, preparation and seed, as
#: `invtoolbox.jobs.flow.estimate` does.
FlowEstimator = Callable[[Sweep, Sweep, Any, Any, int], Any]


#: In place of the digest of a sweep.
_UNREADABLE = "cannot be read"

#: Default number of sweeps of a window, and the largest number.
WINDOW, LONGEST_WINDOW = 5, 13


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
) -> FlowStudy:
    """Estimate the flow from every sweep of a sequence to its successor.

    A pair of sweeps with its window is read, estimated and written before the next pair is read, so
    memory holds one window per worker, and a result depends on the sweeps of its window alone. The
    last sweep has no successor, and so no result. A pair with a damaged, empty or misplaced sweep
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
            before and after it (`window_of`). A further sweep that cannot be read is left out, with
            a note. A method without the attribute `window`, and an estimator in place of the
            default one, use the pair alone.

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
    if estimate is not None:
        window = 2
    else:
        from invtoolbox.jobs.flow.methods import method_named, uses_window

        # An unknown name is refused here, not once per pair.
        estimator = method_named(method) if isinstance(method, str) else method
        window = window if uses_window(estimator) else 2
    if len(opened) < 2:
        raise InputError(
            f"{where}: flow goes from one sweep to the next, and there "
            f"{'is one' if len(opened) else 'is none'}"
        )

    # A folder is resumed only with an equal description. `method` in words serves the reports, its
    # digest detects changes that the words do not show.
    def content(name: str, value: Any) -> str:
        remedy = 'give `flow_sequence(..., key="...")` with a key that changes whenever it changes'
        return digest(value, name, remedy=remedy) if key is None else f"key {key}"

    chosen = parse_items(items, len(opened) - 1, f"{where}, whose last sweep has no successor,")
    description = {
        "work": "scene flow",
        "sequence": describe(opening),
        "method": plain(method),
        "preparation": plain(preparation),
        "seed": seed,
        "window": window,
        "estimate": getattr(estimate, "__qualname__", ""),
        "method_content": content("method", method),
        "estimate_content": content("estimate", estimate),
    }
    # The arguments of a pair are made when it is read, and hold the sequence but no sweep.
    pairs = Items(
        [opened.names[k] for k in chosen],
        lambda n: (opening, chosen[n], estimate, method, preparation, seed, window),
    )
    # A sweep is part of several windows and is read once to compare digests.
    look = functools.cache(lambda k: _digest_and_time(opened, k))

    def is_current(number: int, facts: Mapping[str, Any]) -> bool:
        # The facts name the sweeps that a result was computed from, with their digests. They differ
        # if a sweep has changed, or if the sequence has grown and the window has moved.
        index = chosen[number]
        used = [index, index + 1]
        if window > 2 and look(index)[1] != look(index + 1)[1]:
            used += window_of(index, window, len(opened))
        return facts.get("inputs") == {opened.names[k]: look(k)[0] for k in used}

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
    return FlowStudy(study.folder, study.reports, study.results)


def estimate_pair(
    opening: SequencePath | Sweeps,
    index: int,
    estimate: FlowEstimator | None,
    method: Any,
    preparation: Any,
    seed: int,
    window: int = 2,
) -> PairFlow:
    """Estimate the flow from a sweep to the next one, and its errors against labels.

    Args:
        opening: the sequence.
        index: number of the first sweep.
        estimate: estimator; None for `invtoolbox.jobs.flow.estimate`.
        method: argument of the estimator.
        preparation: argument of the estimator.
        seed: argument of the estimator.
        window: number of sweeps of the window, for `invtoolbox.jobs.flow.estimate`.
    """
    sweeps = open_sequence(opening)
    source, target = sweeps[index], sweeps[index + 1]
    _check_order(source, target)
    notes: list[str] = []
    names = (sweeps.names[index], sweeps.names[index + 1])
    inputs = dict(zip(names, (digest(source), digest(target))))
    if estimate is None:
        from invtoolbox.jobs.flow import estimation

        further = []
        if window > 2 and source.timestamp == target.timestamp:
            # Equal times are no times, and a window places its sweeps by theirs.
            notes.append("no window, because the sweeps have no timestamps")
        elif window > 2:
            further = _read_further(sweeps, window_of(index, window, len(sweeps)), notes, inputs)
        flow = estimation.estimate(source, target, method, preparation, seed, window=further)
    else:
        flow = estimate(source, target, method, preparation, seed)
    # The facts depend on the pair alone and hold no seconds, so a resumed run leaves the same
    # files.
    # The 95 % quantile of the speeds is not pulled up by a few wrong points, as a maximum is.
    # Lengths are metres from sweep to sweep; rows that are not measurements are NaN.
    residual = residual_flow(flow.flow, source.points, flow.ego_motion)
    moving = residual[flow.dynamic & flow.valid].norm(dim=1)
    facts: dict[str, Any] = {
        "notes": [*flow.notes, *notes],
        "inputs": inputs,
        "source": source.source,
        "target": target.source,
        "moving": len(moving),
        "speed": float(moving.quantile(0.95)) if len(moving) else 0.0,
    }
    # Errors are those of the residual flow: the poses give the true E, which is removed from the truth
    # and from the estimate.
    if source.labels is not None and source.pose is not None and target.pose is not None:
        facts["errors"] = facts_of_errors(evaluate(flow, source, next_pose=target.pose))
    return PairFlow(flow, source.points, names, facts)


def _digest_and_time(sweeps: Sweeps, index: int) -> tuple[str, float]:
    """Return the digest of the content of a sweep and its time.

    A sweep that cannot be read has a text of its own.
    """
    try:
        sweep = sweeps[index]
    except InputError:
        return _UNREADABLE, -1.0
    return digest(sweep), sweep.timestamp


def _read_further(
    sweeps: Sweeps, numbers: Sequence[int], notes: list[str], inputs: dict[str, str]
) -> list[Sweep]:
    """Read the further sweeps of a window, and add their digests to `inputs`.

    A note is added for those that cannot be read.
    """
    further = []
    for k in numbers:
        # An unreadable sweep counts as such, so that the pair is done anew when it can be read.
        try:
            further.append(sweeps[k])
            inputs[sweeps.names[k]] = digest(further[-1])
        except InputError as error:
            notes.append(f"left out of the window: {error}")
            inputs[sweeps.names[k]] = _UNREADABLE
    return further


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


def _check_order(source: Sweep, target: Sweep) -> None:
    # Two zeros mean that there are no timestamps.
    if (source.timestamp or target.timestamp) and target.timestamp <= source.timestamp:
        raise InputError(
            f"{target.source}: measured at {target.timestamp:.9g} s, which is not after "
            f"{source.timestamp:.9g} s of {source.source}; sort the sweeps by their time"
        )
