"""Stripes: every kind goes, clean sinograms stay, and a batch is its planes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.processing import remove_stripes


@pytest.fixture(scope="module")
def clean() -> Tensor:
    """Sinogram of a photograph in a disc beside the axis, with noise."""
    n = 128
    line = torch.linspace(-1, 1, n, dtype=torch.float64)
    picture = it.datasets.photograph("camera")[..., ::4, ::4].double()
    x = picture * (torch.hypot(line[:, None] - 0.06, line + 0.09) < 0.85) / 60
    A = it.operators.ParallelBeam((n, n), torch.arange(160) * math.pi / 160, 186)
    y = A(x)
    generator = torch.Generator().manual_seed(0)
    return y + 0.004 * torch.randn(y.shape, generator=generator, dtype=torch.float64)


def error(y: Tensor, clean: Tensor) -> float:
    return float((y - clean).norm() / clean.norm())


def test_a_clean_sinogram_hardly_changes(clean: Tensor) -> None:
    same, dead = remove_stripes(clean)
    assert error(same, clean) < 0.005 and not bool(dead.any())
    # Without step 3, whole stretches have no edge and stay as they are.
    same, _ = remove_stripes(clean, shortest=0)
    assert float((same == clean).double().mean()) > 0.3


def stripes(clean: Tensor, kind: str) -> Tensor:
    striped, generator = clean.clone(), torch.Generator().manual_seed(1)
    if kind == "full":
        for cell, size in ((40, 0.06), (77, -0.05), (110, 0.04), (140, -0.06)):
            striped[..., cell] += size
    elif kind == "partial":
        striped[..., 30:90, 60] += 0.08
        striped[..., 100:, 121] -= 0.08
    elif kind == "dead":
        striped[..., 50], striped[..., 90], striped[..., 91] = 0.3, 0.0, 0.9
    elif kind == "large":
        striped[..., 45:55] += 0.1
        striped[..., 110:122] -= 0.08
    else:
        shape = striped[..., 70].shape
        striped[..., 70] += 0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return striped


@pytest.mark.parametrize(
    "kind, most", [("full", 0.4), ("partial", 0.5), ("dead", 0.1), ("large", 0.45), ("wild", 0.2)]
)
def test_every_kind_of_stripes_goes(clean: Tensor, kind: str, most: float) -> None:
    striped = stripes(clean, kind)
    base = remove_stripes(clean)[0]
    repaired, dead = remove_stripes(striped)
    assert error(repaired, base) < most * error(striped, clean), kind
    cells = {"dead": [50, 90, 91], "wild": [70]}.get(kind, [])
    assert dead.shape == (1, 1, 1, 186) and dead[0, 0, 0].nonzero().flatten().tolist() == cells


def test_a_thin_wire_on_the_axis_is_no_fault() -> None:
    generator = torch.Generator().manual_seed(0)
    photons = torch.full((1, 1, 120, 90), 1e4, dtype=torch.float64)
    photons[..., 43:46] *= math.exp(-4)
    y = -(torch.poisson(photons, generator=generator).clamp_min(1) / 1e4).log()
    assert not bool(remove_stripes(y)[1].any())


def test_an_edge_of_the_object_is_no_stripe() -> None:
    """A disc about the axis has the same edges in every view; they do not return within the width."""
    line = torch.arange(200, dtype=torch.float64) - 99.5
    disc = 0.02 * (60.0**2 - line.square()).clamp_min(0).sqrt() + 0.5 * (line.abs() < 60)
    generator = torch.Generator().manual_seed(0)
    y = disc + 0.003 * torch.randn(1, 1, 100, 200, generator=generator, dtype=torch.float64)
    repaired, dead = remove_stripes(y)
    assert error(repaired, y) < 0.003 and not bool(dead.any())


def test_planes_do_not_see_each_other(clean: Tensor) -> None:
    batch = torch.cat([stripes(clean, "large"), 2 * stripes(clean, "dead").flip(-1), 0 * clean])
    whole, dead = remove_stripes(batch)
    for k in range(3):
        alone, cells = remove_stripes(batch[k : k + 1])
        assert torch.equal(alone[0], whole[k]) and torch.equal(cells[0], dead[k])
    assert torch.equal(whole[2], batch[2])
    volume = batch.squeeze(1).movedim(0, 1)[None, None]  # (1, 1, view, row, cell)
    by_rows, cells = remove_stripes(volume)
    assert torch.equal(by_rows[0, 0, :, 1], whole[1, 0]) and cells.shape == (1, 1, 1, 3, 186)
    assert torch.equal(cells[0, 0, 0, 1], dead[1, 0, 0])


def test_no_filter_of_algotom_is_nearer(clean: Tensor) -> None:
    removal = pytest.importorskip("algotom.prep.removal")
    for kind in ("full", "dead", "large"):
        striped = stripes(clean, kind)
        plane = striped[0, 0].numpy()
        theirs = [
            removal.remove_stripe_based_sorting(plane, 11),
            removal.remove_stripe_based_filtering(plane, 3, 11),
            removal.remove_all_stripe(plane, 3, 51, 11),
        ]
        best = min(error(torch.from_numpy(np.array(y)), clean[0, 0]) for y in theirs)
        assert error(remove_stripes(striped)[0], clean) < best, kind


@pytest.mark.parametrize("shape", [(1, 1, 2, 40), (1, 1, 40, 2), (1, 1, 1, 1), (1, 1, 20, 12)])
def test_small_sinograms_pass(shape: tuple[int, ...]) -> None:
    y = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    repaired, _ = remove_stripes(y)
    assert repaired.shape == y.shape and bool(repaired.isfinite().all())


def test_wrong_calls_get_one_sentence(clean: Tensor) -> None:
    broken = clean.clone()
    broken[0, 0, 1, 1] = math.nan
    for y, settings, sentence in (
        (broken, {}, "NaN"),
        (clean[0, 0], {}, "batch, channel, view"),
        (clean, {"width": 0}, "width of remove_stripes must be at least 1"),
        (clean, {"threshold": 0.0}, "threshold of remove_stripes must be positive"),
        (clean, {"shortest": 0.9}, "shortest of remove_stripes must lie in"),
    ):
        with pytest.raises(it.InputError, match=sentence):
            remove_stripes(y, **settings)
