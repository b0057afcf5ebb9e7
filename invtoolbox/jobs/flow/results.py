"""Results of the flow of a sequence: one file per pair with its errors, and a study."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from invtoolbox.datasets.sweeps.flow_files import Estimate, FlowFile, read_flow, write_flow
from invtoolbox.errors import InputError
from invtoolbox.jobs.job import read_json
from invtoolbox.jobs.study.driver import Study
from invtoolbox.metrics import BucketedEPE, FlowErrors, RangeError, ThreeWayEPE, pool

#: Largest number of notes that are printed of the sweeps of a sequence.
_FEW = 3
#: Fields of `FlowErrors` that are numbers, in their order.
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
    """Return errors as plain values for a result file.

    `errors_from_facts` restores them to the last bit.
    """
    return {
        **{name: getattr(errors, name) for name in _PLAIN},
        "three_way": {"sums": errors.three_way.sums, "counts": errors.three_way.counts},
        "bucketed": {
            name: getattr(errors.bucketed, name).tolist() for name in ("errors", "speeds", "counts")
        },
        "ranges": [dataclasses.asdict(error) for error in errors.ranges],
    }


def errors_from_facts(facts: Mapping[str, Any]) -> FlowErrors:
    """Restore the errors of a sweep from plain values; the errors of many sweeps are pooled."""
    # JSON knows neither tuples nor tensors; sums are float64 and counts int64, as they were.
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
        ranges=tuple(RangeError(**fields) for fields in facts["ranges"]),
    )


@dataclass(frozen=True, eq=False)
class PairFlow:
    """Flow of a pair of sweeps.

    Attributes:
        estimate: the flow, as `jobs.flow.estimate` returns it.
        points: points of the first sweep, ``(N, 3)``.
        names: names of both sweeps.
        facts: plain values that JSON can hold and that depend on the pair alone.
    """

    estimate: Estimate
    points: Tensor
    names: tuple[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FlowResults:
    """A `ResultFormat`: one ``.npz`` file per sweep, read as a `FlowFile`.

    >>> FlowResults().suffix
    '.npz'
    """

    suffix: str = ".npz"

    def write(self, path: Path, result: PairFlow, name: str, fingerprint: str) -> Mapping[str, Any]:
        # The name of the item and the fingerprint of the study tie the file to its place.
        about = {"item": name, "study": fingerprint, "facts": dict(result.facts)}
        write_flow(path, result.estimate, result.points, result.names, overwrite=True, about=about)
        return result.facts

    def facts(self, path: Path, fingerprint: str) -> Mapping[str, Any]:
        about = self.read(path).about  # reading compares the checksums of the archive
        if about.get("study") != fingerprint or about.get("item") != path.stem:
            raise InputError(f"{path}: a result of another study, or of another item")
        return about["facts"]

    def read(self, path: Path) -> FlowFile:
        return read_flow(path)


@dataclass(frozen=True)
class FlowStudy(Study):
    """Flow of a sequence: one report and one result file per pair of sweeps.

    The first sweep of a pair names the file. ``study[k]`` reads the `FlowFile` of a pair:
    ``study[k].flow`` and its other fields.
    """

    @property
    def seconds(self) -> float | None:
        """Median seconds per sweep of this run, reading and writing included.

        None if all results existed.
        """
        # The median, because the first pair of a process is slower.
        spent = [r.seconds for r in self.reports if r.outcome == "done"]
        return median(spent) if spent else None

    def settings(self) -> dict[str, str]:
        """Return sequence, method, window, preparation and seed in words.

        They are read from ``study.json`` in the folder.
        """
        description = read_json(self.folder / "study.json")["description"]
        keys = ("sequence", "method", "window", "preparation", "seed")
        return {key: _words(description[key]) for key in keys if key in description}

    def errors(self) -> FlowErrors | None:
        """Return the errors of all sweeps with labels, with equal weight per point.

        None if no sweep has labels.
        """
        errors = [
            errors_from_facts(r.facts["errors"]) for r in self.reports if r.facts.get("errors")
        ]
        return pool(errors) if errors else None

    def measures(self) -> dict[str, Any]:
        """Return the numbers of sweeps and of moving points, and the errors against labels, if any.

        The errors are the numbers of `FlowErrors`, the three-way error over points, and the
        bucket-normalized errors, of moving points also by class. A figure of no point is None.
        """
        errors = self.errors()
        measures: dict[str, Any] = {
            "sweeps": len(self),
            "failed": len(self.failed),
            "moving": sum(report.facts.get("moving", 0) for report in self.reports),
        }
        if errors is not None:
            # Bucket-normalized: the dynamic error is a share of the speed, the static one is in metres.
            mean = errors.bucketed.mean()
            measures |= {name: getattr(errors, name) for name in _PLAIN}
            measures["three_way"] = errors.three_way.pool().mean
            measures |= {"bucketed_dynamic": mean.dynamic, "bucketed_static": mean.static}
            for name, score in errors.bucketed.by_class().items():
                measures[f"bucketed_dynamic_{name.lower()}"] = score.dynamic
        # JSON has no NaN.
        return {key: None if math.isnan(value) else value for key, value in measures.items()}

    def error_lines(self) -> list[str]:
        """Return the errors against labels in words; no line if no sweep has labels."""
        errors = self.errors()
        if errors is None:
            return []
        three, mean = errors.three_way.pool(), errors.bucketed.mean()
        classes = [
            f"{name.lower().replace('_', ' ')} {score.dynamic:.3f}"
            for name, score in errors.bucketed.by_class().items()
            if not math.isnan(score.dynamic)
        ]
        return [
            f"against labels, {errors.points:,} points within 35 m, not ground, the sensor's motion "
            "removed:",
            f"  dynamic EPE {_metres(errors.dynamic)} ({errors.dynamic_points:,} points), static EPE "
            f"{_metres(errors.static)}, AccS {errors.strict:.3f}, AccR {errors.relax:.3f}",
            f"  three-way EPE {_metres(three.mean)} over points, "
            f"{_metres(errors.three_way.per_frame().mean)} over sweeps; bucket-normalized dynamic "
            f"error {mean.dynamic:.3f}",
            "  bucket-normalized dynamic error by class: "
            + (", ".join(classes) or "nothing moves"),
        ]

    def notes(self) -> list[str]:
        """Return what was decided about the recording, and the notes of some pairs but not of all.

        The notes are without the names of the sweeps. Of a single pair all notes are returned.
        """
        counts: Counter[str] = Counter()
        decided: dict[str, None] = {}
        for facts in (item.facts for item in self.reports):
            notes = [
                note.removeprefix(f"{facts['source']}: ").removeprefix(f"{facts['target']}: ")
                for note in facts.get("notes", ())
            ]
            # Each note counts once per pair.
            counts.update(list(dict.fromkeys(notes)))
            decided.update(dict.fromkeys(facts.get("recording", ())))
        # A note of all pairs describes the sequence; a rare one points to a difference.
        estimated = len(self) - len(self.failed)
        rare = [
            (note, count)
            for note, count in counts.items()
            if (count < estimated or estimated == 1) and note not in decided
        ]
        return list(decided)[:_FEW] + [
            f"{note} ({count} sweeps)" if count > 1 else note for note, count in rare[:_FEW]
        ]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {_words(inner)}"
            for key, inner in value.items()
            if inner not in (None, {}) and key != "kind"
        )
    return str(value)


def _metres(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f} m"
