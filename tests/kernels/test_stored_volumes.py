"""Projections of volumes in half precision: the values of the rounded volume, and half of the bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import invtoolbox as it
from tests.kernels.generated_cuda import why_not
from tests.kernels.memory_traffic import count_traffic
from tests.kernels.stored_volumes import projection_launch


def test_a_half_volume_is_projected_as_its_rounded_values_with_half_of_the_bytes() -> None:
    n = 12
    scan = it.operators.ConeBeam((n, n, n), torch.tensor([0.3, 1.9]), (20, 40), 4.0 * n, 6.0 * n)
    x = torch.rand(1, 1, n, n, n, generator=torch.Generator().manual_seed(0))
    half = projection_launch(scan, x, torch.float16)
    full = projection_launch(scan, x, torch.float32)
    rounded = replace(
        full, arguments={**full.arguments, "volume": half.arguments["volume"].float()}
    )
    expected = rounded.on_cpu()["projections"]
    assert torch.equal(half.on_cpu()["projections"], expected)
    assert not torch.equal(full.on_cpu()["projections"], expected)
    for build in ("plain", "counts"):
        if (reason := why_not(build)) is not None:
            pytest.skip(reason)
    assert torch.equal(half.on_grid()[0]["projections"], rounded.on_grid()[0]["projections"])
    read, before = (count_traffic(launch)["volume"].read for launch in (half, full))
    assert 2 * read == before > 0
