"""A fixed part of the table of mistakes, the sentences that mend them, and ``repair=True``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError, MeasurementWarning
from invtoolbox.measurements import check_measurements
from invtoolbox.measurements.bad_pixels import find_bad_pixels
from invtoolbox.operators import Blur, CartesianMRI, Fourier, Identity, Inpainting

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
#: Records whose draw of this seed is named, one or more per check.
SAMPLE = {
    "mask inverted, blocks": 100,
    "mask of 0 and 255, lines": 100,
    "mask transposed, pixels": 100,
    "mask upside down, pixels": 101,
    "mask inverted, NaN at the gaps, blocks": 101,
    "NaN at known pixels": 101,
    "frequency zero in the corner, all, 1 coils": 102,
    "frequency zero at the first row, all, 4 coils": 102,
    "frequency zero in the corner, mask in the middle, lines, 1 coils": 102,
    "plain fft2, all, 4 coils": 103,
    "alternating signs, all, 1 coils": 103,
    "alternating signs along the rows, lines, 4 coils": 103,
    "magnitudes, all, 1 coils": 104,
    "two lines missing, all, 4 coils": 104,
    "mask inverted, points, 4 coils": 104,
    "mask of 0 and 255, points, 1 coils": 105,
    "the image in place of k-space, all, 4 coils": 105,
    "conjugated, lines, 4 coils": 105,
    "coils in reversed order, all, 4 coils": 105,
    "kernel sums to 10, drawn": 106,
    "kernel sums to 10, twin with its factor, drawn": 106,
    "kernel sums to -1, drawn": 106,
    "kernel at one side, drawn": 106,
    "clipped highlights, drawn": 107,
    "clipped shadows, drawn": 107,
    "hot pixels, drawn": 108,
    "dead pixels, drawn": 108,
    "dead column, drawn": 108,
    "dead row, drawn": 108,
    "kernel transposed, constant picture, skew": 103,
    "kernel turned by half a turn, constant picture, skew": 102,
    "kernel in the corners, natural picture, skew": 100,
    "blur times 255 with dncnn-natural, twin in its range": 100,
    "gaps times 255 with lpn-natural, twin in its free": 100,
    "noise times 0.00392 with lpn-natural, twin in its unit": 100,
}


@pytest.fixture(scope="module")
def table() -> Iterator[Any]:
    sys.path.insert(0, BENCHMARKS)
    torch.set_num_threads(1)
    yield importlib.import_module("mistakes")
    sys.path.remove(BENCHMARKS)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_mistake_is_named_and_its_right_twin_is_not(table: Any, name: str) -> None:
    record = next(r for r in table.RECORDS if r.name == name)
    cases = importlib.import_module("mistakes.cases")
    wrong, right = record.make(SAMPLE[name])
    names, sentences = cases.findings(wrong)
    assert cases.is_named(names, record.causes), sentences
    assert all(sentence and "\n" not in sentence for sentence in sentences)
    assert cases.findings(right) == (set(), [])


def camera(step: int = 4) -> Tensor:
    return it.datasets.photograph("camera")[..., ::step, ::step]


def names(y: Tensor, A: it.operators.Operator, prior: Any = None) -> list[str]:
    return [f.name for f in check_measurements(it.Problem(y, A), prior)]


def test_measurements_at_unknown_places_are_a_mistake_only_if_another_mask_explains_them() -> None:
    mask = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < 0.4
    y = camera(16) + 0.01
    A = Inpainting(mask, (32, 32))
    assert torch.equal(it.Problem(y, A).y, y * mask)  # the whole picture
    assert torch.equal(it.Problem(torch.where(mask, y, torch.nan), A).y, y * mask)
    with pytest.raises(InputError, match="inverted"):
        it.Problem(y * ~mask, A)
    with pytest.raises(InputError, match="mask.mT"):
        it.reconstruct(y * mask.mT, A, progress=False)


def test_the_remedy_of_a_finding_removes_it() -> None:
    x = camera(8).to(torch.complex64) * torch.hann_window(64)[:, None] * torch.hann_window(64)
    A = Fourier((1, 64, 64))
    y = A.simulate(x, noise=0.01, seed=0)
    plain = torch.fft.fft2(x, norm="ortho")
    (finding,) = check_measurements(it.Problem(plain, A))
    assert "torch.fft.fftshift(y, dim=(-2, -1))" in finding.sentence
    assert "multiply it by (-1) ** (row + column)" in finding.sentence
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mended = torch.fft.fftshift(plain, dim=(-2, -1)) * (-1.0) ** (row + column)
    assert names(mended, A) == names(y, A) == []
    assert torch.allclose(mended, A(x), atol=1e-5)
    stored = Fourier((1, 64, 64), centred=False)
    assert names(stored.simulate(x, 0.01, seed=0), stored) == []
    assert names(y, stored) == ["centre"]


# A Hann window is zero at its first sample.
@pytest.mark.filterwarnings("ignore:3.1% of the samples that count as measured are exactly zero")
def test_phases_that_are_not_there_are_refused() -> None:
    x = camera(8).to(torch.complex64) * torch.hann_window(64)[:, None] * torch.hann_window(64)
    mask = torch.ones(64, 64)
    A = CartesianMRI(mask, (64, 64))
    with pytest.raises(InputError, match="magnitudes without phases"):
        it.solve(it.Problem(A(x).abs(), A), "tv", progress=False)
    with pytest.raises(InputError, match="look like an image"):
        it.solve(it.Problem(x.real, A), "tv", progress=False)
    with pytest.warns(MeasurementWarning, match="look like an image"):
        it.solve(it.Problem(x, A), "tv", regularization=0.1, max_iterations=1, progress=False)


def test_bad_pixels_are_left_out_by_repair() -> None:
    A = Blur(torch.ones(5, 5) / 25, (64, 64))
    clean = A.simulate(camera(8), noise=0.01, seed=0)
    assert names(clean, A) == []
    y = clean.clone()
    y[..., 20] = 0
    y[0, 0, 40, 50] = 3.0
    problem = it.Problem(y, A)
    bad = find_bad_pixels(y, A.kernel, torch.tensor([0.01]))
    assert bad[..., 20].all() and bad[0, 0, 40, 50] and bad.sum() < 64 + 10
    (finding,) = check_measurements(problem)
    assert "1 columns and" in finding.sentence
    settings: dict[str, Any] = {"prior": "tv", "progress": False, "max_iterations": 60}
    sound = it.reconstruct(clean, A, **settings)
    settings["regularization"] = sound.regularization
    with pytest.warns(MeasurementWarning, match="dead, hot"):
        broken = it.reconstruct(y, A, repair=False, **settings)
    with pytest.warns(MeasurementWarning, match="left out: .*automatic='-bad-readings' keeps them"):
        default = it.reconstruct(y, A, **{**settings, "regularization": "auto"})
    repaired = it.reconstruct(y, A, repair=True, **settings)
    assert any(note.startswith("repaired: 1 columns and") for note in repaired.notes)
    again = it.solve(problem, "tv", regularization=0.01, max_iterations=5, repair=True)
    assert any(note.startswith("repaired") for note in again.notes)

    def psnr(x: Tensor) -> float:
        return float(it.metrics.psnr(x, camera(8), data_range=1.0))

    right = psnr(sound.x)
    for mended in (repaired, default):
        assert psnr(mended.x) > right - 1.5 and psnr(mended.x) > psnr(broken.x) + 3
    assert problem.data_term.weights is None  # type: ignore[attr-defined]


def test_stars_are_no_hot_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(1, 1, 96, 96, generator=generator) < 0.01) * 50.0 + 1.0
    for width in (1.0, 2.0):
        places = torch.arange(-6.0, 7.0)
        taps = torch.exp(-((places[:, None] ** 2 + places**2) / (2 * width**2)))
        A = Blur(taps / taps.sum(), (96, 96))
        assert names(A.simulate(x, noise=0.05, seed=0), A) == []


def test_counts_of_few_photons_are_not_clipped() -> None:
    A = Blur(torch.ones(3, 3) / 9, (128, 128))
    counts = torch.poisson(2 * A(camera()), generator=torch.Generator().manual_seed(0))
    assert names(counts, A) == []


def test_a_symmetric_kernel_has_no_orientation() -> None:
    A = Blur(torch.ones(5, 5) / 25, (128, 128))
    y = A.simulate(camera(), noise=0.01, seed=0)
    assert names(y, A) == names(y.expand(1, 3, -1, -1), A) == []
    assert names(torch.full((1, 1, 64, 64), 0.5), Blur(torch.eye(3) / 3, (64, 64))) == []


def test_a_range_is_checked_by_the_prior_of_the_solve() -> None:
    A, prior = Identity((1, 128, 128)), it.priors.load("lpn-natural")
    y = A.simulate(camera(), noise=0.02, seed=0)
    assert names(255 * y, A) == names(y, A, prior) == []
    (finding,) = check_measurements(it.Problem(255 * y, A), 0.1 * prior.as_sum())
    assert "divide the measurements (and noise_std) by 255" in finding.sentence
    with pytest.warns(MeasurementWarning, match="trained on images between 0 and 1"):
        it.solve(it.Problem(255 * y, A), prior, max_iterations=1, progress=False)
    with pytest.raises(InputError, match="DnCNN was trained"):
        it.solve(it.Problem(255 * y, A), "dncnn-natural", max_iterations=1, progress=False)


def test_real_parts_of_k_space_are_named() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    image = ((rows - 12) ** 2 / 60 + (columns - 19) ** 2 / 30 < 1).to(torch.complex64)[None, None]
    A = it.operators.CartesianMRI(torch.ones(32, 32), (32, 32))
    y = A(image)
    assert [f.name for f in check_measurements(it.Problem(y.real, A))] == ["real"]
    assert "real" not in [f.name for f in check_measurements(it.Problem(y, A))]
