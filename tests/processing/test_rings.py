"""Rings: faults of known size are found and taken out, and good cells stay bitwise as they are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import invtoolbox as it
from invtoolbox.processing import remove_rings
from invtoolbox.processing.artifacts import local_median


@pytest.fixture(scope="module")
def scan() -> tuple[it.operators.LinearOperator, torch.Tensor]:
    """A photograph in a disc beside the axis, whose line integrals reach 1, and its operator."""
    from skimage import data
    from skimage.transform import resize

    n = 128
    line = torch.linspace(-1, 1, n, dtype=torch.float64)
    x = (
        torch.tensor(resize(data.camera(), (n, n), anti_aliasing=True))
        * (torch.hypot(line[:, None] - 0.06, line + 0.09) < 0.85)
        / 60
    )
    A = it.operators.ParallelBeam((n, n), torch.arange(150) * math.pi / 150, 186)
    return A, A(x[None, None])


def faults(count: int = 12, size: float = 0.05, cells: int = 186) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    fault = torch.zeros(cells, dtype=torch.float64)
    where = torch.arange(count) * (cells - 60) // count + 30
    fault[where] = size * (2 * torch.randint(0, 2, (count,), generator=generator) - 1).double()
    return fault


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_faults_of_known_size_are_taken_out(
    scan: tuple[it.operators.LinearOperator, torch.Tensor], noise: float
) -> None:
    A, clean = scan
    y = clean + noise * torch.randn(
        clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    fault = faults()
    repaired, found = remove_rings(y + fault)
    assert int((found.flatten()[fault != 0] != 0).sum()) >= 11  # of 12
    assert float((found.flatten() - fault).norm() / fault.norm()) < 0.35
    image = A.pseudo_inverse(y)
    before, after = (
        (A.pseudo_inverse(v) - image).norm() / image.norm() for v in (y + fault, repaired)
    )
    assert float(before) > 0.1 and float(after) < 0.3 * float(before)
    # Without a fault next to nothing changes, in the sinogram or in the image.
    same, none = remove_rings(y)
    assert torch.equal(same[..., none.flatten() == 0], y[..., none.flatten() == 0])
    assert float((same - y).norm() / y.norm()) < 0.005
    assert float((A.pseudo_inverse(same) - image).norm() / image.norm()) < 0.02


def test_items_do_not_see_each_other_and_volumes_are_their_rows(
    scan: tuple[it.operators.LinearOperator, torch.Tensor],
) -> None:
    y = scan[1] + faults()
    batch = torch.cat([y, 2 * y.flip(-1), torch.zeros_like(y)])
    whole = remove_rings(batch)[0]
    for k in range(3):
        alone = remove_rings(batch[k : k + 1])[0][0]
        torch.testing.assert_close(alone, whole[k], rtol=0, atol=1e-14)
    assert torch.equal(whole, remove_rings(batch)[0])
    volume = batch.squeeze(1).movedim(0, 1)[None, None]  # (1, 1, view, row, cell)
    assert volume.shape == (1, 1, 150, 3, 186)
    torch.testing.assert_close(remove_rings(volume)[0][0, 0, :, 1], remove_rings(batch)[0][1, 0])


def test_the_local_median_is_scipys_whatever_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.ndimage

    from invtoolbox.processing import artifacts as median

    x = torch.rand(2, 1, 13, 17, generator=torch.Generator().manual_seed(0))
    wanted = torch.from_numpy(
        scipy.ndimage.median_filter(x.numpy(), size=(1, 1, 3, 5), mode="nearest")
    )
    assert torch.equal(local_median(x, (3, 5)), wanted)
    monkeypatch.setattr(median, "_PIECE", 600)
    assert torch.equal(local_median(x, (3, 5)), wanted)
    with pytest.raises(it.InputError, match="odd"):
        local_median(x, (2, 3))


def test_wrong_sinograms_get_one_sentence() -> None:
    y = torch.zeros(1, 1, 8, 8)
    y[0, 0, 1, 1] = float("nan")
    with pytest.raises(it.InputError, match="NaN"):
        remove_rings(y)
    with pytest.raises(it.InputError, match="batch, channel, view"):
        remove_rings(torch.zeros(8, 8))


@pytest.mark.data
def test_the_tooth_loses_its_rings_and_keeps_its_edges(data_dir: Path) -> None:
    item = it.datasets.open(data_dir / "tomopy_tooth" / "tooth.h5")[0]
    assert item.geometry is not None
    A, y = item.geometry.operator(), item.y
    repaired, _ = remove_rings(y)
    raw, clean = A.pseudo_inverse(y)[0, 0], A.pseudo_inverse(repaired)[0, 0]
    # In the air about the tooth there are rings and noise only: the mean over each circle shows the
    # rings.
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in raw.shape)
    radius = torch.hypot(rows[:, None], columns).round().long()
    air = (radius > 240) & (radius < 288)

    def ringing(image: torch.Tensor) -> float:
        sums = torch.zeros(600).index_add_(0, radius[air], image[air])
        counts = torch.zeros(600).index_add_(0, radius[air], torch.ones(int(air.sum())))
        means = (sums / counts.clamp_min(1))[242:287]
        return float((means[1:] - means[:-1]).std())

    assert ringing(clean) < 0.5 * ringing(raw)
    assert float((repaired - y).norm() / y.norm()) < 0.01
    extra = torch.zeros(640)
    extra[torch.arange(60, 560, 20)] = 0.05
    again, _ = remove_rings(y + extra)
    broken = float((A.pseudo_inverse(y + extra)[0, 0] - raw).norm())
    assert float((A.pseudo_inverse(again)[0, 0] - clean).norm()) < 0.3 * broken
