"""Huber total variation and the Huber norm: known answers, both limits, smooth and splitting solvers on one problem."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import L1, GroupL1, HuberNorm, HuberTV, Tikhonov, TotalVariation
from invtoolbox.testing import check_prior


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


PRIORS: dict[str, tuple[Callable[[], it.priors.ExplicitPrior], tuple[int, ...]]] = {
    "norm": (lambda: HuberNorm(torch.tensor([0.3, 1.0])), (2, 2, 7)),
    "norm of groups": (lambda: HuberNorm(0.5, GroupL1(2)), (2, 4, 6)),
    "norm of interleaved groups": (lambda: HuberNorm(0.5, GroupL1(2, interleaved=True)), (2, 4, 6)),
    "1d": (lambda: HuberTV(0.3, tolerance=1e-8, max_iterations=20000), (2, 1, 12)),
    "2d": (
        lambda: HuberTV(torch.tensor([0.2, 2.0]), tolerance=1e-8, max_iterations=20000),
        (2, 2, 6, 7),
    ),
    "3d": (
        lambda: HuberTV(
            0.3, coupled=True, spacing=(2.0, 1.0, 1.0), tolerance=1e-8, max_iterations=20000
        ),
        (2, 2, 3, 4, 5),
    ),
    "anisotropic": (
        lambda: HuberTV(0.3, isotropic=False, periodic=True, tolerance=1e-8, max_iterations=20000),
        (2, 1, 6, 7),
    ),
}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("complex_", [False, True])
def test_keeps_the_contracts(name: str, complex_: bool) -> None:
    make, shape = PRIORS[name]
    x = images(*shape)
    if complex_:
        x = torch.complex(x, x.flip(-1))
    check_prior(make(), x)


@pytest.mark.parametrize("name", [n for n in PRIORS if not n.startswith("norm")])
def test_batch_equals_items_bitwise(name: str) -> None:
    make, shape = PRIORS[name]
    prior, x, steps = make(), images(*shape).float(), torch.tensor([0.1, 1.0])
    prior.tolerance = 1e-4
    for k in range(2):
        assert torch.equal(
            prior.select(torch.tensor([k])).prox(x[k : k + 1], steps[k : k + 1])[0],
            prior.prox(x, steps)[k],
        )


def test_weights_majorize_and_make_the_gradient() -> None:
    x, other = images(2, 4, 6), 3 * images(2, 4, 6).flip(1)
    for norm in (
        HuberNorm(0.5),
        HuberNorm(0.5, GroupL1(2, interleaved=True)),
        it.priors.SmoothedNorm(0.7, 0.2),
        it.priors.SmoothedNorm(1.0, 0.2, GroupL1(2)),
    ):
        weights = norm.weights(x)
        torch.testing.assert_close(weights * x, norm.gradient(x))
        bound = norm.energy(x) + 0.5 * (weights * (other.square() - x.square())).flatten(1).sum(1)
        assert norm.is_majorizer and bool((norm.energy(other) <= bound + 1e-12).all())


def test_it_tends_to_total_variation_and_to_a_square() -> None:
    x = images(2, 1, 8, 9)
    torch.testing.assert_close(HuberTV(1e-9).energy(x), TotalVariation().energy(x))
    torch.testing.assert_close(1e4 * HuberTV(1e4).energy(x), Tikhonov("gradient").energy(x))
    torch.testing.assert_close(HuberNorm(1e-9).prox(x, 0.3), L1().prox(x, 0.3))
    near = HuberTV(1e-6, tolerance=1e-9, max_iterations=50000).prox(x, 0.3)
    torch.testing.assert_close(
        near, TotalVariation(tolerance=1e-9, max_iterations=50000).prox(x, 0.3), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("threshold", [0.02, 0.3])
def test_every_solver_finds_the_same_minimizer(threshold: float) -> None:
    """By the gradient, by the prox, by the split, and by the majorant."""
    truth = torch.zeros(2, 1, 12, 14, dtype=torch.float64)
    truth[..., 4:9, 3:10] = 1
    A = it.operators.Blur(torch.ones(3, 3, dtype=torch.float64) / 9, (1, 12, 14))
    problem = it.Problem(A(truth) + 0.05 * images(2, 1, 12, 14), A)
    prior = HuberTV(threshold, tolerance=1e-9, max_iterations=20000)

    def solved(solver: it.solvers.Solver, tolerance: float) -> Tensor:
        solution = it.solve(
            problem, prior, solver, 0.05, tolerance=tolerance, max_iterations=20000, progress=False
        )
        assert solution.status == ("converged", "converged")
        return solution.x

    reference = solved(it.solvers.PDHG(), 1e-7)
    for solver in (it.solvers.LBFGS(), it.solvers.FISTA(), it.solvers.KrylovMM()):
        torch.testing.assert_close(solved(solver, 1e-6), reference, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "make", [lambda: HuberTV(0.0), lambda: HuberNorm(-1.0), lambda: HuberTV(float("inf"))]
)
def test_bad_thresholds_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError, match="threshold of Huber"):
        make()
