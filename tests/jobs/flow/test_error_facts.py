"""Errors in result files come back to the last bit, NaN and all."""

from __future__ import annotations

import json

import torch

from invtoolbox import simulation
from invtoolbox.jobs.flow.results import errors_from_facts, facts_of_errors
from invtoolbox.metrics import evaluate


def test_errors_come_back_from_json() -> None:
    street = simulation.street(sweeps=2, points=1500)
    noise = torch.randn(street[0].points.shape, generator=torch.Generator().manual_seed(0))
    labels = street[0].labels
    assert labels is not None
    errors = evaluate(labels.flow + 0.1 * noise, street[0], next_pose=street[1].pose)
    again = errors_from_facts(json.loads(json.dumps(facts_of_errors(errors))))
    assert (
        again.row() == errors.row()
        and again.three_way == errors.three_way
        and repr(again.ranges) == repr(errors.ranges)
    )
    assert torch.equal(again.bucketed.errors, errors.bucketed.errors) and torch.equal(
        again.bucketed.counts, errors.bucketed.counts
    )
