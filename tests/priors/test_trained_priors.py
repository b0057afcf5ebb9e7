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
DENOISERS = ("dncnn-natural", "denoiser-natural", "diffusion-natural", "diffusion-ct")
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
    assert isinstance(noise, float)
    x = photograph("camera")[..., 60:188, 180:308]
    return x, x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), noise


@pytest.mark.parametrize("name", [*CONVEX, *DENOISERS])
def test_a_trained_prior_is_small_and_says_where_it_comes_from(name: str) -> None:
    folder = catalogue.find("priors", name).path.parent
    for file in ("README.md", "recipe.toml", "curve.csv", "card.toml"):
        assert (folder / file).stat().st_size > 100
    assert sum(file.stat().st_size for file in folder.iterdir()) < 7e6
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


@pytest.mark.parametrize(("level", "least"), [(2.55, 2.0), (12.75, 6.0), (50.0, 12.0)])
def test_one_denoiser_serves_every_level(level: float, least: float) -> None:
    x, sigma = photograph("camera")[..., 60:188, 180:308], level / 255
    y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    prior: Any = it.priors.load("denoiser-natural")
    assert sum(p.numel() for p in prior.network.parameters()) <= 2_000_000
    clean = prior.denoise(y, sigma)
    assert float(it.metrics.psnr(clean, x) - it.metrics.psnr(y, x)) > least
    # No scale is built in: 12-bit numbers give the same picture.
    scaled = prior.denoise(4095 * y, 4095 * sigma) / 4095
    torch.testing.assert_close(scaled, clean, rtol=0, atol=1e-4)
    alone = torch.cat([clean, prior.denoise(x, 0.1)])
    assert torch.equal(prior.denoise(torch.cat([y, x]), torch.tensor([sigma, 0.1])), alone)


def test_color_is_denoised_as_luminance_and_chrominance() -> None:
    x = photograph("cat")[..., 60:188, 180:308]
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    together: Any = it.priors.load("denoiser-natural")
    apart: Any = it.priors.load("denoiser-natural", {"opponent": False})
    gain = it.metrics.psnr(together.denoise(y, 0.1), x) - it.metrics.psnr(apart.denoise(y, 0.1), x)
    assert float(gain) > 1.0


def test_the_denoiser_serves_by_its_name_alone() -> None:
    """For a blur, and for an image of complex numbers of any size, whose parts are denoised alike."""
    gains = []
    for row, column in ((60, 200), (200, 220)):
        x = photograph("camera")[..., row : row + 64, column : column + 64]
        A = it.operators.Blur(torch.ones(5, 5) / 25, (64, 64), boundary="periodic")
        y = A.simulate(x, 0.01, seed=0)
        tv = it.reconstruct(y, A, prior="tv", progress=False)
        solution = it.reconstruct(y, A, prior="denoiser-natural", progress=False)
        assert solution.solver.startswith("HalfQuadratic") and int(solution.iterations[0]) == 8
        gains.append(float(it.metrics.psnr(solution.x, x) - it.metrics.psnr(tv.x, x)))
    assert min(gains) > 0 and sum(gains) / len(gains) > 0.5
    mask = (torch.rand(64, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    mask[28:36] = 1
    F = it.operators.CartesianMRI(mask.expand(64, 64), (64, 64))
    truth = 1e-4 * x * torch.exp(1j * torch.linspace(0, 1, 64))
    k = F.simulate(truth, 1e-6, seed=0) * F.mask
    problem = it.Problem(k, F, it.data_terms.LeastSquares(noise_std=1e-6))
    found = it.solve(problem, "denoiser-natural", progress=False).x
    error = [float((z - truth).abs().square().mean()) for z in (found, F.adjoint(k))]
    assert error[0] < 0.5 * error[1]


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
