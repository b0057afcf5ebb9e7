"""Onsets of waves: later in noise by a part of the period, missing where there is no wave."""

from __future__ import annotations

import pytest
import torch

from invtoolbox import InputError
from invtoolbox.processing import pick_onsets
from invtoolbox.simulation import ricker

STEP, FREQUENCY = 0.004, 10.0


def records(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 20 waves at random times, each before a stronger one, and these times."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(20, 120, (20,), generator=generator)
    wave = ricker(FREQUENCY, STEP, 60)
    y = torch.zeros(20, 300)
    for trace, start in zip(y, first.tolist()):
        trace[start : start + 60] += 0.2 * wave
        trace[start + 70 : start + 130] += wave
    return y + noise * torch.randn(y.shape, generator=generator), first * STEP


@pytest.mark.parametrize(("noise", "share"), [(0.0, 0.15), (0.005, 0.2), (0.02, 0.3)])
def test_onsets_of_weak_first_waves(noise: float, share: float) -> None:
    y, first = records(noise)
    wave = torch.nn.functional.pad(ricker(FREQUENCY, STEP, 60), (0, 140))
    onset = pick_onsets(wave, STEP, 1 / FREQUENCY)
    errors = pick_onsets(y.view(4, 5, 300), STEP, 1 / FREQUENCY).flatten() - first - onset
    assert errors.isfinite().all() and float(errors.abs().quantile(0.9)) <= share / FREQUENCY + 1e-6
    # A scaled record has the same onset, whatever its unit.
    again = pick_onsets(1e6 * y, STEP, 1 / FREQUENCY)
    assert torch.allclose(again, pick_onsets(y, STEP, 1 / FREQUENCY), atol=STEP)


def test_records_without_a_wave_have_no_onset() -> None:
    noise = torch.randn(8, 300, generator=torch.Generator().manual_seed(1))
    assert pick_onsets(noise, STEP, 1 / FREQUENCY, threshold=8.0).isnan().all()
    assert pick_onsets(torch.zeros(2, 300), STEP, 1 / FREQUENCY).isnan().all()


@pytest.mark.parametrize(
    ("samples", "period", "message"),
    [(300, 0.004, "a period of four samples"), (20, 0.1, "records of two periods, got 20 samples")],
)
def test_too_short(samples: int, period: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pick_onsets(torch.zeros(samples), STEP, period)
