"""Total variation: known answers, agreement with other implementations, and the gap that it states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from invtoolbox.priors import TotalVariation


def photograph(noise: float = 0.1) -> torch.Tensor:
    from skimage import data

    image = torch.from_numpy(data.camera()[64:192:1, 128:256:1].astype(np.float64) / 255)[
        None, None
    ]
    return image + noise * torch.randn(
        image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def objective(u: torch.Tensor, x: torch.Tensor, step: float) -> float:
    u, x = u.double(), x.double()
    return float((step * TotalVariation().energy(u) + 0.5 * (u - x).square().flatten(1).sum(1))[0])


def test_two_plateaus_move_towards_each_other() -> None:
    """In one dimension a jump shrinks by step / length on each side, and vanishes at the mean."""
    x = torch.cat([torch.zeros(6), torch.ones(4)]).view(1, 1, 10).double()
    prior = TotalVariation(tolerance=1e-10, max_iterations=10000)
    u = prior.prox(x, 0.3)
    torch.testing.assert_close(
        u[0, 0, :6], torch.full((6,), 0.3 / 6, dtype=u.dtype), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        u[0, 0, 6:], torch.full((4,), 1 - 0.3 / 4, dtype=u.dtype), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(prior.prox(x, 5.0), torch.full_like(x, 0.4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 7), (2, 3, 5, 6), (1, 2, 4, 5, 3), (1, 1, 1, 6)])
@pytest.mark.parametrize("periodic", [False, True])
def test_energy_in_any_dimension(shape: tuple[int, ...], periodic: bool) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = []
    for axis in range(2, len(shape)):
        difference = x.roll(-1, axis) - x
        if not periodic:
            difference.narrow(axis, shape[axis] - 1, 1).zero_()
        parts.append(difference)
    squares = torch.stack(parts).square().sum(0)
    expected = {
        (True, False): squares.sqrt(),
        (True, True): squares.sum(1, keepdim=True).sqrt(),
        (False, False): torch.stack(parts).abs().sum(0),
        (False, True): torch.stack(parts).square().sum(2, keepdim=True).sqrt().sum(0),
    }
    for (isotropic, coupled), values in expected.items():
        prior = TotalVariation(isotropic, periodic, coupled, tolerance=1e-8)
        torch.testing.assert_close(prior.energy(x), values.flatten(1).sum(1))
        assert bool((prior.prox_with_gap(x, 0.2)[1] <= 1e-8).all())


def test_agrees_with_scikit_image() -> None:
    from skimage.restoration import denoise_tv_chambolle

    x = photograph()
    # The fixed-point iteration of scikit-image converges slowly: at most it can come near our
    # objective from above.
    theirs = denoise_tv_chambolle(x[0, 0].numpy(), weight=0.1, eps=1e-9, max_num_iter=5000)
    ours = TotalVariation(tolerance=1e-6, max_iterations=5000).prox(x, 0.1)
    reference = objective(torch.from_numpy(theirs)[None, None], x, 0.1)
    assert reference * (1 - 1e-3) <= objective(ours, x, 0.1) <= reference * (1 + 1e-5)
    assert np.abs(theirs - ours[0, 0].numpy()).max() < 0.02


def test_the_gap_bounds_the_error() -> None:
    x = photograph()
    exact = TotalVariation(tolerance=1e-9, max_iterations=50000).prox(x, 0.1)
    best = objective(exact, x, 0.1)
    for tolerance in (1e-2, 1e-3, 1e-4):
        u, gap = TotalVariation(tolerance=tolerance).prox_with_gap(x, 0.1)
        value = objective(u, x, 0.1)
        assert float(gap) <= tolerance
        assert value - best <= float(gap) * value * (1 + 1e-6)
        assert float(0.5 * (u - exact).square().sum()) <= float(gap) * value


def test_items_stop_by_themselves() -> None:
    """An easy, a hard, a constant, a zero-step and a broken item in one batch: each as it is alone."""
    x = torch.cat(
        [photograph(0.02), photograph(0.2), torch.ones(1, 1, 128, 128), photograph(), photograph()]
    ).float()
    x[4, 0, 3, 3] = float("nan")
    steps = torch.tensor([0.01, 0.3, 0.1, 0.0, 0.1])
    prior = TotalVariation(tolerance=1e-3)
    together, gaps = prior.prox_with_gap(x, steps)
    assert bool((gaps[:4] <= 1e-3).all())
    assert (
        torch.equal(together[2], x[2])
        and torch.equal(together[3], x[3])
        and not bool(together[4].isfinite().all())
    )
    for k in (0, 1):
        assert torch.equal(prior.prox(x[k : k + 1], steps[k : k + 1])[0], together[k])


def test_more_iterations_than_allowed_are_told() -> None:
    _, gap = TotalVariation(tolerance=1e-6, max_iterations=20).prox_with_gap(photograph(), 0.5)
    assert 1e-6 < float(gap) < 1


def test_bounds_are_part_of_the_prox() -> None:
    """The prox of TV + indicator, against projecting afterwards (which is not it) and against random feasible points."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 1, 12, 12, generator=generator, dtype=torch.float64)
    prior = TotalVariation(lower=-0.2, upper=0.5, tolerance=1e-10, max_iterations=20000)
    u = prior.prox(x, 0.3)
    assert float(u.min()) >= -0.2 and float(u.max()) <= 0.5

    def objective(v: torch.Tensor) -> torch.Tensor:
        return prior.energy(v) + (v - x).flatten(1).square().sum(1) / 0.6

    best = objective(u)
    projected = TotalVariation(tolerance=1e-10, max_iterations=20000).prox(x, 0.3).clamp(-0.2, 0.5)
    assert bool((objective(projected) > best + 1e-6).all())
    for _ in range(20):
        near = (u + 1e-3 * torch.randn(u.shape, generator=generator, dtype=u.dtype)).clamp(
            -0.2, 0.5
        )
        assert bool((objective(near) >= best - 1e-9).all())
    assert bool(prior.energy(torch.full_like(x, 0.6)).isinf().all()) and "split" not in prior.offers
