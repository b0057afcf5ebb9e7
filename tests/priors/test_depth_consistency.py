"""Depths that agree between views, on an analytic scene."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, look_at
from invtoolbox.priors import DepthConsistency

SIZE = (24, 24)


def cameras(count: int = 6) -> Cameras:
    turn = torch.linspace(-0.25, 0.25, count, dtype=torch.float64)
    return look_at(
        torch.stack([3 * turn.sin(), 0.1 * torch.arange(count), -3 * turn.cos()], dim=1),
        size=SIZE,
        field_of_view=30.0,
    )


def depths(c: Cameras) -> Tensor:
    """Of a wall, ``z = 1 + 0.2 x``, with a ball before it, ``(1, 1, C, row, column)``."""
    o, d = c.rays()
    n = torch.tensor([-0.2, 0.0, 1.0], dtype=o.dtype)
    wall = (1 - o @ n) / (d @ n)
    a, b, e = d.square().sum(-1), (o * d).sum(-1), o.square().sum(-1) - 0.4**2
    inside = b**2 - a * e
    ball = (-b - inside.clamp_min(0).sqrt()) / a
    return torch.where(inside > 0, ball, wall)[None, None]


def test_true_depths_agree_and_moved_cameras_do_not() -> None:
    c = cameras()
    truth = depths(c)
    prior = DepthConsistency(c, smoothing=1e-4)
    right = float(prior.energy(truth))
    assert right < 1e-3
    twist = torch.zeros(6, 6, dtype=torch.float64)
    twist[2, 1] = torch.pi / 180  # one of the six turned by a degree
    assert float(DepthConsistency(c.rotate(twist), smoothing=1e-4).energy(truth)) > 3 * right
    every = torch.zeros(6, 6, dtype=torch.float64)
    every[:, 1] = torch.tensor([1.0, -1.0]).repeat(3) * torch.pi / 180
    assert float(DepthConsistency(c.rotate(every), smoothing=1e-4).energy(truth)) > 10 * right


def test_what_is_hidden_does_not_count() -> None:
    c = cameras(2)
    truth = depths(c)
    blind = DepthConsistency(c, tolerance=10.0, smoothing=1e-4)
    assert float(blind.energy(truth)) > 5 * float(DepthConsistency(c, smoothing=1e-4).energy(truth))
    some = truth.clone()
    some[..., :5] = 0  # nothing is met there
    assert float(DepthConsistency(c, smoothing=1e-4).energy(some)) < 1e-3


def test_gradients_and_items() -> None:
    c = cameras(3).scale(0.25)
    noisy = depths(c) * (
        1
        + 0.02
        * torch.randn(
            2, 1, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
    )
    prior = DepthConsistency(c)
    whole = prior.energy(noisy)
    assert torch.allclose(prior.energy(noisy[1:]), whole[1:], rtol=1e-12)
    assert torch.allclose(
        prior.subset([0, 2]).energy(noisy[:, :, [0, 2]]),
        DepthConsistency(c[[0, 2]]).energy(noisy[:, :, [0, 2]]),
    )
    assert torch.autograd.gradcheck(
        prior.energy, [noisy.clone().requires_grad_(True)], fast_mode=True
    )
    with pytest.raises(InputError, match="takes depths"):
        prior.energy(noisy[:, :, :2])
    with pytest.raises(InputError, match="two cameras"):
        DepthConsistency(c[0])


def test_noisy_depths_of_six_views_come_together() -> None:
    """Every view's depths with their own noise: agreement takes 40 % of the error away."""
    c = cameras()
    truth = depths(c)[:, 0]
    noisy = truth * (
        1
        + 0.02
        * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=truth.dtype)
    )

    class Agreement(it.priors.ExplicitPrior):
        """Of views as channels, as an image has them."""

        def energy(self, x: Tensor) -> Tensor:
            return DepthConsistency(c, tolerance=0.15, smoothing=5e-2).energy(x[:, None])

    problem = it.Problem(noisy, it.operators.Identity(tuple(truth.shape[1:])))
    found = it.solve(
        problem,
        1.5e4 * Agreement(),
        it.solvers.Adam(learning_rate=1e-2),
        max_iterations=60,
        tolerance=0,
        progress=False,
    )
    before, after = ((t - truth).square().mean().sqrt() for t in (noisy, found.x))
    assert float(after) < 0.6 * float(before)
