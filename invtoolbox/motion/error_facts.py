"""The errors of a sweep as plain values, for a result file, and back: of many files, the errors of a whole sequence are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from invtoolbox.metrics.bucketed import BucketedEPE
from invtoolbox.metrics.flow_errors import FlowErrors
from invtoolbox.metrics.flow_region import RangeError
from invtoolbox.metrics.three_way import ThreeWayEPE

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
