"""The wavelet transform as an operator: orthogonal at every size, and the same as the prior's."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import Wavelet
from invtoolbox.testing import check_operator


@pytest.mark.parametrize("shape", [(1, 16), (2, 15, 22), (1, 9, 8, 7)])
@pytest.mark.parametrize("wavelet", ["haar", "db3"])
def test_keeps_the_contract_for_real_and_complex_images(
    shape: tuple[int, ...], wavelet: str
) -> None:
    A = Wavelet(shape, wavelet, levels=2)
    assert check_operator(A).ok
    x = torch.randn(2, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    assert check_operator(A, x).ok
    torch.testing.assert_close(A.adjoint(A(x)), x)
    torch.testing.assert_close(A(x).norm(), x.norm())


def test_l1_of_the_operator_is_the_prior_with_its_approximation() -> None:
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A, prior = Wavelet((1, 16, 16), "db2", levels=2), it.priors.WaveletL1("db2", levels=2)
    coefficients, details = prior.transform(x)
    torch.testing.assert_close(A(x), coefficients)
    rest = (coefficients.abs() * ~details).flatten(1).sum(1)
    torch.testing.assert_close((it.priors.L1() @ A).energy(x), prior.energy(x) + rest)


def test_wavelets_that_are_not_orthogonal_are_refused() -> None:
    with pytest.raises(it.InputError, match="not orthogonal"):
        Wavelet((1, 16), "bior2.2")
    with pytest.raises(it.InputError, match="wavelet"):
        Wavelet((1, 16), "haaar")
