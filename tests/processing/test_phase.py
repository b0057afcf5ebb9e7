"""Phase: the thickness of a known object from its fringes, one convention of lengths, the sentences of refusals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets import Geometry, Geometry3D, Measurement
from invtoolbox.processing import filter_phase, retrieve_phase
from invtoolbox.simulation import propagate, x_ray_wavelength

ENERGY, DELTA, BETA, PIXEL = 20.0, 6e-7, 4e-10, 0.005
MU = 4 * math.pi * BETA / (1e-6 * x_ray_wavelength(ENERGY))


def lens(axes: int = 2, count: int = 160) -> Tensor:
    """Thickness in mm of a body without sharp edges, behind which there are fringes."""
    line = (torch.arange(count, dtype=torch.float64) - count / 2 + 0.5) * PIXEL
    square = line.square() if axes == 1 else line[:, None].square() + 0.6 * line.square()
    return 0.5 * (1 - square / (0.3 * count * PIXEL) ** 2).clamp_min(0) ** 1.5


def light(thickness: Tensor, distance: float, axes: int = 2) -> Tensor:
    wavelength = 1e-6 * x_ray_wavelength(ENERGY)
    exponent = -2 * math.pi / wavelength * thickness
    wave = torch.polar((BETA * exponent).exp(), DELTA * exponent)
    return propagate(wave, wavelength, distance, PIXEL, axes=axes).abs().square()


def test_a_wave_keeps_its_energy_and_bends_as_a_gaussian_beam_does() -> None:
    wavelength, waist, distance = 1e-3, 0.05, 20.0
    line = (torch.arange(256, dtype=torch.float64) - 128) * 0.005
    beam = torch.exp(-(line[:, None].square() + line.square()) / waist**2).to(torch.complex128)
    after = propagate(beam, wavelength, distance, 0.005).abs().square()
    torch.testing.assert_close(after.sum(), beam.abs().square().sum())
    # w(z)^2 = w_0^2 (1 + (lambda z / (pi w_0^2))^2); the variance of the intensity is w^2 / 4.
    width = waist**2 * (1 + (wavelength * distance / (math.pi * waist**2)) ** 2)
    variance = float((after.sum(0) * line.square()).sum() / after.sum())
    assert variance == pytest.approx(width / 4, rel=1e-6)
    one = propagate(beam[128], wavelength, distance, 0.005, axes=1)
    torch.testing.assert_close(
        one, propagate(beam[128].expand(4, -1), wavelength, distance, 0.005, axes=2)[0]
    )
    with pytest.raises(it.InputError, match="complex wave"):
        propagate(beam.real, wavelength, distance, 0.005)


@pytest.mark.parametrize("axes", [1, 2])
def test_fringes_become_the_thickness(axes: int) -> None:
    truth = lens(axes)
    picture = light(truth, 50.0, axes)
    views = picture[None, None, None]
    y = filter_phase(views, DELTA / BETA, ENERGY, distance=50.0, pixel_size=PIXEL)
    assert float((y.view(truth.shape) / MU - truth).norm() / truth.norm()) < 0.002
    assert float((-picture.log() / MU - truth).norm() / truth.norm()) > 0.04
    # Twice the distance, energy or ratio is another answer.
    for change in (
        {"distance": 100.0},
        {"energy": 2 * ENERGY},
        {"delta_beta": 2 * DELTA / BETA},
        {"pixel_size": 2 * PIXEL},
    ):
        settings = {
            "delta_beta": DELTA / BETA,
            "energy": ENERGY,
            "distance": 50.0,
            "pixel_size": PIXEL,
        }
        wrong = filter_phase(views, **(settings | change))
        assert float((wrong.view(truth.shape) / MU - truth).norm() / truth.norm()) > 0.01


def test_a_cone_is_a_parallel_beam_of_its_effective_distance() -> None:
    picture = light(lens(), 37.5)[None, None, None]
    plain = filter_phase(picture, DELTA / BETA, ENERGY, distance=37.5, pixel_size=PIXEL)
    magnified = filter_phase(
        picture, DELTA / BETA, ENERGY, distance=150.0, pixel_size=4 * PIXEL, source_distance=50.0
    )
    torch.testing.assert_close(magnified, plain, rtol=0, atol=1e-12)
    panel = {"detector_shape": (160, 160), "volume_shape": (8, 8, 8), "angles": (0.0,)}
    scan = Geometry3D(
        "cone", detector_spacing=4 * PIXEL, source_origin=50.0, source_detector=200.0, **panel
    )
    y = -picture.log().float()
    by_geometry = retrieve_phase(Measurement(y, scan, noise_std=0.1), DELTA / BETA, ENERGY)
    torch.testing.assert_close(by_geometry.y.double(), plain, rtol=0, atol=1e-5)
    assert by_geometry.noise_std is None and by_geometry.meta["energy"] == ENERGY
    flat = Geometry3D("parallel3d", detector_spacing=1e3 * PIXEL, length_unit="um", **panel)
    in_micrometres = retrieve_phase(Measurement(y, flat), DELTA / BETA, ENERGY, distance=37.5e3)
    torch.testing.assert_close(in_micrometres.y.double(), plain, rtol=0, atol=1e-5)


def test_cells_that_are_not_square_are_filtered_by_their_lengths() -> None:
    thickness = lens()
    coarse = light(thickness, 50.0).unflatten(0, (80, 2)).mean(1)
    y = filter_phase(
        coarse[None, None, None], DELTA / BETA, ENERGY, 50.0, pixel_size=(2 * PIXEL, PIXEL)
    )
    truth = thickness.unflatten(0, (80, 2)).mean(1)
    assert float((y[0, 0, 0] / MU - truth).norm() / truth.norm()) < 0.005


def test_pieces_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from invtoolbox.processing import phase

    views = torch.stack([light(lens(), d) for d in (25.0, 50.0, 75.0)])[None, None]
    whole = filter_phase(views, DELTA / BETA, ENERGY, 50.0, PIXEL)
    monkeypatch.setattr(phase, "_PIECE", 1)
    torch.testing.assert_close(
        filter_phase(views, DELTA / BETA, ENERGY, 50.0, PIXEL), whole, rtol=0, atol=1e-14
    )
    batch = filter_phase(views.movedim(2, 0), DELTA / BETA, ENERGY, 50.0, PIXEL)
    torch.testing.assert_close(batch[1, 0], whole[0, 0, 1][None], rtol=0, atol=1e-14)


@pytest.mark.parametrize("axes", [1, 2])
def test_the_filter_is_algotoms_at_the_equivalent_ratio(axes: int) -> None:
    filtering = pytest.importorskip("algotom.prep.filtering")
    plane = light(lens(), 50.0)
    ratio = math.pi * 1e-6 * x_ray_wavelength(ENERGY) * 50.0 * DELTA / BETA / PIXEL**2
    # Padded beforehand: algotom's own padding stretches its frequencies.
    padded = np.pad(plane.numpy(), 200, mode="edge")
    theirs = filtering.fresnel_filter(padded, ratio, dim=axes, pad=0, apply_log=False)
    views = plane[None, None] if axes == 1 else plane[None, None, None]
    ours = (-filter_phase(views, DELTA / BETA, ENERGY, 50.0, PIXEL)).exp().view(plane.shape)
    inner = torch.from_numpy(theirs[200:-200, 200:-200])
    torch.testing.assert_close(
        ours[10:-10, 10:-10].float(), inner[10:-10, 10:-10], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"energy": None}, "needs energy above 0, the mean energy of the photons in keV; got None"),
        ({"distance": 0.0}, "needs distance above 0.*at 0 there are no fringes"),
        ({"distance": None}, "needs distance above 0, the distance from the object"),
        ({"delta_beta": -1000.0}, "needs delta_beta above 0"),
        ({"pixel_size": math.nan}, "needs pixel_size above 0"),
        ({"pixel_size": (PIXEL, 0.0)}, "needs pixel_size above 0"),
        ({"source_distance": 0.0}, "needs source_distance above 0"),
        ({"transmission": torch.zeros(1, 1, 4, 8)}, "32 of 32 filtered transmissions"),
        ({"transmission": torch.full((1, 1, 4, 8), math.nan)}, "NaN or infinite"),
        ({"transmission": torch.ones(4, 8)}, "batch, channel, view"),
    ],
)
def test_wrong_numbers_get_one_sentence(change: dict, sentence: str) -> None:
    settings = {
        "transmission": torch.ones(1, 1, 4, 8),
        "delta_beta": 1000.0,
        "energy": ENERGY,
        "distance": 50.0,
        "pixel_size": PIXEL,
    }
    with pytest.raises(it.InputError, match=sentence):
        filter_phase(**(settings | change))


def test_geometries_without_their_lengths_get_one_sentence() -> None:
    plain = Geometry("parallel", angles=(0.0, 1.0), num_detectors=8, image_shape=(6, 6))
    fan = Geometry(
        "fan", (0.0, 1.0), 8, image_shape=(6, 6), source_origin=50.0, source_detector=100.0
    )
    y = torch.zeros(1, 1, 2, 8)
    for scan, distance, sentence in (
        (plain, None, "needs distance above 0"),
        (dataclasses.replace(plain, length_unit="pixel"), 50.0, "unit of the geometry is 'pixel'"),
        (fan, 50.0, "leave distance out"),
        (None, 50.0, "needs the geometry"),
    ):
        with pytest.raises(it.InputError, match=sentence):
            retrieve_phase(Measurement(y, scan), 1000.0, ENERGY, distance)
