"""Results of the flow of a sequence: one file per pair with its errors, and a study."""

from __future__ import annotations

import dataclasses
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
from invtoolbox.metrics.flow import RangeError
from invtoolbox.metrics.flow_evaluation import FlowErrors, pool
from invtoolbox.metrics.flow_scores import BucketedEPE, ThreeWayEPE

#: Fields of `FlowErrors` that are numbers.
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
        estimate: the flow, as `motion.estimate` returns it.
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


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {_words(inner)}"
            for key, inner in value.items()
            if inner not in (None, {}) and key != "kind"
        )
    return str(value)
