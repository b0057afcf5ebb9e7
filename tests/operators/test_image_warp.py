"""Warped images: contracts, places in physical units, and the strain of displacements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators import ElasticStrain, ImageWarp, SecondDifferences, Warp, WarpSequence
from invtoolbox.testing import check_operator


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPES = [(5, 7), (3, 4, 5)]


@pytest.mark.parametrize("space", SHAPES)
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_warps_keep_the_contracts(space: tuple[int, ...], interpolation: str) -> None:
    d, spacing = len(space), (1.0, 0.5, 2.0)[: len(space)]
    u = 0.7 * draws(2, d, *space)
    A = ImageWarp(draws(2, 2, *space), spacing, interpolation)
    check_operator(A, u)
    check_operator(A.linearize(u))
    check_operator(Warp(u, spacing, interpolation))
    check_operator(WarpSequence(u, spacing, interpolation))


def test_the_closed_derivative_is_that_of_autograd() -> None:
    u, y = (0.7 * draws(2, 2, 5, 7)).requires_grad_(), draws(2, 1, 5, 7, seed=1)
    for interpolation in ("linear", "cubic"):
        A = ImageWarp(draws(2, 1, 5, 7, seed=2), (1.0, 0.5), interpolation)
        (expected,) = torch.autograd.grad(A(u), u, y)
        assert torch.allclose(A.linearize(u).adjoint(y), expected, atol=1e-12)


def test_linear_interpolation_is_grid_sample() -> None:
    image, u = draws(2, 1, 5, 7), 2 * draws(2, 2, 5, 7, seed=1)
    row, column = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    place = torch.stack([row, column]).double() + u
    unit = 2 * place / torch.tensor([4.0, 6.0]).view(1, 2, 1, 1) - 1
    expected = grid_sample(
        image, unit.flip(1).permute(0, 2, 3, 1), padding_mode="border", align_corners=True
    )
    assert torch.allclose(ImageWarp(image)(u), expected)


def test_motion_is_found_behind_another_operator() -> None:
    row, column = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    blob = torch.exp(-((row - 12) ** 2 + (column - 12) ** 2) / 40)[None, None]
    u = torch.zeros(1, 2, 24, 24)
    u[:, 0], u[:, 1] = 1.0, -2.0
    A = it.operators.Blur(torch.full((3, 3), 1 / 9), (1, 24, 24)) @ ImageWarp(blob, None, "cubic")
    solution = it.solve(
        it.Problem(A(u), A),
        1e-2 * it.priors.Bending(),
        it.solvers.GaussNewton(preconditioner="fourier"),
        initial=0 * u,
        tolerance=1e-3,
        progress=False,
        check=False,
    )
    assert solution.status == ("converged",)
    assert (solution.x - u)[..., 8:16, 8:16].abs().max() < 0.1


@pytest.mark.parametrize("space", SHAPES)
def test_strain_keeps_the_contracts(space: tuple[int, ...]) -> None:
    d, spacing = len(space), (1.0, 0.5, 2.0)[: len(space)]
    check_operator(ElasticStrain((d, *space), poisson=0.3, spacing=spacing))
    check_operator(SecondDifferences((d, *space), spacing))


@pytest.mark.parametrize("plane, poisson", [("stress", 0.4), ("stress", 0.9), ("strain", 0.49)])
def test_a_uniform_stretch_costs_its_closed_form(plane: str, poisson: float) -> None:
    e, spacing, space = 0.1, (1.5, 2.0), (5, 7)
    u = torch.zeros(1, 2, *space, dtype=torch.float64)
    u[:, 1] = e * 2.0 * torch.arange(7.0, dtype=torch.float64)
    energy = it.priors.LinearElastic(2.0, poisson, plane, spacing).energy(u) / (4 * 6)
    if plane == "stress":
        expected = 2.0 * e**2 / (2 * (1 - poisson**2))
    else:
        expected = 2.0 * e**2 * (1 - poisson) / (2 * (1 + poisson) * (1 - 2 * poisson))
    assert float(energy) == pytest.approx(expected, rel=1e-12)


def test_translations_cost_nothing_and_checkerboards_do() -> None:
    u = torch.ones(1, 2, 6, 6, dtype=torch.float64)
    u[:, 1] = -3.0
    signs = 1 - 2 * (torch.arange(6).view(-1, 1) + torch.arange(6)).double().remainder(2)
    priors = it.priors
    for prior in (priors.Diffusion(), priors.Bending(), priors.LinearElastic(), priors.GridARAP()):
        assert float(prior.energy(u)) == 0
        assert float(prior.energy(u + 0.1 * signs)) > 0.1, prior


def test_a_nearly_incompressible_body_resists_a_change_of_volume_alone() -> None:
    grid = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    swell = 0.1 * torch.stack(grid)[None]
    shear = 0.1 * torch.stack([grid[0], -grid[1]])[None]
    body = it.priors.LinearElastic(poisson=0.499, plane="strain")
    assert float(body.energy(swell)) > 100 * float(body.energy(shear))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ImageWarp(torch.zeros(4, 4)), "2 or 3 axes"),
        (lambda: ImageWarp(torch.zeros(1, 1, 4, 4), (1.0,)), "spacing"),
        (lambda: ImageWarp(torch.zeros(1, 1, 4, 4), None, "nearest"), "linear"),
        (lambda: Warp(torch.zeros(1, 1, 4, 4)), "displacement"),
        (lambda: ElasticStrain((2, 4, 4), poisson=0.5, plane="strain"), "0.49"),
        (lambda: it.priors.LinearElastic(plane="x"), "stress"),
        (lambda: it.priors.Bending().energy(torch.zeros(1, 1, 4, 4)), "displacements"),
    ],
)
def test_bad_settings_are_one_sentence(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
