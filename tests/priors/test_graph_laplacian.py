"""graphLa+Psi: the prior around the graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import GraphLaplacian, SmoothedNorm
from invtoolbox.priors.images.constraints import intensity_range


def picture(batch: int = 1, seed: int = 0) -> Tensor:
    x = torch.zeros(batch, 1, 24, 24)
    x[:, :, 5:15, 4:12] = 1.0
    x[:, :, 10:20, 14:21] = 0.5
    return x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def test_energy_is_the_smoothed_norm() -> None:
    image = picture().double()
    prior = GraphLaplacian(first=image, intensity_range=1.0).bind(image)
    x = torch.randn(2, 1, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = prior.laplacian(x).flatten(1)
    assert torch.allclose(prior.energy(x), ((u.square() + 0.1**2).sqrt() - 0.1).sum(1))


def test_gradient_is_that_of_the_energy() -> None:
    image = picture().double()
    prior = GraphLaplacian(first=image).bind(image)
    x = torch.randn(
        2,
        1,
        24,
        24,
        generator=torch.Generator().manual_seed(1),
        dtype=torch.float64,
        requires_grad=True,
    )
    (by_autograd,) = torch.autograd.grad(prior.energy(x).sum(), x)
    assert torch.allclose(prior.gradient(x.detach()), by_autograd)


def test_a_graph_of_its_own_for_every_item_and_select() -> None:
    images = torch.cat([picture(1, 1), 3 * picture(1, 2), picture(1, 3).flip(2)])
    prior = GraphLaplacian(first="tv").bind(images)
    energies = prior.energy(images.flip(3))
    for k in range(3):
        alone = GraphLaplacian(first="tv").bind(images[k : k + 1])
        assert torch.allclose(
            alone.energy(images[k : k + 1].flip(3)), energies[k : k + 1], rtol=1e-5
        )
    chosen = prior.select(torch.tensor([2, 1]))
    assert torch.allclose(chosen.energy(images[[2, 1]].flip(3)), energies[[2, 1]], rtol=1e-6)
    assert chosen.guess is not None and torch.equal(chosen.guess, images[[2, 1]])


def test_the_unit_of_the_image_does_not_matter() -> None:
    image = picture()
    one, thousand = GraphLaplacian().bind(image), GraphLaplacian().bind(1000 * image)
    assert torch.allclose(one.laplacian.edge_weights, thousand.laplacian.edge_weights, atol=1e-6)
    assert torch.allclose(1000 * one.energy(image), thousand.energy(1000 * image), rtol=1e-4)


def denoising(batch: int = 1, std: float = 0.1) -> tuple[it.Problem, Tensor]:
    clean = picture(batch).round(decimals=1).clamp(0, 1)
    noisy = clean + std * torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    return it.Problem(
        noisy, it.operators.Identity((1, 24, 24)), it.data_terms.LeastSquares(std)
    ), clean


@pytest.mark.parametrize(
    "first", ["fbp", "pseudo-inverse", "tikhonov", "tv", "prior", "tensor", "callable", "network"]
)
def test_every_kind_of_first_reconstruction(first: str) -> None:
    problem, clean = denoising(2)
    given = {
        "prior": it.priors.Tikhonov(),
        "tensor": clean[:1],
        "callable": lambda p: p.y,
        "network": torch.nn.AvgPool2d(3, 1, 1),
    }
    prior = GraphLaplacian(first=given.get(first, first)).prepare(problem, it.solve)
    assert prior.guess is not None and prior.guess.shape == (2, 1, 24, 24)
    expected = {"tensor": clean[:1].expand(2, -1, -1, -1), "callable": problem.y, "fbp": problem.y}
    if first in expected:
        assert torch.equal(prior.guess, expected[first])
    if first in ("tv", "tikhonov"):
        assert bool(
            (
                it.operators.base.item_norm(prior.guess - clean)
                < it.operators.base.item_norm(problem.y - clean)
            ).all()
        )
    assert prior.prepare(problem, it.solve) is prior  # bound once


def test_prepare_leaves_the_prior_as_it_is() -> None:
    prior = GraphLaplacian(first="fbp")
    prior.prepare(denoising()[0], it.solve)
    assert prior.guess is None
    with pytest.raises(InputError, match=r"prior\.prepare"):
        prior.energy(picture())


def test_it_improves_on_its_first_reconstruction() -> None:
    problem, clean = denoising()
    x, first = (
        it.solve(problem, prior, it.solvers.KrylovMM(), "discrepancy", progress=False)
        for prior in (GraphLaplacian(first="tv"), it.priors.TotalVariation(isotropic=False))
    )
    assert float((x.x - clean).norm()) < 0.8 * float((first.x - clean).norm())


def test_bad_input_is_told() -> None:
    problem, _ = denoising(2)
    with pytest.raises(InputError, match="did you mean 'tikhonov'"):
        GraphLaplacian(first="tikonov")
    with pytest.raises(InputError, match="radius"):
        GraphLaplacian(radius=0)
    with pytest.raises(InputError, match="expected 24"):
        GraphLaplacian(first=torch.zeros(2, 1, 24, 23)).prepare(problem, it.solve)
    with pytest.raises(InputError, match="expected 1 or 2"):
        GraphLaplacian(first=torch.zeros(3, 1, 24, 24)).prepare(problem, it.solve)
    with pytest.raises(InputError, match="NaN"):
        GraphLaplacian(first=torch.full((1, 1, 24, 24), torch.nan)).prepare(problem, it.solve)
    with pytest.raises(InputError, match="has to be an image"):
        GraphLaplacian(first=lambda p: p.y[0]).prepare(problem, it.solve)


def test_intensity_range_is_that_of_the_clean_image() -> None:
    x = 5 * picture().round(decimals=1).clamp(0, 1) - 2
    noisy = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    assert abs(float(intensity_range(noisy)) - 5) < 0.6 < float(noisy.amax() - noisy.amin()) - 5
    assert float(intensity_range(torch.full((1, 1, 8, 8), -3.0))) == 3.0
    assert float(intensity_range(torch.zeros(1, 1, 8, 8))) == 1.0


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("groups", [None, it.priors.GroupL1(2)])
def test_smoothed_norm(power: float, groups: it.priors.GroupL1 | None) -> None:
    prior = SmoothedNorm(power, 0.2, groups)
    x = torch.randn(
        2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    squared = x.square() if groups is None else x.unflatten(1, (2, 2)).square().sum(2)
    energy = (
        (
            (squared + 0.04) ** (power / 2)
            - (0.0 if power == 2 else 0.2**power)
            - (0.04 if power == 2 else 0)
        )
        .flatten(1)
        .sum(1)
    )
    assert torch.allclose(prior.energy(x), energy)
    (slope,) = torch.autograd.grad(prior.energy(x).sum(), x)
    assert torch.allclose(prior.gradient(x.detach()), slope)
    # The parabola of curvature c around any point lies above.
    other = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = other - x.detach()
    bound = (
        prior.energy(x)
        + (slope * step).flatten(1).sum(1)
        + 0.5 * prior.curvature(x) * step.square().flatten(1).sum(1)
    )
    assert bool((prior.energy(other) <= bound + 1e-12).all())
    if power >= 1:
        p = prior.prox(x.detach(), torch.tensor([0.3, 2.0]))
        assert torch.allclose(
            p + torch.tensor([0.3, 2.0]).view(2, 1, 1) * prior.gradient(p), x.detach(), atol=1e-10
        )
    else:
        assert "prox" not in prior.offers


def test_keeps_the_contracts() -> None:
    problem, _ = denoising(2)
    it.testing.check_prior(
        GraphLaplacian(first="fbp", radius=2).prepare(problem, it.solve), problem.y
    )
    it.testing.check_prior(SmoothedNorm(1.0, 0.2), problem.y)
    one_graph = GraphLaplacian().bind(picture())
    assert one_graph.select(torch.tensor([4, 2])) is one_graph


def test_a_complex_image_has_the_graph_of_its_magnitude() -> None:
    x = torch.zeros(1, 1, 16, 16, dtype=torch.complex64)
    x[..., 4:12, 5:11] = 1.0 + 0.5j
    mask = (torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.6).float()
    mask[0, 0] = 1.0
    A = it.operators.CartesianMRI(mask, (16, 16))
    y = A.simulate(x, 0.02, seed=0)
    prior, settings = it.priors.GraphLaplacian(), {"progress": False, "check": False}
    solution = it.solve(it.Problem(y, A), prior, regularization=0.01, **settings)
    zero_filled = A.adjoint(y)
    assert float((solution.x - x).abs().norm()) < 0.8 * float((zero_filled - x).abs().norm())


def test_the_prox_of_an_item_takes_its_own_number_of_steps() -> None:
    draw = torch.Generator().manual_seed(1)
    prior = SmoothedNorm(1.0, 1e-5)
    for _ in range(5):
        x = torch.randn(3, 1, 23, 23, generator=draw, dtype=torch.float64)
        step = torch.tensor([0.03, 0.1, 1.0], dtype=torch.float64)
        together = prior.prox(x, step)
        alone = [prior.prox(x[k : k + 1], step[k : k + 1]) for k in range(3)]
        assert torch.equal(together, torch.cat(alone))
