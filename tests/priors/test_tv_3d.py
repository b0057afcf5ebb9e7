"""Total variation of volumes: spacing, known answers, exactness, bounds, and vectorial forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators import FiniteDifference
from invtoolbox.priors import TotalVariation
from invtoolbox.testing import check_operator, check_prior

SPACING = (3.0, 1.0, 0.5)


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Every pair of two settings occurs.
@pytest.mark.parametrize(
    ("isotropic", "coupled", "bounds"),
    [
        (True, True, {}),
        (False, False, {}),
        (True, False, {"lower": 0.0}),
        (False, True, {"lower": 0.0}),
    ],
)
def test_keeps_the_contracts(isotropic: bool, coupled: bool, bounds: dict[str, float]) -> None:
    prior = TotalVariation(
        isotropic, coupled=coupled, tolerance=1e-7, max_iterations=20000, spacing=SPACING, **bounds
    )
    x = volume(2, 2, 4, 5, 6)
    check_prior(prior, x.abs() if bounds else x, steps=(0.05, 0.5))


@pytest.mark.parametrize(
    ("shape", "spacing"), [((1, 9), (0.3,)), ((2, 5, 6), (2.0, 0.5)), ((1, 4, 5, 3), SPACING)]
)
@pytest.mark.parametrize("periodic", [False, True])
def test_differences_with_a_spacing(
    shape: tuple[int, ...], spacing: tuple[float, ...], periodic: bool
) -> None:
    D = FiniteDifference(shape, periodic, spacing)
    check_operator(D)
    matrix = D(
        torch.eye(D.norm().new_zeros(shape).numel(), dtype=torch.float64).view(-1, *shape)
    ).flatten(1)
    torch.testing.assert_close(
        D.norm(dtype=torch.float64)[0], torch.linalg.matrix_norm(matrix, 2), rtol=1e-9, atol=0
    )
    ramp = torch.arange(shape[-1], dtype=torch.float64).mul(spacing[-1]).expand(1, *shape)
    slope = D(ramp).unflatten(1, (shape[0], -1))[:, :, -1]
    torch.testing.assert_close(slope[..., :-1], torch.ones_like(slope[..., :-1]))


def test_the_prox_agrees_with_a_long_primal_dual_run() -> None:
    """PDHG sees the differences through `split`, not through the dual of the prox."""
    x = volume(2, 1, 5, 6, 7)
    for settings in ({}, {"isotropic": False}, {"periodic": True}, {"coupled": True}):
        prior = TotalVariation(tolerance=1e-10, max_iterations=50000, spacing=SPACING, **settings)
        problem = it.Problem(x, it.operators.Identity((1, 5, 6, 7)))
        reference = it.solve(
            problem,
            prior,
            it.solvers.PDHG(),
            0.3,
            tolerance=1e-9,
            max_iterations=20000,
            progress=False,
        ).x
        torch.testing.assert_close(prior.prox(x, 0.3), reference, rtol=0, atol=2e-5)


def test_a_slab_shrinks_by_its_distance() -> None:
    """Two halves that are ``h`` apart, of n planes each: each moves by ``step / (h n)``."""
    x = torch.zeros(1, 1, 6, 4, 5, dtype=torch.float64)
    x[:, :, 3:] = 1
    u = TotalVariation(tolerance=1e-12, max_iterations=50000, spacing=(2.0, 1.0, 1.0)).prox(x, 0.3)
    torch.testing.assert_close(
        u[0, 0, :, 1, 1],
        torch.tensor([0.05] * 3 + [0.95] * 3, dtype=torch.float64),
        rtol=0,
        atol=1e-5,
    )


def test_a_unit_of_length_is_a_unit_of_the_weight() -> None:
    x = volume(1, 1, 4, 5, 6)
    millimetres, metres = (
        TotalVariation(tolerance=1e-10, spacing=tuple(s * h for h in SPACING)) for s in (1.0, 1e-3)
    )
    torch.testing.assert_close(metres.energy(x), 1e3 * millimetres.energy(x))
    torch.testing.assert_close(metres.prox(x, 2e-4), millimetres.prox(x, 0.2), rtol=0, atol=1e-5)


def test_a_slice_alone_is_a_picture() -> None:
    x = volume(2, 1, 1, 8, 9)
    prior = TotalVariation(tolerance=1e-10, max_iterations=20000)
    torch.testing.assert_close(
        prior.prox(x, 0.2)[:, :, 0], prior.prox(x[:, :, 0], 0.2), rtol=0, atol=1e-6
    )


def test_batch_equals_items_bitwise() -> None:
    x = volume(3, 2, 5, 6, 7).float()
    prior, steps = (
        TotalVariation(spacing=SPACING, coupled=True, lower=-0.3),
        torch.tensor([0.05, 0.3, 2.0]),
    )
    together = prior.prox(x, steps)
    for k in range(3):
        assert torch.equal(prior.prox(x[k : k + 1], steps[k : k + 1])[0], together[k])


def test_colors_that_share_their_edges_share_a_norm() -> None:
    """A color edge costs sqrt(3) where channels are coupled, and 3 where they are not; a grey one and three singles alike."""
    x = torch.zeros(1, 3, 4, 6)
    x[..., 3:] = 1
    assert float(TotalVariation(coupled=True).energy(x)) == pytest.approx(4 * 3**0.5)
    assert float(TotalVariation().energy(x)) == pytest.approx(12)


@pytest.mark.parametrize("spacing", [(1.0, 0.0, 1.0), (1.0, float("nan"), 1.0), (1.0, 1.0)])
def test_bad_spacings_are_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="spacing"):
        TotalVariation(spacing=spacing).prox(volume(1, 1, 3, 3, 3), 0.1)
