"""The wavelet transform: orthogonal at every size, and PyWavelets' own where sizes allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from invtoolbox.priors import WaveletL1


@pytest.mark.parametrize("space", [(64,), (63,), (48, 64), (35, 50), (9, 7), (1, 30), (10, 12, 14)])
@pytest.mark.parametrize("wavelet", ["haar", "db4", "sym5"])
def test_orthogonal_at_every_size(space: tuple[int, ...], wavelet: str) -> None:
    prior = WaveletL1(wavelet, levels=4)
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(2, 2, *space, generator=generator, dtype=torch.float64) for _ in range(2))
    coefficients, details = prior.transform(x)
    assert details.shape == space
    torch.testing.assert_close(prior.inverse(coefficients), x, rtol=0, atol=1e-10)
    # <W x, c> = <x, W^T c>, and W^T is the inverse: so W is orthogonal.
    torch.testing.assert_close((coefficients * c).sum(), (x * prior.inverse(c)).sum())


@pytest.mark.parametrize("wavelet", ["haar", "db2", "db4", "coif1"])
def test_agrees_with_pywavelets(wavelet: str) -> None:
    import pywt

    x = np.random.default_rng(0).normal(size=(64, 96))
    theirs = pywt.wavedec2(x, wavelet, mode="periodization", level=3)
    prior = WaveletL1(wavelet, levels=3)
    coefficients, details = prior.transform(torch.from_numpy(x)[None, None])
    np.testing.assert_allclose(coefficients[0, 0, :8, :12].numpy(), theirs[0], atol=1e-12)
    assert not bool(details[:8, :12].any()) and int(details.sum()) == x.size - 8 * 12
    assert prior.energy(torch.from_numpy(x)[None, None]).item() == pytest.approx(
        sum(np.abs(band).sum() for level in theirs[1:] for band in level)
    )


def test_what_the_wavelet_annihilates_costs_nothing() -> None:
    """A constant has no details at any size, odd ones included."""
    for space in ((64, 64), (33, 47)):
        x = torch.full((1, 1, *space), 3.0, dtype=torch.float64)
        assert WaveletL1("db4", levels=3).energy(x).item() < 1e-6
        torch.testing.assert_close(WaveletL1("db4", levels=3).prox(x, 10.0), x)


def test_denoises_a_photograph() -> None:
    from skimage import data

    image = torch.from_numpy(data.camera()[:256, 100:355].astype(np.float32) / 255)[None, None]
    noisy = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    clean = WaveletL1("sym4", levels=4).prox(noisy, 0.15)
    assert float((clean - image).square().mean()) < 0.4 * float((noisy - image).square().mean())
