"""Quantiles of any number of values."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.core import reductions
from invtoolbox.core.reductions import quantile


def test_few_values_have_the_quantile_of_torch() -> None:
    x = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantile(x, 0.3), x.quantile(0.3, dim=1))


def test_many_values_are_thinned_out_across_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductions, "_MOST", 4096)
    picture = torch.arange(64.0).expand(1024, 64)  # every row holds 0 to 63
    assert abs(float(quantile(picture.flatten(), 0.25)) - 16) <= 1


def test_more_values_than_torch_sorts() -> None:
    x = torch.linspace(0, 1, 2**24 + 2)
    # Older versions of torch refuse so many values.
    assert abs(float(quantile(x, 0.9)) - 0.9) < 1e-5
