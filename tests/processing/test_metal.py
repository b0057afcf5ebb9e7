"""Metal: found, replaced, put back; scans without metal stay as they are."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import invtoolbox as it
from invtoolbox.measurements import check_measurements
from invtoolbox.operators import ParallelBeam
from invtoolbox.processing import fit_beam_hardening, reduce_metal
from invtoolbox.processing.flat_field import interpolate
from invtoolbox.simulation import Spectrum, attenuation, simulate_counts, tube_spectrum

SIDE, PIXEL, ENERGY = 96, 2.0, 65.0
Scan = tuple[Tensor, ParallelBeam, Tensor, Tensor]


def scan(*discs: tuple[float, float, float, str]) -> Scan:
    """Line integrals, operator, true image and metal of a body of water and bone with metal discs."""
    line = (torch.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
    y, x = line[:, None], line[None, :]
    body = ((x / 80).square() + (y / 60).square() < 1).float()
    bone = (torch.hypot(x, y - 35) < 10).float()
    lung = (torch.hypot((x - 35) / 1.4, y) < 18).float()
    metals = {
        name: sum(
            ((torch.hypot(x - c, y - r) < s).float() for r, c, s, m in discs if m == name),
            torch.zeros_like(body),
        )
        for name in ("iron", "titanium")
    }
    metal = metals["iron"] + metals["titanium"]
    angles = torch.arange(180) * (math.pi / 180)
    A = ParallelBeam((SIDE, SIDE), angles, 144, pixel_size=PIXEL, detector_spacing=PIXEL)
    density = body * (1 - 0.7 * lung)
    maps = {"water": density * (1 - bone) * (1 - metal), "bone": 0.7 * bone * (1 - metal), **metals}
    paths = {name: A(values[None, None]) for name, values in maps.items()}
    spectrum = tube_spectrum(kilovolts=120.0, count=20)
    measured = -simulate_counts(paths, spectrum, 1e6, seed=0).log()
    lengths = torch.linspace(0, 250, 200, dtype=torch.float64)
    water = -simulate_counts({"water": lengths}, spectrum).log()
    level = float(attenuation("water", ENERGY))
    y_corrected = fit_beam_hardening(water, lengths, degree=5, attenuation=level).apply(measured)
    truth = sum(
        float(attenuation(name, ENERGY)) * values
        for name, values in maps.items()
        if name in ("water", "bone")
    )
    return y_corrected, A, torch.as_tensor(truth)[None, None], metal[None, None]


STEEL = ((-10.0, -45.0, 8.0, "iron"), (15.0, 20.0, 8.0, "iron"))


def error(x: Tensor, truth: Tensor, metal: Tensor) -> float:
    outside = F.max_pool2d(metal, 3, 1, 1) == 0
    return float((x - truth)[outside].square().mean().sqrt())


def is_found(mask: Tensor, metal: Tensor) -> bool:
    """State whether a mask holds the metal, and beyond it no more than the pixels next to it."""
    near = F.max_pool2d(metal, 3, 1, 1) > 0
    return bool(mask[metal > 0].all()) and not bool((mask & ~near).any())


def test_the_tables_are_those_of_xraylib() -> None:
    xraylib = pytest.importorskip("xraylib")
    for name, formula, density in (
        ("water", "H2O", 1.0),
        ("aluminium", "Al", 2.699),
        ("titanium", "Ti", 4.54),
        ("iron", "Fe", 7.874),
    ):
        for energy in (10.0, 20.0, 60.0, 100.0, 150.0):
            expected = xraylib.CS_Total_CP(formula, energy) * density / 10
            assert float(attenuation(name, energy)) == pytest.approx(expected, rel=0.003)


def test_one_energy_gives_the_law_of_beer_and_many_harden() -> None:
    path = torch.linspace(0, 300, 31, dtype=torch.float64)
    one = Spectrum(torch.tensor([60.0]), torch.tensor([1.0]))
    y = -simulate_counts({"water": path}, one).log()
    torch.testing.assert_close(y, path * float(attenuation("water", 60.0)))
    slopes = (-simulate_counts({"water": path}, tube_spectrum()).log()).diff()
    assert bool((slopes.diff() < 0).all()) and float(tube_spectrum().shares.sum()) == pytest.approx(
        1
    )
    noisy = simulate_counts({"water": path}, tube_spectrum(), photons=1e4, seed=1)
    assert torch.equal(noisy, simulate_counts({"water": path}, tube_spectrum(), 1e4, seed=1))
    assert float(simulate_counts({"iron": path}, one, photons=10.0).min()) == 0.05  # half a photon


def test_metal_is_reduced_and_put_back() -> None:
    y, A, truth, metal = scan(*STEEL)
    reduction = reduce_metal(y, A)
    assert is_found(reduction.metal, metal)
    linear = A.pseudo_inverse(interpolate(y, ~reduction.hidden))
    reduced = A.pseudo_inverse(reduction.y)
    plain = error(reduction.image, truth, metal)
    assert error(reduced, truth, metal) < 0.5 * plain
    assert error(reduced, truth, metal) < 0.8 * error(linear, truth, metal)
    # Rays that meet no metal keep their values, and so does the metal of the image.
    assert torch.equal(reduction.y[~reduction.hidden], y[~reduction.hidden])
    whole = reduction.insert(reduced)
    assert torch.equal(whole[reduction.metal], reduction.image[reduction.metal])
    assert torch.equal(whole[~reduction.metal], reduced[~reduction.metal])


def test_a_scan_without_metal_is_returned_bitwise_also_in_a_batch() -> None:
    y, A, _, _ = scan()
    clean = reduce_metal(y, A)
    assert torch.equal(clean.y, y) and not bool(clean.metal.any() | clean.hidden.any())
    bad = scan(*STEEL)[0]
    both = reduce_metal(torch.cat([y, bad]), A)
    alone = reduce_metal(bad, A)
    assert torch.equal(both.y[:1], y)
    torch.testing.assert_close(both.y[1:], alone.y, rtol=0, atol=1e-5)
    assert torch.equal(both.metal[1:], alone.metal)


def test_the_lower_one_of_two_metals_counts() -> None:
    y, A, _, metal = scan(STEEL[0], (15.0, 20.0, 8.0, "titanium"))
    masks = reduce_metal(y, A).metal
    assert is_found(masks, metal)
    image = A.pseudo_inverse(y)
    between = 0.6 * float(image.max())
    steel = reduce_metal(y, A, threshold=between).metal
    assert 0 < int(steel.sum()) < int(masks.sum())
    assert not bool((steel & ~masks).any())


def test_everything_metal_and_wrong_thresholds_get_one_sentence() -> None:
    y, A, _, _ = scan((0.0, 0.0, 45.0, "iron"))
    with pytest.raises(it.InputError, match="metal above .* fills .* give a higher threshold"):
        reduce_metal(y, A, threshold=0.05)
    clean = scan()[0]
    with pytest.raises(it.InputError, match="metal above 0.001 fills 1"):
        reduce_metal(clean, A, threshold=0.001)
    with pytest.raises(it.InputError, match="threshold of reduce_metal must be positive"):
        reduce_metal(clean, A, threshold=0.0)
    with pytest.raises(it.InputError, match="takes real line integrals of a scan"):
        reduce_metal(clean, it.operators.Identity((1, 4, 4)))  # type: ignore[arg-type]


def test_a_fit_leaves_the_rays_out_and_keeps_the_metal() -> None:
    y, A, truth, metal = scan(*STEEL)
    settings = {"regularization": 0.1, "max_iterations": 60, "progress": False, "repair": False}
    with pytest.warns(it.MeasurementWarning, match="it.reconstruct.*metal=True"):
        plain = it.reconstruct(y, A, "tv,nonnegative", **settings)
    solution = it.reconstruct(y, A, "tv,nonnegative", metal=True, **settings)
    reduction = reduce_metal(y, A)
    assert error(solution.x, truth, metal) < 0.4 * error(reduction.image, truth, metal)
    assert error(solution.x, truth, metal) < 0.4 * error(plain.x, truth, metal)
    torch.testing.assert_close(solution.x[reduction.metal], reduction.image[reduction.metal])
    assert any(note.startswith("metal: ") for note in solution.notes)
    clean = scan()[0]
    without, same = (
        it.reconstruct(clean, A, "tv,nonnegative", metal=metal_is, **settings)
        for metal_is in (False, True)
    )
    assert torch.equal(without.x, same.x)
    with pytest.raises(it.InputError, match="metal is found in line integrals of a scan"):
        it.reconstruct(truth, it.operators.Identity((1, SIDE, SIDE)), "tv", metal=True)


def test_metal_is_a_finding_and_bone_is_none() -> None:
    y, A, _, _ = scan(*STEEL)
    assert "metal" in [f.name for f in check_measurements(it.Problem(y, A))]
    clean = scan()[0]
    assert "metal" not in [f.name for f in check_measurements(it.Problem(clean, A))]
    # The same discs in a beam of one energy without noise: an image explains them.
    truth, metal = scan(*STEEL)[2:]
    consistent = A(truth + 0.1 * metal)
    assert "metal" not in [f.name for f in check_measurements(it.Problem(consistent, A))]
