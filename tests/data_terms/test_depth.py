"""Misfits of depths that are known up to a scale, or in their order alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from invtoolbox.data_terms import DepthRanking, PearsonDepth, ScaleShiftInvariant
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError

TERMS = [
    PearsonDepth(),
    PearsonDepth(patch=4),
    ScaleShiftInvariant(patch=4),
    ScaleShiftInvariant(inverse=True),
    DepthRanking(margin=0.1, patch=4),
]


def depths(seed: int = 0, batch: int = 2) -> Tensor:
    return 1 + torch.rand(
        batch, 1, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_gradients_items_and_pictures(term: DataTerm) -> None:
    p, y = depths(1), depths(2)
    y[:, :, 0, :3, :3] = 0  # unknown
    assert torch.autograd.gradcheck(
        lambda q: term.value(q, y), [p.clone().requires_grad_(True)], fast_mode=True
    )
    value = term.value(p, y)
    assert value.shape == (2,) and torch.equal(term.value(p[1:], y[1:]), value[1:])
    assert torch.allclose(sum(term.value(p[:, :, [k]], y[:, :, [k]]) for k in range(3)), value)  # type: ignore[arg-type]
    changed = torch.where(y == 0, 5 * p, p)
    assert torch.equal(term.value(changed, y), value)


@pytest.mark.parametrize("term", [PearsonDepth(patch=4), ScaleShiftInvariant(patch=4)], ids=repr)
def test_small_depths_are_not_flat(term: DataTerm) -> None:
    p, y = depths(1), depths(2)
    assert torch.allclose(term.value(1e-3 * p, 1e-3 * y), term.value(p, y))


def test_pearson_is_the_correlation_of_each_patch() -> None:
    p, y = depths(1, 1), depths(2, 1)

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return 1 - torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]

    whole = sum(apart(p[0, 0, k], y[0, 0, k]) for k in range(3))
    assert torch.allclose(PearsonDepth().value(p, y), torch.as_tensor(whole))
    corners = [(slice(i, i + 4), slice(j, j + 4)) for i in (0, 4) for j in (0, 4)]
    local = sum(
        torch.stack([apart(p[0, 0, k][c], y[0, 0, k][c]) for c in corners]).mean() for k in range(3)
    )
    assert torch.allclose(PearsonDepth(patch=4).value(p, y), torch.as_tensor(local))
    assert float(PearsonDepth().value(3 * y + 1, y)) == pytest.approx(0, abs=1e-12)
    assert float(PearsonDepth(inverse=True).value(1 / (3 * y + 1), y)) == pytest.approx(
        0, abs=1e-12
    )
    flat = torch.full_like(p, 0.3).requires_grad_(True)
    (slope,) = torch.autograd.grad(PearsonDepth(patch=4).value(flat, y).sum(), flat)
    assert float(PearsonDepth().value(flat, y).detach()) == 0 and bool(slope.isfinite().all())
    assert (
        PearsonDepth(patch=5).value(3 * y + 1, y).abs().max() < 1e-12
    )  # 8 pixels: patches of 5 and 3


def test_the_fit_of_scale_and_offset_is_the_best_one() -> None:
    p, y = depths(1, 1)[:, :, :1], depths(2, 1)[:, :, :1]
    if torch.corrcoef(torch.stack([p.flatten(), y.flatten()]))[0, 1] < 0:
        p = 3 - p
    design = torch.stack([p.flatten(), torch.ones(64, dtype=torch.float64)], dim=1)
    left = design @ torch.linalg.lstsq(design, y.flatten()[:, None]).solution - y.flatten()[:, None]
    wanted = 0.5 * left.square().mean() / y.var(unbiased=False)
    assert torch.allclose(ScaleShiftInvariant().value(p, y), wanted)
    assert torch.allclose(ScaleShiftInvariant().value(4 * p + 2, y), wanted)
    assert float(ScaleShiftInvariant().value(3 - y, y)) == pytest.approx(
        0.5
    )  # a scale below 0 is none


def test_ranking_counts_pairs_in_the_wrong_order() -> None:
    y = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).view(1, 1, 1, 2, 2)
    term = DepthRanking(margin=0.0, pairs=12)
    assert float(term.value(y, y)) == 0 and float(term.value(5 * y - 3, y)) == 0
    assert float(term.value(y.flip(-1, -2), y)) > 1
    assert float(DepthRanking(margin=0.5, pairs=12).value(0 * y + 1, y)) == pytest.approx(0.5)
    assert float(DepthRanking(margin=0.5, pairs=12, tolerance=0.9).value(0 * y + 1, y)) == 0
    assert float(DepthRanking(margin=0.0, inverse=True, pairs=12).value(1 / y, y)) == 0


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="compares depths"):
        PearsonDepth().check(torch.zeros(1, 64))
    with pytest.raises(InputError, match="negative"):
        PearsonDepth().check(-torch.ones(1, 1, 1, 2, 2))
    with pytest.raises(InputError, match="must be at least 2"):
        PearsonDepth(patch=1)
    with pytest.raises(InputError, match="margin"):
        DepthRanking(margin=-1.0)
