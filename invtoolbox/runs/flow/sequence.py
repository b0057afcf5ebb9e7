"""The errors of a sweep as plain values, for a result file, and back: of many files, the errors of a whole sequence are made.

How a study keeps the flow of its sweeps: as the files of `invtoolbox.datasets.sweeps.flow_files`, which say whose results they are.

How a sequence of sweeps is opened, in words that can travel: a path, a reader, and its options.

The flow of every sweep of a sequence to the next one: over workers, one result file a sweep, resumed by what is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from invtoolbox.datasets.sweeps.flow_files import (
    Estimate,
    FlowFile,
    read_flow,
    residual_flow,
    write_flow,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep, Sweeps
from invtoolbox.metrics.flow import RangeError
from invtoolbox.metrics.flow_evaluation import FlowErrors, evaluate, pool
from invtoolbox.metrics.flow_scores import BucketedEPE, ThreeWayEPE
from invtoolbox.runs.study.driver import Items, Study, run_study
from invtoolbox.runs.study.scenes import parse_items

_PLAIN = (
    "points",
    "dynamic_points",
    "dynamic",
    "static",
    "epe",
    "strict",
    "relax",
    "outliers",
    "angle",
    "space_time_angle",
)


def facts_of_errors(errors: FlowErrors) -> dict[str, Any]:
    """What JSON can hold; `errors_from_facts` gives the errors back, to the last bit."""
    return {
        **{name: getattr(errors, name) for name in _PLAIN},
        "three_way": {"sums": errors.three_way.sums, "counts": errors.three_way.counts},
        "bucketed": {
            name: getattr(errors.bucketed, name).tolist() for name in ("errors", "speeds", "counts")
        },
        "ranges": [dataclasses.asdict(part) for part in errors.ranges],
    }


def errors_from_facts(facts: Mapping[str, Any]) -> FlowErrors:
    three_way, bucketed = facts["three_way"], facts["bucketed"]
    return FlowErrors(
        **{name: facts[name] for name in _PLAIN},
        three_way=ThreeWayEPE(
            *(tuple(tuple(row) for row in three_way[name]) for name in ("sums", "counts"))
        ),
        bucketed=BucketedEPE(
            torch.tensor(bucketed["errors"], dtype=torch.float64),
            torch.tensor(bucketed["speeds"], dtype=torch.float64),
            torch.tensor(bucketed["counts"], dtype=torch.int64),
        ),
        ranges=tuple(RangeError(**part) for part in facts["ranges"]),
    )


@dataclass(frozen=True, eq=False)
class PairFlow:
    """What came of a pair of sweeps.

    Attributes:
        estimate: the flow, as `motion.estimate` gives it.
        points: of the first sweep, ``(N, 3)``.
        names: of both sweeps.
        facts: what JSON can hold, functions of the pair alone.
    """

    estimate: Estimate
    points: Tensor
    names: tuple[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FlowResults:
    """A `ResultFormat`: one ``.npz`` a sweep, read back as a `FlowFile`.

    >>> FlowResults().suffix
    '.npz'
    """

    suffix: str = ".npz"

    def write(self, path: Path, result: PairFlow, name: str, fingerprint: str) -> Mapping[str, Any]:
        about = {"item": name, "study": fingerprint, "facts": dict(result.facts)}
        write_flow(path, result.estimate, result.points, result.names, overwrite=True, about=about)
        return result.facts

    def facts(self, path: Path, fingerprint: str) -> Mapping[str, Any]:
        about = self.read(path).about  # the archive's checksums are compared as it is read
        if about.get("study") != fingerprint or about.get("item") != path.stem:
            raise InputError(f"{path}: a result of another study, or of another item")
        facts: Mapping[str, Any] = about["facts"]
        return facts

    def read(self, path: Path) -> FlowFile:
        return read_flow(path)


#: The reader of files that describe a street, which is simulated; its options are those of `invtoolbox.simulation.street`.
STREET = "street"


@dataclass(frozen=True)
class SequencePath:
    """Where sweeps are and how they are read; every worker opens them anew by it.

    Attributes:
        path: a folder; or a file, such as the description of a street.
        reader: its name; chosen by what the path holds where None.
        options: of the reader.
    """

    path: Path
    reader: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str | Path, reader: str | None = None, options: Mapping[str, Any] | None = None
    ) -> SequencePath:
        """From a path, or the name of a data set of the catalogue.

        >>> len(SequencePath.of("street", options={"sweeps": 3, "points": 500}).open())
        3
        """
        from invtoolbox import datasets
        from invtoolbox.catalogue import shelves as catalogue
        from invtoolbox.datasets.shelf import sweep_options
        from invtoolbox.datasets.sweeps.opening import SWEEP_PATHS

        path, wanted = Path(name).expanduser(), dict(options or {})
        if not path.exists():
            entry = catalogue.entries("datasets").get(str(name))
            if entry is None:
                raise InputError(
                    f"there is no folder or file {name}, and no data set of that name in the catalogue; `invtoolbox list "
                    "datasets` shows those"
                )
            settings = entry.read()
            reader = reader or settings["reader"]
            if reader == STREET:
                return cls(entry.path, reader, wanted)
            path, wanted = datasets.find_file(str(name)), {**sweep_options(str(name)), **wanted}
        elif path.suffix == ".toml" and reader is None:
            reader = STREET
        for key in SWEEP_PATHS:  # workers may stand in another folder
            if key in wanted and Path(str(wanted[key])).expanduser().exists():
                wanted[key] = str(Path(str(wanted[key])).expanduser().resolve())
        return cls(path.resolve(), reader, wanted)

    def open(self) -> Sweeps:
        """The sweeps; an `InputError` for an option that the reader does not have."""
        from invtoolbox.datasets import open_sweeps

        if self.reader == STREET:
            from invtoolbox.datasets.sweeps.opening import street_of_file

            return street_of_file(self.path, self.options)
        taken = [
            name
            for name in inspect.signature(open_sweeps).parameters
            if name not in ("path", "reader")
        ]
        for key in self.options:
            if key not in taken:
                raise InputError(
                    f"no reader of sweeps has an option {key!r}; there are {', '.join(taken)}"
                )
        return open_sweeps(self.path, self.reader, **self.options)

    def description(self) -> dict[str, Any]:
        """What tells two sequences apart, as plain values; the number of sweeps is not in it, so that a recording may grow."""
        if self.reader == STREET:
            from invtoolbox.datasets.sweeps.opening import street_settings

            return {
                "street": {
                    key: value
                    for key, value in street_settings(self.path, self.options).items()
                    if key != "sweeps"
                }
            }
        return {
            "path": str(self.path),
            "reader": self.reader,
            "options": dict(sorted(self.options.items())),
        }

    def refuse_within(self, place: str | Path) -> None:
        """Refuse a place for results within the recording, which is only read."""
        from invtoolbox.datasets.sweeps.flow_files import refuse_source

        if self.reader != STREET:
            refuse_source(place, self.path)


def open_sequence(opening: SequencePath | Sweeps) -> Sweeps:
    """Sweeps that are open already, or opened by their path."""
    return opening.open() if isinstance(opening, SequencePath) else opening


#: What estimates the flow of a pair: source, target, method, preparation and seed, as `invtoolbox.motion.estimate` takes them.
FlowEstimator = Callable[[Sweep, Sweep, Any, Any, int], Any]


@dataclasses.dataclass(frozen=True)
class FlowStudy(Study):
    """The flow of a sequence: a report a pair of sweeps, and the result files, which are named by the first sweep of each pair.

    ``study[k]`` reads a file again: ``study[k].flow``, and what else a `FlowFile` holds.
    """

    @property
    def seconds(self) -> float | None:
        """The median over the sweeps that were done in this run, reading and writing included; None where all were there."""
        spent = [r.seconds for r in self.reports if r.outcome == "done"]
        return median(spent) if spent else None

    def settings(self) -> dict[str, str]:
        """What was computed, as the folder's ``study.json`` says it."""
        description = json.loads((self.folder / "study.json").read_text(encoding="utf-8"))[
            "description"
        ]
        return {
            key: _words(description[key]) for key in ("sequence", "method", "preparation", "seed")
        }

    def errors(self) -> FlowErrors | None:
        """The errors of all sweeps that have labels, every point weighing the same; None where no sweep has any."""
        found = [
            errors_from_facts(r.facts["errors"]) for r in self.reports if r.facts.get("errors")
        ]
        return pool(found) if found else None


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
) -> FlowStudy:
    """Estimate the flow from every sweep of a sequence to its successor.

    A pair of sweeps is read, estimated and written, and then the next: memory holds one pair a worker. The last sweep has no
    successor, and so no result. A pair whose sweep is damaged, empty or out of place is reported in the study, with a sentence that
    names the file; a bad sweep costs two results, its own and that of the sweep before it. The rest is done.

    Args:
        sweeps: a path or the name of a data set of the catalogue; a `SequencePath`, which says how to read it; or sweeps that are
            open. A path is opened anew by every worker, which sees it under that name; an open sequence travels to the workers, with
            its paths and settings, and without sweeps.
        folder: for the result files, ``NAME.npz`` of the first sweep of each pair; not within the source.
        method: a name, or a method with settings.
        preparation: what is done to the sweeps before; the default one where None.
        workers, cluster, threads: as in `invtoolbox.runs.study.workers.spread`. The files are the same for any number of workers.
        resume: go on from the results in the folder; those that are whole, and of the same settings, are kept.
        overwrite: replace them.
        items: which sweeps: ``"all"``, a slice of Python such as ``"0:100:10"``, numbers joined by commas, or numbers.
        seed: of the draws of the method, the same for every pair.
        estimate: in place of `invtoolbox.motion.estimate`; takes source, target, method, preparation and seed and gives what has the
            fields of a `FlowEstimate`.

    Raises:
        InputError: the sequence has fewer than two sweeps, or cannot be opened; the folder lies in it, or holds other results.
        Interrupted: Ctrl-C; results that are done stay.
    """
    opening: SequencePath | Sweeps = (
        SequencePath.of(sweeps) if isinstance(sweeps, (str, Path)) else sweeps
    )
    opened = open_sequence(opening)
    where = str(opening.path) if isinstance(opening, SequencePath) else type(opened).__name__
    if isinstance(opening, SequencePath):
        opening.refuse_within(folder)
    if isinstance(method, str) and estimate is None:
        from invtoolbox.motion.methods import method_named

        method_named(method)  # an unknown one is refused here, not once a pair
    if len(opened) < 2:
        raise InputError(
            f"{where}: flow goes from one sweep to the next, and there {'is one' if len(opened) else 'is none'}"
        )
    chosen = parse_items(items, len(opened) - 1, f"{where}, whose last sweep has no successor,")
    description = {
        "work": "scene flow",
        "sequence": _described(opening),
        "method": plain(method),
        "preparation": plain(preparation),
        "seed": seed,
        "estimate": ""
        if estimate is None
        else getattr(estimate, "__qualname__", type(estimate).__name__),
    }
    pairs = Items(
        [opened.names[k] for k in chosen],
        lambda n: (opening, chosen[n], estimate, method, preparation, seed),
    )
    study = run_study(
        estimate_pair,
        pairs,
        folder,
        description,
        workers,
        cluster,
        threads,
        resume,
        overwrite,
        progress,
        results=FlowResults(),
    )
    return FlowStudy(study.folder, study.reports, study.results)


def estimate_pair(
    opening: SequencePath | Sweeps,
    index: int,
    estimate: FlowEstimator | None,
    method: Any,
    preparation: Any,
    seed: int,
) -> PairFlow:
    """The flow from a sweep to the next, and its errors where the first one has labels."""
    sweeps = open_sequence(opening)
    source, target = sweeps[index], sweeps[index + 1]
    _check_order(source, target)
    found = (estimate or default_estimate())(source, target, method, preparation, seed)
    # Functions of the pair alone: no seconds, so that a run that was resumed leaves the same files.
    moving = residual_flow(found.flow, source.points, found.ego_motion)[
        found.dynamic & found.valid
    ].norm(dim=1)
    facts: dict[str, Any] = {
        "notes": list(found.notes),
        "source": source.source,
        "target": target.source,
        "moving": len(moving),
        "speed": float(moving.quantile(0.95)) if len(moving) else 0.0,
    }
    if source.labels is not None and source.pose is not None and target.pose is not None:
        facts["errors"] = facts_of_errors(evaluate(found, source, next_pose=target.pose))
    return PairFlow(found, source.points, (sweeps.names[index], sweeps.names[index + 1]), facts)


def default_estimate() -> FlowEstimator:
    """`invtoolbox.motion.estimate`, imported where it is used."""
    from invtoolbox.motion.estimation import estimate

    return estimate


def _check_order(source: Sweep, target: Sweep) -> None:
    if (source.timestamp or target.timestamp) and target.timestamp <= source.timestamp:
        raise InputError(
            f"{target.source}: measured at {target.timestamp:.9g} s, which is not after {source.timestamp:.9g} s of "
            f"{source.source}; sort the sweeps by their time"
        )


def plain(settings: Any) -> Any:
    """Settings as values that JSON can hold and that tell two of them apart."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        fields = {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
        return {"kind": type(settings).__name__, **fields}
    if isinstance(settings, Mapping):
        return {str(key): plain(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [plain(value) for value in settings]
    return (
        settings
        if settings is None or isinstance(settings, (bool, int, float, str))
        else _without_address(settings)
    )


def _described(opening: SequencePath | Sweeps) -> Any:
    if isinstance(opening, SequencePath):
        return opening.description()
    try:
        points = opening[0].points
    except InputError:  # of a damaged sweep the study will say what is wrong
        return {"sweeps": _without_address(opening)}
    return {
        "sweeps": _without_address(opening),
        "first": hashlib.sha256(points.cpu().contiguous().numpy().tobytes()).hexdigest()[:16],
    }


def _without_address(thing: Any) -> str:
    words = repr(thing)
    if " at 0x" not in words:
        return words
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {_words(inner)}"
            for key, inner in value.items()
            if inner not in (None, {}) and key != "kind"
        )
    return str(value)
