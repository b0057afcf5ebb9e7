"""The tubal nuclear norm: its definition, its limits, and a series from a third of its entries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import NuclearNorm, TubalNuclearNorm
from invtoolbox.testing import check_prior


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("frames", [4, 5])
@pytest.mark.parametrize("complex_", [False, True])
def test_keeps_the_contracts_and_is_the_definition(frames: int, complex_: bool) -> None:
    x = drawn(2, frames, 3, 4)
    x = torch.complex(x, x.flip(-1)) if complex_ else x
    check_prior(TubalNuclearNorm(), x)
    spectrum = torch.fft.fft(x, dim=1)
    expected = torch.linalg.svdvals(spectrum).sum((1, 2)) / frames
    torch.testing.assert_close(TubalNuclearNorm().energy(x), expected)


def test_an_item_has_the_same_bits_alone() -> None:
    prior, x = TubalNuclearNorm(), drawn(3, 8, 16, 12).float()
    found, energy = prior.prox(x, 0.3), prior.energy(x)
    for k in range(3):
        assert torch.equal(prior.prox(x[k : k + 1], 0.3)[0], found[k])
        assert torch.equal(prior.energy(x[k : k + 1])[0], energy[k])


def test_axes() -> None:
    x = drawn(2, 1, 5, 3, 4)
    moved = TubalNuclearNorm(tubes=2, rows=3).prox(x, torch.tensor([0.1, 0.5]).double())
    plain = TubalNuclearNorm().prox(x[:, 0], torch.tensor([0.1, 0.5]).double())
    torch.testing.assert_close(moved[:, 0], plain)
    one = drawn(1, 1, 3, 4)
    torch.testing.assert_close(
        TubalNuclearNorm().energy(one), NuclearNorm(axis=2).energy(one), msg="tubes of one entry"
    )


def test_a_moving_series_from_a_third_of_its_entries() -> None:
    frame = torch.outer(torch.hann_window(16), torch.linspace(0.5, 1, 12)).double()
    series = torch.stack([frame.roll(2 * t, 0) for t in range(8)])[None]
    mask = torch.rand(8, 16, 12, generator=torch.Generator().manual_seed(1)) < 0.35
    A = it.operators.Inpainting(mask, (8, 16, 12))
    problem = it.Problem(A(series), A, it.data_terms.Exact())

    def error(prior: it.Prior) -> float:
        x = it.solve(
            problem, prior, regularization=1.0, max_iterations=400, tolerance=1e-6, progress=False
        ).x
        return float((x - series).norm() / series.norm())

    assert error(TubalNuclearNorm()) < 1e-3 < 0.1 < error(NuclearNorm())


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="two axes"):
        TubalNuclearNorm(tubes=2, rows=2)
    with pytest.raises(InputError, match="at least one more"):
        TubalNuclearNorm().energy(torch.ones(1, 3, 4))
