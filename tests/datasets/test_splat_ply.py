"""Gaussians as PLY files: what is written comes back, and the layout is that of the original splats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from invtoolbox.datasets import read_ply, write_ply
from invtoolbox.datasets.models.gaussians import read_splats, write_splats
from invtoolbox.errors import InputError
from invtoolbox.geometry import Splats


def some(degree: int) -> Splats:
    g = torch.Generator().manual_seed(0)
    turn = torch.nn.functional.normalize(torch.randn(2, 5, 4, generator=g), dim=-1)
    opacities = torch.rand(2, 5, generator=g)
    opacities[1, 3] = 0
    return Splats(
        torch.randn(2, 5, 3, generator=g),
        turn,
        torch.rand(2, 5, 3, generator=g) + 0.1,
        opacities,
        torch.randn(2, 5, (degree + 1) ** 2, 3, generator=g),
    )


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_what_is_written_comes_back_without_the_empty(degree: int, tmp_path: Path) -> None:
    x = some(degree)
    write_splats(tmp_path / "a.ply", x, item=1)
    back = read_splats(tmp_path / "a.ply")
    kept = [0, 1, 2, 4]
    for name in ("means", "quats", "scales", "opacities", "colors"):
        torch.testing.assert_close(
            getattr(back, name)[0], getattr(x, name)[1, kept], rtol=1e-5, atol=1e-6
        )


def test_the_layout_is_that_of_the_original(tmp_path: Path) -> None:
    x = some(1)
    write_splats(tmp_path / "a.ply", x)
    table = read_ply(tmp_path / "a.ply")
    assert (
        list(table)[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
        and len(table) == 26
    )
    # All of red, then green, then blue.
    assert table["f_rest_1"][2] == pytest.approx(float(x.colors[0, 2, 2, 0]))
    assert table["f_rest_3"][2] == pytest.approx(float(x.colors[0, 2, 1, 1]))
    assert table["scale_1"][0] == pytest.approx(float(x.scales[0, 0, 1].log()))
    assert table["opacity"][0] == pytest.approx(float(torch.logit(x.opacities[0, 0])), rel=1e-5)


def test_other_files_are_named_as_such(tmp_path: Path) -> None:
    write_ply(tmp_path / "cloud.ply", torch.ones(2, 3))
    with pytest.raises(InputError, match="no f_dc_0"):
        read_splats(tmp_path / "cloud.ply")
    x = some(0)
    plain = Splats(x.means, x.quats, x.scales, x.opacities, x.colors[:, :, 0])
    with pytest.raises(InputError, match="plain colors"):
        write_splats(tmp_path / "b.ply", plain)
