"""The trained priors of the catalogue: they load, they are small, they denoise what they never saw, and they are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.catalogue import shelves as catalogue
from invtoolbox.catalogue.documents import check, content_of
from invtoolbox.datasets import photograph
from invtoolbox.priors import Denoiser, LearnedProximal
from invtoolbox.training.recipe import Recipe

CONVEX = ("lpn-natural", "lpn-natural-0.1", "lpn-ct")
DENOISERS = ("dncnn-natural",)
TESTED_PATIENTS = range(
    51, 59
)  # items of ct_hu_256.npz that belong to A046441, A048383, A056642 and A058062
#: Decibels by which the prior improves a picture with the noise that it knows.
GAINS = {"lpn-natural": 4.5, "lpn-natural-0.1": 8.0, "dncnn-natural": 5.0}


def held_out(name: str) -> tuple[Tensor, Tensor, float]:
    """A part of a picture that the recipe holds out, the same with noise, and the noise."""
    noise = check(
        Recipe, *content_of(catalogue.find("priors", name).path.parent / "recipe.toml")
    ).data.noise_std
    assert noise is not None
    x = photograph("camera")[..., 60:188, 180:308]
    return x, x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), noise


@pytest.mark.parametrize("name", [*CONVEX, *DENOISERS])
def test_a_trained_prior_is_small_and_says_where_it_comes_from(name: str) -> None:
    folder = catalogue.find("priors", name).path.parent
    for file in ("README.md", "recipe.toml", "curve.csv", "card.toml"):
        assert (folder / file).stat().st_size > 100
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
    recipe = check(Recipe, *content_of(folder / "recipe.toml"))
    assert recipe.name == name and recipe.licence and recipe.validation is not None
    assert not set(recipe.data.photographs) & {"camera"}
    assert not any(
        held in path
        for path in recipe.data.paths
        for held in ("bsd", "celeba", "aapm", "city", "flowers", "guitar")
    )
    for images in (recipe.data, recipe.validation):
        if images.items is not None:
            assert not set(range(*images.items)) & set(TESTED_PATIENTS)
    assert isinstance(it.priors.load(name), LearnedProximal if name in CONVEX else Denoiser)


@pytest.mark.parametrize("name", GAINS)
def test_a_trained_prior_denoises_what_it_never_saw(name: str) -> None:
    x, y, noise = held_out(name)
    prior: Any = it.priors.load(name)
    assert float(it.metrics.psnr(prior.denoise(y, noise), x) - it.metrics.psnr(y, x)) > GAINS[name]


def test_a_prior_of_grey_pictures_serves_color_a_channel_at_a_time() -> None:
    prior: Any = it.priors.load("lpn-natural")
    y = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.prox(y)[:, 1:2], prior.prox(y[:, 1:2]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CONVEX)
def test_a_trained_network_is_exactly_a_prox(name: str) -> None:
    prior: Any = it.priors.load(name).to(torch.float64)
    generator = torch.Generator().manual_seed(0)
    y = 0.5 + 0.3 * torch.randn(1, 1, 9, 8, generator=generator, dtype=torch.float64)
    jacobian: Any = torch.autograd.functional.jacobian(lambda v: prior.prox(v[None])[0], y[0])
    J = jacobian.reshape(y.numel(), y.numel())
    assert float((J - J.T).norm() / J.norm()) < 1e-10
    assert float(torch.linalg.eigvalsh((J + J.T) / 2).min()) > -1e-10
    p, energy = prior.prox_and_energy(y)
    for scale in (0.03, 0.3, 3.0):
        v, other = prior.prox_and_energy(
            y + scale * torch.randn(20, 1, 9, 8, generator=generator, dtype=torch.float64)
        )
        cost = other + 0.5 * (v - y).flatten(1).square().sum(1)
        assert bool((cost >= energy + 0.5 * (p - y).square().sum() - 1e-10).all())


@pytest.mark.data
def test_the_prior_of_ct_slices_denoises_a_patient_it_never_saw(data_dir: Path) -> None:
    slices = it.datasets.open(data_dir / "ct_slices" / "ct_hu_256.npz")
    x = (slices[TESTED_PATIENTS[0]].y + 1024) / 2048
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    prior: Any = it.priors.load("lpn-ct")
    assert float(it.metrics.psnr(prior.denoise(y, 0.1), x) - it.metrics.psnr(y, x)) > 9.0
    # The same in Hounsfield units.
    in_hu: Any = it.priors.load("lpn-ct", {"intensity_range": (-1024, 1024)})
    torch.testing.assert_close(
        in_hu.prox(2048 * y - 1024), 2048 * prior.prox(y) - 1024, rtol=0, atol=0.5
    )
