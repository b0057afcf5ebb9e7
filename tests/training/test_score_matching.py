"""Diffusion priors: the network's factors, the weights of its levels, and a recipe that makes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.networks.diffusion_unet import DiffusionUNet
from invtoolbox.training import DiffusionPairs, ScoreMatching, run_recipe

RECIPE = """# A tiny diffusion prior.
name = "tiny"
[network]
name = "diffusion-unet"
widths = [4, 8]
blocks = 1
[prior]
name = "denoiser"
sigma = 0.1
level = "batch"
channelwise = true
opponent = true
[data]
photographs = ["camera"]
noise_std = [0.001, 20.0]
diffusion = true
crop = 8
[[stage]]
loss = "score-matching"
steps = 4
count = 4
"""


def test_the_network_passes_weak_noise_and_knows_the_size_of_its_answer() -> None:
    network = DiffusionUNet(widths=(4, 8), blocks=1).eval().requires_grad_(False)
    x = torch.rand(3, 1, 10, 7, generator=Generator().manual_seed(0))
    level = torch.tensor([0.0, 0.5, 1e6])
    noisy = x + level.view(-1, 1, 1, 1)
    clean = network(noisy, level)
    # c_skip is 1 without noise, one half at sigma = s, and vanishes.
    assert torch.equal(clean[0], x[0])
    inside = (clean[1] - 0.5 * noisy[1]) / (0.5 * 0.5**0.5)
    torch.testing.assert_close(
        inside, network.transform(noisy[1:2] / 0.5**0.5, _modulation(network, level[1:2]))[0]
    )
    assert float(clean[2].abs().max()) < 20
    torch.testing.assert_close(
        network(torch.cat([noisy, level.view(3, 1, 1, 1).expand(x.shape)], 1)), clean
    )
    # Beyond the ends of its range the network sees the same level.
    ends = network._features(torch.tensor([1e-9, 1e-3, 20.0, 1e9]))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[2], ends[3])
    for bad in ({"widths": ()}, {"sigma_data": 0.0}, {"levels": (1.0, 0.5)}):
        with pytest.raises(InputError, match="DiffusionUNet (must|needs)"):
            DiffusionUNet(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes images"):
        network(torch.zeros(1, 2, 8, 8), torch.ones(1))


def _modulation(network: DiffusionUNet, level: torch.Tensor) -> Any:
    return network.embed(network._features(level)).split([2 * w for w in network.block_widths], 1)


def test_pictures_of_another_scale_cause_a_warning() -> None:
    network = DiffusionUNet(widths=(4,), blocks=1).eval().requires_grad_(False)
    x = 255 * torch.rand(1, 1, 8, 8)
    with pytest.warns(UserWarning, match="intensity_range") as caught:
        it.priors.Denoiser(network, level="batch").denoise(x, 1.0)
    assert caught[0].filename == __file__
    # In the right units the same picture, and pure noise of a large level, are no surprise.
    it.priors.Denoiser(network, level="batch", intensity_range=(0, 255)).denoise(x, 1.0)
    it.priors.Denoiser(network, level="batch").denoise(100 * torch.randn(1, 1, 8, 8), 100.0)


def test_every_level_weighs_about_1_and_middle_levels_come_most_often() -> None:
    pairs = DiffusionPairs([torch.rand(1, 3, 40, 40)], noise_std=(0.001, 10.0), crop=8)
    shown, wanted = pairs.draw(2000, Generator().manual_seed(0))
    level = shown[:, 1, 0, 0]
    noise = (shown[:, :1] - wanted).flatten(1).std(1)
    torch.testing.assert_close(noise, level, rtol=0.5, atol=1e-6)
    place = level.log10()
    assert -3 <= float(place.min()) < -2.8 and 0.8 < float(place.max()) <= 1
    inner = float(((place > -2) & (place < 0)).float().mean())
    assert inner == pytest.approx(0.75, abs=0.03)  # of a triangle, its middle half
    # A network that knows nothing but the factors has the loss |target|^2 / n, about 1.
    data = 0.5 * torch.randn(500, 1, 8, 8, generator=Generator().manual_seed(1))
    for sigma in (0.01, 0.5, 10.0):
        y = data + sigma * torch.randn(data.shape, generator=Generator().manual_seed(2))
        shown = torch.cat([y, torch.full_like(y, sigma)], 1)
        loss = ScoreMatching(0.5).of_network(
            lambda v, s=sigma: 0.25 / (s**2 + 0.25) * v[:, :1],  # type: ignore[arg-type]
            shown,
            data,
            Generator(),
        )
        assert float(loss.mean()) == pytest.approx(1, rel=0.03)
    with pytest.raises(InputError, match="sigma_data"):
        ScoreMatching(0.0)


def test_a_recipe_makes_a_diffusion_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    run_recipe(tmp_path / "tiny.toml", [], tmp_path / "priors" / "tiny", progress=False)
    monkeypatch.setenv("INVTOOLBOX_CATALOGUE", str(tmp_path))
    prior: Any = it.priors.load("tiny")
    color = torch.rand(2, 3, 9, 6, generator=Generator().manual_seed(0))
    both = prior.denoise(color, torch.tensor([0.1, 2.0]))
    assert torch.equal(both[1:], prior.denoise(color[1:], torch.tensor([2.0])))
    twisted = torch.complex(color[:, :1], -color[:, 1:2])
    assert prior.denoise(twisted, 0.1).shape == twisted.shape
    for change, fault in (
        ("data.diffusion=false", "needs diffusion = true"),
        ("data.noise_std=0.1", "range of levels"),
        ("stage.0.gamma=0.1", "gamma belongs"),
        ("stage.0.nuclear_norm=0.1", "nuclear_norm is a penalty"),
    ):
        with pytest.raises(InputError, match=fault):
            run_recipe(tmp_path / "tiny.toml", [change], tmp_path / "out", progress=False)
    other = RECIPE.replace('"score-matching"', '"l1"\nsigma_data = 0.4')
    (tmp_path / "other.toml").write_text(other)
    with pytest.raises(InputError, match="sigma_data belongs"):
        run_recipe(tmp_path / "other.toml", [], tmp_path / "out", progress=False)
