"""From counts to line integrals: the formula, what has no logarithm, weights by counting, drifts of the beam."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.processing import correct_air, line_integrals, photon_weights, transmission
from invtoolbox.processing.flat_field import interpolate


def scan(batch: int = 2, views: int = 12, cells: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.rand(batch, 1, views, cells, generator=generator, dtype=torch.float64)


def test_line_integrals_come_back_from_counts() -> None:
    y = scan()
    dark = torch.full((30,), 20.0, dtype=torch.float64)
    flat = dark + torch.linspace(500, 2000, 30, dtype=torch.float64)
    counts = dark + (flat - dark) * (-y).exp()
    result = line_integrals(counts, flat, dark)
    torch.testing.assert_close(result.y, y)
    assert bool(result.usable.all()) and result.starved.tolist() == result.dead.tolist() == [0, 0]
    torch.testing.assert_close(transmission(counts, flat, dark), (-y).exp())
    assert line_integrals(counts.round().to(torch.int32), flat, dark).y.dtype == torch.float32


def test_what_has_no_logarithm_is_filled_reported_and_weighs_nothing() -> None:
    y = scan()
    flat = torch.full((30,), 1000.0, dtype=torch.float64)
    counts = flat * (-y).exp()
    flat[7] = 0.0  # a dead cell
    counts[0, 0, 3, 11], counts[0, 0, 4, 12], counts[1, 0, 0, 29] = 0.0, -5.0, 0.0  # starved rays
    result = line_integrals(counts, flat)
    assert result.starved.tolist() == [2, 1] and result.dead.tolist() == [12, 12]
    assert bool(result.y.isfinite().all())
    torch.testing.assert_close(result.y[..., 7], (y[..., 6] + y[..., 8]) / 2)
    assert float(result.y[0, 0, 3, 11]) == float(result.y[0][result.usable[0]].max())
    assert int((result.weights == 0).sum()) == 3 + 24
    # With these weights a reconstruction does not depend on what was filled in.
    A = it.operators.Identity((1, 12, 30))
    other = torch.where(result.usable, result.y, 77.0)
    answers = [
        it.solve(
            it.Problem(v, A, it.data_terms.LeastSquares(weights=result.weights)),
            it.priors.Tikhonov(),
            regularization=1.0,
            progress=False,
        ).x
        for v in (result.y, other)
    ]
    torch.testing.assert_close(answers[0], answers[1])
    alone = line_integrals(counts[1:], flat)
    assert torch.equal(alone.y[0], result.y[1])


def test_errors_say_what_to_check() -> None:
    y = scan()
    with pytest.raises(it.InputError, match="swapped"):
        line_integrals((-y).exp(), flat=0.0, dark=1.0)
    with pytest.raises(it.InputError, match=r"frames.mean\(0\)"):
        line_integrals((-y).exp(), flat=torch.ones(10, 31))
    bad = (-y).exp()
    bad[1, 0, 2, 3] = float("nan")
    with pytest.raises(it.InputError, match=r"\(1, 0, 2, 3\)"):
        line_integrals(bad, flat=1.0)
    assert line_integrals((-y).exp(), flat=1.0, floor=math.exp(-2.9)).starved.sum() > 0


def test_weights_are_those_of_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    photons = torch.tensor([50.0, 200.0, 1000.0], dtype=torch.float64)
    drawn = torch.poisson(photons.expand(20000, 3), generator=generator) + 8 * torch.randn(
        20000, 3, generator=generator
    )
    variance = drawn.clamp_min(1).log().var(0)
    weights = photon_weights(photons.view(1, 1, 1, 3), electronic_noise=8.0).flatten()
    ratio = weights * variance
    assert float(ratio.max() / ratio.min()) < 1.15
    assert float(weights.mean()) == pytest.approx(1.0)
    assert photon_weights(torch.zeros(1, 1, 1, 3)).tolist() == [[[[0.0, 0.0, 0.0]]]]


def test_drifts_of_the_beam_are_taken_out_and_air_becomes_zero() -> None:
    y = scan()
    y[..., :4] = y[..., -5:] = 0
    drift = torch.linspace(-0.2, 0.1, 12, dtype=torch.float64).unsqueeze(1)
    slope = 0.01 * torch.arange(30, dtype=torch.float64)
    torch.testing.assert_close(correct_air(y + drift, 4, 5), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(correct_air(y + drift, 0, 5), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(correct_air(y + drift * slope, 4, 5), y, rtol=0, atol=1e-12)
    with pytest.raises(it.InputError, match="air cells"):
        correct_air(y, 0, 0)


def test_interpolation_between_known_values() -> None:
    generator = np.random.default_rng(0)
    values, known = generator.normal(size=(6, 20)), generator.random((6, 20)) > 0.6
    known[0], known[1] = False, True
    found = interpolate(torch.from_numpy(values), torch.from_numpy(known)).numpy()
    for row in range(1, 6):
        where = np.flatnonzero(known[row])
        np.testing.assert_allclose(found[row], np.interp(np.arange(20), where, values[row, where]))
    assert not found[0].any()


@pytest.mark.data
def test_the_tooth_is_what_the_reader_makes_of_it(data_dir: Path) -> None:
    import h5py

    with h5py.File(data_dir / "tomopy_tooth" / "tooth.h5") as file:
        counts, white, dark = (
            torch.from_numpy(file[f"exchange/{name}"][:].astype(np.float64))
            for name in ("data", "data_white", "data_dark")
        )
    rows = counts.transpose(0, 1).unsqueeze(1)
    result = line_integrals(rows, white.mean(0)[:, None, None], dark.mean(0)[:, None, None])
    data = it.datasets.open(data_dir / "tomopy_tooth" / "tooth.h5")
    for row in range(2):
        torch.testing.assert_close(result.y[row], data[row].y[0].double(), rtol=1e-5, atol=1e-6)
    assert int(result.starved.sum()) == sum(data[row].meta["starved_rays"] for row in range(2))
