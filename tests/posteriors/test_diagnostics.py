"""Diagnostics of draws: against ArviZ, against chains with known correlation, and in the statuses of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.posteriors.diagnostics import effective_sample_size, split_rhat, standard_error
from invtoolbox.posteriors.running_moments import Chain, ChainPosterior, Moments
from invtoolbox.solve import inner_solve
from invtoolbox.solving import call


def autoregressive(correlation: float, chains: int, n: int, quantities: int = 3) -> Tensor:
    """Return stationary chains of unit variance with autocorrelation ``correlation^t``."""
    generator = torch.Generator().manual_seed(round(1000 * (1 + correlation)) + n)
    noise = torch.randn(chains, n, quantities, generator=generator, dtype=torch.float64)
    x = noise.clone()
    for t in range(1, n):
        x[:, t] = correlation * x[:, t - 1] + (1 - correlation**2) ** 0.5 * noise[:, t]
    return x


@pytest.mark.parametrize("n", [4, 5, 7, 11, 1000])
@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.3, 0.9, 0.99, 0.999])
def test_diagnostics_are_those_of_arviz(correlation: float, n: int) -> None:
    stats = pytest.importorskip("arviz_stats.base").array_stats
    draws = autoregressive(correlation, 4, n)
    rhat, size, error = split_rhat(draws), effective_sample_size(draws), standard_error(draws)
    for k in range(3):
        array = draws[..., k].numpy()
        axes = {"chain_axis": 0, "draw_axis": 1}
        assert float(rhat[k]) == pytest.approx(
            float(stats.rhat(array, method="split", **axes)), rel=1e-6
        )
        assert float(size[k]) == pytest.approx(
            float(stats.ess(array, method="mean", **axes)), rel=1e-6
        )
        assert float(error[k]) == pytest.approx(
            float(stats.mcse(array, method="mean", **axes)), rel=1e-6
        )


def test_effective_draws_of_known_correlation() -> None:
    """Of an autoregressive chain it is ``n (1 - c) / (1 + c)``."""
    for correlation, expected in ((0.0, 40_000), (0.5, 40_000 / 3), (0.9, 40_000 / 19)):
        draws = autoregressive(correlation, 4, 10_000, 20)
        assert float(effective_sample_size(draws).mean()) == pytest.approx(expected, rel=0.1)
        assert float((split_rhat(draws) - 1).abs().max()) < 0.01


def test_chains_that_disagree_have_a_large_rhat() -> None:
    draws = autoregressive(0.3, 4, 500)
    draws[0] += 1.0
    assert float(split_rhat(draws).min()) > 1.05
    assert float(effective_sample_size(draws).max()) < 50
    constant = torch.ones(4, 100, 1)
    assert float(effective_sample_size(constant)) == 400


def test_bad_draws_are_refused() -> None:
    for draws in (torch.zeros(4, 3, 2), torch.zeros(5), torch.zeros(2, 9, dtype=torch.long)):
        with pytest.raises(InputError, match="at least 4 draws per chain"):
            split_rhat(draws)


def gaussian_problem(n: int = 60, noise_std: float = 0.5) -> tuple[it.Problem, it.priors.Prior]:
    y = torch.linspace(-1, 1, n).view(1, 1, n)
    problem = it.Problem(
        y, it.operators.Identity((1, n)), it.data_terms.LeastSquares(noise_std=noise_std)
    )
    return problem, it.priors.Gaussian(torch.zeros(1, n), 0.25)


def test_chains_that_have_mixed_say_so_and_their_error_is_their_error() -> None:
    problem, prior = gaussian_problem()
    solver = it.solvers.UnadjustedLangevin(
        burn_in=100, max_iterations=3000, tolerance=0.0, chains=4
    )
    solution = it.solve(problem, prior, solver, progress=False)
    posterior = solution.posterior
    assert posterior is not None and posterior.chains == 4
    diagnosis = posterior.diagnose({"total": lambda x: x.flatten(1).sum(1)})
    assert bool(diagnosis.mixed.all()) and diagnosis.finding() == ""
    assert not any("not mixed" in note for note in solution.notes)
    assert diagnosis.chains == 4 and diagnosis.draws == 2900
    # The posterior mean is y / 2 and its variance 1/8, 6/5 of it at the default step.
    away = (posterior.mean - problem.y / 2) / diagnosis.error
    assert 0.7 < float(away.square().mean().sqrt()) < 1.4
    torch.testing.assert_close(
        posterior.std, torch.full_like(posterior.std, 0.15**0.5), rtol=0.1, atol=0
    )
    # x <- (1 - t U'') x + ..., with t U'' = 1/3: the effective number is that of c = 2/3.
    expected = 4 * 2900 * (1 - 2 / 3) / (1 + 2 / 3)
    assert float(diagnosis.effective_number.mean()) == pytest.approx(expected, rel=0.4)
    assert float(diagnosis.autocorrelation_time.median()) == pytest.approx(5.0, rel=0.4)
    potential = diagnosis.functionals["potential"]
    assert float(potential.effective_number) > 500 and float(potential.rhat) < 1.05
    total = diagnosis.functionals["total"]
    assert abs(float(total.mean)) < 4 * float(total.error)
    text = str(diagnosis)
    assert "4 chains of 2900 draws" in text and "split R-hat" in text and "total" in text


def test_a_chain_that_has_not_mixed_says_so_in_its_notes() -> None:
    problem, prior = gaussian_problem()
    slow = it.solvers.UnadjustedLangevin(
        burn_in=0, max_iterations=400, step_size=1e-4, tolerance=0.0, chains=2
    )
    solution = it.solve(problem, prior, slow, initial=torch.full((1, 1, 60), 5.0), progress=False)
    sentence = next(note for note in solution.notes if "has not mixed" in note)
    assert "item 0" in sentence and "burn_in" in sentence
    assert not bool(solution.posterior.diagnose().mixed.any())
    assert sentence in str(solution)


ULA = it.solvers.UnadjustedLangevin


@pytest.mark.parametrize(
    ("settings", "start", "words"),
    [
        ({"burn_in": 100, "max_iterations": 50}, 0.0, "ended before its first draw"),
        ({"burn_in": 49, "max_iterations": 50}, 0.0, "after the burn_in: 1, too few"),
        ({"burn_in": 47, "max_iterations": 50}, 0.0, "after the burn_in: 3, too few"),
        ({"burn_in": 42, "max_iterations": 50}, 0.0, "has not mixed in item 0"),
        ({"burn_in": 50, "max_iterations": 400, "step_size": 1e-5}, 0.0, "has not mixed in item 0"),
        # The start is forgotten within a thirtieth of the chain: its mean is hardly off, and its
        # deviation is three times too large.
        ({"burn_in": 0, "max_iterations": 1000, "step_size": 0.012}, 20.0, "has not mixed"),
        # In float32 the steps are lost in rounding.
        ({"burn_in": 10, "max_iterations": 400, "step_size": 1e-20}, 1.0, "stuck in item 0"),
        ({"burn_in": 10, "max_iterations": 400, "bounds": (5.0, 5.0001)}, 0.0, "stuck in item 0"),
    ],
)
def test_bad_chains_say_so(settings: dict[str, float], start: float, words: str) -> None:
    problem, prior = gaussian_problem()
    solution = it.solve(
        problem, prior, ULA(**settings), initial=torch.full((1, 1, 60), start), progress=False
    )
    assert solution.status == ("limit",)
    assert any(words in note for note in solution.notes)
    if "first draw" in words:
        assert solution.posterior is None


def test_a_diverging_chain_is_not_told_to_go_on() -> None:
    problem, prior = gaussian_problem()
    solution = it.solve(problem, prior, ULA(burn_in=20, step_size=1.0), progress=False)
    assert solution.status == ("diverged",)
    assert not any("burn_in" in note for note in solution.notes)


def test_a_sampler_by_its_name_alone_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "SAMPLER_SECONDS", 0.05)
    problem, prior = gaussian_problem(1000)
    solution = it.solve(problem, prior, "ula", progress=False)
    assert solution.status == ("limit",) and int(solution.iterations) < 20_000
    assert any("by its name alone ends after 0.05 s" in note for note in solution.notes)
    # A limit of the user takes its place.
    limited = it.solve(problem, prior, "ula", max_iterations=5, progress=False)
    assert int(limited.iterations) == 5
    assert not any("by its name alone" in note for note in limited.notes)


def test_a_long_step_is_noted_with_its_bias() -> None:
    """The factor of the note is that by which the chain's variance exceeds the exact one."""
    problem, prior = gaussian_problem(400)
    variance = 1 / 8
    for product, factor in ((0.5, None), (1.5, 4.0)):
        solver = it.solvers.UnadjustedLangevin(
            burn_in=20, max_iterations=300, tolerance=0.0, step_size=product * variance
        )
        solution = it.solve(problem, prior, solver, progress=False)
        notes = [note for note in solution.notes if "longest stable one" in note]
        assert len(notes) == (factor is not None)
        if factor is not None:
            assert "0.75 of the longest stable one in item 0" in notes[0]
            assert "comes out 4 times too large" in notes[0]
            wide = float(solution.posterior.std.square().mean()) / variance
            assert wide == pytest.approx(factor, rel=0.1)
    # The default step has no note.
    usual = it.solve(problem, prior, ULA(max_iterations=300), progress=False)
    assert not any("longest stable one" in note for note in usual.notes)


def test_the_step_of_a_rough_prior_counts_its_envelope() -> None:
    problem, _ = gaussian_problem(50)
    # Misfit and envelope have the curvature 4 each, and the longest stable step is 2 / 8.
    solver = it.solvers.MYULA(burn_in=20, max_iterations=200, step_size=0.6 * 2 / 8)
    solution = it.solve(problem, it.priors.L1(), solver, 1.0, progress=False)
    assert any("0.6 of the longest stable one" in note for note in solution.notes)


def test_chains_of_a_norm_without_a_weight_take_that_of_the_minimizer() -> None:
    problem, _ = gaussian_problem(12)
    prior, limits = it.priors.TotalVariation(), {"max_iterations": 16, "progress": False}
    solver = it.solvers.MYULA(burn_in=4, blocks=4)
    solution = it.solve(problem, prior, solver, **limits)
    minimizer = it.solve(problem, prior, progress=False)
    assert torch.equal(solution.regularization, 1.5 * minimizer.regularization)
    assert any("starts at the minimizer" in note for note in solution.notes)
    told = it.solve(problem, prior, solver, initial=problem.y, **limits)
    assert torch.equal(told.regularization, solution.regularization)
    assert not any("starts at the minimizer" in note for note in told.notes)
    # A weight of the user, and a density that has a scale of its own, are taken as they are.
    for chosen, weight in ((2.0 * prior, "auto"), (prior, 1.0)):
        kept = it.solve(problem, chosen, solver, weight, **limits)
        assert float(kept.regularization) == 1
    # A misfit without a noise level is refused before anything is minimized.
    unknown = it.Problem(problem.y, problem.operator)
    with pytest.raises(InputError, match="MYULA needs to know the noise"):
        it.solve(unknown, prior, solver, progress=False)
    gaussian = it.solve(problem, gaussian_problem(12)[1], solver, **limits)
    assert not any("minimizer" in note for note in gaussian.notes)


def test_the_start_of_a_chain_is_computed_only_if_it_is_used_and_with_the_weight_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights: list[Any] = []

    def minimize(*arguments: Any, **settings: Any) -> it.Solution:
        weights.append(settings["regularization"])
        return inner_solve(*arguments, **settings)

    monkeypatch.setattr(sys.modules["invtoolbox.solve"], "inner_solve", minimize)
    monkeypatch.setattr(call, "SAMPLER_SECONDS", 0.05)
    problem, _ = gaussian_problem(12)
    prior = it.priors.TotalVariation()
    it.solve(problem, 2.0 * prior, "myula", initial=problem.y, progress=False)
    assert weights == []
    it.solve(problem, prior, "myula", 3.0, progress=False)
    assert weights == [3.0]


def test_a_resumed_chain_keeps_its_weight_and_minimizes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, _ = gaussian_problem(12)
    prior, solver = it.priors.TotalVariation(), it.solvers.MYULA(burn_in=4, blocks=4)
    settings: dict[str, Any] = {"solver": solver, "progress": False}
    whole = it.solve(problem, prior, max_iterations=24, **settings)
    checkpoint = it.Checkpoint(tmp_path / "chain", 0)
    it.solve(problem, prior, max_iterations=16, checkpoint=checkpoint, **settings)
    monkeypatch.setattr(sys.modules["invtoolbox.solve"], "inner_solve", None)
    resumed = it.solve(problem, prior, max_iterations=24, checkpoint=checkpoint, **settings)
    assert torch.equal(resumed.regularization, whole.regularization)
    assert float(resumed.regularization) != 1
    assert torch.equal(resumed.x, whole.x)
    # A weight or a start of the user is another run.
    for change in ({"regularization": 2.0}, {"initial": problem.y}):
        with pytest.raises(InputError, match="belongs to another"):
            it.solve(problem, prior, checkpoint=checkpoint, **settings, **change)


def test_samplers_by_their_name_alone_take_settings_that_fit_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call, "SAMPLER_SECONDS", 0.5)
    network = it.priors.Denoiser(lambda x, sigma: x, sigma=0.1, level="batch").as_sum()
    closed = it.priors.Gaussian(torch.zeros(1, 80, 80), 0.25).as_sum()
    large, small = (
        it.Problem(torch.zeros(1, 1, n, n), it.operators.Identity((1, n, n))) for n in (80, 64)
    )
    for name in ("EDM", "PiGDM", "DAPS", "DPS", "DiffPIR"):
        sampler = getattr(it.solvers, name)()
        quick = sampler.alone(large, network)
        assert quick.steps < sampler.steps and quick.max_iterations == sampler.max_iterations
        # A small image, or a score in closed form, leaves time for the usual settings.
        assert sampler.alone(small, network) == sampler == sampler.alone(large, closed)
    # A chain forgets the minimizer, at which it starts, in fewer states.
    assert ULA().alone(large, closed).burn_in == 125
    problem, prior = gaussian_problem(12)
    solution = it.solve(problem, prior, "ula", progress=False)
    assert solution.reason.endswith("by its name alone, and takes burn_in=125 here")
    other = it.solve(problem, prior, "ula", max_iterations=3, progress=False)
    assert other.reason == "UnadjustedLangevin was asked for"


def test_chains_in_two_modes_say_so() -> None:
    problem, _ = gaussian_problem(20, noise_std=1.0)
    means = torch.stack([torch.full((1, 20), value) for value in (-1.0, 1.0)])
    solver = ULA(burn_in=100, max_iterations=600, tolerance=0.0, chains=4)
    solution = it.solve(
        problem,
        it.priors.GaussianMixture(means, 0.01),
        solver,
        initial=torch.linspace(-2, 2, 20).view(1, 1, 20),
        progress=False,
    )
    assert any("has not mixed in item 0" in note for note in solution.notes)


def test_one_stuck_chain_of_four_is_found() -> None:
    states = autoregressive(0.3, 4, 512, 8).transpose(0, 1).view(512, 1, 4, 1, 8).clone()
    states[:, :, 0] = states[0, :, 0]  # a typical image, for ever
    chain = Chain.start(states[0], 32)
    for k, x in enumerate(states):
        chain.add(x, k + 1)
    posterior = ChainPosterior(Moments(chain, Chain.start(states[0, :, :, 0, :2], 1024)))
    assert "has not mixed in item 0" in posterior.finding()


def test_rhat_of_squares_is_that_of_the_states_of_normal_chains() -> None:
    for narrow in (1.0, 0.5):
        states = autoregressive(0.5, 2, 2048, 8).transpose(0, 1).view(2048, 1, 2, 1, 8).clone()
        states[1024:] *= narrow
        chain = Chain.start(states[0], 32)
        for k, x in enumerate(states):
            chain.add(x, k + 1)
        spread = (
            ChainPosterior(Moments(chain, Chain.start(states[0, :, :, 0, :2], 1024)))
            .diagnose()
            .spread_rhat
        )
        squares = (states - states.mean((0, 2), keepdim=True)).square()
        expected = split_rhat(squares[:, 0].transpose(0, 1))
        torch.testing.assert_close(spread[0], expected, rtol=0.06, atol=0)
        assert bool((spread > 1.05).all()) == (narrow < 1)


def test_one_chain_has_the_bits_it_has_as_the_first_of_several_items() -> None:
    problem, prior = gaussian_problem(20)
    both = it.Problem(torch.cat([problem.y, 2 * problem.y]), problem.operator, problem.data_term)
    solver = it.solvers.UnadjustedLangevin(burn_in=10, max_iterations=300, chains=3, tolerance=0.0)
    together = it.solve(both, prior, solver, progress=False)
    for k in range(2):
        alone = it.solve(both.select(torch.tensor([k])), prior, solver, progress=False)
        assert torch.equal(alone.x[0], together.x[k])
        assert torch.equal(
            alone.posterior.diagnose().rhat[0], together.posterior.diagnose().rhat[k]
        )
        assert torch.equal(alone.posterior.sample(5)[:, 0], together.posterior.sample(5)[:, k])
    # Chains have their own numbers.
    draws = together.posterior.chain_draws()
    assert draws.shape[0] == 3 and not torch.equal(draws[0, -1], draws[1, -1])


def test_rhat_of_sums_is_rhat_of_states() -> None:
    states = autoregressive(0.7, 3, 256, 8).transpose(0, 1).view(256, 1, 3, 1, 8)
    chain, scalars = Chain.start(states[0], 32), Chain.start(states[0, :, :, 0, :2], 1024)
    for k, x in enumerate(states):
        chain.add(x, k + 1)
        scalars.add(x[:, :, 0, :2], k + 1)
    diagnosis = ChainPosterior(Moments(chain, scalars)).diagnose()
    draws = states[:, 0].transpose(0, 1)
    torch.testing.assert_close(diagnosis.rhat[0], split_rhat(draws), rtol=1e-9, atol=0)
    followed = diagnosis.functionals["potential"]
    torch.testing.assert_close(followed.rhat[0], split_rhat(draws)[0, 0])
    torch.testing.assert_close(
        followed.effective_number[0], effective_sample_size(draws)[0, 0], rtol=1e-9, atol=0
    )


def test_independent_draws_need_no_rhat() -> None:
    problem, _ = gaussian_problem()
    solution = it.solve(problem, it.priors.Tikhonov(), regularization=4.0, progress=False)
    diagnosis = solution.posterior.diagnose({"first": lambda x: x[:, 0, 0]})
    assert diagnosis.independent and bool(diagnosis.mixed.all())
    torch.testing.assert_close(diagnosis.error, solution.posterior.std / 128**0.5)
    first = diagnosis.functionals["first"]
    assert abs(float(first.mean - solution.x[0, 0, 0])) < 4 * float(first.error)
    assert "128 independent draws" in str(diagnosis)
    with pytest.raises(InputError, match="'bad' must return one number per item"):
        solution.posterior.diagnose({"bad": lambda x: x})


def test_a_chain_too_short_is_refused() -> None:
    problem, prior = gaussian_problem(5)
    solver = it.solvers.UnadjustedLangevin(burn_in=0, max_iterations=3)
    solution = it.solve(problem, prior, solver, progress=False)
    with pytest.raises(InputError, match="too short to be diagnosed"):
        solution.posterior.diagnose()


def test_arviz_takes_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("arviz_base")
    problem, prior = gaussian_problem(6)
    solver = it.solvers.UnadjustedLangevin(burn_in=50, max_iterations=500, chains=2, tolerance=0.0)
    posterior = it.solve(problem, prior, solver, progress=False).posterior
    data = posterior.to_arviz(name="image")
    values = data["posterior"]["image"]
    assert values.dims[:2] == ("chain", "draw")
    np.testing.assert_array_equal(values.values, posterior.chain_draws().numpy())
    exact = it.solve(problem, it.priors.Tikhonov(), regularization=1.0, progress=False).posterior
    assert exact.to_arviz(7)["posterior"]["x"].shape == (1, 7, 1, 1, 6)
    monkeypatch.setitem(__import__("sys").modules, "arviz_base", None)
    with pytest.raises(MissingDependency, match=r"to_arviz .* \[interop\]|interop"):
        posterior.to_arviz()


# -- chains for rough priors -----------------------------------------------------------------------


@pytest.mark.slow
def test_sk_rock_draws_a_gaussian() -> None:
    """Its slow directions have the exact mean and variance, at an eighth of MYULA's correlation."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, 1, 60, generator=generator)
    # Curvatures from 0.04 to 4.
    weights = torch.logspace(-2, 0, 60).view(1, 1, 60)
    problem = it.Problem(
        y,
        it.operators.Identity((1, 60)),
        it.data_terms.LeastSquares(noise_std=0.5, weights=weights),
    )
    prior = it.priors.Tikhonov()
    curvature = 4 * weights + 0.01
    exact = 4 * weights * y / curvature
    settings = {"max_iterations": 4000, "burn_in": 400, "tolerance": 0.0}
    taus = {}
    for solver in (it.solvers.SKROCK(stages=5, **settings), it.solvers.MYULA(**settings)):
        posterior = it.solve(problem, prior, solver, 0.01, progress=False).posterior
        diagnosis = posterior.diagnose()
        slow = slice(0, 20)
        away = (posterior.mean - exact)[..., slow] / diagnosis.error[..., slow]
        assert float(away.square().mean().sqrt()) < 1.6
        spread = (posterior.std.square() * curvature)[..., slow]
        assert float((spread.mean() - 1).abs()) < 0.15
        taus[type(solver).__name__] = float(diagnosis.autocorrelation_time[..., slow].mean())
    assert taus["SKROCK"] < taus["MYULA"] / 8


# Constant measurements show no noise.
@pytest.mark.filterwarnings("ignore:noise_std = 0.5 is .* times the noise estimated")
def test_myula_spreads_a_border_by_the_root_of_its_smoothing() -> None:
    n = 2000
    problem = it.Problem(
        torch.full((1, 1, n), 0.2),
        it.operators.Identity((1, n)),
        it.data_terms.LeastSquares(noise_std=0.5),
    )
    # The density of the envelope in one dimension, by quadrature.
    grid = torch.linspace(-3, 3, 60001, dtype=torch.float64)

    def mean_of(smoothing: float) -> float:
        U = (grid - 0.2).square() / 0.5 + grid.clamp_max(0).square() / (2 * smoothing)
        density = (-U).exp()
        return float((grid * density).sum() / density.sum())

    for smoothing in (0.25, 0.05):
        solver = it.solvers.MYULA(
            burn_in=300, max_iterations=1500, smoothing=smoothing, tolerance=0.0
        )
        solution = it.solve(problem, it.priors.NonNegative(), solver, progress=False)
        assert float(solution.x.mean()) == pytest.approx(mean_of(smoothing), abs=0.02)


@pytest.mark.filterwarnings("ignore:noise_std = 0.5 is .* times the noise estimated")
def test_sk_rock_draws_the_envelope_of_a_rough_prior() -> None:
    """Pixels of least squares and l1 are independent, so that a quadrature gives their moments."""
    n, weight, smoothing = 2000, 3.0, 0.1
    problem = it.Problem(
        torch.full((1, 1, n), 0.6),
        it.operators.Identity((1, n)),
        it.data_terms.LeastSquares(noise_std=0.5),
    )
    solver = it.solvers.SKROCK(
        burn_in=100, max_iterations=1000, stages=3, step_size=0.03, smoothing=smoothing, tolerance=0
    )
    solution = it.solve(problem, it.priors.L1(), solver, weight, progress=False)
    grid = torch.linspace(-3, 4, 70001, dtype=torch.float64)
    # The envelope of |x| is Huber's function.
    radius = weight * smoothing
    envelope = torch.where(
        grid.abs() < radius, grid.square() / (2 * smoothing), weight * (grid.abs() - radius / 2)
    )
    U = (grid - 0.6).square() / 0.5 + envelope
    density = (-U).exp() / (-U).exp().sum()
    mean = float((grid * density).sum())
    spread = float((grid.square() * density).sum() - mean**2) ** 0.5
    assert float(solution.x.mean()) == pytest.approx(mean, abs=0.01)
    assert float(solution.posterior.std.mean()) == pytest.approx(spread, rel=0.06)
    value = float(solution.history["objective"][-500:].mean()) / n
    assert value == pytest.approx(float((U * density).sum()), rel=0.05)


@pytest.mark.slow
def test_total_variation_is_drawn_by_myula_and_sk_rock_alike() -> None:
    A = it.operators.Blur(torch.ones(1, 3) / 3, (8, 8), boundary="periodic")
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., 2:6, 3:7] = 1.0
    y = A.simulate(truth, noise=0.1, seed=0)
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.1))
    prior = it.priors.TotalVariation()
    slow = it.solvers.MYULA(burn_in=500, max_iterations=4000, smoothing=0.01, tolerance=0.0)
    fast = it.solvers.SKROCK(
        burn_in=100, max_iterations=600, stages=5, step_size=0.02, smoothing=0.01, tolerance=0.0
    )
    first, second = (
        it.solve(problem, prior, solver, 10.0, progress=False) for solver in (slow, fast)
    )
    error = (first.posterior.diagnose().error ** 2 + second.posterior.diagnose().error ** 2).sqrt()
    assert float(((first.x - second.x) / error).square().mean().sqrt()) < 2


def test_bad_settings_of_chains_are_one_sentence() -> None:
    for make, words in (
        (lambda: it.solvers.MYULA(smoothing=0.0), "smoothing of MYULA"),
        (lambda: it.solvers.SKROCK(stages=1), "stages of SKROCK"),
        (lambda: it.solvers.UnadjustedLangevin(chains=0), "chains of UnadjustedLangevin"),
        (lambda: it.solvers.SKROCK(blocks=5), "even number of blocks"),
        (lambda: it.solvers.MYULA(bounds=(1.0, 0.0)), "low < high"),
    ):
        with pytest.raises(InputError, match=words):
            make()
    problem, _ = gaussian_problem(4)
    with pytest.raises(InputError, match="differentiable data term"):
        it.solve(
            it.Problem(problem.y, problem.operator, it.data_terms.Exact()),
            it.priors.Tikhonov(),
            it.solvers.MYULA(),
            progress=False,
        )
