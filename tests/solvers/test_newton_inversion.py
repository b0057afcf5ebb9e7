"""Inversion of pictures to noise: exact where the flow can be inverted, item by item."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import ProbabilityFlow
from invtoolbox.solvers import invert_flow


def mixture(size: int = 6) -> it.priors.GaussianMixture:
    means = torch.stack([torch.full((1, size), 0.2), torch.full((1, size), 0.8)])
    return it.priors.GaussianMixture(means, 0.02)


def pictures(count: int, size: int = 6) -> Tensor:
    return torch.rand(count, 1, size, generator=torch.Generator().manual_seed(0))


def test_newton_finds_the_noise_of_a_mixture_and_ddim_does_not() -> None:
    flow, x = ProbabilityFlow(mixture(), (1, 6), steps=8), pictures(5)
    error = {n: float((flow.decode(invert_flow(flow, x, n)) - x).norm()) for n in (0, 12)}
    assert error[12] < 1e-3 < 0.05 < error[0]


def test_noise_of_a_draw_is_found_again() -> None:
    flow = ProbabilityFlow(mixture(), (1, 6), steps=8)
    w = torch.randn(3, 1, 6, generator=torch.Generator().manual_seed(1))
    found = invert_flow(flow, flow.decode({"w": w}), newton=8)
    torch.testing.assert_close(flow.decode(found), flow.decode({"w": w}), rtol=0, atol=1e-4)


def test_an_item_gets_the_same_noise_alone() -> None:
    flow, x = ProbabilityFlow(mixture(), (1, 6), steps=5), pictures(3)
    together = invert_flow(flow, x)["w"]
    alone = torch.cat([invert_flow(flow, item)["w"] for item in x.split(1)])
    assert torch.equal(together, alone)


def test_a_solver_finds_the_noise_of_an_image_from_measurements() -> None:
    flow = ProbabilityFlow(mixture(), (1, 6), steps=8)
    truth = torch.full((1, 1, 6), 0.75)
    A = it.as_operator(torch.eye(6)[:3])
    problem = it.Problem(truth[:, 0, :3][:, None], A, it.data_terms.LeastSquares(noise_std=0.02))
    x = it.solve(problem, flow, it.solvers.LBFGS(), regularization=1.0, progress=False).x
    assert float((x - truth).abs().max()) < 0.15  # the other half by the prior


def test_the_noise_has_the_precision_of_the_measurements() -> None:
    it.testing.check_prior(ProbabilityFlow(mixture(), (1, 6), steps=4), pictures(2))
    flow = ProbabilityFlow(mixture().to(torch.float64), (1, 6), steps=4)
    problem = it.Problem(pictures(2).double(), it.operators.Identity((1, 6)))
    found = it.solve(problem, flow, regularization=1.0, max_iterations=2, progress=False)
    assert found.x.dtype == torch.float64


def test_bad_input_is_refused() -> None:
    flow = ProbabilityFlow(mixture(), (1, 6), steps=5)
    with pytest.raises(InputError, match="makes images"):
        invert_flow(flow, torch.zeros(1, 1, 5))
    with pytest.raises(InputError, match="damping"):
        invert_flow(flow, torch.zeros(1, 1, 6), damping=0.0)
    with pytest.raises(InputError, match="every noise level"):
        ProbabilityFlow(it.priors.TotalVariation(), (1, 6))
    with pytest.raises(InputError, match="every noise level"):
        ProbabilityFlow(1.0 * mixture(), (1, 6))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="levels"):
        ProbabilityFlow(mixture(), (1, 6), steps=1)
    with pytest.raises(InputError, match="levels"):
        ProbabilityFlow(mixture(), (1, 6), levels=(float("inf"), 0.1))
    with pytest.raises(InputError, match="intensity_range"):
        ProbabilityFlow(mixture(), (1, 6), intensity_range=(1.0, 0.0))


def test_complex_images_have_complex_noise_and_a_bad_item_stays_alone() -> None:
    gaussian = it.priors.Gaussian(torch.full((1, 6), 0.4), 0.02)
    flow, x = ProbabilityFlow(gaussian, (1, 6), steps=8), pictures(3)
    z = torch.complex(x, x.flip(0))
    noise = invert_flow(flow, z, newton=8)
    torch.testing.assert_close(flow.decode(noise), z, rtol=0, atol=1e-4)
    assert noise["w"].is_complex() and not flow.energy(noise, None).is_complex()
    A = it.operators.Identity((1, 6))
    problem = it.Problem(z, A, it.data_terms.LeastSquares(noise_std=0.01))
    found = it.solve(problem, flow, it.solvers.LBFGS(), regularization=1.0, progress=False).x
    torch.testing.assert_close(found, z, rtol=0, atol=0.02)

    broken = torch.where(torch.arange(3).view(3, 1, 1) == 1, torch.nan, x)
    kept = invert_flow(flow, broken)["w"]
    assert bool(kept[1].isnan().all()) and torch.equal(kept[::2], invert_flow(flow, x)["w"][::2])


def test_solve_draws_and_inversion_work_in_inference_mode() -> None:
    gaussian = it.priors.Gaussian(torch.full((1, 4), 0.4), 0.01)
    flow = it.priors.ProbabilityFlow(gaussian, (1, 4), steps=8)
    x, A = torch.tensor([[[0.3, 0.5, 0.4, 0.6]]]), it.operators.Identity((1, 4))
    sampler = it.solvers.EDM(steps=3, max_iterations=1)

    def run() -> list[torch.Tensor]:
        problem = it.Problem(1 * x, A, it.data_terms.LeastSquares(noise_std=0.1))
        drawn = it.solve(problem, gaussian, sampler, progress=False)
        found = it.solve(problem, flow, regularization=1.0, max_iterations=3, progress=False)
        noise = it.solvers.invert_flow(flow, 1 * x)["w"]
        return [drawn.x, drawn.posterior.sample(1, seed=0), found.x, noise]

    expected = run()
    with torch.inference_mode():
        results = run()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))
