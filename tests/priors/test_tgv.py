"""Total generalized variation: what costs nothing, what a bend costs, the prox by two methods, and pictures made of slopes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators.finite_difference import SymmetrisedGradient
from invtoolbox.priors import NonNegative, TotalGeneralizedVariation, TotalVariation
from invtoolbox.testing import check_operator, check_prior

SHAPES = [(1, 7), (2, 5, 6), (1, 4, 5, 3), (1, 1, 2)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def affine(*space: int) -> Tensor:
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in space], indexing="ij")
    return sum((k + 1) * a for k, a in enumerate(axes))[None, None] + 3  # type: ignore[index]


def slopes_and_edges(n: int) -> Tensor:
    """A tilted disc on another slope: affine pieces with jumps."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    return torch.where(
        row**2 + column**2 < 0.4, 0.6 - 0.4 * column, 0.4 + 0.2 * column + 0.15 * row
    )[None, None]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("uneven", [False, True])
def test_the_symmetrised_gradient_keeps_the_contracts(shape: tuple[int, ...], uneven: bool) -> None:
    spacing = tuple(0.5 + k for k in range(len(shape) - 1)) if uneven else None
    E = SymmetrisedGradient(shape, spacing)
    check_operator(E)
    n = int(torch.tensor(E.domain_shape).prod())
    matrix = E(torch.eye(n, dtype=torch.float64).view(n, *E.domain_shape)).flatten(1)
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= float(E.norm(dtype=torch.float64))
    with pytest.raises(InputError):
        SymmetrisedGradient(shape, (0.0,) * (len(shape) - 1))


@pytest.mark.parametrize("space", [(9,), (6, 7), (4, 5, 6)])
def test_affine_pictures_cost_nothing_and_come_back(space: tuple[int, ...]) -> None:
    x = affine(*space)
    prior = TotalGeneralizedVariation(tolerance=1e-3)
    assert float(prior.energy(x)) < 2e-6 * float(TotalVariation().energy(x))
    torch.testing.assert_close(prior.prox(x, 1.0), x, rtol=0, atol=0.01)
    assert float((TotalVariation().prox(x, 1.0) - x).abs().max()) > 0.05


def test_jumps_and_bends_have_their_price() -> None:
    prior = TotalGeneralizedVariation(ratio=3.0, tolerance=1e-7)
    jump = torch.zeros(1, 1, 40, dtype=torch.float64)
    jump[..., 20:] = 2
    assert float(prior.energy(jump)) == pytest.approx(2.0, rel=1e-4)
    bend = (torch.arange(40, dtype=torch.float64) - 19.5).abs().view(1, 1, 40)
    bend = torch.where(bend < 1, 0.5, bend)  # slope -1, then one difference of 0, then 1
    assert float(prior.energy(bend)) == pytest.approx(6.0, rel=0.05)
    # In two dimensions both are prices for the length of the edge.
    assert float(prior.energy(jump.unsqueeze(2).expand(1, 1, 5, 40))) == pytest.approx(
        10.0, rel=1e-4
    )


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((2, 2, 3, 4), {"ratio": 0.7, "coupled": True}),
        # The prox of three axes and of one is compared with long runs below.
        pytest.param((2, 1, 3, 3, 4), {"spacing": (2.0, 1.0, 1.0)}, marks=pytest.mark.slow),
        pytest.param(
            (2, 1, 10), {"tolerance": 3e-3, "max_iterations": 300}, marks=pytest.mark.slow
        ),
    ],
)
def test_keeps_the_contracts(shape: tuple[int, ...], settings: dict[str, object]) -> None:
    few = {"tolerance": 1e-2, "max_iterations": 150}
    prior = TotalGeneralizedVariation(**{**few, **settings})  # type: ignore[arg-type]
    check_prior(
        prior,
        drawn(*shape),
        steps=(0.3,),
        prox_tolerance=2e-2,
        precisions=(torch.float64,) if len(shape) == 5 else (torch.float32, torch.float64),
    )


def test_complex_images_turn_with_their_phase() -> None:
    x = torch.complex(drawn(2, 1, 5, 6), drawn(2, 1, 5, 6, seed=1))
    phase = torch.polar(torch.ones((), dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
    prior = TotalGeneralizedVariation(tolerance=1e-4)
    torch.testing.assert_close(prior.energy(phase * x), prior.energy(x), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        prior.prox(phase * x, 0.3), phase * prior.prox(x, 0.3), rtol=0, atol=1e-6
    )
    real = prior.prox(x.real, 0.3)
    torch.testing.assert_close(
        prior.prox(torch.complex(x.real, torch.zeros_like(real)), 0.3).real, real, rtol=0, atol=1e-6
    )


def test_batch_equals_items_bitwise() -> None:
    x, steps = (
        torch.cat([slopes_and_edges(24), 2 * slopes_and_edges(24)])
        + 0.1 * drawn(2, 1, 24, 24).float(),
        torch.tensor([0.05, 0.3]),
    )
    prior = TotalGeneralizedVariation()
    together, gap = prior.prox_with_gap(x, steps)
    assert bool((gap <= prior.tolerance).all()) and torch.equal(together, prior.prox(x, steps))
    for k in range(2):
        assert torch.equal(prior.prox(x[k : k + 1], steps[k : k + 1])[0], together[k])
        assert torch.equal(prior.energy(x[k : k + 1])[0], prior.energy(x)[k])
    assert torch.equal(prior.prox(x, 0.0), x)


def test_the_gap_bounds_the_error() -> None:
    x = slopes_and_edges(12).double() + 0.1 * drawn(1, 1, 12, 12)
    near, finest = TotalGeneralizedVariation(tolerance=5e-5, max_iterations=20000).prox_with_gap(
        x, 0.2
    )
    assert float(finest) <= 5e-5
    for tolerance in (1e-2, 1e-3, 1e-4):
        prior = TotalGeneralizedVariation(tolerance=tolerance)
        u, gap = prior.prox_with_gap(x, 0.2)
        value = float(prior.energy(u) + (u - x).square().sum() / 0.4)
        assert float(gap) <= tolerance and float((u - near).norm()) <= (2 * 0.2 * value) ** 0.5 * (
            float(gap) ** 0.5 + 5e-5**0.5
        )


def test_broken_items_do_not_spoil_their_neighbours() -> None:
    x = drawn(2, 1, 8, 9)
    x[1, 0, 2, 3] = float("nan")
    u = TotalGeneralizedVariation().prox(x, 0.1)
    assert bool(u[0].isfinite().all()) and not bool(u[1].isfinite().all())
    assert torch.equal(u[0], TotalGeneralizedVariation().prox(x[:1], 0.1)[0])


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((2, 1, 12), {}),
        ((1, 1, 8, 9), {"spacing": (1.0, 2.0)}),
        ((2, 2, 7, 8), {"coupled": True}),
        ((1, 1, 4, 5, 6), {}),
    ],
)
def test_the_prox_is_what_a_long_run_of_the_joint_problem_finds(
    shape: tuple[int, ...], settings: dict[str, object]
) -> None:
    """PDHG sees closed forms behind operators, and none of the minimization inside."""
    x = drawn(*shape)
    tgv = TotalGeneralizedVariation(tolerance=1e-4, **settings)  # type: ignore[arg-type]
    problem = it.Problem(x, it.operators.Identity(shape[1:]))
    solution = it.solve(
        problem, tgv, regularization=0.3, tolerance=1e-4, max_iterations=3000, progress=False
    )
    assert solution.solver.startswith("PDHG") and solution.x.shape == x.shape
    torch.testing.assert_close(solution.x, tgv.prox(x, 0.3), rtol=0, atol=0.02)
    # The objective of the joint problem is that of the prox.
    values = [float(v[torch.isfinite(v)][-1]) for v in solution.history["objective"].T]
    expected = 0.3 * tgv.energy(solution.x) + 0.5 * (solution.x - x).square().flatten(1).sum(1)
    torch.testing.assert_close(
        torch.tensor(values, dtype=torch.float64), expected, rtol=1e-3, atol=0
    )


def test_slopes_are_kept_where_total_variation_makes_stairs() -> None:
    """Affine pieces with jumps, 10 % of noise, each prior at its best weight."""
    truth = slopes_and_edges(64)
    y = truth + 0.1 * drawn(1, 1, 64, 64).float()
    steps = torch.tensor([0.05, 0.07, 0.1, 0.14, 0.2, 0.28])

    def best(prior: it.priors.ExplicitPrior) -> tuple[float, Tensor]:
        u = prior.prox(y.expand(len(steps), -1, -1, -1), steps)
        psnr = it.metrics.psnr(u, truth.expand_as(u))
        return float(psnr.max()), u[int(psnr.argmax())]

    tv, stairs = best(TotalVariation())
    tgv, smooth = best(TotalGeneralizedVariation())
    assert tgv > tv + 1.2
    # In the disc, half of the neighbours of a staircase are equal, and next to none on a slope.
    flat = [
        float(((u[0, 27:37, 27:37].diff(dim=1)).abs() < 2e-3).float().mean())
        for u in (stairs, smooth)
    ]
    assert flat[0] > flat[1] + 0.2


@pytest.mark.slow
def test_deblurring() -> None:
    """With a constraint, which holds exactly; against total variation at the best of its weights, and against the prox."""
    truth = slopes_and_edges(32)
    A = it.operators.Blur(torch.ones(5, 5) / 25, (1, 32, 32))
    problem = it.Problem(A(truth) + 0.02 * drawn(1, 1, 32, 32).float(), A)
    tgv = TotalGeneralizedVariation()
    x = it.solve(
        problem,
        tgv + NonNegative(),
        None,
        0.004,
        max_iterations=800,
        tolerance=3e-4,
        progress=False,
    ).x
    assert float(x.min()) >= 0
    stairs = [
        it.solve(problem, TotalVariation(), "pdhg", w, max_iterations=300, progress=False).x
        for w in (0.001, 0.003, 0.01)
    ]
    assert (
        float(it.metrics.psnr(x, truth)) > max(float(it.metrics.psnr(u, truth)) for u in stairs) + 1
    )
    direct = it.solve(
        problem, tgv, it.solvers.FISTA(), 0.004, max_iterations=8, progress=False, initial=x
    ).x
    assert float((direct - x).norm() / x.norm()) < 0.02


@pytest.mark.parametrize(
    "make",
    [
        lambda: TotalGeneralizedVariation(0.0),
        lambda: TotalGeneralizedVariation(tolerance=0.0),
        lambda: TotalGeneralizedVariation(spacing=(1.0, 1.0)).energy(torch.zeros(1, 1, 4)),
        lambda: TotalGeneralizedVariation(spacing=(0.0,)).energy(torch.zeros(1, 1, 4)),
    ],
)
def test_bad_input_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()
