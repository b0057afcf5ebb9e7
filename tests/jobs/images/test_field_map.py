"""The field map of two echoes: phase wraps, noise, air and bad input."""

from __future__ import annotations

import math

import pytest
import torch

import invtoolbox as it


def bumps(size: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a smooth field map in Hz, and the magnitude of an object in air."""
    v = torch.linspace(-1, 1, size)
    radius = v[:, None] ** 2 + (v - 0.2) ** 2
    field = 160 * torch.exp(-radius / 0.3) - 50
    magnitude = (torch.hypot(v[:, None] / 0.8, v / 0.7) < 1) * (1 + 0.4 * torch.cos(8 * v))
    return field, magnitude


def echoes(
    field: torch.Tensor, magnitude: torch.Tensor, times: tuple[float, float], level: float
) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 2, *field.shape, generator=draw) * level
    return [
        torch.polar(magnitude, 2 * math.pi * field * t) + torch.complex(n[0], n[1])
        for t, n in zip(times, noise)
    ]


def test_wraps_and_noise_leave_two_hertz() -> None:
    field, magnitude = bumps()
    times = (0.004, 0.014)  # a turn per 100 Hz
    first, second = echoes(field, magnitude, times, 0.03)
    estimate = it.estimate_field_map(first, second, times)
    assert estimate.shape == (1, 1, 40, 40)
    error = (estimate[0, 0] - field)[magnitude > 0]
    assert float(error.square().mean().sqrt()) < 2
    raw = (first.conj() * second).angle() / (2 * math.pi * 0.01)
    assert float((raw - field)[magnitude > 0].square().mean().sqrt()) > 10
    # In the reverse order of the echoes the map is the same.
    back = it.estimate_field_map(second, first, times[::-1])
    torch.testing.assert_close(back, estimate, atol=0.05, rtol=0)


def test_coils_and_items_have_their_own_maps() -> None:
    field, magnitude = bumps(24)
    times = (0.0, 0.005)
    coils = torch.polar(torch.tensor([0.5, 1.0]), torch.tensor([0.3, -2.0])).view(2, 1, 1)
    pairs = [echoes(f, magnitude, times, 0.0) for f in (field, 0.5 * field)]
    first, second = (torch.stack([pair[k] * coils for pair in pairs]) for k in (0, 1))
    both = it.estimate_field_map(first, second, times, smoothness=0.01)
    assert both.shape == (2, 1, 24, 24)
    alone = it.estimate_field_map(first[1:], second[1:], times, smoothness=0.01)
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=0)
    assert float((both[1, 0] - 0.5 * field)[magnitude > 0].abs().max()) < 2


def test_bad_echoes_get_one_sentence() -> None:
    image = torch.ones(1, 1, 8, 8, dtype=torch.complex64)
    with pytest.raises(it.InputError, match="two echoes of different times"):
        it.estimate_field_map(image, image, (0.005, 0.005))
    with pytest.raises(it.InputError, match="must be equal"):
        it.estimate_field_map(image, image[..., :7], (0.0, 0.005))
    with pytest.raises(it.InputError, match="complex images"):
        it.estimate_field_map(image.abs(), image.abs(), (0.0, 0.005))
    with pytest.raises(it.InputError, match="no phase"):
        it.estimate_field_map(0 * image, 0 * image, (0.0, 0.005))
    with pytest.raises(it.InputError, match="NaN or infinite"):
        it.estimate_field_map(image / 0, image, (0.0, 0.005))
    with pytest.raises(it.InputError, match="smoothness"):
        it.estimate_field_map(image, image, (0.0, 0.005), smoothness=-1)
