"""Acoustic waves: arrival times, derivatives, batches, subsets, and surveys that cannot be."""

from __future__ import annotations

import math

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import AcousticWaves
from invtoolbox.simulation import ricker

pytest.importorskip("deepwave")

STEP = 2e-3
SHOTS = torch.tensor([[20.0, 60.0], [20.0, 145.0]])
RECEIVERS = torch.stack([torch.full((4,), 20.0), torch.tensor([20.0, 80.0, 140.0, 190.0])], 1)


def survey(**changes: object) -> AcousticWaves:
    given: dict[str, object] = {
        "grid": (14, 21),
        "spacing": 10.0,
        "shots": SHOTS,
        "receivers": RECEIVERS,
        "wavelet": ricker(12.0, STEP, 90),
        "time_step": STEP,
        "velocities": (1200.0, 2100.0),
        "absorbing": 8,
    }
    return AcousticWaves(**{**given, **changes})  # type: ignore[arg-type]


def media(count: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 1500 + 40 * torch.randn(count, 1, 14, 21, generator=generator, dtype=dtype)


def test_contract() -> None:
    it.testing.check_operator(survey(), media(), precisions=[torch.float64])


def test_waves_arrive_when_they_should() -> None:
    A = survey(
        grid=(30, 61),
        shots=torch.tensor([[150.0, 100.0]]),
        receivers=torch.tensor([[150.0, 250.0], [150.0, 400.0]]),
        samples=200,
        absorbing=20,
    )
    y = A(torch.full((1, 1, 30, 61), 1500.0))[0, 0, 0]
    # In two dimensions a wave has a tail, so that only differences of the distance are exact.
    lag = torch.nn.functional.conv1d(
        y[1].view(1, 1, -1), y[0].view(1, 1, -1), padding=len(y[0])
    ).argmax() - len(y[0])
    assert abs(float(lag) * STEP - 150 / 1500) <= STEP


def test_sign_and_size_of_the_pressure() -> None:
    """Compare with the wavelet convolved with Green's function of the plane."""
    step, cell, distance, samples, fine = 1e-3, 10.0, 200.0, 500, 20
    ends = torch.tensor([[200.0, 200.0]]), torch.tensor([[200.0, 200.0 + distance]])
    wavelet = ricker(10.0, step, 300)
    A = AcousticWaves((41, 61), cell, *ends, wavelet, step, (1400.0, 1600.0), samples=samples)
    y = A(torch.full((1, 1, 41, 61), 1500.0)).flatten().double()
    time = (torch.arange(samples * fine, dtype=torch.float64) + 0.5) * step / fine
    square = time**2 - (distance / 1500) ** 2
    green = torch.where(square > 0, -0.5 / math.pi / square.clamp_min(1e-12).sqrt(), 0.0)
    kernel = green.view(samples, fine).mean(1) * step * cell**2
    padded = torch.nn.functional.pad(wavelet.double(), (samples - 1, samples - len(wavelet)))
    u = torch.nn.functional.conv1d(padded.view(1, 1, -1), kernel.flip(0).view(1, 1, -1)).flatten()
    assert float((y - u).norm() / u.norm()) < 0.05


def test_places_between_cells_give_records_between_those_of_the_cells() -> None:
    x = torch.full((1, 1, 14, 21), 1500.0, dtype=torch.float64)
    ends = survey(receivers=torch.tensor([[20.0, 100.0], [20.0, 110.0]]))(x)[0, 0, 0]
    middle = survey(receivers=torch.tensor([[20.0, 105.0]]))(x)[0, 0, 0, 0]
    assert float((middle - ends.mean(0)).norm() / middle.norm()) < 0.05
    it.testing.check_operator(
        survey(receivers=torch.tensor([[20.0, 3.0]])), media(), precisions=[torch.float64]
    )
    surface = {"free_surface": True, "receivers": torch.tensor([[25.0, 100.0]])}
    with pytest.raises(it.InputError, match="receivers near the free surface lie between cells"):
        survey(**surface)
    surface["receivers"] = torch.tensor([[20.0, 105.0]])
    it.testing.check_operator(survey(**surface), media(), precisions=[torch.float64])


def test_shots_are_blocks_and_items_are_independent() -> None:
    A, x = survey(), media()
    y = A(x)
    assert torch.equal(A.subset([1])(x), y[:, :, [1]])
    assert torch.equal(A.subset(slice(0, 1))(x[1:]), y[1:, :, :1])
    alone = survey(receivers=RECEIVERS.expand(2, -1, -1).clone())
    assert torch.equal(alone(x), y)


@pytest.mark.parametrize("along", [145.0, 140.0])  # between two cells, and in one
def test_the_gradient_of_an_item_does_not_depend_on_the_others(along: float) -> None:
    A = survey(shots=torch.tensor([[20.0, 60.0], [20.0, along]]))
    x = media(3, torch.float32)
    y = A(x + 20)

    def gradient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        free = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad((A(free) - y).square().sum(), free)
        return slope

    assert torch.equal(gradient(x, y)[1:2], gradient(x[1:2], y[1:2]))


def test_positions_may_be_whole_numbers() -> None:
    A = survey(shots=torch.tensor([[25, 50]]), spacing=12.5, wavelet=ricker(8.0, STEP, 90))
    assert A.shots.tolist() == [[2.0, 4.0]]
    uneven = survey(spacing=torch.tensor([10.0, 12.0]))
    assert uneven.spacing == (10.0, 12.0) and uneven.shots[0].tolist() == [2.0, 5.0]


def test_rounded_positions_at_the_border_are_on_the_grid() -> None:
    A = survey(shots=torch.tensor([[0.0005, -0.0005], [20.0, 199.9995]]))
    exact = survey(shots=torch.tensor([[0.0, 0.0], [20.0, 200.0]]))
    assert torch.equal(A(media(1)), exact(media(1)))


def test_the_wavelet_is_a_parameter() -> None:
    A, x = survey(), media(1, torch.float32)
    doubled = A.with_parameters(wavelet=2 * A.wavelet)
    assert torch.allclose(doubled(x), 2 * A(x), rtol=1e-4, atol=1e-5 * float(A(x).abs().max()))
    wavelets = torch.stack([A.wavelet, 3 * A.wavelet])
    for pair in (survey(wavelet=wavelets), A.with_parameters(wavelet=wavelets)):
        y = pair(x.expand(2, -1, -1, -1).contiguous())
        assert torch.equal(y[:1], A(x)) and pair.items == 2
        assert torch.equal(pair.select(torch.tensor([1]))(x), y[1:])
    problem = it.Problem(
        A(x), A.with_parameters(wavelet=0 * A.wavelet + 1e-3), unknown={"wavelet": None}
    )
    found = it.solve(
        problem,
        it.priors.Gaussian(x[0], 1e-6),
        it.solvers.LBFGS(),
        regularization=1e3,
        initial=x,
        max_iterations=60,
        progress=False,
    )
    error = (found.parameters["wavelet"].flatten() - A.wavelet).norm() / A.wavelet.norm()
    assert float(error) < 0.3


def test_low_frequencies_are_those_of_a_low_wavelet() -> None:
    A, x = survey(samples=120), media(1, torch.float64)
    y, low = A.lowpass(A(x), 8.0)
    assert float((low(x) - y).norm() / y.norm()) < 1e-3  # other absorbing layers
    assert low.frequency < A.frequency


def test_a_medium_is_found() -> None:
    A, x = survey(), torch.full((1, 1, 14, 21), 1500.0)
    x[..., 5:9, 8:13] = 1600.0
    start = torch.full_like(x, 1500.0)
    problem = it.Problem(A(x), A)
    bounds = it.priors.Box(*A.velocities)
    found = it.solve(problem, bounds, initial=start, max_iterations=15, progress=False)
    assert "LBFGS" in found.reason
    assert float((found.x - x).norm()) < 0.9 * float((start - x).norm())
    assert float((A(found.x) - problem.y).norm()) < 0.1 * float((A(start) - problem.y).norm())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"time_step": 1e-2},
            r"time steps of 0.01 s are unstable at 2100 m/s.*take at most 0.0020",
        ),
        ({"wavelet": ricker(40.0, STEP, 90)}, r"40 Hz have 3 cells per wavelength.*needs 6"),
        ({"shots": torch.tensor([[10.0, 300.0]])}, r"1 of the shots lie outside.*200.0\) m"),
        ({"receivers": torch.tensor([[-5.0, 30.0]])}, "1 of the receivers lie outside"),
        ({"receivers": torch.tensor([[torch.nan, 30.0]])}, "1 of the receivers lie outside"),
        ({"samples": 50}, "wavelet has 90 samples, and the record 50"),
        ({"receivers": torch.zeros(3, 4, 2)}, "receivers are for 3 shots, and there are 2"),
        ({"wavelet": torch.zeros(90)}, "the wavelet is 0 at all times"),
        ({"wavelet": torch.full((90,), torch.nan)}, "or not finite"),
        ({"absorbing": -1}, "absorbing of AcousticWaves must not be negative"),
        ({"wavelet": torch.ones(90)}, "largest at the frequency 0"),
        ({"velocities": (2000.0, 1000.0)}, "the least and the largest"),
        ({"grid": (14,)}, "two or three axes"),
        ({"shots": torch.zeros(2)}, "positions of 2 coordinates"),
    ],
)
def test_surveys_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(it.InputError, match=message):
        survey(**changes)


def test_velocities_outside_of_the_range() -> None:
    A, x = survey(), media(1)
    assert torch.equal(A(0 * x), A(0 * x + 1200))
    with pytest.raises(it.InputError, match="velocities from 1200 to 2100 m/s, got 4.*widen"):
        A.simulate(3 * x)


def test_frequencies_that_the_samples_do_not_hold() -> None:
    with pytest.raises(it.InputError, match="half of the sampling rate, 250 Hz"):
        survey().lowpass(torch.zeros(1, 1, 2, 4, 90), 300.0)


def test_bands_state_how_far_the_objective_fell() -> None:
    A, x = survey(), torch.full((2, 1, 14, 21), 1500.0)
    x[1] += 30
    y, start = A(x), x.clone()
    start[1] -= 20
    found = it.invert_waveforms(y, A, start, (6, 8), max_iterations=3, progress=False)
    # The first item starts at its answer, so no iteration of it counts.
    assert found.notes[-1].startswith("up to 8 Hz the objective fell to 0.")
    exact = it.invert_waveforms(y[:1], A, start[:1], (8,), max_iterations=3, progress=False)
    assert exact.notes[-1] == "up to 8 Hz no iteration was needed"
    with pytest.raises(it.InputError, match="300 Hz reaches half of the sampling rate"):
        it.invert_waveforms(y, A, start, (8, 300), progress=False)


def test_ricker_begins_at_zero() -> None:
    wavelet = ricker(10.0, 1e-3, 400)
    assert abs(float(wavelet[0])) < 1e-4 and math.isclose(float(wavelet.max()), 1.0)
    with pytest.raises(it.InputError, match="frequency of ricker must be positive"):
        ricker(0.0, 1e-3, 10)


@pytest.mark.parametrize("along", [80.0, 83.0])
def test_receivers_at_one_place_have_one_record(along: float) -> None:
    """Shots with fewer receivers are padded with places of others, on the grid and between."""
    places = RECEIVERS.clone()
    places[1, 1], shots = along, SHOTS.round(decimals=-1)
    plain = survey(shots=shots, receivers=places)
    padded = survey(
        shots=shots, receivers=torch.stack([places[[0, 1, 1, 3]], places[[2, 2, 2, 0]]])
    )
    x = media(1)
    expected, y = plain(x), padded(x)
    torch.testing.assert_close(y[0, 0, 0], expected[0, 0, 0, [0, 1, 1, 3]])
    torch.testing.assert_close(y[0, 0, 1], expected[0, 0, 1, [2, 2, 2, 0]])
    w = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    whole = torch.zeros_like(w)
    for shot, numbers in enumerate(([0, 1, 1, 3], [2, 2, 2, 0])):
        whole[0, 0, shot].index_add_(0, torch.tensor(numbers), w[0, 0, shot])
    slope = padded.linearize(x).adjoint(w)
    torch.testing.assert_close(slope, plain.linearize(x).adjoint(whole), rtol=1e-6, atol=1e-12)


def test_arguments_of_an_inversion_are_named() -> None:
    wavelet = it.simulation.ricker(15.0, time_step=1e-3, samples=120)
    ends = torch.tensor([[10.0, 20.0], [10.0, 80.0]])
    A = it.operators.AcousticWaves((7, 11), 10.0, ends, ends, wavelet, 1e-3, (1400, 1700))
    start = torch.full((1, 1, 7, 11), 1500.0)
    y = A(start + 50)
    with pytest.raises(it.InputError, match="records, survey and start in this order, got Tensor"):
        it.invert_waveforms(A, y, start, 15, progress=False)  # type: ignore[arg-type]
    with pytest.raises(it.InputError, match="all records are 0"):
        it.invert_waveforms(0 * y, A, start, (15,), progress=False)
    found = it.invert_waveforms(
        1e6 * y.numpy(),
        A,
        start.numpy(),
        15,
        max_iterations=1,
        progress=False,  # type: ignore[arg-type]
    )
    assert any("bring the wavelet to the unit" in note for note in found.notes)
    alike = it.invert_waveforms(y, A, start, (15,), max_iterations=1, progress=False)
    assert not any("bring the wavelet" in note for note in alike.notes)
