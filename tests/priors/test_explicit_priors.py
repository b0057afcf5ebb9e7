"""What every explicit prior with an energy and a prox promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import (
    L1,
    Box,
    ExplicitPrior,
    GroupL1,
    NonNegative,
    StationaryWaveletL1,
    Tikhonov,
    TotalVariation,
    WaveletL1,
)

TIGHT = 1e-9
REFERENCE = torch.linspace(-1, 1, 4 * 12 * 10, dtype=torch.float64).view(1, 4, 12, 10)

PRIORS: dict[str, Callable[[], ExplicitPrior]] = {
    "tv": lambda: TotalVariation(tolerance=TIGHT, max_iterations=20000),
    "tv-anisotropic": lambda: TotalVariation(
        isotropic=False, tolerance=TIGHT, max_iterations=20000
    ),
    "tv-periodic": lambda: TotalVariation(periodic=True, tolerance=TIGHT, max_iterations=20000),
    "tv-coupled": lambda: TotalVariation(coupled=True, tolerance=TIGHT, max_iterations=20000),
    "tv-anisotropic-coupled": lambda: TotalVariation(
        isotropic=False, coupled=True, tolerance=TIGHT, max_iterations=20000
    ),
    "l1": L1,
    "group": lambda: GroupL1(2),
    "group-all": GroupL1,
    "group-interleaved": lambda: GroupL1(2, interleaved=True),
    "tikhonov": Tikhonov,
    "tikhonov-reference": lambda: Tikhonov(reference=REFERENCE),
    "wavelet": lambda: WaveletL1("db2", levels=2),
    "stationary-wavelet": lambda: StationaryWaveletL1("db2", tolerance=TIGHT, max_iterations=20000),
    "nonnegative": NonNegative,
    "box": lambda: Box(-0.5, torch.tensor([0.3, 0.6, 0.9])),
}


def images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(
        3, 4, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(dtype)


STEPS = torch.tensor([0.1, 0.4, 1.3], dtype=torch.float64)


def proximal_objective(prior: ExplicitPrior, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return prior.energy(u) + (u - x).square().flatten(1).sum(1) / (2 * STEPS)


@pytest.mark.parametrize("name", PRIORS)
def test_prox_is_a_minimizer(name: str) -> None:
    """No perturbation, of any direction or size, lowers the objective by more than the stated accuracy."""
    prior, x = PRIORS[name](), images()
    u = prior.prox(x, STEPS)
    best = proximal_objective(prior, u, x)
    assert bool(best.isfinite().all())
    generator = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(10):
            direction = torch.randn(u.shape, generator=generator, dtype=u.dtype)
            direction = direction * (torch.rand(u.shape, generator=generator) < 0.2)
            assert bool(
                (proximal_objective(prior, u + size * direction, x) >= best * (1 - 2 * TIGHT)).all()
            )
        # Towards the input and towards 0 are the two directions in which a wrong step shows.
        for target in (x, torch.zeros_like(x)):
            assert bool(
                (
                    proximal_objective(prior, u + size * (target - u), x) >= best * (1 - 2 * TIGHT)
                ).all()
            )
            assert bool(
                (
                    proximal_objective(prior, u - size * (target - u), x) >= best * (1 - 2 * TIGHT)
                ).all()
            )


@pytest.mark.parametrize("name", PRIORS)
def test_prox_satisfies_the_subgradient_inequality(name: str) -> None:
    """``(x - u) / step`` is a subgradient at u: ``R(v) >= R(u) + <(x - u) / step, v - u>``."""
    prior, x = PRIORS[name](), images()
    u = prior.prox(x, STEPS)
    slope = (x - u) / STEPS.view(-1, 1, 1, 1)
    for v in (x, torch.zeros_like(x), -u, 2 * u, u.flip(0), u.roll(1, 2)):
        gain = prior.energy(v) - prior.energy(u) - (slope * (v - u)).flatten(1).sum(1)
        assert bool((gain >= -1e-5 * (1 + prior.energy(u))).all())


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_equals_items_and_calls_are_pure(name: str, dtype: torch.dtype) -> None:
    prior, x = PRIORS[name](), images(dtype)
    before = x.clone()
    u = prior.prox(x, STEPS)
    assert u.dtype == dtype and prior.energy(x).shape == (3,) and prior.energy(x).dtype == dtype
    assert torch.equal(u, prior.prox(x, STEPS)) and torch.equal(x, before)
    for k in range(3):
        alone = prior.select(torch.tensor([k]))
        torch.testing.assert_close(
            alone.prox(x[k : k + 1], float(STEPS[k])), u[k : k + 1], rtol=0, atol=1e-6
        )
        torch.testing.assert_close(alone.energy(x[k : k + 1]), prior.energy(x)[k : k + 1])
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        prior.select(order).prox(x[order], STEPS[order]), u[order], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", [n for n in PRIORS if n not in ("nonnegative", "box")])
def test_gradient_is_the_derivative_of_the_energy(name: str) -> None:
    prior, x = PRIORS[name](), images()
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    h = 1e-7
    numeric = (prior.energy(x + h * direction) - prior.energy(x - h * direction)) / (2 * h)
    exact = (prior.gradient(x) * direction).flatten(1).sum(1)
    torch.testing.assert_close(exact, numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PRIORS)
def test_gradient_is_finite_where_the_energy_has_a_kink(name: str) -> None:
    gradient = PRIORS[name]().gradient(torch.zeros(3, 4, 12, 10, dtype=torch.float64))
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    "name", ["l1", "group", "tv", "tv-anisotropic", "tv-coupled", "wavelet", "tikhonov"]
)
def test_complex_images_count_by_their_modulus(name: str) -> None:
    """A global phase changes no energy, and the prox turns with it."""
    prior, x = PRIORS[name](), images()
    phase = torch.polar(torch.ones((), dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(prior.energy(phase * x), prior.energy(x))
    torch.testing.assert_close(
        prior.prox(phase * x, STEPS), phase * prior.prox(x, STEPS), rtol=0, atol=1e-4
    )


def test_split_gives_the_energy() -> None:
    x = images()
    priors = [p for n, make in PRIORS.items() if n.startswith("tv") for p in [make()]]
    problem = it.Problem(x, it.operators.Identity((4, 12, 10)))
    gradient = Tikhonov("gradient", reference=torch.ones(1, 4, 12, 10, dtype=x.dtype).cumsum(2))
    for prior in [*priors, gradient]:
        K, F = prior.prepare(problem, None).split()
        torch.testing.assert_close(F.energy(K(x)), prior.energy(x))
        assert "prox" in F.offers


def test_tikhonov_tells_linear_solvers_what_it_is() -> None:
    x, reference = images(), torch.ones(1, 4, 12, 10, dtype=torch.float64)
    assert Tikhonov().quadratic() == (None, None)
    prior = Tikhonov("gradient", reference=reference.cumsum(3)).bind((4, 12, 10))
    L, target = prior.quadratic()
    assert L is not None
    torch.testing.assert_close(0.5 * (L(x) - target).square().flatten(1).sum(1), prior.energy(x))
    assert Tikhonov().smooth and "prox" in Tikhonov().offers and "split" not in Tikhonov().offers
    assert "prox" not in prior.offers and "split" in prior.offers


def test_bounds_hold_to_rounding_and_no_further() -> None:
    box = Box(0, 1)
    inside = torch.tensor([-1e-7, 0.5, 1.0 + 1e-7]).view(1, 1, 3)
    outside = torch.tensor([-1e-4, 0.5, 1.0]).view(1, 1, 3)
    broken = torch.tensor([float("nan"), 0.5, 1.0]).view(1, 1, 3)
    infinite = torch.tensor([-float("inf"), 0.5, 1.0]).view(1, 1, 3)
    assert box.energy(torch.cat([inside, outside, broken, infinite])).tolist() == [
        0,
        *[float("inf")] * 3,
    ]
    assert Box(upper=1.0).energy(torch.tensor([[[-5.0]]])).item() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Box(1.0, 0.0),
        lambda: Box(float("nan")),
        lambda: GroupL1(0),
        lambda: WaveletL1("db44"),
        lambda: WaveletL1("bior2.2"),
        lambda: WaveletL1(levels=0),
        lambda: TotalVariation(tolerance=0.0),
        lambda: Tikhonov("laplacian"),
        lambda: GroupL1(3).prox(torch.zeros(1, 4, 5), 1.0),
        lambda: TotalVariation().split(),
        lambda: NonNegative().prox(torch.zeros(1, 1, 2, dtype=torch.complex64), 1.0),
    ],
)
def test_bad_input_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()
