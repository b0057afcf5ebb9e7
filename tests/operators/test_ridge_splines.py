"""Ridge splines: the contract, the geometry, and the recovery of a ridge image."""

from __future__ import annotations

import math

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators import ParallelBeam, RidgeSplines
from invtoolbox.testing import check_operator


def test_the_contract_of_an_operator() -> None:
    ridges = RidgeSplines((6, 5), torch.tensor([0.0, 0.7, 2.0]))
    check_operator(ridges)
    check_operator(ridges.bends)


def test_a_linear_profile_is_a_ramp_along_the_direction_of_a_parallel_beam() -> None:
    angles = torch.tensor([0.3, 1.2, 2.5])
    ridges = RidgeSplines((9, 9), angles)
    knots = ridges.domain_shape[2]
    profile = torch.arange(knots, dtype=torch.float64) - (knots - 1) / 2
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[..., 2, 7] = 1.0
    sinogram = ParallelBeam((9, 9), angles, 21)(point)[0, 0]
    place = torch.arange(21, dtype=torch.float64) - 10
    centre = (sinogram * place).sum(1) / sinogram.sum(1)
    for k in range(3):
        profiles = torch.zeros(1, 1, 3, knots, dtype=torch.float64)
        profiles[:, :, k] = profile
        assert float(ridges(profiles)[0, 0, 2, 7]) == pytest.approx(
            float(centre[k]), abs=0.25
        )  # the projector blurs a pixel
        assert float(ridges.bends(profiles).abs().max()) < 1e-12


def test_few_bends_are_found_from_two_fifths_of_the_pixels() -> None:
    ridges = RidgeSplines((16, 16), torch.arange(6) * math.pi / 6)
    knots = torch.arange(ridges.domain_shape[2], dtype=torch.float64)
    profiles = torch.zeros(1, *ridges.domain_shape, dtype=torch.float64)
    for angle, bend, slope in ((1, 9, 0.1), (3, 12, -0.08), (5, 14, 0.05)):
        profiles[0, 0, angle] = slope * (knots - bend).clamp_min(0)
    mask = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    A = it.operators.Inpainting(mask, (1, 16, 16)) @ ridges
    solution = it.solve(
        it.Problem(A(profiles), A),
        it.priors.L1() @ ridges.bends,
        it.solvers.ADMM(rho=0.3, inner_iterations=60),
        regularization=1e-3,
        max_iterations=45,
        tolerance=1e-8,
        progress=False,
    )
    truth = ridges(profiles)
    assert float((ridges(solution.x) - truth).norm() / truth.norm()) < 1e-3


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least one angle"):
        RidgeSplines((8, 8), torch.zeros(0))
    with pytest.raises(InputError, match="finite, in radians"):
        RidgeSplines((8, 8), torch.tensor([math.nan]))
