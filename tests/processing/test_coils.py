"""Whitening of the noise of coils, and virtual coils."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.processing import compression_matrix, mix_coils, whitening_matrix


def noise(coils: int, samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(coils, samples, dtype=torch.complex64, generator=generator)


def test_the_covariance_of_whitened_noise_is_the_identity() -> None:
    mixture = noise(4, 4, seed=1)
    samples = mixture @ noise(4, 20000, seed=2)
    white = whitening_matrix(samples) @ samples
    covariance = white @ white.mH / samples.shape[1]
    # Real and imaginary part have the variance 1 each.
    assert float((covariance - 2 * torch.eye(4)).abs().max()) < 1e-4
    assert float(white.real.std()) == pytest.approx(1, abs=0.02)


def test_the_axis_of_the_coils_is_a_choice() -> None:
    matrix, y = noise(2, 3), noise(3, 20).view(1, 3, 4, 5)
    mixed = mix_coils(matrix, y)
    assert torch.allclose(mixed[0, :, 1, 2], matrix @ y[0, :, 1, 2], atol=1e-6)
    assert torch.equal(mix_coils(matrix, y[0], axis=0), mixed[0])


def test_virtual_coils_are_orthonormal_and_ordered() -> None:
    y = (torch.linspace(1, 3, 5)[:, None] * noise(5, 400)).view(1, 5, 20, 20)
    matrix = compression_matrix(y, coils=3)
    assert torch.allclose(matrix @ matrix.mH, torch.eye(3, dtype=matrix.dtype), atol=1e-5)
    energies = mix_coils(matrix, y).abs().square().sum((0, 2, 3))
    assert bool((energies.diff() < 0).all())
    singular = torch.linalg.svdvals(y[0].flatten(1))[:3]
    assert torch.allclose(energies.sqrt(), singular, rtol=1e-4)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (noise(3, 5), "5 samples of noise do not show the covariance of 3 coils; give at least 6"),
        (noise(1, 100).expand(2, 100), "zero or a mixture of the noise of others"),
        (torch.zeros(2, 100, dtype=torch.complex64), "zero or a mixture"),
        (noise(2, 100).real, "noise of coils is complex and finite"),
        (noise(2, 100) * torch.nan, "noise of coils is complex and finite"),
    ],
)
def test_noise_that_shows_no_covariance_is_refused(samples: torch.Tensor, words: str) -> None:
    with pytest.raises(it.InputError, match=words):
        whitening_matrix(samples)


def test_settings_of_compression_are_checked() -> None:
    y = noise(3, 16).view(1, 3, 4, 4)
    for settings in ({"coils": 4}, {"coils": 0}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(it.InputError, match="of compression_matrix must"):
            compression_matrix(y, **settings)
    with pytest.raises(it.InputError, match="not 0 everywhere"):
        compression_matrix(0 * y)
    item = it.datasets.Measurement(y)
    with pytest.raises(it.InputError, match="coils are those of k-space"):
        it.processing.compress_coils(item)
