"""Unmixing: the contract, deepinv's own figures, abundances that come back."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import Unmixing
from invtoolbox.testing import check_operator


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spectra", [rand(7, 3), rand(3, 4, 5)])
def test_keeps_the_contract(spectra: torch.Tensor) -> None:
    A = Unmixing(spectra, (4, 6))
    assert check_operator(A).ok
    assert A.domain_shape == (spectra.shape[-1], 4, 6) and A.range_shape == (
        spectra.shape[-2],
        4,
        6,
    )


def test_agrees_with_deepinv_and_inverts() -> None:
    from deepinv.physics import HyperSpectralUnmixing

    spectra, x = rand(9, 4), rand(2, 4, 5, 6, seed=1)
    A = Unmixing(spectra, (5, 6))
    torch.testing.assert_close(A(x), HyperSpectralUnmixing(M=spectra.T)(x))
    torch.testing.assert_close(A.pseudo_inverse(A(x)), x)


def test_nonnegative_abundances_come_back_from_noisy_bands() -> None:
    x = rand(1, 3, 12, 12, seed=2)
    x[:, 0, :, 6:] = 0
    x = x / x.sum(1, keepdim=True)
    A = Unmixing(rand(20, 3), (12, 12))
    y = A.simulate(x, 0.05)
    found = it.solve(it.Problem(y, A), it.priors.NonNegative(), progress=False).x
    assert float(found.min()) >= 0
    assert float((found - x).norm()) < float((A.pseudo_inverse(y) - x).norm())


def test_gradient_in_the_spectra() -> None:
    A, x, spectra = (
        Unmixing(rand(4, 3), (2, 2)),
        rand(1, 3, 2, 2),
        rand(1, 4, 3, seed=1).requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda s: A.with_parameters(spectra=s)(x), (spectra,))
    with pytest.raises(it.InputError, match=r"\(band, material\)"):
        Unmixing(rand(4), (2, 2))
