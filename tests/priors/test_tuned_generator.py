"""A generator tuned around one image: it fits the image, and locality keeps the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import GaussianLatents, TunedGenerator


def generator() -> GaussianLatents:
    torch.manual_seed(0)
    layers = nn.Linear(3, 24), nn.ELU(), nn.Linear(24, 20), nn.Unflatten(1, (1, 4, 5))
    decoder = nn.Sequential(*layers).requires_grad_(False)
    return GaussianLatents(decoder, torch.full((3,), 0.1), 0.5 * torch.eye(3))


def tune(prior: GaussianLatents, w: Tensor, image: Tensor, locality: float) -> it.Solution:
    return it.solve(
        it.Problem(image, it.operators.Identity((1, 4, 5))),
        TunedGenerator(prior, w, locality),
        it.solvers.Adam(learning_rate=1e-2),
        regularization=1.0,
        max_iterations=80,
        progress=False,
    )


def test_locality_keeps_the_images_of_other_latents() -> None:
    prior, draws = generator(), torch.Generator().manual_seed(1)
    w, others = torch.randn(1, 3, generator=draws), torch.randn(50, 3, generator=draws)
    image = prior.decode({"w": w}) + 0.3 * torch.randn(1, 1, 4, 5, generator=draws)
    misfit = float((prior.decode({"w": w}) - image).norm())
    moved = []
    for locality in (0.0, 1.0):
        solution = tune(prior, w, image, locality)
        assert float((solution.x - image).norm()) < 0.35 * misfit
        tuned = TunedGenerator(prior, w).tune(solution.parameters)
        torch.testing.assert_close(tuned.decode({"w": w}), solution.x)
        moved.append(float((tuned.decode({"w": others}) - prior.decode({"w": others})).norm()))
    assert moved[1] < 0.6 * moved[0]


def test_the_contract() -> None:
    prior, draws = generator(), torch.Generator().manual_seed(1)
    w, images = torch.randn(3, 3, generator=draws), torch.rand(3, 1, 4, 5, generator=draws)
    before = [p.clone() for p in prior.decoder.parameters()]
    assert not it.testing.check_prior(TunedGenerator(prior, w, 0.7), images).faults
    whole = tune(prior, w, images, 0.5)
    assert torch.equal(whole.x[1:2], tune(prior, w[1:2], images[1:2], 0.5).x)
    assert all(torch.equal(a, b) for a, b in zip(before, prior.decoder.parameters()))
    # The weights of the training change nothing.
    start = TunedGenerator(prior, w)
    assert float(start.energy(start.initial(), None).abs().max()) == 0


def test_bad_input() -> None:
    prior = generator()
    with pytest.raises(InputError, match="takes a generator"):
        TunedGenerator(nn.Linear(2, 3), torch.zeros(1, 2))  # type: ignore[arg-type]
    for w in (torch.zeros(3), torch.zeros(1, 4), torch.full((1, 3), torch.nan)):
        with pytest.raises(InputError, match="finite and .batch, 3"):
            TunedGenerator(prior, w)
    with pytest.raises(InputError, match="latents of 2 images, and the problem has 3"):
        tune(prior, torch.zeros(2, 3), torch.rand(3, 1, 4, 5), 1.0)
    double = TunedGenerator(prior, torch.zeros(1, 3, dtype=torch.float64))
    assert double.decode(double.initial()).dtype == torch.float32
    with pytest.raises(InputError, match="radius of TunedGenerator must be positive"):
        TunedGenerator(prior, torch.zeros(1, 3), radius=0.0)
