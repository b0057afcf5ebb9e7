"""Operators that do not take all measurements define the weights by themselves."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import CartesianMRI, Fourier, Inpainting, Sampling

MASK = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < 0.4
MASK[12:20, 12:20] = True
OPERATORS = {
    "inpainting": Inpainting(MASK, (1, 32, 32)),
    "mri": CartesianMRI(MASK, (32, 32)),
    "masked spectrum": Inpainting(MASK, (1, 32, 32)) @ Fourier((1, 32, 32)),
    "multiple": 2.0 * Inpainting(MASK, (1, 32, 32)),
}


def picture(A: it.operators.Operator) -> torch.Tensor:
    x = torch.zeros(1, 1, 32, 32)
    x[..., 8:22, 6:26] = 1.0
    return x if "Fourier" not in repr(A) and "MRI" not in repr(A) else x.to(torch.complex64)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_not_measured_does_not_count(name: str) -> None:
    A = OPERATORS[name]
    y = A.simulate(picture(A), noise=0.05, seed=0)  # noise also where nothing is measured
    zeros = torch.where(MASK, y, torch.zeros_like(y))
    garbage = torch.where(MASK, y, torch.full_like(y, torch.nan))
    D = it.data_terms.LeastSquares(noise_std=0.05)
    problems = [it.Problem(data, A, D) for data in (y, zeros, garbage)]
    assert D.weights is None  # a call changes nothing
    for problem in problems:
        assert torch.equal(problem.y, zeros)
        count = int(MASK.sum()) * (2 if y.is_complex() else 1)
        wanted = problem.data_term.expected_discrepancy(problem.y)
        assert wanted is not None and torch.allclose(wanted, torch.tensor([float(count)]).sqrt())


def test_own_weights_remain() -> None:
    weights = torch.rand(1, 1, 32, 32)
    A = OPERATORS["inpainting"]
    D = it.Problem(torch.ones(1, 1, 32, 32), A, it.data_terms.LeastSquares(weights=weights))
    assert torch.equal(D.data_term.weights, weights * MASK)  # type: ignore[attr-defined]
    assert not D.data_term.is_unweighted  # type: ignore[attr-defined]


def test_the_closed_form_of_a_mask_remains() -> None:
    A = OPERATORS["mri"]
    y = A.simulate(picture(A), noise=0.05, seed=0)
    settings = {"regularization": 0.1, "max_iterations": 20, "progress": False}
    given = it.solve(
        it.Problem(y, A, it.data_terms.LeastSquares(weights=A.sampled)), "tv", "admm", **settings
    )
    chosen = it.solve(it.Problem(y, A), "tv", "admm", **settings)
    assert torch.equal(given.x, chosen.x) and given.solver == chosen.solver
    whole = CartesianMRI(torch.ones(32, 32), (32, 32))
    assert it.Problem(y, whole).data_term.weights is None  # type: ignore[attr-defined]


def test_stacked_measurements() -> None:
    A = it.operators.stack([OPERATORS["inpainting"], it.operators.Identity((1, 32, 32))])
    terms = it.data_terms.Stack(it.data_terms.LeastSquares(), it.data_terms.LeastSquares())
    y = torch.ones(1, 1, 32, 32)
    problem = it.Problem((y, y), A, terms)
    assert torch.equal(problem.y[0], y * MASK) and torch.equal(problem.y[1], y)
    assert terms.terms[0].weights is None  # type: ignore[attr-defined]
    assert problem.data_term.terms[0].weights is not None  # type: ignore[attr-defined]
    assert problem.data_term.terms[1].weights is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "A",
    [
        CartesianMRI(MASK, (32, 32)),
        Fourier((1, 32, 32)),
        Fourier((1, 32, 32), centred=False),
        Inpainting(MASK, (1, 32, 32)) @ Fourier((1, 32, 32)),
        Sampling(MASK, (1, 32, 32)) @ Fourier((1, 32, 32)),
        it.operators.NonUniformFourier(it.operators.radial_trajectory(32, 40), (32, 32)),
    ],
    ids=repr,
)
def test_noise_of_a_spectrum(A: it.operators.Operator) -> None:
    row, column = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
    x = torch.exp(-8 * (row**2 + column**2))[None, None].to(torch.complex64)
    y = A.simulate(x, noise=0.1, seed=0)
    assert abs(float(it.parameter_choice.estimate_noise_std(y, A)) - 0.1) < 0.02
    pair = torch.cat([y, 3 * y])
    both = it.parameter_choice.estimate_noise_std(pair, A)
    assert torch.equal(both[:1], it.parameter_choice.estimate_noise_std(y, A))


def test_mri_by_one_call_is_better_than_zero_filling() -> None:
    A = CartesianMRI(MASK, (32, 32))
    x = picture(A)
    y = A.simulate(x, noise=0.02, seed=0)
    sampled = torch.where(MASK, y, 0)
    solution = it.reconstruct(sampled, A, prior="tv", max_iterations=60, progress=False)

    def score(image: torch.Tensor) -> float:
        return float(it.metrics.psnr(image.abs(), x.abs(), data_range=1.0))

    assert score(solution.x) > score(A.pseudo_inverse(y)) + 3


def test_fewer_channels_than_the_image_has_are_a_remark() -> None:
    A = it.operators.Unmixing(torch.tensor([[0.3, 0.6, 0.1]]), (16, 16))
    findings = it.measurements.check_measurements(it.Problem(A(torch.rand(1, 3, 16, 16)), A))
    assert [f.name for f in findings] == ["channels"] and findings[0].is_remark
