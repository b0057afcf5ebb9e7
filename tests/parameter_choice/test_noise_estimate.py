"""The noise level, estimated from measurements alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.parameter_choice import estimate_noise_std
from invtoolbox.parameter_choice.noise import describe_noise


def noise(shape: tuple[int, ...], std: Tensor, seed: int = 0) -> Tensor:
    return std.view(-1, *[1] * (len(shape) - 1)) * torch.randn(
        shape, generator=torch.Generator().manual_seed(seed)
    )


def disc(n: int) -> Tensor:
    grid = torch.linspace(-1, 1, n)
    return ((grid[:, None] ** 2 + grid**2) < 0.5).float().view(1, 1, n, n)


STD = torch.tensor([0.01, 0.05, 0.3])


def test_pictures_with_edges() -> None:
    y = disc(96) + noise((3, 2, 96, 96), STD)
    assert torch.allclose(estimate_noise_std(y), STD, rtol=0.06)


def test_sinograms() -> None:
    A = it.operators.ParallelBeam((1, 96, 96), torch.arange(30) * torch.pi / 30, 137)
    grid = torch.linspace(-1, 1, 96)
    ball = torch.sigmoid(
        20 * (0.7 - torch.hypot(grid[:, None], grid[None, :] - 0.1))
    )  # a detector blurs the edges
    clean = A((ball * torch.linspace(1, 3, 96)).expand(3, 1, -1, -1))
    std = torch.tensor([0.5, 3.0, 10.0])
    draws = torch.stack(
        [estimate_noise_std(clean + noise(tuple(clean.shape), std, seed), A) for seed in range(6)]
    )
    assert torch.allclose(draws.mean(0), std, rtol=0.08)
    assert torch.allclose(draws, std.expand(6, 3), rtol=0.2)


def test_the_pixels_of_a_simulated_object_are_hardly_taken_for_noise() -> None:
    """Sharp pixels leave their pattern on the detector; third differences of all of it were a fifth too high."""
    A = it.operators.ParallelBeam((1, 128, 128), torch.arange(60) * torch.pi / 60, 181)
    clean = A(disc(128) + 0.5 * disc(128).roll((20, -25), (2, 3)))
    std = 0.02 * clean.square().mean().sqrt()
    assert float(estimate_noise_std(clean + noise(tuple(clean.shape), std), A)) == pytest.approx(
        float(std), rel=0.1
    )


def test_more_noise_behind_the_object_is_seen() -> None:
    """Counts: the level is the root mean square over all measurements, not only over quiet air."""
    A = it.operators.ParallelBeam((1, 96, 96), torch.arange(90) * torch.pi / 90, 181)
    grid = torch.linspace(-1, 1, 96)
    clean = A(
        0.03 * torch.sigmoid(20 * (0.7 - torch.hypot(grid[:, None], grid))).expand(1, 1, -1, -1)
    )
    std = 0.01 * (clean / 2).exp()
    noisy = clean + std * noise(tuple(clean.shape), torch.ones(1))
    assert float(estimate_noise_std(noisy, A)) == pytest.approx(
        float(std.square().mean().sqrt()), rel=0.12
    )


def test_clipped_pixels_do_not_count_as_free_of_noise() -> None:
    y = (disc(96) + noise((3, 1, 96, 96), STD)).clamp_min(0)
    y[..., :40] = 0
    assert bool((estimate_noise_std(y) > 0.45 * STD).all())


def test_blurred_pictures_and_masks() -> None:
    mask = (torch.rand(1, 96, 96, generator=torch.Generator().manual_seed(1)) > 0.1).float()
    A = it.operators.Inpainting(mask, (1, 96, 96))
    y = A(disc(96).expand(3, -1, -1, -1)) + A(noise((3, 1, 96, 96), STD))
    assert torch.allclose(estimate_noise_std(y, A), STD, rtol=0.12)
    spoiled = disc(96) + noise((3, 1, 96, 96), STD)
    weights = torch.ones(1, 1, 96, 96)
    weights[..., ::3] = 0  # hides every window of the filter along this axis, but not the columns
    assert torch.allclose(estimate_noise_std(spoiled, weights=weights), STD, rtol=0.12)
    weights[..., ::3, :] = 0
    with pytest.raises(InputError, match="of item 0 cannot be estimated, because hardly any 4"):
        estimate_noise_std(spoiled, weights=weights)
    weights = torch.ones(1, 1, 96, 96)
    weights[..., :50] = 0
    spoiled[..., :50] += 100 * torch.randn(46 + 4, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(estimate_noise_std(spoiled, weights=weights), STD, rtol=0.12)


def test_complex_values_count_twice() -> None:
    y = torch.complex(
        noise((1, 1, 64, 64), torch.tensor([0.2])), noise((1, 1, 64, 64), torch.tensor([0.2]), 1)
    )
    assert float(estimate_noise_std(y)) == pytest.approx(0.2, rel=0.05)


def test_an_item_does_not_depend_on_its_company() -> None:
    y = disc(32) + noise((3, 1, 32, 32), STD)
    assert torch.equal(estimate_noise_std(y)[1:2], estimate_noise_std(y[1:2]))


def test_too_small_or_stacked() -> None:
    with pytest.raises(InputError, match="noise_std"):
        estimate_noise_std(torch.zeros(1, 1, 3, 3))
    with pytest.raises(InputError, match="stacked"):
        estimate_noise_std((torch.zeros(1, 1, 8), torch.zeros(1, 1, 8)))  # type: ignore[arg-type]


def test_words_name_the_origin_of_the_level() -> None:
    y = 0.1 * torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    A = it.operators.Identity((1, 24, 24))
    plain, told = it.Problem(y, A), it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.1))
    assert describe_noise(told) == describe_noise(plain, 0.2) == "the noise level that was given"
    assert describe_noise(plain).startswith("noise_std = 0.")
    five = it.Problem(y.expand(5, -1, -1, -1), A)
    assert describe_noise(five).count("0.") == 4 and ", ... estimated" in describe_noise(five)
