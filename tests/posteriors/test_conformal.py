"""Split conformal calibration: quantiles of synthetic scores, its guarantee, and what it refuses."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.posteriors.base import MeanFieldPosterior
from invtoolbox.posteriors.conformal import (
    Scores,
    calibrate_posteriors,
    coverage_curve,
    residual_scores,
)


def given(pictures: int, pixels: int = 100) -> MeanFieldPosterior:
    return MeanFieldPosterior(torch.zeros(pictures, 1, pixels), torch.ones(pictures, 1, pixels))


def test_the_factor_is_the_corrected_quantile_of_the_scores() -> None:
    # 30 pictures, each with the same scores 0.01, 0.02, ..., 1.00.
    truth = (torch.arange(1, 101) / 100).expand(30, 1, 100)
    calibration = calibrate_posteriors([given(30)], [truth], 0.9)
    assert calibration.factor() == pytest.approx(0.93, rel=1e-3)  # 0.9 of 31 / 30
    assert calibration.factor(0.5) == pytest.approx(0.52, rel=1e-3)
    assert calibrate_posteriors([given(30)], [truth], 0.9, unit="pixel").factor() == pytest.approx(
        0.91, rel=1e-3
    )  # 0.9003 of 3000
    low, high = calibration.interval(
        MeanFieldPosterior(torch.full((1, 1, 2), 5.0), torch.tensor([[[1.0, 2.0]]]))
    )
    torch.testing.assert_close(high, torch.tensor([[[5.93, 6.86]]]), rtol=1e-3, atol=0)
    torch.testing.assert_close(low, 10 - high)


def test_pictures_of_one_pixel_are_the_classical_method() -> None:
    truth = torch.randn(99, 1, 1, generator=torch.Generator().manual_seed(0))
    calibration = calibrate_posteriors([given(99, 1)], [truth], 0.95)
    expected = float(truth.abs().flatten().sort().values[math.ceil(0.95 * 100) - 1])
    assert calibration.factor() == pytest.approx(expected, rel=1e-3)


def test_one_at_a_time_or_as_a_batch_is_the_same_and_pictures_of_any_size_weigh_alike() -> None:
    truth = torch.randn(25, 1, 40, generator=torch.Generator().manual_seed(0))
    together = residual_scores([given(25, 40)], [truth])
    lone = residual_scores((given(1, 40) for _ in range(25)), iter(truth.split(1)))
    torch.testing.assert_close(together.histogram, lone.histogram)
    assert lone.pictures == 25 and lone.pixels == 1000
    small, large = torch.full((1, 1, 10), 1.0), torch.full((1, 1, 1000), 3.0)
    both = residual_scores([given(1, 10), given(1, 1000)], [small, large])
    assert both.below(2.0) == pytest.approx(0.5)


def test_the_guarantee_holds_for_few_pictures_that_differ_among_themselves() -> None:
    """Pictures whose errors have sizes of their own; 19 to calibrate on, one to test with, 200 times."""
    generator = torch.Generator().manual_seed(1)
    covered = []
    for _ in range(200):
        size = torch.exp(torch.randn(20, 1, 1, generator=generator))
        truth = size * torch.randn(20, 1, 30, generator=generator)
        calibration = calibrate_posteriors([given(19, 30)], [truth[:19]], 0.8)
        covered.append(float(calibration.coverage(given(1, 30), truth[19:])))
    mean = sum(covered) / len(covered)
    assert (
        0.80 - 0.035 < mean < 0.80 + 2 / 20 + 0.035
    )  # two standard errors about [level, level + 2 / (K + 1)]


def test_the_curve_says_how_often_intervals_hold() -> None:
    truth = 2 * torch.randn(50, 1, 400, generator=torch.Generator().manual_seed(2))
    posterior = given(50, 400)
    scores = residual_scores([posterior], [truth])
    levels, actual = coverage_curve(scores, torch.tensor([0.5, 0.95]))
    normal = NormalDist()
    for level, share in zip(levels.tolist(), actual.tolist()):
        assert share == pytest.approx(
            2 * normal.cdf(normal.inv_cdf(0.5 + level / 2) / 2) - 1, abs=0.01
        )
        assert share == pytest.approx(float(posterior.coverage(truth, level).mean()), abs=1e-3)
    calibration = calibrate_posteriors([posterior], [truth], unit="pixel")
    torch.testing.assert_close(
        coverage_curve(scores, None, calibration)[1], coverage_curve(scores)[0], atol=2e-3, rtol=0
    )
    assert bool(
        coverage_curve(scores, torch.tensor([0.99]), calibrate_posteriors([posterior], [truth]))[
            1
        ].isnan()
    )


def test_standard_deviations_of_zero_need_a_floor() -> None:
    posterior = MeanFieldPosterior(torch.zeros(30, 1, 10), torch.zeros(30, 1, 10))
    truth = torch.full((30, 1, 10), 0.2)
    assert calibrate_posteriors([posterior], [truth], 0.9).factor() == math.inf
    assert calibrate_posteriors([posterior], [truth], 0.9, floor=0.1).factor() == pytest.approx(
        2.0, rel=1e-3
    )
    assert Scores.empty().join(posterior, torch.zeros(30, 1, 10)).below(1e-3) == pytest.approx(1.0)


def test_what_does_not_fit_is_refused() -> None:
    truth = torch.zeros(10, 1, 100)
    with pytest.raises(InputError, match="need 19 pictures to be calibrated on, and there are 10"):
        calibrate_posteriors([given(10)], [truth]).factor()
    few = calibrate_posteriors([given(10)], [truth])
    assert "too few for a factor, 10 pictures" in repr(few)
    with pytest.raises(InputError, match=r"images \(10, 1, 100\), got \(10, 1, 1\)"):
        few.coverage(given(10), truth[..., :1], 0.5)
    with pytest.raises(InputError, match="as many truths as posteriors"):
        calibrate_posteriors([given(10), given(10)], [truth])
    with pytest.raises(InputError, match=r"has shape \(10, 1, 99\)"):
        calibrate_posteriors([given(10)], [truth[..., :99]])
    with pytest.raises(InputError, match="there is none"):
        calibrate_posteriors([], [])
    with pytest.raises(InputError, match=r"level of interval must lie in \(0, 1\)"):
        calibrate_posteriors([given(10)], [truth], 95)
    with pytest.raises(InputError, match="'picture' or 'pixel'"):
        it.calibrate_posteriors([given(10)], [truth], unit="row")  # type: ignore[arg-type]
