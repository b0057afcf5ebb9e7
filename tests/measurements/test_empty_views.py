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
        mended = it.reconstruct(y, A, "tv", regularization=0.02, max_iterations=40, progress=False)
    rest = torch.tensor([k for k in range(32) if not 5 <= k < 9])
    fewer = it.reconstruct(
        Y[:, :, rest], A.subset(rest), "tv", regularization=0.02, max_iterations=40, progress=False
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


@pytest.mark.filterwarnings("ignore:the field of view")
def test_views_from_which_the_object_has_moved_away_were_measured() -> None:
    """Without noise they are zeros: most views of a helix, and some of a short detector."""
    turns = torch.arange(60) * 4 * math.pi / 60
    helix = it.operators.ConeBeam(
        (24, 12, 12), turns, (8, 24), 60.0, 90.0, detector_spacing=1.2, pitch=18.0
    )
    ball = torch.zeros(1, 1, 24, 12, 12)
    ball[:, :, 9:15, 3:9, 3:9] = 1
    short = it.operators.ParallelBeam(
        (24, 24), torch.arange(90) * math.pi / 90, 20, detector_spacing=0.5
    )
    side = (0.1 * ((ROWS - 9) ** 2 + (COLUMNS - 20) ** 2 < 6)).float()[None, None]
    for scan, x in ((helix, ball), (short, side)):
        y = scan(x)
        is_zero = (y == 0).flatten(3).all(3)
        assert int(is_zero.sum()) > 8 and empty_views(it.Problem(y, scan)) is None
    # A view in the middle of the others that is set to zero was not measured.
    full = int((~is_zero[0, 0]).nonzero().median())
    y[:, :, full] = 0
    empty = empty_views(it.Problem(y, short))
    assert empty is not None and empty.nonzero()[:, 2].tolist() == [full]
