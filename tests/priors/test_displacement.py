"""Priors of displacement fields keep the contracts, in two and three dimensions."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.priors import Bending, Diffusion, GridARAP, LinearElastic
from invtoolbox.testing import check_prior


@pytest.mark.parametrize("space", [(5, 6), (3, 4, 5)])
@pytest.mark.parametrize(
    "prior", [Diffusion(), Bending(), LinearElastic(poisson=0.45), GridARAP()], ids=repr
)
def test_keeps_the_contracts(prior, space: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    check_prior(prior, 0.3 * torch.randn(2, len(space), *space, generator=generator).double())


def test_rotations_cost_nothing_as_rigid_as_possible() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij")).double()
    c, s = 0.6, 0.8
    turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]).double()
    u = (torch.einsum("ij,j...->i...", turn, grid) - grid)[None]
    assert float(GridARAP().energy(u)) < 1e-12 < float(LinearElastic().energy(u))


def test_takes_the_spacing_of_the_warp() -> None:
    A = it.operators.ImageWarp(torch.rand(1, 1, 5, 6), (2.0, 3.0))
    problem = it.Problem(torch.rand(1, 1, 5, 6), A)
    assert Bending().prepare(problem, it.solve).spacing == (2.0, 3.0)
