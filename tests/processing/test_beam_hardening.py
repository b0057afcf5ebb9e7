"""Beam hardening: a beam of two energies through a known disc is straightened, and the cupping of its image goes."""

from __future__ import annotations

import math

import pytest
import torch

import invtoolbox as it
from invtoolbox.processing import BeamHardening, fit_beam_hardening


def hardened(
    path: torch.Tensor, soft: float = 0.08, hard: float = 0.03, share: float = 0.6
) -> torch.Tensor:
    """What a beam with two energies measures behind water of a length; its attenuation at first is the mean of both."""
    return -(share * (-soft * path).exp() + (1 - share) * (-hard * path).exp()).log()


@pytest.fixture(scope="module")
def disc() -> tuple[it.operators.LinearOperator, torch.Tensor]:
    n = 96
    line = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    mask = (torch.hypot(line[:, None] - 4, line + 3) < 36).double()[None, None]
    return it.operators.ParallelBeam((n, n), torch.arange(120) * math.pi / 120, 140), mask


def test_the_cupping_of_a_disc_goes(disc: tuple[it.operators.LinearOperator, torch.Tensor]) -> None:
    A, mask = disc
    path = A(mask)
    y = hardened(path)
    mu = 0.6 * 0.08 + 0.4 * 0.03
    straight = fit_beam_hardening(y, path, degree=4, attenuation=mu).apply(y)
    inside = path > 0
    assert float((straight - mu * path)[inside].abs().max() / (mu * path).max()) < 0.005
    assert float((y - mu * path)[inside].abs().max() / (mu * path).max()) > 0.1
    rim = (
        (mask > 0)
        & (torch.nn.functional.avg_pool2d(mask, 9, 1, 4) > 0.999)
        & (torch.nn.functional.avg_pool2d(mask, 15, 1, 7) < 1)
    )
    core = torch.nn.functional.avg_pool2d(mask, 41, 1, 20) > 0.999
    cupping = [
        float(image[rim].mean() / image[core].mean()) - 1
        for image in map(A.pseudo_inverse, (y, straight))
    ]
    assert cupping[0] > 0.1 and abs(cupping[1]) < 0.01
    # The attenuation that thin objects show is found within a few percent.
    own = fit_beam_hardening(y, path, degree=4).apply(y)
    assert float((own / straight)[inside].mean()) == pytest.approx(1.0, abs=0.03)


def test_what_is_straight_stays_and_units_are_those_of_the_path() -> None:
    path = torch.linspace(0, 50, 200, dtype=torch.float64)
    fit = fit_beam_hardening(0.02 * path, path, degree=3)
    torch.testing.assert_close(fit.apply(0.02 * path), 0.02 * path, rtol=1e-6, atol=1e-9)
    named = fit_beam_hardening(hardened(path), path, degree=5, attenuation=0.05)
    torch.testing.assert_close(named.apply(hardened(path)), 0.05 * path, rtol=0, atol=2e-3)
    millimetres = fit_beam_hardening(hardened(path), 10 * path, degree=5)
    torch.testing.assert_close(
        millimetres.apply(hardened(path)),
        fit_beam_hardening(hardened(path), path, degree=5).apply(hardened(path)),
    )


def test_beyond_the_fit_it_goes_on_straight_and_zero_stays_zero() -> None:
    fit = BeamHardening((1.0, 0.1, 0.02), largest=2.0)
    y = torch.tensor([-0.1, 0.0, 2.0, 2.5, 3.0], dtype=torch.float64)
    p = fit.apply(y)
    assert float(p[1]) == 0.0 and float(p[4] - p[3]) == pytest.approx(float(p[3] - p[2]))
    assert float(p[3] - p[2]) == pytest.approx(0.5 * (1 + 0.2 * 2 + 0.06 * 4))


def test_rays_of_weight_zero_and_bad_fits() -> None:
    path = torch.linspace(0, 50, 200, dtype=torch.float64)
    y = hardened(path)
    spoilt, weights = y.clone(), torch.ones_like(y)
    spoilt[::7], weights[::7] = 9.0, 0.0
    kept, whole = fit_beam_hardening(spoilt, path, weights=weights), fit_beam_hardening(y, path)
    torch.testing.assert_close(kept.apply(y), whole.apply(y), rtol=0, atol=1e-3)
    with pytest.raises(it.InputError, match="lower the degree"):
        fit_beam_hardening(y, (path * 0.3).sin() * 10 + 11, degree=6)
    with pytest.raises(it.InputError, match="too few"):
        fit_beam_hardening(y[:3], path[:3], degree=3)
    with pytest.raises(it.InputError, match="one shape"):
        fit_beam_hardening(y, path[:-1])
