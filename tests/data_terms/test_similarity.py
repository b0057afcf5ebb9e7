"""Correlation and mutual information: contracts, and what they ignore."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from invtoolbox.data_terms import MutualInformation, NormalizedCrossCorrelation
from invtoolbox.errors import InputError
from invtoolbox.testing import check_data_term

TERMS = [NormalizedCrossCorrelation(), NormalizedCrossCorrelation(5), MutualInformation(8)]


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_keeps_the_contracts(term) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(2, 1, 10, 12, generator=generator)
    check_data_term(term, y + 0.2 * torch.rand(2, 1, 10, 12, generator=generator), y)


def test_brightness_and_contrast_do_not_matter() -> None:
    y = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    for term in TERMS[:2]:
        assert (term.value(3 * y + 1, y) < 0.02 * 256).all()
        assert (term.value(-y, y) > 256).all()


def test_inverted_contrast_does_not_matter_to_mutual_information() -> None:
    y = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0)).double()
    term = MutualInformation(16)
    assert torch.allclose(term.value(1 - y, y), term.value(y, y), rtol=0.1)
    assert term.value(y.flip(-1), y) > 1.5 * term.value(1 - y, y)


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_a_constant_image_is_refused(term) -> None:
    with pytest.raises(InputError, match="constant"):
        term.check(torch.ones(1, 1, 8, 8))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="odd"):
        NormalizedCrossCorrelation(4)
    with pytest.raises(InputError, match="bins"):
        MutualInformation(2)


@pytest.mark.parametrize("kind", [NormalizedCrossCorrelation, MutualInformation])
def test_weights_of_zero_leave_pixels_out(kind: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    p, y = (torch.rand(2, 1, 12, 16, generator=generator) for _ in range(2))
    y[..., 0, 0], y[..., 0, 1] = 0.0, 1.0  # equal ranges, and so equal bins
    p[..., 0, 0], p[..., 0, 1] = 0.0, 1.0
    weights = torch.ones(2, 1, 12, 16)
    weights[..., 10:] = 0
    part = kind().value(p[..., :10], y[..., :10])
    assert torch.allclose(kind(weights=weights).value(p, y), part, rtol=1e-3)
    assert torch.allclose(kind(weights=torch.ones(1, 1, 12, 16)).value(p, y), kind().value(p, y))
