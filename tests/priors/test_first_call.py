"""Faults of a prior of the user are named before the first iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors.first_call import check_first_call

TRUTH = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
PROBLEM = it.Problem(TRUTH, it.operators.Identity((1, 8, 8)), it.data_terms.LeastSquares(0.1))


def written(**methods: Callable[..., Any]) -> it.priors.ExplicitPrior:
    """Return an object of a class of the user with these methods."""
    return type("Mine", (it.priors.ExplicitPrior,), methods)()


def changing(self: Any, x: Tensor) -> Tensor:
    x -= 0.5
    return x.square().flatten(1).sum(1)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (written(energy=lambda self, x: x.square().sum()), r"shape \(\) for 2 images"),
        (written(energy=lambda self, x: x.square().flatten(1).sum(1, True)), r"shape \(2, 1\)"),
        (written(energy=lambda self, x: np.square(x.numpy()).sum((1, 2, 3))), "returns ndarray"),
        (
            written(energy=lambda self, x: x.detach().square().flatten(1).sum(1)),
            "has no derivative",
        ),
        (written(energy=changing), "changes its argument"),
        (written(denoise=lambda self, x, sigma: x.mul_(0.5)), "changes its argument"),
        (
            written(energy=lambda self, x: (x - 1).log().flatten(1).sum(1), prox=lambda *_: _[1]),
            "energy is NaN for an image with values from 0.25 to 0.75; write the energy for every image",
        ),
        (
            written(energy=lambda self, x: x.diff(dim=-1).square().sqrt().flatten(1).sum(1)),
            "derivative that is NaN .* a root needs a small number below it",
        ),
        (written(energy=lambda self, x: self.scale * x), "raised AttributeError"),
        (written(prox=lambda self, x, step: x / (1 + float(step))), "one per image"),
        (written(prox=lambda self, x, step: x[..., 1:]), r"prox returns shape \(2, 1, 8, 7\)"),
        (written(gradient=lambda self, x, generator=None: x.sum()), "gradient returns shape"),
        (it.as_prior(lambda x: x.square().sum(), role="energy"), r"shape \(\) for 2 images"),
        (
            it.priors.Denoiser(torch.nn.Conv2d(3, 3, 1), sigma=0.1),
            r"the network of .* raised RuntimeError",
        ),
    ],
)
def test_a_fault_is_named_before_the_first_iteration(prior: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        it.solve(PROBLEM, prior, regularization=1.0, max_iterations=2, progress=False)


@pytest.mark.parametrize(
    "prior",
    [
        written(energy=lambda self, x: x.square().flatten(1).sum(1)),
        written(prox=lambda self, x, step: x / (1 + step.view(-1, 1, 1, 1))),
        written(gradient=lambda self, x, generator=None: x),
        written(gradient=lambda self, x, generator: x),
        # A prox makes up for an energy without a derivative.
        written(
            energy=lambda self, x: x.detach().square().flatten(1).sum(1) / 2,
            prox=lambda self, x, step: x / (1 + step.view(-1, 1, 1, 1)),
        ),
    ],
)
def test_a_right_prior_is_solved(prior: Any) -> None:
    solution = it.solve(PROBLEM, prior, regularization=1.0, max_iterations=50, progress=False)
    assert float(solution.x.norm()) < float(TRUTH.norm())


def test_without_checks_the_prior_is_not_called_before() -> None:
    calls = []

    def prox(self: Any, x: Tensor, step: Tensor) -> Tensor:
        calls.append(float(x.abs().max()))
        return x / (1 + step.view(-1, 1, 1, 1))

    def first() -> float:
        return calls[0]

    prior = written(prox=prox)
    for check in (True, False):
        calls.clear()
        it.solve(PROBLEM, prior, regularization=1.0, max_iterations=2, progress=False, check=check)
        assert (first() == 0.75) is check  # the ramp of the check


def test_a_prior_is_called_with_the_initial_guess() -> None:
    def energy(self: Any, x: Tensor) -> Tensor:
        if not bool((x > 0).all()):
            raise ValueError("images must be positive")
        return (x * x.log()).flatten(1).sum(1)

    settings = {"regularization": 1e-6, "max_iterations": 1, "progress": False}
    solver = it.solvers.GradientDescent(step_size=1e-4)
    it.solve(PROBLEM, written(energy=energy), solver, initial=TRUTH + 0.1, **settings)
    with pytest.raises(InputError, match="must be positive"):
        it.solve(PROBLEM, written(energy=energy), solver, initial=TRUTH - 0.5, **settings)


def test_memory_that_does_not_suffice_is_no_fault_of_a_prior() -> None:
    prior = written(energy=lambda self, x: torch.empty(10**14).sum())
    with pytest.raises(InputError, match="not enough memory"):
        it.solve(PROBLEM, prior, regularization=1.0, progress=False)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (it.priors.TotalVariation, r"the class TotalVariation; pass .*TotalVariation\(\)"),
        (torch.nn.Conv2d(1, 1, 1), r"the network Conv2d; it.priors.Denoiser"),
        (lambda x: x, r"the function .*it.as_prior"),
        (3, "got int"),
    ],
)
def test_what_is_no_prior_is_named_with_the_call_that_makes_one(prior: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        it.solve(PROBLEM, prior, progress=False)


def test_a_gradient_without_energy_has_a_step_that_follows_the_noise() -> None:
    """A fixed step of 1e-3 diverged for every noise level below 0.03."""
    prior = written(gradient=lambda self, x, generator=None: x)
    for level in (0.1, 0.001):
        problem = it.Problem(TRUTH, PROBLEM.operator, it.data_terms.LeastSquares(level))
        solution = it.solve(problem, prior, regularization=level**-2, progress=False)
        assert solution.status == ("converged",) * 2
        torch.testing.assert_close(solution.x, TRUTH / 2, rtol=1e-2, atol=1e-3)


def test_steps_per_image_and_precision_are_explained() -> None:
    problem = it.Problem(
        torch.rand(3, 1, 8, 8), it.operators.Identity((1, 8, 8)), it.data_terms.LeastSquares(0.1)
    )
    prior = written(prox=lambda self, x, step: x * (1 - step))
    with pytest.raises(InputError, match=r"step.view\(-1, 1, 1, 1\) broadcasts"):
        it.solve(problem, prior, progress=False)
    with pytest.raises(AssertionError, match=r"value.view\(-1, 1, 1, 1\)"):
        it.testing.check_prior(prior, TRUTH)

    class Learned(it.priors.ExplicitPrior, torch.nn.Module):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.layer = torch.nn.Conv2d(1, 2, 3, padding=1)

        def energy(self, x: Tensor) -> Tensor:
            return self.layer(x).square().flatten(1).sum(1)

    prior, settings = Learned(), {"max_iterations": 3, "progress": False}
    double = problem.to(dtype=torch.float64)
    with pytest.raises(InputError, match=r"prior.to\(torch.float64\)"):
        it.solve(double, prior, **settings)
    assert it.solve(double, prior.to(torch.float64), **settings).x.dtype == torch.float64
    assert prior.layer.weight.dtype == torch.float32


def test_a_solution_is_no_image() -> None:
    prior = it.priors.Tikhonov()
    solution = it.solve(PROBLEM, prior, regularization=1.0, progress=False)
    with pytest.raises(InputError, match="give solution.x"):
        it.solve(PROBLEM, prior, initial=solution, progress=False)
    with pytest.raises(InputError, match="savefig"):
        solution.plot("figure.png")


def test_a_reference_without_axes_of_length_1_is_accepted() -> None:
    alone = PROBLEM.select(torch.tensor([0]))
    solution = it.solve(alone, it.priors.Tikhonov(), regularization=1.0, progress=False)
    assert solution.plot(TRUTH[0, 0].numpy()) is not None
    with pytest.raises(InputError, match=r"the reference has shape \(1, 1, 1, \d+, \d+\)"):
        solution.plot(TRUTH[:1, None])


def test_a_ratio_that_is_no_number_for_constant_images_is_a_prior() -> None:
    def ratio(self: Any, x: Tensor) -> Tensor:
        slopes = x.diff(dim=-1).flatten(1)
        return slopes.abs().sum(1) / slopes.norm(dim=1)

    check_first_call(written(energy=ratio), torch.rand(2, 1, 8, 8))
