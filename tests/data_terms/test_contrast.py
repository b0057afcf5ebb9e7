"""Contrast of pictures of events: the contract, both kinds, and the Gaussian."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.data_terms import Contrast
from invtoolbox.data_terms.contrast import gaussian_blur
from invtoolbox.errors import InputError


@pytest.mark.parametrize("term", [Contrast(), Contrast("variance", 0.0)])
def test_the_contract_of_a_data_term(term: Contrast) -> None:
    generator = torch.Generator().manual_seed(0)
    p, y = torch.rand(2, 2, 1, 3, 8, 9, generator=generator, dtype=torch.float64)
    it.testing.check_data_term(term, p, y)


def test_it_is_the_number_of_pictures_for_still_events_and_less_for_sharp_ones() -> None:
    y = torch.zeros(1, 1, 2, 12, 12)
    y[..., 4:8, 4:8] = 1.0
    sharp = torch.zeros_like(y)
    sharp[..., 6, 6] = 16.0
    for term in (Contrast(), Contrast("variance")):
        assert float(term.value(y, y)) == 2.0 and float(term.value(sharp, y)) < 1.0


def test_the_gaussian_keeps_the_sum_and_has_its_width() -> None:
    picture = torch.zeros(1, 31, 31, dtype=torch.float64)
    picture[0, 15, 15] = 1.0
    smooth = gaussian_blur(picture, 2.0)
    place = torch.arange(31.0).double() - 15
    assert abs(float(smooth.sum()) - 1) < 1e-12
    assert abs(float((smooth[0].sum(0) * place**2).sum()) - 4) < 0.15
    with pytest.raises(InputError, match="'gradient' or 'variance'"):
        Contrast("sharpness")  # type: ignore[arg-type]
