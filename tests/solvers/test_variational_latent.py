"""VariationalLatent: exact where an exact answer exists, per item, and with widths that move both ways."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors.implicit.variational import Variational
from invtoolbox.solvers import VariationalLatent


class LinearDecoder(it.priors.ImplicitPrior):
    """``x = W z`` with a standard normal z: everything is Gaussian."""

    def __init__(self, W: Tensor) -> None:
        self.W = W

    def initial(self) -> dict[str, Tensor]:
        return {"z": self.W.new_zeros(1, self.W.shape[1])}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Any:
        return (parameters["z"] @ self.W.T)[:, None]

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        return 0.5 * parameters["z"].square().sum(1)


class Flat(LinearDecoder):
    """No preference among latents."""

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        return 0 * parameters["z"].sum(1)


def gaussian_problem(batch: int = 1) -> tuple[it.Problem, Tensor, Tensor, Tensor]:
    """Measurements, W with orthogonal columns, and mean and standard deviation of the posterior of the image in closed form."""
    generator = torch.Generator().manual_seed(0)
    Q, _ = torch.linalg.qr(torch.randn(12, 6, generator=generator, dtype=torch.float64))
    W = Q * torch.tensor([0.2, 0.5, 1.0, 1.5, 2.0, 3.0], dtype=torch.float64)
    y = torch.randn(batch, 1, 12, generator=generator, dtype=torch.float64)
    sigma = 0.5
    covariance = torch.linalg.inv(torch.eye(6, dtype=torch.float64) + W.T @ W / sigma**2)
    mean = (y @ W / sigma**2) @ covariance @ W.T
    std = (W @ covariance @ W.T).diagonal().sqrt()
    return (
        it.Problem(y, it.operators.Identity((1, 12)), it.data_terms.LeastSquares(noise_std=sigma)),
        W,
        mean,
        std,
    )


def test_a_linear_decoder_gives_the_exact_gaussian_posterior() -> None:
    problem, W, mean, std = gaussian_problem()
    solver = VariationalLatent(family="gaussian", iterate="average", decay=0.05, number=2000)
    solution = it.solve(problem, LinearDecoder(W), solver, max_iterations=1000, progress=False)
    assert float((solution.x - mean).norm() / mean.norm()) < 1e-3
    widths = solution.parameters["z_log_width"].exp()[0]
    exact = (
        W.square() @ widths.square()
    ).sqrt()  # of the distribution that was found, without sampling it
    assert float(((exact - std) / std).abs().max()) < 1e-3
    torch.testing.assert_close(solution.posterior.std[0, 0], std, rtol=0.06, atol=0)
    torch.testing.assert_close(
        solution.posterior.mean, mean, rtol=0, atol=float(4 * std.max()) / 2000**0.5
    )
    assert solution.status == ("limit",)


def test_the_weight_is_that_of_the_divergence() -> None:
    problem, W, _, _ = gaussian_problem()
    solution = it.solve(
        problem,
        LinearDecoder(W),
        VariationalLatent(family="gaussian", iterate="average", decay=0.05),
        regularization=0.25,
        max_iterations=600,
        progress=False,
    )
    # exp(-D / w - |z|^2 / 2): the noise counts half as much
    precision = 1 + W.square().sum(0) / (0.25 * 0.25)
    torch.testing.assert_close(
        solution.parameters["z_log_width"][0].exp(), precision.rsqrt(), rtol=1e-2, atol=0
    )


def test_a_point_is_the_mode_and_has_no_posterior() -> None:
    problem, W, mean, _ = gaussian_problem()
    solution = it.solve(
        problem,
        LinearDecoder(W),
        VariationalLatent(family="dirac", decay=0.05),
        max_iterations=500,
        progress=False,
    )
    assert float((solution.x - mean).norm() / mean.norm()) < 1e-3
    assert solution.posterior is None and set(solution.parameters) == {"z"}


def test_uniform_widths_have_the_spread_of_their_optimum() -> None:
    # D = sum_i (w_i a_i u)^2 / (2 sigma^2) - log a_i is least where w^2 a^2 / (12 sigma^2) = 1
    problem, W, _, _ = gaussian_problem()
    solution = it.solve(
        problem,
        Flat(W),
        VariationalLatent(iterate="average", decay=0.05),
        max_iterations=1000,
        progress=False,
    )
    widths = solution.parameters["z_log_width"][0].exp()
    torch.testing.assert_close(widths, 12**0.5 * 0.5 / W.norm(dim=0), rtol=0.15, atol=0)


def test_an_item_alone_equals_the_item_in_company() -> None:
    problem, W, _, _ = gaussian_problem(batch=3)
    solver = VariationalLatent(number=20)
    weights = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    together = it.solve(
        problem, LinearDecoder(W), solver, regularization=weights, max_iterations=50, progress=False
    )
    for k in range(3):
        alone = it.solve(
            problem.select(torch.tensor([k])),
            LinearDecoder(W),
            solver,
            regularization=weights[k : k + 1],
            max_iterations=50,
            progress=False,
        )
        torch.testing.assert_close(together.x[k : k + 1], alone.x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            together.posterior.std[k : k + 1], alone.posterior.std, rtol=1e-12, atol=1e-12
        )
    again = it.solve(
        problem, LinearDecoder(W), solver, regularization=weights, max_iterations=50, progress=False
    )
    assert torch.equal(together.x, again.x)
    other = it.solve(
        problem,
        LinearDecoder(W),
        solver,
        regularization=weights,
        max_iterations=50,
        seed=1,
        progress=False,
    )
    assert not torch.equal(together.x, other.x)


def test_a_width_at_its_bound_comes_back() -> None:
    prior = Variational(LinearDecoder(100 * torch.eye(2)), "uniform", torch.ones(1))
    parameters = {"z": torch.zeros(1, 2), "z_log_width": torch.tensor([[50.0, -50.0]])}
    kept = prior.project(parameters)["z_log_width"]
    torch.testing.assert_close(kept, torch.tensor([[math.log(20.0), math.log(1.5e-5)]]))
    free = kept.clone().requires_grad_(True)
    x, energy = prior.decode_and_energy(
        parameters | {"z_log_width": free}, torch.Generator().manual_seed(0)
    )
    (slope,) = torch.autograd.grad(energy.sum() + x.square().sum(), free)
    assert float(slope[0, 0]) > 0 > float(slope[0, 1])  # descent takes both back inside


def test_long_gradients_are_shortened_item_by_item() -> None:
    problem, W, _, _ = gaussian_problem(batch=2)
    problem = it.Problem(
        problem.y * torch.tensor([1.0, 1e6]).view(2, 1, 1), problem.operator, problem.data_term
    )
    free, clipped = (
        it.solve(
            problem,
            LinearDecoder(W),
            VariationalLatent(clip=clip),
            max_iterations=30,
            progress=False,
        ).x
        for clip in (1e12, 20.0)
    )
    assert torch.equal(free[0], clipped[0]) and not torch.equal(free[1], clipped[1])


def test_what_does_not_fit_is_refused() -> None:
    problem, W, _, _ = gaussian_problem()
    with pytest.raises(InputError, match="there is none"):
        it.solve(
            problem, it.priors.Tikhonov(), VariationalLatent(), regularization=1.0, progress=False
        )
    with pytest.raises(InputError, match="has no energy"):
        it.solve(problem, it.priors.CoordinateNetwork(), VariationalLatent(), progress=False)
    with pytest.raises(InputError, match="does not know their noise; give it noise_std"):
        it.solve(
            it.Problem(problem.y, problem.operator),
            LinearDecoder(W),
            VariationalLatent(),
            progress=False,
        )
    with pytest.raises(InputError, match="number of VariationalLatent must be at least 2, got 1"):
        VariationalLatent(number=1)
    with pytest.raises(InputError, match="standard deviation of pixels"):
        it.solve(problem, LinearDecoder(W), VariationalLatent(pixels=True), progress=False)
    with pytest.raises(InputError, match="'uniform', 'gaussian' or 'dirac'"):
        VariationalLatent(family="laplace")  # type: ignore[arg-type]
