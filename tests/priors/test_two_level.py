"""Two levels and the support of tangent rays: the prox is a minimizer, the disc is found on a short arc."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators.tomography.support import disc_support, ray_support
from invtoolbox.priors import TwoLevel


def disc(n: int, center: tuple[float, float], radius: float) -> Tensor:
    """Return a disc, its center right of and above the middle."""
    across = torch.arange(n) - (n - 1) / 2
    return ((across - center[0]) ** 2 + (across[:, None] + center[1]) ** 2 < radius**2).float()[
        None, None
    ]


def fan(n: int, views: int, degrees: float, **settings: object) -> it.operators.FanBeam:
    angles = torch.linspace(0, math.radians(degrees), views, dtype=torch.float64)
    return it.operators.FanBeam((n, n), angles, 2 * n, 4.0 * n, 6.0 * n, **settings)


@pytest.mark.parametrize("step", [0.05, 0.4, 0.9, 5.0])
def test_the_prox_is_the_minimizer(step: float) -> None:
    prior = TwoLevel(1.5, low=0.5, warm_up=10).at(8)
    # The middle of the levels, 1, is one of them; `linspace` may miss it by the last bit.
    x = 1 + torch.arange(-20, 21, dtype=torch.float64).view(1, 1, 41) / 10
    u = torch.linspace(0.5, 1.5, 2001, dtype=torch.float64).view(-1, 1, 1)
    energy = 0.64 * (u - 0.5) * (1.5 - u) + (u - x).square() / (2 * step)
    best = energy.amin(0)
    found = prior.prox(x, step)
    reached = 0.64 * (found - 0.5) * (1.5 - found) + (found - x).square() / (2 * step)
    assert bool((reached[0] <= best + 1e-9).all()) and bool((found >= 0.5).all())
    assert float(prior.energy(torch.full((1, 1, 3), 2.0))) == math.inf


def test_settings_are_checked() -> None:
    with pytest.raises(it.InputError, match="above"):
        TwoLevel(0.0)
    with pytest.raises(it.InputError, match="empty="):
        TwoLevel(1.0, support="disc")
    with pytest.raises(it.InputError, match="must be 'disc', 'rays' or None"):
        TwoLevel(1.0, support="square")  # type: ignore[arg-type]
    blur = it.operators.Blur(torch.ones(3, 3) / 9, (8, 8))
    with pytest.raises(it.InputError, match="scan of a 2D image"):
        disc_support(blur, torch.zeros(1, 1, 8, 8), 0.1)


@pytest.mark.parametrize("degrees", [30.0, 90.0])
@pytest.mark.parametrize("settings", [{}, {"curved": True}, {"detector_shift": 3.0}])
def test_the_disc_is_found_on_a_short_arc(degrees: float, settings: dict[str, object]) -> None:
    A = fan(64, 31, degrees, **settings)
    both = torch.cat([disc(64, (5.0, -3.0), 20.0), disc(64, (-4.0, 6.0), 15.0)])
    found = disc_support(A, A(both), 0.5)
    assert bool((found >= both).all())  # half a pixel of margin, and the width of a ray
    assert bool(((found - both).flatten(1).sum(1) < 0.16 * both.flatten(1).sum(1)).all())
    assert torch.equal(disc_support(A, A(both[1:]), 0.5), found[1:])


def test_no_object_is_lost_outside_of_the_rays() -> None:
    A = fan(48, 90, 360.0)
    truth = disc(48, (4.0, 4.0), 12.0)
    inside = ray_support(A, A(truth), 0.3)
    assert float((truth - inside).clamp_min(0).sum()) <= 0.01 * float(truth.sum())
    assert float(inside.sum()) < 1.1 * float(truth.sum())


def test_two_levels_restore_a_disc_with_holes_from_a_short_arc() -> None:
    truth = disc(40, (1.0, 1.0), 16.0) - disc(40, (5.0, 3.0), 4.5) - disc(40, (-6.0, -4.0), 3.0)
    A = fan(40, 31, 30.0)
    y = A.simulate(truth, noise=0.1, seed=0)

    def score(prior: it.priors.Prior) -> float:
        x = it.solve(
            it.Problem(y, A),
            prior,
            it.solvers.PDHG(max_iterations=200, tolerance=1e-6),
            regularization=1.0,
            progress=False,
        ).x
        return float(it.metrics.matthews_correlation(it.metrics.otsu_segmentation(x), truth))

    tv = 1.0 * it.priors.TotalVariation()
    bounded = score(tv + it.priors.Box(0.0, 1.0))
    recipe = score(tv + 2.0 * TwoLevel(1.0, support="disc", empty=0.6, warm_up=150))
    assert recipe > max(bounded + 0.03, 0.9), (recipe, bounded)
