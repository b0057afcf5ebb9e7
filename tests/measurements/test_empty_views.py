"""Views that were not measured are named, and left out by default."""

from __future__ import annotations

import math

import pytest
import torch

import invtoolbox as it
from invtoolbox.measurements.empty_views import empty_views

ROWS, COLUMNS = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
DISC = (0.1 * ((ROWS - 9) ** 2 + (COLUMNS - 13) ** 2 < 49)).float()[None, None]
A = it.operators.ParallelBeam((24, 24), torch.arange(32) * math.pi / 32, 36)
Y = A.simulate(DISC, noise=0.02, seed=0)


def with_empty(value: float) -> torch.Tensor:
    y = Y.clone()
    y[:, :, 5:9] = value
    return y


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_empty_views_are_left_out(value: float) -> None:
    """Zeros were fitted as views of nothing: 15 dB on a slice of a chest."""
    y = with_empty(value)
    with pytest.warns(it.MeasurementWarning, match="4 views of 32 hold the same number"):
        mended = it.reconstruct(y, A, regularization=0.02, max_iterations=40, progress=False)
    rest = torch.tensor([k for k in range(32) if not 5 <= k < 9])
    fewer = it.reconstruct(
        Y[:, :, rest], A.subset(rest), regularization=0.02, max_iterations=40, progress=False
    )
    errors = [float((s.x - DISC).square().mean().sqrt()) for s in (mended, fewer)]
    assert errors[0] < 1.2 * errors[1]


def test_solve_names_them_and_repairs_them_if_asked() -> None:
    problem = it.Problem(with_empty(0.0), A)
    (finding,) = it.measurements.check_measurements(problem)
    assert finding.name == "empty" and "4 views (5, 6, 7, 8)" in finding.sentence
    repaired, notes = it.measurements.repair_measurements(problem)
    assert len(notes) == 1 and empty_views(repaired) is None
    assert torch.equal(
        repaired.data_term.weights[0, 0, :, 0] == 0, torch.eq(problem.y0[0, 0, :, 0], 0)
    )


def test_sound_scans_and_scans_of_nothing_have_none() -> None:
    problems = [it.Problem(y, A) for y in (Y, A(DISC), torch.zeros_like(Y))]
    assert [empty_views(problem) for problem in problems] == [None] * 3
    batch = it.Problem(torch.cat([Y, with_empty(0.0)]), A)
    empty = empty_views(batch)
    assert empty is not None and empty.flatten(1).sum(1).tolist() == [0, 4]
