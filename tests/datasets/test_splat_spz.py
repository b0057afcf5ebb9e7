"""SPZ files of Gaussians: what is written is read, to the digits that the format keeps, and turned as its axes ask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from invtoolbox.datasets.models import gaussians as splat_spz
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import Splats, spherical_harmonics


def scene(degree: int = 3) -> Splats:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    return Splats(
        4 * drawn(1, 50, 3) - 2,
        drawn(1, 50, 4) - 0.5,
        0.01 + 0.1 * drawn(1, 50, 3),
        0.1 + 0.8 * drawn(1, 50),
        drawn(1, 50, (degree + 1) ** 2, 3) - 0.5,
    )


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_what_is_written_is_read(degree: int, tmp_path: Path) -> None:
    pytest.importorskip("gsply")
    one = scene(degree)
    splat_spz.write_spz(tmp_path / "a.spz", one)
    back = splat_spz.read_spz(tmp_path / "a.spz")
    assert torch.allclose(back.means, one.means, atol=1e-5) and torch.allclose(
        back.opacities, one.opacities, atol=3e-3
    )
    assert torch.allclose(back.scales.log(), one.scales.log(), atol=0.04) and torch.allclose(
        back.covariances, one.covariances, atol=2e-3
    )
    assert back.degree == degree and torch.allclose(back.colors, one.colors, atol=0.02)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.spz"]
    with pytest.raises(InputError, match="already"):
        splat_spz.write_spz(tmp_path / "a.spz", one)
    (tmp_path / "cut.spz").write_bytes((tmp_path / "a.spz").read_bytes()[:200])
    with pytest.raises(InputError, match="SPZ"):
        splat_spz.read_spz(tmp_path / "cut.spz")


def test_half_a_turn_turns_everything_alike() -> None:
    """Covariances and what is seen along a direction turn with the scene."""
    one = scene()
    means, quats, others = splat_spz._rotate_half_turn(
        one.means[0], one.quats[0], one.colors[0, :, 1:]
    )
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    moved = Splats(
        means[None],
        quats[None],
        one.scales,
        one.opacities,
        torch.cat([one.colors[0, :, :1], others], 1)[None],
    )
    assert torch.allclose(moved.means, one.means @ turn) and torch.allclose(
        moved.covariances, turn @ one.covariances @ turn, atol=1e-6
    )
    direction = torch.nn.functional.normalize(
        torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), dim=1
    )
    before = torch.einsum("nk,nkc->nc", spherical_harmonics(direction, 3), one.colors[0])
    assert torch.allclose(
        torch.einsum("nk,nkc->nc", spherical_harmonics(direction @ turn, 3), moved.colors[0]),
        before,
        atol=1e-5,
    )


def test_what_spz_does_not_hold_is_said(tmp_path: Path) -> None:
    one = scene(0)
    with pytest.raises(InputError, match="plain colors"):
        splat_spz.write_spz(
            tmp_path / "a.spz",
            Splats(one.means, one.quats, one.scales, one.opacities, one.colors[:, :, 0]),
        )
    with pytest.raises(InputError, match="positions reach"):
        splat_spz.write_spz(
            tmp_path / "a.spz",
            Splats(one.means * 1e7, one.quats, one.scales, one.opacities, one.colors),
        )
