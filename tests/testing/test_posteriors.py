"""Checks of posteriors: right ones pass, wrong ones fail, and the words name what is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.reductions import independent_items
from invtoolbox.errors import InputError
from invtoolbox.testing import PosteriorCheck


def posed(noise_std: float = 0.5) -> tuple[it.Problem, it.priors.Gaussian]:
    kernel = torch.tensor([[0.2, 0.6, 0.2]])
    A = it.operators.Blur(kernel, (4, 4), boundary="periodic")
    problem = it.Problem(
        torch.zeros(1, 1, 4, 4), A, it.data_terms.LeastSquares(noise_std=noise_std)
    )
    return problem, it.priors.Gaussian(torch.full((1, 4, 4), 0.5), 1.0)


def test_exact_draws_pass_and_a_wrong_weight_fails() -> None:
    problem, prior = posed()
    right = it.check_posterior(problem, prior, "cg", draws=19, repetitions=300)
    assert right.p_value > 0.01 and right.coverage_p_value > 0.01
    assert set(right.ranks) == {"mean", "energy", "roughness", "centre", "misfit"}
    assert "too" not in str(right)
    # A prior four times too strong: the draws lie too close to its mean, and spread too little.
    wrong = it.check_posterior(problem, prior, "cg", 4.0, draws=19, repetitions=300)
    assert wrong.p_value < 1e-6 and wrong.coverage_p_value < 1e-3
    assert "centre" in str(wrong) and "their spread is too small" in str(wrong)
    again = it.check_posterior(problem, prior, "cg", draws=19, repetitions=300)
    assert all(torch.equal(a, b) for a, b in zip(again.ranks.values(), right.ranks.values()))


def test_chains_with_a_short_step_pass_and_with_a_long_one_fail() -> None:
    problem, prior = posed()
    stiffest = 4 + 1

    def chain(step: float, states: int) -> it.solvers.UnadjustedLangevin:
        return it.solvers.UnadjustedLangevin(
            burn_in=states // 8,
            max_iterations=states + states // 8,
            step_size=step / stiffest,
            blocks=16,
            tolerance=0.0,
        )

    fine = it.check_posterior(problem, prior, chain(0.1, 1024), draws=9, repetitions=300)
    assert fine.p_value > 0.01
    coarse = it.check_posterior(problem, prior, chain(1.6, 256), draws=9, repetitions=300)
    assert coarse.p_value < 1e-3


def test_a_sampler_of_diffusion_draws_its_own_numbers_for_every_repetition() -> None:
    problem, prior = posed()
    sampler = it.solvers.EDM(steps=6, max_iterations=1, intensity_range=(-2.0, 3.0))
    both = it.Problem(problem.y.expand(2, -1, -1, -1), problem.operator, problem.data_term)
    shared = it.solve(both, prior, sampler, progress=False).posterior.sample(3)
    assert torch.allclose(shared[:, 0], shared[:, 1])
    with independent_items():
        own = it.solve(both, prior, sampler, progress=False).posterior.sample(3)
    assert float((own[:, 0] - own[:, 1]).abs().min()) > 0
    check = it.check_posterior(problem, prior, sampler, draws=9, repetitions=50)
    assert check.repetitions == 50


def test_ranks_of_scalars_have_the_stated_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(300):
        truth = torch.randn(200, generator=generator)
        samples = torch.randn(19, 200, generator=generator)
        ranks = (samples < truth).sum(0)
        values.append(PosteriorCheck({"scalar": ranks}, ranks, 19).p_value)
    p = torch.tensor(values)
    # p-values of right posteriors are uniform, within four standard deviations of a share.
    for level in (0.05, 0.2, 0.5, 0.8):
        assert abs(float((p <= level).float().mean()) - level) < 4 * (level / 300) ** 0.5


def test_coverage_is_that_of_the_regions() -> None:
    ranks = torch.arange(20)
    check = PosteriorCheck({"scalar": ranks}, ranks, 19)
    torch.testing.assert_close(
        check.coverage(torch.tensor([0.25, 0.5, 1.0])), torch.tensor([0.25, 0.5, 1.0]).double()
    )
    narrow = PosteriorCheck({"scalar": ranks}, torch.tensor([19] * 10 + [0] * 10), 19)
    assert narrow.coverage(torch.tensor([0.9])).tolist() == [0.5]


def test_the_figure_has_one_histogram_per_functional() -> None:
    problem, prior = posed()
    functionals = {"first": lambda x: x[:, 0, 0, 0], "largest": lambda x: x.flatten(1).amax(1)}
    check = it.check_posterior(
        problem, prior, "cg", draws=9, repetitions=60, functionals=functionals
    )
    figure = check.plot()
    assert len(figure.axes) == 3
    assert "first" in figure.axes[0].get_title() and "coverage" in figure.axes[2].get_title()
    heights = [bar.get_height() for bar in figure.axes[0].patches if bar.get_width() == 0.9]
    assert sum(heights) == 60


def test_truths_of_the_user_stand_for_the_prior() -> None:
    problem, prior = posed()
    truths = prior.sample(100, torch.Generator().manual_seed(3))
    check = it.check_posterior(problem, it.priors.Tikhonov(), "cg", 1.0, images=truths, draws=9)
    # Their mean is 0.5, that of the Tikhonov prior is 0.
    assert check.repetitions == 100 and check.p_value < 1e-3


def test_bad_input_is_one_sentence() -> None:
    problem, prior = posed()
    ones: Tensor = torch.ones(3, 1, 5, 5)
    for arguments, words in (
        ((it.Problem(problem.y, problem.operator), prior, "cg"), r"needs LeastSquares\(noise_std"),
        ((problem, it.priors.TotalVariation(), "pdhg"), "no method sample"),
        ((problem, prior, "pdhgg"), "there is no solver named"),
    ):
        with pytest.raises(InputError, match=words):
            it.check_posterior(*arguments)
    for settings, words in (
        ({"draws": 0}, "draws of check_posterior"),
        ({"images": ones}, "truths must be images"),
        ({"images": ones[:1]}, "at least two images"),
        ({"functionals": {"bad": lambda x: x}}, "'bad' must return one number per item"),
        ({"reps": 3}, "no argument 'reps'"),
    ):
        with pytest.raises(InputError, match=words):
            it.check_posterior(problem, prior, "cg", **{"repetitions": 20, "draws": 3} | settings)
    truths = prior.sample(8, torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="finds no posterior"):
        it.check_posterior(problem, it.priors.TotalVariation(), "pdhg", 1.0, images=truths)
    two = it.Problem(
        problem.y.expand(2, -1, -1, -1),
        problem.operator,
        it.data_terms.LeastSquares(noise_std=torch.tensor([0.1, 0.2])),
    )
    with pytest.raises(InputError, match="one operator and one noise level"):
        it.check_posterior(two, prior, "cg")
