"""Samplers against posteriors in closed form: the mean, and what they say of their own error."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError, MeasurementWarning
from invtoolbox.posteriors.running_moments import Chain, block_length
from invtoolbox.solve import bind
from invtoolbox.solvers.annealed_samplers import Noise

N = 6


def gaussian(dtype: torch.dtype = torch.float32) -> it.priors.Gaussian:
    """Correlated pixels about 0.5 with standard deviation 0.1."""
    row = torch.exp(-(torch.arange(N)[:, None] - torch.arange(N)[None]).abs() / 3).to(dtype)
    return it.priors.Gaussian(torch.full((1, N, N), 0.5, dtype=dtype), 0.01 * torch.kron(row, row))


def operators() -> dict[str, it.operators.LinearOperator]:
    mask = torch.rand(1, N, N, generator=torch.Generator().manual_seed(1)) > 0.4
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 0]]) / 15
    dense = torch.eye(N * N) + 0.1 * torch.randn(
        N * N, N * N, generator=torch.Generator().manual_seed(2)
    )
    return {
        "mask": it.operators.Inpainting(mask.float(), (1, N, N)),
        "blur": it.operators.Blur(kernel, (N, N), boundary="periodic"),
        "matrix": it.operators.Matrix(dense, (1, N, N), (1, N, N)),
    }


def problem(name: str, noise: float = 0.05, batch: int = 1) -> it.Problem:
    A = operators()[name]
    truth = gaussian().sample(batch, torch.Generator().manual_seed(3))
    y = A.simulate(truth, noise, seed=list(range(batch)))
    return it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise))


SAMPLERS = {
    "dps": it.solvers.DPS(steps=100, at_once=48, max_iterations=1),
    "diffpir": it.solvers.DiffPIR(at_once=48, max_iterations=1),
    "ddrm": it.solvers.DDRM(at_once=48, max_iterations=1),
    "daps": it.solvers.DAPS(steps=40, at_once=48, max_iterations=1),
    "pigdm": it.solvers.PiGDM(steps=40, at_once=48, max_iterations=1),
    "edm": it.solvers.EDM(steps=12, at_once=48, max_iterations=1),
    "isotropic": it.solvers.PiGDM(steps=40, covariance="isotropic", at_once=48, max_iterations=1),
}


@pytest.mark.parametrize("guidance", ["annealed", "norm"])
def test_dps_draws_the_bits_of_deepinv(monkeypatch: pytest.MonkeyPatch, guidance: Any) -> None:
    from deepinv.sampling import DPS as Sampler

    def sample_by_deepinv(self: it.solvers.DPS, measured: Any, network: Any) -> Tensor:
        sampler = Sampler(
            network, num_steps=self.steps, weight=self.weight, guidance=self.guidance, device="cpu"
        )
        drawn: Tensor = sampler(measured.y, measured, x_init=measured.shape)
        return drawn

    solver = it.solvers.DPS(steps=7, guidance=guidance, at_once=2, max_iterations=2)
    one = problem("blur", batch=2)
    ours = it.solve(one, gaussian(), solver, progress=False)
    monkeypatch.setattr(it.solvers.DPS, "sample", sample_by_deepinv)
    theirs = it.solve(one, gaussian(), solver, progress=False)
    assert torch.equal(ours.x, theirs.x) and torch.equal(ours.posterior.std, theirs.posterior.std)


#: DiffPIR and pigdm solve a dense system per item and step. Of the other pairs, each sampler keeps
#: one or two operators here, and each operator two samplers or more.
RARE = {
    *(("diffpir", "matrix"), ("pigdm", "matrix"), ("pigdm", "mask")),
    *(("daps", "matrix"), ("edm", "matrix"), ("edm", "mask")),
    *(("dps", "mask"), ("dps", "blur"), ("isotropic", "mask")),
}


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        pytest.param(name, sampler, marks=pytest.mark.slow if (sampler, name) in RARE else ())
        for sampler in SAMPLERS
        for name in ("mask", "blur", "matrix")
    ],
)
def test_diffusion_with_the_exact_score_of_a_gaussian_finds_the_posterior_mean(
    name: str, sampler: str
) -> None:
    one = problem(name)
    solution = it.solve(one, gaussian(), SAMPLERS[sampler], progress=False)
    exact = it.exact_posterior(one, gaussian())
    assert float((solution.x - exact.mean).norm() / exact.mean.norm()) < 0.05
    ratio = float(solution.posterior.std.square().sum() / exact.std.square().sum())
    # The covariance of deepinv's samplers is not right; benchmarks/samplers.py prints it.
    low, high = {"daps": (0.85, 1.2), "pigdm": (0.75, 1.1), "edm": (0.9, 1.15)}.get(
        sampler, (0.1, 3.0)
    )
    assert low < ratio < high


@pytest.mark.parametrize("sampler", ["EDM", "PiGDM"])
def test_guided_samplers_are_not_drawn_to_grey(sampler: str) -> None:
    """The posterior mean lies six deviations from grey, and a first level of 1 does not pull it."""
    problem = it.Problem(
        torch.full((1, 1, 100), 1.2),
        it.operators.Identity((1, 100)),
        it.data_terms.LeastSquares(noise_std=0.1),
    )
    prior = it.priors.Gaussian(torch.full((1, 100), 1.0), 0.01)
    solver = getattr(it.solvers, sampler)(
        steps=15, levels=(1.0, 0.003), at_once=32, max_iterations=1
    )
    draws = it.solve(problem, prior, solver, progress=False).x
    # Exactly 1.1, and 0.6 standard deviations of 0.071 less if the noise were about grey.
    assert abs(float(draws.mean()) - 1.1) < 0.1 * 0.071


def test_daps_perturbs_image_and_measurements() -> None:
    # One refinement draws from N(m, r^2) N(y, s^2), of the variance r^2 s^2 / (r^2 + s^2).
    noise, level, prior_variance = 0.05, 2.0, 0.01
    y = torch.full((1, 1, 400), 0.6, dtype=torch.float64)
    A = it.operators.Identity((1, 400))
    prior = it.priors.Gaussian(torch.full((1, 400), 0.5, dtype=torch.float64), prior_variance)
    objective = bind(it.Problem(y, A, it.data_terms.LeastSquares(noise)), prior.as_sum(), 1.0)[0]
    x = torch.full_like(y, 0.5)
    draws = Noise([torch.Generator().manual_seed(0)])
    clean = it.solvers.DAPS().refine(objective, x, level, 0.0, draws)
    r2 = level**2 * prior_variance / (level**2 + prior_variance)
    variance = r2 * noise**2 / (r2 + noise**2)
    assert float(clean.var()) == pytest.approx(variance, rel=0.2)
    mean = (0.5 / r2 + 0.6 / noise**2) * variance
    assert float(clean.mean()) == pytest.approx(mean, abs=4 * (variance / 400) ** 0.5)


def test_measurements_of_other_units_are_reported() -> None:
    one, sampler = problem("blur"), dataclasses.replace(SAMPLERS["edm"], steps=2, at_once=1)
    large = it.Problem(255 * one.y, one.operator, it.data_terms.LeastSquares(noise_std=255 * 0.05))
    with pytest.warns(MeasurementWarning, match="intensity_range of EDM"):
        it.solve(large, gaussian(), sampler, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        it.solve(one, gaussian(), sampler, progress=False)
        wide = dataclasses.replace(sampler, intensity_range=(0.0, 255.0))
        it.solve(large, gaussian(), wide, progress=False)


def test_a_denoiser_without_a_graph_is_refused() -> None:
    class Shrink(it.priors.ExplicitPrior):
        def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            return x.detach() / 2

    one, flow = problem("blur"), it.priors.ProbabilityFlow(Shrink(), (1, N, N), steps=3)
    for prior, solver in (
        (Shrink(), it.solvers.DAPS(steps=3, max_iterations=1)),
        (Shrink(), it.solvers.DPS(steps=3, max_iterations=1)),
        (flow, it.solvers.Adam(max_iterations=1)),
    ):
        with pytest.raises(InputError, match="derivative of the denoiser"):
            it.solve(one, prior, solver, regularization=1.0, progress=False)
    it.solve(one, Shrink(), it.solvers.DiffPIR(steps=3, max_iterations=1), progress=False)


def test_wrong_settings_of_a_sampler_are_refused_at_once() -> None:
    for sampler, settings in (
        (it.solvers.EDM, {"covariance": "diagonal"}),
        (it.solvers.DAPS, {"intensity_range": (1.0, 0.0)}),
        (it.solvers.DDRM, {"intensity_range": (0.0, 0.0)}),
        (it.solvers.DiffPIR, {"steps": 0}),
        (it.solvers.DPS, {"guidance": "none"}),
        (it.solvers.DPS, {"steps": 1}),
    ):
        with pytest.raises(InputError, match=next(iter(settings)).rstrip("s")):
            sampler(**settings)


@pytest.mark.slow
def test_annealed_samplers_follow_weights_and_refuse_bad_settings() -> None:
    one = problem("matrix")
    weights = torch.ones(1, 1, N, N)
    weights[:, :, : N // 2] = 0  # half of the measurements are not believed
    weighted = it.Problem(
        torch.where(weights > 0, one.y, 100.0),
        one.operator,
        it.data_terms.LeastSquares(noise_std=0.05, weights=weights),
    )
    believed = it.Problem(
        one.y[:, :, N // 2 :],
        it.operators.Matrix(one.operator.matrix[N * N // 2 :], (1, N, N), (1, N - N // 2, N)),
        it.data_terms.LeastSquares(noise_std=0.05),
    )
    exact = it.exact_posterior(believed, gaussian())
    for name in ("daps", "pigdm", "isotropic", "edm"):
        solution = it.solve(weighted, gaussian(), SAMPLERS[name], progress=False)
        assert float((solution.x - exact.mean).norm() / exact.mean.norm()) < 0.05
    with pytest.raises(InputError, match="steps of DAPS must be at least 2, got 1"):
        it.solvers.DAPS(steps=1)
    with pytest.raises(InputError, match=r"fresh of PiGDM must lie in \[0, 1\], got 1.5"):
        it.solvers.PiGDM(fresh=1.5)
    with pytest.raises(InputError, match="churn of EDM must not be negative, got -1"):
        it.solvers.EDM(churn=-1.0)
    with pytest.raises(InputError, match="inner of EDM must be at least 1, got 0"):
        it.solvers.EDM(inner=0)


@pytest.mark.slow
def test_the_stein_discrepancy_orders_samplers_as_the_exact_error_does() -> None:
    one = problem("blur")
    found = []
    for name in ("ddrm", "diffpir", "daps"):
        sampler = dataclasses.replace(SAMPLERS[name], at_once=2)
        drawn = it.solve(one, gaussian(), sampler, progress=False).posterior.sample(256)
        score = torch.stack(
            [
                -one.operator.adjoint(one.data_term.grad(one.operator(x), one.y))
                - gaussian().density_gradient(x)
                for x in drawn
            ]
        )
        stein = float(it.metrics.kernel_stein_discrepancy(drawn, score))
        found.append(stein)
    assert found[0] > found[1] > found[2]
    for samples, scores, kernel, words in (
        (drawn, score[:5], "linear", "one shape"),
        (drawn, score, "rbf", "'linear' or 'imq'"),
        (drawn + 0j, score + 0j, "linear", "are real"),
        (drawn, score / 0, "linear", "NaN or infinite"),
    ):
        with pytest.raises(InputError, match=words):
            it.metrics.kernel_stein_discrepancy(samples, scores, kernel)
    alike = it.metrics.kernel_stein_discrepancy(
        torch.ones(3, 1, 1, 4), torch.ones(3, 1, 1, 4), "imq"
    )
    assert bool(alike.isfinite())


def test_langevin_finds_mean_and_spread_and_knows_how_well() -> None:
    one = problem("blur")
    exact = it.exact_posterior(one, gaussian())
    solver = it.solvers.UnadjustedLangevin(burn_in=200, max_iterations=2000, tolerance=0.0)
    solution = it.solve(one, gaussian(), solver, progress=False)
    posterior = solution.posterior
    assert float((solution.x - exact.mean).norm() / exact.mean.norm()) < 0.05
    spread = (posterior.std / exact.std)[0]
    assert 0.85 < float(spread.mean()) < 1.15
    # Its error estimate is close to its error, which includes the bias of a finite step.
    claimed, real = (
        float((posterior.std_error / posterior.std).mean()),
        float((spread / spread.mean() - 1).abs().mean() / 0.8),
    )
    assert 0.4 * real < claimed < 2.5 * real
    assert 10 < float(posterior.effective_number) < 2000
    assert posterior.sample(4).shape == (4, 1, 1, N, N)
    assert not torch.equal(posterior.sample(2)[0], posterior.sample(2)[1])


def test_a_denoiser_enters_langevin_by_tweedie() -> None:
    one, exact = problem("mask", batch=2), gaussian()
    solver = it.solvers.UnadjustedLangevin(burn_in=0, max_iterations=40, step_size=1e-4)
    as_denoiser = it.solve(
        one,
        it.priors.Denoiser(lambda x, s: exact.denoise(x, s), sigma=1e-2),
        solver,
        progress=False,
    )
    smoothed = it.priors.Gaussian(exact.means[0], exact.covariances()[0] + 1e-4 * torch.eye(N * N))
    as_density = it.solve(one, smoothed, solver, progress=False)
    torch.testing.assert_close(as_denoiser.x, as_density.x, rtol=1e-3, atol=1e-3)
    bounded = it.solve(
        one,
        exact,
        it.solvers.UnadjustedLangevin(burn_in=0, max_iterations=40, bounds=(0.45, 0.55)),
        progress=False,
    )
    assert bool(((bounded.posterior.sample(20) - 0.5).abs() < 0.05 + 1e-6).all())


def test_items_of_a_chain_may_stop_at_different_times_and_are_as_if_alone() -> None:
    noise = torch.tensor([0.02, 0.3])
    y = 0.5 + noise.view(2, 1, 1) * torch.ones(2, 1, 30)
    prior = it.priors.Gaussian(torch.full((1, 30), 0.5), 0.04)
    both = it.Problem(
        y, it.operators.Identity((1, 30)), it.data_terms.LeastSquares(noise_std=noise)
    )
    solver = it.solvers.UnadjustedLangevin(
        burn_in=20, max_iterations=500, tolerance=0.08, blocks=8, step_size=2e-4
    )
    solution = it.solve(both, prior, solver, progress=False)
    assert int(solution.iterations[0]) < int(solution.iterations[1])
    for k in range(2):
        alone = it.solve(both.select(torch.tensor([k])), prior, solver, progress=False)
        assert int(alone.iterations) == int(solution.iterations[k])
        torch.testing.assert_close(alone.posterior.mean[0], solution.posterior.mean[k])
        torch.testing.assert_close(alone.posterior.std[0], solution.posterior.std[k])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_depends_on_its_number_alone(sampler: str) -> None:
    torch.manual_seed(0)

    few = dataclasses.replace(SAMPLERS[sampler], at_once=2, steps=8)
    both = problem("blur", batch=2)
    before = both.y.clone()
    solution = it.solve(both, gaussian(), few, progress=False)
    state = torch.random.get_rng_state()
    samples = solution.posterior.sample(3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state) and torch.equal(both.y, before)
    torch.testing.assert_close(
        solution.posterior.sample(2, seed=1), samples[:2], rtol=1e-4, atol=1e-5
    )
    alone = it.solve(both.select(torch.tensor([1])), gaussian(), few, progress=False)
    torch.testing.assert_close(
        alone.posterior.sample(3, seed=1)[:, 0], samples[:, 1], rtol=1e-4, atol=1e-5
    )
    assert float((samples[0] - samples[1]).abs().max()) > 0.01


@pytest.mark.parametrize("sampler", ["dps", "diffpir", "ddrm"])
def test_items_with_their_own_noise_and_operator_are_drawn_as_if_alone(sampler: str) -> None:
    kernels = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(4)) + 0.1
    kernels = kernels / kernels.sum((2, 3), keepdim=True)
    levels, y = torch.tensor([0.05, 0.2]), gaussian().sample(2, torch.Generator().manual_seed(5))
    method = dataclasses.replace(SAMPLERS[sampler], steps=10, at_once=2)

    def draw(items: slice, kernels: Tensor, levels: Tensor) -> Tensor:
        A = it.operators.Blur(kernels, (N, N), boundary="periodic")
        one = it.Problem(y[items], A, it.data_terms.LeastSquares(noise_std=levels))
        return it.solve(one, gaussian(), method, progress=False).x

    alone = [draw(slice(k, k + 1), kernels[k : k + 1], levels[k : k + 1]) for k in range(2)]
    assert torch.equal(draw(slice(0, 2), kernels, levels), torch.cat(alone))
    alone = [draw(slice(k, k + 1), kernels[:1], levels[k : k + 1]) for k in range(2)]
    assert torch.equal(draw(slice(0, 2), kernels[:1], levels), torch.cat(alone))


def test_an_intensity_range_is_only_a_change_of_units() -> None:
    one = problem("matrix")
    scaled = it.Problem(
        4 * one.y - 1 * one.operator(torch.ones(1, 1, N, N)),
        one.operator,
        it.data_terms.LeastSquares(noise_std=0.2),
    )
    prior = it.priors.Gaussian(torch.full((1, N, N), 1.0), 16 * gaussian().covariances()[0])
    for plain in SAMPLERS.values():
        few = dataclasses.replace(plain, at_once=2, steps=8)
        wide = dataclasses.replace(few, intensity_range=(-1.0, 3.0))
        expected = 4 * it.solve(one, gaussian(), few, progress=False).x - 1
        torch.testing.assert_close(
            it.solve(scaled, prior, wide, progress=False).x, expected, rtol=1e-3, atol=1e-3
        )


def test_the_exact_posterior_of_a_mixture_is_that_by_integration() -> None:
    prior = it.priors.GaussianMixture(
        torch.tensor([[[-1.0]], [[1.0]]]).double(), torch.tensor([[[0.2]], [[0.1]]]).double()
    )
    one = it.Problem(
        torch.tensor([[[0.3]]]).double(),
        2 * it.operators.Identity((1, 1)),
        it.data_terms.LeastSquares(noise_std=0.9),
    )
    u = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    density = (-prior.energy(u.view(-1, 1, 1)) - (2 * u - 0.3).square() / (2 * 0.81)).exp()
    mean = float((density * u).sum() / density.sum())
    std = float(((density * (u - mean).square()).sum() / density.sum()).sqrt())
    posterior = it.exact_posterior(one, prior)
    assert float(posterior.mean) == pytest.approx(mean, rel=1e-6) and float(
        posterior.std
    ) == pytest.approx(std, rel=1e-6)
    samples = posterior.sample(4000)
    assert float(samples.mean()) == pytest.approx(mean, abs=0.06) and float(
        samples.std()
    ) == pytest.approx(std, rel=0.05)
    with pytest.raises(InputError, match="exact_posterior needs"):
        it.exact_posterior(it.Problem(one.y, one.operator), prior)


# A measurement near 0 leaves both modes alike.
@pytest.mark.filterwarnings("ignore:noise_std = 0.8 is larger than every measurement")
def test_the_mean_of_langevin_under_a_mixture_is_that_of_the_mixture() -> None:
    prior = it.priors.GaussianMixture(torch.tensor([[[-0.6]], [[0.6]]]), 0.09)
    one = it.Problem(
        torch.full((1, 1, 1), 0.1),
        it.operators.Identity((1, 1)),
        it.data_terms.LeastSquares(noise_std=0.8),
    )
    exact = it.exact_posterior(one, prior)
    # 300 chains side by side are items that see the same noise, so the chain has to be long; it
    # jumps often enough.
    solver = it.solvers.UnadjustedLangevin(
        burn_in=100, max_iterations=2000, tolerance=0.0, step_size=0.05
    )
    solution = it.solve(one, prior, solver, progress=False)
    error = float(solution.posterior.std) / float(solution.posterior.effective_number) ** 0.5
    assert abs(float(solution.x - exact.mean)) < 4 * error < 0.5
    assert float(solution.posterior.std) == pytest.approx(float(exact.std), rel=0.15)


def test_blocks_of_a_chain_hold_its_sums() -> None:
    states = (
        torch.randn(77, 2, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        + 100
    )
    chain = Chain.start(states[0], 8)
    for k, x in enumerate(states):
        chain.add(x, k + 1)
    torch.testing.assert_close(chain.mean(), states.mean(0))
    torch.testing.assert_close(chain.std(), states.std(0), rtol=1e-8, atol=0)
    length = block_length(77, 8)
    assert chain.full() == (77 // length, length) == (4, 16)
    torch.testing.assert_close(chain.kept[:, :4], states[15:64:16].transpose(0, 1))


def test_errors_of_independent_states_are_those_of_textbooks() -> None:
    states = torch.randn(
        4096, 1, 1, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    chain = Chain.start(states[0], 32)
    for k, x in enumerate(states):
        chain.add(x, k + 1)
    assert float(chain.mean_error().square().mean().sqrt()) == pytest.approx(1 / 64, rel=0.25)
    assert float(chain.relative_error()) == pytest.approx(1 / (2 * 4096) ** 0.5, rel=0.25)
    assert float(chain.effective_number()) == pytest.approx(4096, rel=0.4)


def draws_of(
    prior: it.priors.Prior,
    solver: it.solvers.Solver,
    one: it.Problem | None = None,
    **settings: object,
) -> Tensor:
    return it.solve(
        problem("blur") if one is None else one, prior, solver, progress=False, **settings
    ).x


def test_what_samplers_cannot_do_they_refuse_with_the_reason() -> None:
    one, fixed = problem("blur"), it.priors.Denoiser(lambda x: x, sigma=0.1)
    no_noise = it.Problem(one.y, one.operator)
    large = it.operators.Blur(torch.ones(3, 3) / 9, (40, 40))
    big = it.Problem(torch.zeros(1, 1, 40, 40), large, it.data_terms.LeastSquares(noise_std=0.1))
    for prior, solver, given, words in (
        (gaussian(), it.solvers.UnadjustedLangevin(), no_noise, "needs to know the noise"),
        (
            it.priors.TotalVariation(),
            it.solvers.UnadjustedLangevin(),
            one,
            "needs every prior to be differentiable",
        ),
        (fixed, it.solvers.DPS(), one, "denoises at every noise level"),
        (2.0 * gaussian(), it.solvers.DPS(), one, "takes no weight but 1"),
        (
            it.priors.Denoiser(lambda x, s: x),
            it.solvers.DDRM(),
            big,
            "singular value decomposition",
        ),
    ):
        with pytest.raises(InputError, match=words):
            draws_of(prior, solver, given)
    with pytest.raises(InputError, match="even number of blocks"):
        it.solvers.UnadjustedLangevin(blocks=5)


def test_few_steps_from_a_restored_image_find_mean_and_spread() -> None:
    one = problem("blur", batch=2)
    exact = it.exact_posterior(one, gaussian())
    sampler = it.solvers.EDM(
        steps=5, levels=(0.3, 0.005), begin="restored", at_once=48, max_iterations=1
    )
    solution = it.solve(one, gaussian(), sampler, progress=False)
    assert float((solution.x - exact.mean).norm() / exact.mean.norm()) < 0.03
    assert 0.8 < float(solution.posterior.std.square().sum() / exact.std.square().sum()) < 1.2
    with pytest.raises(InputError, match="'grey' or 'restored'"):
        it.solvers.EDM(begin="noise")  # type: ignore[arg-type]


def test_fresh_noise_never_exceeds_the_level_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much churn is asked for, a level is raised to its root-2-fold (Karras et al. 2022)."""
    levels = []
    denoise = it.priors.Gaussian.denoise

    def record(self: it.priors.Gaussian, x: Tensor, sigma: Any) -> Tensor:
        levels.append(float(torch.as_tensor(sigma).flatten()[0]))
        return denoise(self, x, sigma)

    monkeypatch.setattr(it.priors.Gaussian, "denoise", record)
    for churn, factor in ((0.0, 1.0), (0.8, 1.2), (torch.inf, 2**0.5)):
        levels.clear()
        sampler = it.solvers.EDM(steps=4, levels=(1.0, 0.01), churn=churn, max_iterations=1)
        x = it.solve(problem("mask"), gaussian(), sampler, progress=False).x
        assert max(levels) == pytest.approx(factor)
        assert float((x - 0.5).abs().amax()) < 1


def test_an_interval_allows_for_the_number_of_draws() -> None:
    """Few draws know their mean and their spread badly; their intervals are wider and still right."""
    one = problem("mask", batch=1)
    exact = it.exact_posterior(one, gaussian())
    sampler = it.solvers.EDM(steps=8, at_once=4, max_iterations=1)
    posterior = it.solve(one, gaussian(), sampler, progress=False).posterior
    truths = exact.sample(200, seed=3)[:, 0][:, None]
    covered = torch.cat([posterior.coverage(x) for x in truths]).mean()
    low, high = posterior.interval()
    plain = ((truths - posterior.mean).abs() < 1.96 * posterior.std).float().mean()
    assert float(plain) < 0.88 and 0.9 < float(covered) < 0.985
    torch.testing.assert_close((low + high) / 2, posterior.mean)
    single = dataclasses.replace(sampler, at_once=1)
    with pytest.raises(InputError, match="at least two draws"):
        it.solve(one, gaussian(), single, progress=False).posterior.interval()


def test_an_isotropic_step_does_not_overshoot_where_few_directions_are_uncertain() -> None:
    """A flat image of unknown brightness: one direction in 36 has nearly all of the variance."""
    flat = torch.ones(N * N, N * N) + 1e-4 * torch.eye(N * N)
    prior = it.priors.Gaussian(torch.full((1, N, N), 0.5), flat)
    A = it.operators.Identity((1, N, N))
    problem = it.Problem(torch.full((1, 1, N, N), 1.0), A, it.data_terms.LeastSquares(0.1))
    solution = it.solve(problem, prior, SAMPLERS["isotropic"], progress=False)
    exact = it.exact_posterior(problem, prior)
    assert float((solution.x - exact.mean).abs().max()) < 0.02
