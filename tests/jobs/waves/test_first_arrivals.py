"""First arrivals: picked from simulated records, inverted, windows about them, and bad picks."""

from __future__ import annotations

import math

import pytest
import torch

import invtoolbox as it
from invtoolbox.jobs.waves.first_arrivals import fit_gradient
from invtoolbox.jobs.waves.invert import shift_window
from invtoolbox.operators import AcousticWaves

pytest.importorskip("deepwave")

GRID, CELL, STEP, FREQUENCY = (16, 81), 20.0, 3e-3, 10.0


@pytest.fixture(scope="module")
def survey() -> AcousticWaves:
    shots = torch.tensor([[20.0, 100.0], [20.0, 800.0], [20.0, 1500.0]])
    receivers = torch.stack([torch.full((27,), 20.0), torch.linspace(20, 1580, 27)], 1)
    wavelet = it.simulation.ricker(FREQUENCY, STEP, 80)
    return AcousticWaves(GRID, CELL, shots, receivers, wavelet, STEP, (1400.0, 2600.0), 420)


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    depth = CELL * torch.arange(GRID[0])
    velocity = (1500 + 2.0 * depth)[:, None].repeat(1, GRID[1])
    velocity[3:10, 30:50] += 150.0
    return velocity[None, None]


@pytest.fixture(scope="module")
def records(survey: AcousticWaves, truth: torch.Tensor) -> torch.Tensor:
    return survey.simulate(truth)


def test_picks_are_travel_times(
    survey: AcousticWaves, truth: torch.Tensor, records: torch.Tensor
) -> None:
    dead = records.clone()
    dead[0, 0, 1, 4] = 0.0
    picks = it.pick_first_arrivals(dead, survey)
    times = survey.travel_times()(truth)
    assert picks.shape == (1, 1, 3, 27) and bool(picks[0, 0, 1, 4].isnan())
    picked = picks.isfinite()
    assert int(picked.sum()) > 60 and bool((picks[picked] >= 1 / FREQUENCY).all())
    # Within a fifth of the period; waves of this length smooth what rays see.
    assert float((picks - times)[picked].abs().median()) < 0.1 / FREQUENCY
    assert float((picks - times)[picked].abs().max()) < 0.3 / FREQUENCY


def test_tomography_improves_on_the_gradient(survey: AcousticWaves, truth: torch.Tensor) -> None:
    times = survey.travel_times()
    picks = times(truth)
    picks[0, 0, 0, ::5] = math.nan
    line = fit_gradient(picks, times)
    settings = {"noise_std": 2e-3, "max_iterations": 8, "progress": False}
    solution = it.invert_first_arrivals(picks, survey, **settings)
    errors = [float((x - truth)[..., :6, :].square().mean().sqrt()) for x in (line, solution.x)]
    assert errors[1] < 0.75 * errors[0], errors
    assert solution.notes[-1].startswith("75 of 81 records have a pick")
    assert torch.equal(it.invert_first_arrivals(picks, times, **settings).x, solution.x)


def test_an_item_alone_and_in_a_batch(survey: AcousticWaves, truth: torch.Tensor) -> None:
    times = survey.travel_times()
    picks = torch.cat([times(truth), times(0.9 * truth)])
    settings = {"noise_std": 5e-3, "max_iterations": 2, "progress": False}
    both = it.invert_first_arrivals(picks, times, **settings).x
    alone = [it.invert_first_arrivals(item[None], times, **settings).x for item in picks]
    assert torch.equal(both, torch.cat(alone))


def test_windows_by_line_offset_and_pick(survey: AcousticWaves) -> None:
    window = it.data_window(survey, begin=(0.1, 2000.0), end=(0.3, 2000.0), taper=0.03)
    assert window.shape == (1, 1, 3, 27, 420)
    # The first receiver is 80 m from the first shot: from 0.14 to 0.34 s.
    trace, first, last = window[0, 0, 0, 0], 47, 113
    assert bool((trace[first : last + 1] == 1).all()) and not trace[: first - 10].any()
    assert 0 < float(trace[first - 5]) < 1 and 0 < float(trace[last + 5]) < 1
    assert not trace[last + 11 :].any()
    near = it.data_window(survey, offsets=(0.0, 500.0)).amax(-1)[0, 0, 0]
    assert near.tolist() == [1.0] * 10 + [0.0] * 17
    picks = torch.full((3, 27), 0.5)
    picks[1, 2] = math.nan
    about = it.data_window(survey, begin=picks - 0.1, end=picks + 0.2).sum(-1)[0, 0]
    assert float(about[0, 0]) == pytest.approx(101, abs=1) and float(about[1, 2]) == 0
    assert shift_window(torch.tensor([[0.0, 1.0, 0.5]]), 1.0, 1.0).tolist() == [[0.0, 0.0, 1.0]]
    assert shift_window(torch.tensor([[2.0]]), 5.0, 1.0).tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offsets": (500.0, 100.0)}, "least and the largest distance"),
        ({"offsets": (9000.0, 9100.0)}, "mutes every sample of the survey"),
        ({"begin": (0.0, -5.0)}, "velocity of begin"),
        ({"end": torch.zeros(4, 4)}, r"times of end are one per record, \(3, 27\), got \(4, 4\)"),
        ({"taper": -1.0}, "taper"),
    ],
)
def test_windows_that_cannot_be(
    survey: AcousticWaves, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(it.InputError, match=message):
        it.data_window(survey, **settings)  # type: ignore[arg-type]


def test_muted_and_missing_records_have_no_influence() -> None:
    places = torch.tensor([[10.0, 20.0], [10.0, 100.0], [10.0, 180.0]])
    wavelet = it.simulation.ricker(15.0, 2e-3, 60)
    A = AcousticWaves((9, 21), 10.0, places[:2], places, wavelet, 2e-3, (1400, 1700), 90, 8)
    y, start = A.simulate(torch.full((1, 1, 9, 21), 1550.0)), torch.full((1, 1, 9, 21), 1500.0)
    mask = torch.ones(1, 1, 2, 3, 1)
    mask[:, :, 0, 2] = 0.0

    def invert(records: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        return it.invert_waveforms(
            records, A, start, (8.0,), max_iterations=1, weights=weights, progress=False
        ).x

    x, plain = invert(y, mask), invert(y, None)
    assert torch.equal(x, invert(torch.where(mask > 0, y, 100.0), mask))
    assert torch.allclose(invert(y, torch.ones(1, 1, 1, 1, 1)), plain, rtol=1e-5)
    assert float((x - plain).abs().max()) > 0.1


def test_bad_picks_and_weights(
    survey: AcousticWaves, truth: torch.Tensor, records: torch.Tensor
) -> None:
    times = survey.travel_times()
    empty = torch.full((1, 1, 3, 27), math.nan)
    with pytest.raises(it.InputError, match="all picks are missing; check that the records"):
        it.invert_first_arrivals(empty, survey)
    with pytest.raises(it.InputError, match="all picks of item 1 are missing"):
        it.invert_first_arrivals(torch.cat([times(truth), empty]), survey)
    with pytest.raises(it.InputError, match="all picks are missing"):
        it.pick_first_arrivals(torch.zeros_like(records), survey)
    with pytest.raises(it.InputError, match=r"have the shape \(batch, 1, 3, 27\), got \(1, 1, 2"):
        it.invert_first_arrivals(times(truth)[:, :, :2], survey)
    with pytest.raises(it.InputError, match="lie before the shot"):
        it.invert_first_arrivals(times(truth) - 0.2, survey)
    with pytest.raises(it.InputError, match="give noise_std="):
        it.invert_first_arrivals(times(truth), times)
    for weights, message in (
        (torch.ones(3, 27), "as many axes, each of the same length or of length 1, got"),
        (torch.zeros(1, 1, 1, 1, 1), "at least 0 and not all 0"),
    ):
        with pytest.raises(it.InputError, match=message):
            it.invert_waveforms(records, survey, truth, (8.0,), weights=weights)
