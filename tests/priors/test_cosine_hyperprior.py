"""The autoencoder that begins as cosines: nothing is lost at first, groups see those before them alone, and training is short."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.networks.cosine_hyperprior import ChannelContext, cosines, frequencies
from invtoolbox.priors import CompressiveAutoencoder, CosineHyperprior
from invtoolbox.solvers import VariationalLatent
from invtoolbox.training import Crops, PixelLikelihood, RateDistortion, Stage, train


def small(channels: int = 1, latents: int = 64) -> CosineHyperprior:
    return (
        CosineHyperprior(channels, widths=(4, 6), latents=latents, hyper=3)
        .eval()
        .requires_grad_(False)
    )


def picture(batch: int = 1, channels: int = 1, size: tuple[int, int] = (37, 50)) -> Tensor:
    x = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(x, 5, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_at_first_nothing_is_lost_but_what_rounding_loses(channels: int) -> None:
    x, network = picture(2, channels, (70, 64)), small(channels, 64 * channels)
    z, _ = network.encode(x)
    torch.testing.assert_close(network.decode(z, (70, 64)), x, rtol=0, atol=1e-5)
    blurred = network(x, torch.Generator().manual_seed(1)).x
    assert float((blurred - x).square().mean().sqrt()) == pytest.approx(
        network.step / math.sqrt(12), rel=0.05
    )


def test_fewer_latents_are_the_lower_frequencies_and_more_are_left_empty() -> None:
    assert bool((frequencies(64).diff() >= 0).all()) and frequencies(3).tolist() == [0, 1, 1]
    assert cosines(70).shape == (70, 64) and not cosines(70)[64:].any()
    flat = torch.full((1, 1, 32, 32), 0.3)
    z, _ = small(latents=1).encode(flat)
    torch.testing.assert_close(small(latents=1).decode(z, (32, 32)), flat)


def test_a_group_sees_the_groups_before_it_alone() -> None:
    context = ChannelContext((1, 2, 3), hidden=9, known=2).double()
    torch.nn.init.normal_(context.second.weight)
    known = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(
        lambda z: context(z, known)[0].sum((1, 2)), torch.randn(1, 6, 3, 3, dtype=torch.float64)
    )
    told = slope[:, 0].abs().sum((2, 3)) > 0  # (output, channel)
    group = torch.tensor([0, 1, 1, 2, 2, 2])
    assert torch.equal(told, group.repeat(2)[:, None] > group)


@pytest.mark.parametrize("size", [(37, 50), (3, 5)])
def test_pictures_of_any_size_and_color_are_restored_item_by_item(size: tuple[int, int]) -> None:
    x = picture(2, 3, size)
    problem = it.Problem(x, it.operators.Identity((3, *size)), it.data_terms.LeastSquares(0.02))
    prior, solver = (
        CompressiveAutoencoder(small()),
        VariationalLatent(pixels=True, number=2, max_iterations=2),
    )
    solution = it.solve(problem, prior, solver, progress=False)
    alone = it.solve(problem.select(torch.tensor([1])), prior, solver, progress=False)
    assert solution.x.shape == x.shape and torch.equal(solution.x[1:], alone.x)
    assert torch.equal(solution.posterior.std[1:], alone.posterior.std) and bool(
        (alone.posterior.std > 0).all()
    )


def test_rate_distortion_is_learned_and_then_the_second_decoder_alone() -> None:
    pairs = Crops([0.2 * picture(1, 1, (60, 60))], 32)
    learned = train(
        small().requires_grad_(True),
        pairs,
        [Stage(RateDistortion(0.0932), 60, 3e-3, 2)],
        progress=False,
    )
    assert float(learned.losses[-5:].mean()) < 0.9 * float(learned.losses[:5].mean())
    second = train(
        learned.network.requires_grad_(True),
        pairs,
        [Stage(PixelLikelihood(), 40, 3e-3, 2)],
        progress=False,
    )
    assert float(second.losses[-9:].median()) < float(second.losses[:9].median())
    before, after = learned.network.state_dict(), second.network.state_dict()
    assert {
        name.split(".")[0] for name in before if not torch.equal(before[name], after[name])
    } == {"deviation"}


def test_what_makes_no_network_is_refused() -> None:
    with pytest.raises(InputError, match="positive channels"):
        CosineHyperprior(step=0.0)
    with pytest.raises(InputError, match="two widths"):
        CosineHyperprior(widths=(4, 4, 4))  # type: ignore[arg-type]


def test_derivatives_of_an_item_are_bitwise_the_same_in_company() -> None:
    x = picture(3, 1, (64, 64))
    prior = it.priors.load("cae-natural")
    prior.image_shape = (1, 64, 64)

    def slope(code: dict[str, torch.Tensor]) -> torch.Tensor:
        free = code["z"].clone().requires_grad_(True)
        decoded, energy = prior.decode_and_energy({"z": free, "h": code["h"]})
        (result,) = torch.autograd.grad((100 * decoded).square().sum() + energy.sum(), free)
        return result

    code = prior.encode(x)
    together = slope(code)
    for k in range(3):
        assert torch.equal(
            together[k : k + 1], slope({name: t[k : k + 1] for name, t in code.items()})
        )
