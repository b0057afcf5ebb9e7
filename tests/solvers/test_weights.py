"""The weight that is taken if none was given for a solve, and weights that are refused."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors.base import Prior
from invtoolbox.solve import bind
from invtoolbox.solvers.binding import check_fixed_levels, default_weight

PROBLEM = it.Problem(
    torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    it.operators.Identity((1, 8, 8)),
    it.data_terms.LeastSquares(noise_std=0.1),
)


def weight_of(prior: Prior) -> tuple[object, str]:
    priors = prior.as_sum()
    return default_weight(priors, bind(PROBLEM, priors, 1.0)[0], 1.0)


def test_written_weights_and_constraints_are_kept() -> None:
    tv = it.priors.TotalVariation()
    assert weight_of(it.priors.NonNegative()) == (1.0, "")
    weight, reason = weight_of(0.5 * tv + it.priors.Tikhonov())
    assert weight == 1.0 and "as they were written" in reason
    rule, _ = weight_of(tv)
    assert isinstance(rule, it.parameter_choice.WeightSearch)


def test_a_denoiser_of_one_level_takes_no_weight() -> None:
    fixed = it.priors.Denoiser(torch.nn.Identity(), sigma=0.1, level="none")
    check_fixed_levels(fixed.as_sum())
    with pytest.raises(InputError, match="knows one noise level only"):
        check_fixed_levels((0.5 * fixed).as_sum())


def test_written_weights_that_are_too_large_are_named() -> None:
    prior = it.priors.TotalVariation()
    good = it.solve(PROBLEM, 5.0 * prior, progress=False)
    assert [note for note in good.notes if "residual" in note] == []
    assert "regularization='sure' scales them" in good.weight_choice
    wrong = it.solve(PROBLEM, 500.0 * prior, progress=False)
    assert any("times the stated noise" in note for note in wrong.notes)


def test_a_residual_of_an_unknown_geometry_is_that_of_the_answer() -> None:
    """The remark was computed with the geometry before the solve: 50 times the noise."""
    angles = torch.arange(20) * torch.pi / 20
    x = torch.zeros(1, 1, 12, 12)
    x[..., 3:9, 4:7] = 1
    A = it.operators.ParallelBeam((12, 12), angles, 20, detector_shift=1.0)
    problem = it.Problem(
        A.simulate(x, noise=0.05, seed=0),
        it.operators.ParallelBeam((12, 12), angles, 20),
        it.data_terms.LeastSquares(noise_std=0.05),
        unknown={"detector_shift": None},
    )
    prior = 0.05 * it.priors.Tikhonov()
    solution = it.solve(problem, prior, check=False, max_iterations=30, progress=False)
    assert float(solution.parameters["detector_shift"]) == pytest.approx(1.0, abs=0.1)
    assert not any("times the stated noise" in note for note in solution.notes)


def test_a_weight_is_a_finite_number_that_is_not_negative() -> None:
    tv = it.priors.TotalVariation()
    data = it.Problem(PROBLEM.y.expand(2, -1, -1, -1), PROBLEM.operator, PROBLEM.data_term)
    for weight in (0.0, 0.5, [0.0, 0.5]):
        objective, rule, _ = bind(data, tv.as_sum(), torch.tensor(weight))
        assert rule is None
        assert torch.equal(objective.regularization, torch.tensor(weight).expand(2))
    for wrong in (-0.1, torch.nan, torch.inf, [0.5, -0.1], [0.1, 0.2, 0.3], [[0.5, 0.5]]):
        with pytest.raises(
            InputError, match="must be a nonnegative number or one for each of the 2"
        ):
            bind(data, tv.as_sum(), torch.tensor(wrong))


def test_the_weight_of_a_denoiser_follows_the_noise_of_the_measurements() -> None:
    """A stated level that is right gives the usual weight; a wrong one is corrected, with a reason."""
    A = it.operators.Identity((1, 64, 64))
    y = A.simulate(torch.full((1, 1, 64, 64), 0.5), noise=0.1, seed=0)
    prior = it.priors.Denoiser(lambda x, sigma: x / (1 + sigma), sigma=0.05).as_sum()
    weights, reasons = [], []
    for stated in (0.1, 1.0):
        problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=stated))
        weight, reason = default_weight(prior, bind(problem, prior, 1.0)[0], 1.0)
        assert isinstance(weight, torch.Tensor)
        weights.append(float(weight))
        reasons.append(reason)
    # Noise variances over sigma^2, in units of the stated noise.
    assert weights == pytest.approx([1 / 0.05**2, 0.1**2 / 0.05**2], rel=0.1)
    assert "does not fit" not in reasons[0]
    assert reasons[1].startswith("noise_std = 1 does not fit measurements with noise of")
