"""Hounsfield units, there and back."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.processing import from_hounsfield, to_hounsfield, water_attenuation


def test_water_is_zero_air_is_minus_a_thousand_and_back() -> None:
    mu = (
        torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        * 0.04
        - 0.001
    )
    for air in (0.0, 2e-5):
        torch.testing.assert_close(from_hounsfield(to_hounsfield(mu, 0.0193, air), 0.0193, air), mu)
        assert to_hounsfield(
            torch.tensor([air, 0.0193], dtype=torch.float64), 0.0193, air
        ).tolist() == pytest.approx([-1000, 0])
    # The readers' own function is the inverse, for air at 0 and nothing below it.
    positive = mu.clamp_min(0)
    torch.testing.assert_close(
        it.datasets.hounsfield_to_attenuation(to_hounsfield(mu, 0.02), 0.02), positive
    )
    with pytest.raises(it.InputError, match="more than air"):
        to_hounsfield(mu, 0.0)


def test_water_is_measured_in_a_region() -> None:
    image = torch.full((2, 1, 6, 6), 0.5)
    image[0, 0, :3, :3], image[1, 0, :3, :3] = 0.02, 0.03
    region = torch.zeros(6, 6, dtype=torch.bool)
    region[:3, :3] = True
    assert water_attenuation(image, region).tolist() == pytest.approx([0.02, 0.03])
    with pytest.raises(it.InputError, match="no pixel"):
        water_attenuation(image, ~torch.ones(6, 6, dtype=torch.bool))
