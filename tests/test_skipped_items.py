"""One broken item of a batch is skipped, and its status states it; the others get the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError, MeasurementWarning

A = it.operators.Blur(torch.ones(3, 3) / 9, (8, 8))


def measurements() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch whose items 1 and 3 are broken, and its finite items."""
    y = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = y[[0, 2]].clone()
    y[1, 0, 2, 3] = torch.nan
    y[3] = torch.inf
    return y, whole


RUNS: dict[str, dict[str, Any]] = {
    "fixed weight": {"prior": "tikhonov", "regularization": 0.1},
    "moving weight": {"prior": "tikhonov", "regularization": "discrepancy"},
    "compared weights": {
        "prior": "tikhonov",
        "regularization": it.parameter_choice.GCV(points=3, sections=1),
        "solver": it.solvers.ConjugateGradient(max_iterations=20),
    },
    "sampler": {
        "prior": "tikhonov",
        "solver": it.solvers.UnadjustedLangevin(max_iterations=12, burn_in=4),
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_the_other_items_get_the_same_bits(name: str, tmp_path: Path) -> None:
    y, whole = measurements()
    with pytest.warns(
        MeasurementWarning, match=r"65 values .* index \(1, 0, 2, 3\); item 1, 3 is skipped"
    ):
        problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.1))
    solution = it.solve(problem, progress=False, **RUNS[name])
    alone = it.solve(it.Problem(whole, A, problem.data_term), progress=False, **RUNS[name])
    assert torch.equal(solution.x[[0, 2]], alone.x)
    assert [solution.status[k] for k in (0, 2)] == list(alone.status)
    assert [solution.status[k] for k in (1, 3)] == ["invalid", "invalid"]
    assert solution.x[[1, 3]].isnan().all() and solution.regularization[[1, 3]].isnan().all()
    assert solution.iterations[1] == 0 and solution.history["objective"][:, [1, 3]].isnan().all()
    if solution.posterior is not None and alone.posterior is not None:
        torch.testing.assert_close(solution.posterior.mean[[0, 2]], alone.posterior.mean)
        for found in (
            solution.posterior.mean,
            solution.posterior.std,
            solution.posterior.sample(2)[0],
        ):
            assert found[[1, 3]].isnan().all() and found[[0, 2]].isfinite().all()
    seen, predicted = solution.measured_and_predicted()
    assert seen[[1, 3]].isnan().all() and torch.equal(seen[[0, 2]], whole)
    assert predicted[[0, 2]].isfinite().all()
    solution.save(tmp_path / "a.h5")
    assert it.Solution.load(tmp_path / "a.h5").status == solution.status
    assert "invalid" in solution.report(tmp_path / "a.html").read_text()


def test_a_batch_without_a_whole_item_is_refused() -> None:
    y, _ = measurements()
    for part in (y[[1]], y[[1, 3]]):
        with pytest.raises(InputError, match=r"NaN or infinite, the first at index \(0, 0, 2, 3\)"):
            it.Problem(part, A)


@pytest.mark.filterwarnings("ignore::invtoolbox.errors.MeasurementWarning")
def test_a_checkpoint_remembers_what_was_skipped(tmp_path: Path) -> None:
    y, _ = measurements()
    settings: dict[str, Any] = {
        "prior": "tikhonov",
        "regularization": 0.1,
        "progress": False,
        "tolerance": 0.0,
    }
    path = tmp_path / "run"
    it.solve(
        it.Problem(y, A),
        "tikhonov",
        "adam",
        checkpoint=path,
        max_iterations=3,
        regularization=0.1,
        progress=False,
        tolerance=0.0,
    )
    again = it.solve(it.Problem(y, A), solver="adam", checkpoint=path, max_iterations=6, **settings)
    whole = it.solve(it.Problem(y, A), solver="adam", max_iterations=6, **settings)
    assert torch.equal(again.x[[0, 2]], whole.x[[0, 2]]) and again.status == whole.status
    mended = y.clone()
    mended[[1, 3]] = y[0]  # what the skipped items hold in the meantime
    with pytest.raises(InputError, match="changed: measurements"):
        it.solve(it.Problem(mended, A), solver="adam", checkpoint=path, **settings)


def test_an_empty_batch_is_one_sentence() -> None:
    for call in (
        lambda: it.Problem(torch.zeros(0, 1, 8, 8), A),
        lambda: it.reconstruct(torch.zeros(0, 1, 8, 8), A),
    ):
        with pytest.raises(
            InputError, match="the measurements of .* with at least one item and one value"
        ):
            call()
