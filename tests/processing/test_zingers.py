"""Zingers: found and replaced, noise and edges left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import invtoolbox as it
from invtoolbox.processing import remove_zingers


def projections() -> torch.Tensor:
    """Photon counts of two objects, one of them dim, with sharp edges."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, 80, dtype=torch.float64)
    mean = 2000 * torch.exp(
        -3 * (1 - line**2).clamp_min(0).sqrt() * torch.ones(60, 1, dtype=torch.float64)
    )
    mean[20:40, 30:50] *= 0.3
    return torch.poisson(torch.stack([mean, mean / 10])[:, None], generator=generator)


def test_zingers_go_and_nothing_else_does() -> None:
    counts = projections()
    hit = torch.zeros_like(counts, dtype=torch.bool)
    for k, (row, column) in enumerate([(5, 10), (25, 40), (50, 70), (0, 0), (59, 33)]):
        hit[k % 2, 0, row, column] = True
    spoilt = torch.where(hit, 3 * counts + 1500, counts)
    clean, found = remove_zingers(spoilt)
    assert bool(found[hit].all())
    assert int((found & ~hit).sum()) <= 1  # of 9,600 readings
    assert torch.equal(clean[~found], spoilt[~found])
    error = (clean - counts)[hit].abs() / counts[hit].sqrt().clamp_min(1)
    assert float(error.max()) < 6  # as near as the noise of neighbours allows
    for k in range(2):
        alone, _ = remove_zingers(spoilt[k : k + 1])
        assert torch.equal(alone[0], clean[k])


def test_edges_without_noise_are_no_zingers() -> None:
    steps = torch.ones(1, 1, 20, 20)
    steps[..., 5:15, 8:12] = 50.0
    clean, found = remove_zingers(steps, size=3)
    assert not bool(found[..., 6:14, :].any()) and torch.equal(clean[~found], steps[~found])
    with pytest.raises(it.InputError, match="threshold"):
        remove_zingers(steps, threshold=0.0)
    with pytest.raises(it.InputError, match="batch, channel"):
        remove_zingers(steps[0, 0])


@pytest.mark.data
def test_the_tooth_has_hardly_any(data_dir: Path) -> None:
    import h5py
    import numpy as np

    with h5py.File(data_dir / "tomopy_tooth" / "tooth.h5") as file:
        counts = (
            torch.from_numpy(file["exchange/data"][:].astype(np.float32))
            .transpose(0, 1)
            .unsqueeze(1)
        )
    _, found = remove_zingers(counts)
    assert float(found.float().mean()) < 1e-3
    spoilt = counts.clone()
    spoilt[0, 0, ::20, 5::40] *= 3
    clean, found = remove_zingers(spoilt)
    assert float(found[0, 0, ::20, 5::40].float().mean()) > 0.99
    assert float((clean[0, 0, ::20, 5::40] / counts[0, 0, ::20, 5::40] - 1).abs().mean()) < 0.03
