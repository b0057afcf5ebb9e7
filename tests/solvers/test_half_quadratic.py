"""Half-quadratic splitting: Moreau envelopes with a fixed penalty, levels that fall with a denoiser."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.jobs.images.kernels import gaussian_kernel
from invtoolbox.operators.base import item_norm
from invtoolbox.priors import ExplicitPrior
from invtoolbox.solvers import LBFGS, HalfQuadratic
from invtoolbox.testing import check_solver


def blurred(boundary: str = "periodic", noise_std: float = 0.02) -> tuple[it.Problem, Tensor]:
    x = torch.zeros(2, 1, 24, 20)
    x[0, :, 5:15, 4:12], x[1, :, 8:20, 8:18] = 1.0, 0.5
    kernel = torch.outer(torch.tensor([0.1, 0.8, 0.1]), torch.tensor([0.05, 0.15, 0.6, 0.15, 0.05]))
    A = it.operators.Blur(kernel, (24, 20), boundary=boundary)
    return it.Problem(
        A.simulate(x, noise_std, seed=1), A, it.data_terms.LeastSquares(noise_std=noise_std)
    ), x


class Envelope(ExplicitPrior):
    """``sum min_z |z| + mu/2 |D x - z|^2`` of the norms of the differences: Huber's function."""

    is_convex, is_smooth = True, True

    def __init__(self, operator: it.operators.base.LinearOperator | None, corner: float) -> None:
        self.operator, self.corner = operator, corner

    def energy(self, x: Tensor) -> Tensor:
        if self.operator is None:
            size = x.abs()
        else:
            size = self.operator(x).square().sum(1, keepdim=True).clamp_min(1e-30).sqrt()
        return (
            torch.where(
                size < self.corner, size.square() / (2 * self.corner), size - self.corner / 2
            )
            .flatten(1)
            .sum(1)
        )


@pytest.mark.parametrize(
    ("name", "boundary"),
    [
        ("l1", "periodic"),
        ("tv", "periodic"),
        ("l1", "reflect"),
        pytest.param("tv", "reflect", marks=pytest.mark.slow),  # a pair of paths tested above
    ],
)
def test_a_fixed_penalty_minimizes_with_the_envelope_in_place_of_the_prior(
    name: str, boundary: str
) -> None:
    problem, _ = blurred(boundary)
    weight, corner = 20.0, 0.1
    prior = (
        it.priors.L1()
        if name == "l1"
        else it.priors.TotalVariation(periodic=boundary == "periodic")
    )
    operator = (
        None
        if name == "l1"
        else it.operators.FiniteDifference((1, 24, 20), periodic=boundary == "periodic")
    )
    solver = HalfQuadratic(penalty=weight / corner, max_iterations=3000)
    assert it.solve(problem, prior, solver, weight, tolerance=1e-5).status == ("converged",) * 2
    iterates: list[Tensor] = []
    solution = it.solve(
        problem,
        prior,
        solver,
        weight,
        max_iterations=300,
        tolerance=0.0,
        callbacks=[lambda p: iterates.append(p.x)],
    )
    smooth = Envelope(operator, corner)
    theirs = it.solve(problem, smooth, LBFGS(max_iterations=3000), weight, tolerance=1e-6).x

    def value(x: Tensor) -> Tensor:
        return problem.data_term.value(problem.operator(x), problem.y) + weight * smooth.energy(x)

    # The answer may be z, which is the prox of x; what minimizes is x.
    torch.testing.assert_close(value(iterates[-1]), value(theirs), rtol=1e-4, atol=0)
    if name == "l1":
        torch.testing.assert_close(solution.x, it.priors.L1().prox(iterates[-1], corner))


def test_denoising_by_the_modulus_has_a_closed_form() -> None:
    # min 1/2 (x - y)^2 + huber(x): y shrunk by 1 outside of the corner, by the factor 1 / (1 + w /
    # corner) inside.
    y = torch.tensor([[[4.0, 0.6, -0.2, -3.0]]])
    steps: list[Tensor] = []
    it.solve(
        it.Problem(y, it.operators.Identity((1, 4))),
        it.priors.L1(),
        HalfQuadratic(penalty=2.0, tolerance=1e-6),
        1.0,
        callbacks=[lambda p: steps.append(p.x)],
    )
    torch.testing.assert_close(
        steps[-1], torch.tensor([[[3.0, 0.2, -0.2 / 3, -2.0]]]), atol=1e-4, rtol=0
    )


LEVELS: list[Tensor] = []


class Watched(ExplicitPrior):
    """Notes the levels that it is asked for; the denoiser of a Gaussian density of unit variance."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype)
        LEVELS.append(level.clone())
        return x / (1 + level**2).reshape(-1, *[1] * (x.ndim - 1))


def test_the_level_falls_geometrically_and_the_penalty_follows() -> None:
    problem, _ = blurred()
    prior = Watched(0.5)
    LEVELS.clear()
    weight = torch.tensor([0.23, 2.0])
    solution = it.solve(
        problem,
        prior,
        HalfQuadratic(sigma_start=0.4, sigma_end=0.05, schedule=4),
        weight,
        max_iterations=6,
        tolerance=0.0,
        check=False,  # it would call the prior once more
    )
    levels = torch.stack(LEVELS)
    torch.testing.assert_close(
        levels,
        torch.tensor([0.4, 0.2, 0.1, 0.05, 0.05, 0.05]).unsqueeze(1).expand(6, 2),
        rtol=1e-5,
        atol=0,
    )
    assert bool(solution.history["certificate"][:3].isinf().all()) and bool(
        solution.history["certificate"][3:].isfinite().all()
    )
    # Two steps by hand: mu_k = w sigma^2 / sigma_k^2.
    A, y = problem.operator, problem.y
    z = it.solve(problem, prior, HalfQuadratic(), weight, max_iterations=0).x
    for level in (0.4, 0.2):
        mu = weight * 0.5**2 / level**2
        right = A.adjoint(y) / 0.02**2 + mu.view(2, 1, 1, 1) * z
        z = A.normal_resolvent(right, mu, 0.02**-2) / (1 + level**2)
    ours = it.solve(
        problem,
        prior,
        HalfQuadratic(sigma_start=0.4, sigma_end=0.05, schedule=4),
        weight,
        max_iterations=2,
        tolerance=0.0,
    ).x
    torch.testing.assert_close(ours, z, rtol=1e-3, atol=1e-4)


class Leveled(torch.nn.Module):
    """A network that takes one level per item, and keeps the level of every item in `LEVELS`."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        LEVELS.extend(sigma.split(1))
        return x / (1 + sigma**2).reshape(-1, *[1] * (x.ndim - 1))


def test_a_denoiser_of_many_levels_gets_the_schedule_and_weight_of_dpir() -> None:
    known, _ = blurred(noise_std=0.05)
    estimated = it.Problem(known.y, known.operator)
    std = it.parameter_choice.estimate_noise_std(known.y, known.operator)
    for problem, noise, unit in ((known, torch.tensor([0.05, 0.05]), 0.05), (estimated, std, 1.0)):
        LEVELS.clear()
        solution = it.solve(problem, it.priors.Denoiser(Leveled(), sigma=0.5), progress=False)
        assert solution.solver.startswith("HalfQuadratic") and int(solution.iterations[0]) == 8
        assert solution.notes[0].startswith("the weight is 0.23 noise variances")
        torch.testing.assert_close(torch.cat(LEVELS[-2:]), noise, rtol=0.02, atol=0)
        expected = 0.23 * (noise / unit).square() / 0.5**2
        assert solution.weight_search is not None
        torch.testing.assert_close(solution.weight_search.weights[:, 0], expected)
    by_admm = it.solve(known, it.priors.Denoiser(Leveled(), sigma=0.5), "admm", max_iterations=1)
    assert by_admm.weight_search is not None
    torch.testing.assert_close(by_admm.weight_search.weights[:, 0], torch.full((2,), 1 / 0.5**2))
    # A level of almost no noise is 1 % of the intensity range.
    LEVELS.clear()
    quiet = it.Problem(known.y, known.operator, it.data_terms.LeastSquares(noise_std=1e-6))
    it.solve(quiet, it.priors.Denoiser(Leveled()), "dpir", progress=False)
    assert 0.005 < float(LEVELS[-1][0]) < 0.015


def test_a_noisy_picture_is_denoised_by_one_call() -> None:
    A, std = it.operators.Identity((1, 40, 40)), torch.tensor([0.003, 0.1])
    y = 0.5 + torch.cat([A.simulate(torch.zeros(1, 1, 40, 40), float(n), seed=0) for n in std])
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=std))
    LEVELS.clear()
    prior = it.priors.Denoiser(Leveled(), sigma=0.5)
    solution = it.solve(problem, prior, progress=False)
    assert "called once" in solution.reason and solution.iterations.tolist() == [1, 1]
    torch.testing.assert_close(torch.cat(LEVELS[-2:]), std, rtol=0.1, atol=0)
    both = it.solve(problem, [prior, "nonnegative"], progress=False)
    assert "called once" not in both.reason


def test_the_preset_red_solves_the_equation_of_red() -> None:
    """A^T W (A x - y) + mu (x - denoise(x)) = 0 at the noise level of the measurements."""
    known, _ = blurred(noise_std=0.05)
    prior = it.priors.Denoiser(Leveled(), sigma=0.5)
    solution = it.solve(known, prior, "red", tolerance=1e-6, progress=False)
    assert set(solution.status) == {"converged"}
    level, x, A = torch.full((2,), 0.05), solution.x, known.operator
    mu = solution.regularization * (0.5 / level).square()
    pull = A.adjoint(known.data_term.grad(A(x), known.y))
    push = mu.view(-1, 1, 1, 1) * (x - prior.denoise(x, level))
    assert float((pull + push).norm()) < 3e-3 * float(push.norm())


def test_plug_and_play_takes_the_blur_away() -> None:
    problem, x = blurred(noise_std=0.05)
    denoiser = it.priors.Denoiser(
        lambda v, sigma: it.priors.TotalVariation().prox(v, 0.7 * sigma), sigma=0.05
    )
    solution = it.solve(problem, denoiser, HalfQuadratic(), 50.0, max_iterations=8)
    assert bool((item_norm(solution.x - x) < 0.7 * item_norm(problem.y - x)).all())


# The other boundary takes the same path.
@pytest.mark.parametrize("boundary", ["reflect", pytest.param("valid", marks=pytest.mark.slow)])
def test_a_schedule_with_little_noise_leaves_no_fault_at_the_border(boundary: str) -> None:
    truth = it.datasets.photograph("astronaut")[..., 100:196, 180:276]
    A = it.operators.Blur(gaussian_kernel(1.4, "kernel"), (96, 96), boundary=boundary)
    y = A.simulate(truth, 0.0022, seed=0)
    x = it.solve(it.Problem(y, A), "denoiser-natural", progress=False).x
    errors = (A.crop(x) - A.crop(truth)).square().mean((0, 1))
    inside = float(errors[8:-8, 8:-8].mean())
    assert inside < 4e-4
    # Fewer measurements see the border; with too few inner steps its error was 13 times as large.
    assert float(torch.cat([errors[:4], errors[-4:]]).mean()) < 5 * inside


def test_a_fixed_penalty_solves_the_equation_of_regularization_by_denoising() -> None:
    """``A^T (A x - y) + mu (x - denoise(x)) = 0``; gradient steps lead to the same image, but not in as many calls."""
    problem, _ = blurred()
    calls = []

    def smooth(v: torch.Tensor) -> torch.Tensor:
        calls.append(len(v))
        return torch.nn.functional.avg_pool2d(
            torch.nn.functional.pad(v, (1, 1, 1, 1), "replicate"), 3, 1
        )

    prior, mu = it.priors.Denoiser(smooth, sigma=0.05, level="none"), 0.05
    bare = it.Problem(problem.y, problem.operator)
    x = it.solve(
        bare,
        prior,
        HalfQuadratic(penalty=mu, iterate="x"),
        max_iterations=100,
        tolerance=1e-6,
        progress=False,
    ).x
    few = len(calls)
    pull = mu * (x - smooth(x))
    left = problem.operator.adjoint(problem.operator(x) - problem.y) + pull
    assert float(left.norm()) < 1e-3 * float(pull.norm()) and few < 60
    stepped = it.Problem(problem.y, problem.operator)
    scaled = it.priors.Denoiser(smooth, sigma=0.05, level="none", trained_level=0.05, rescale=True)
    slow = it.solve(
        stepped,
        scaled,
        it.solvers.GradientDescent(step_size=0.9),
        mu,
        max_iterations=few,
        tolerance=0.0,
        progress=False,
    ).x
    far = it.solve(
        stepped,
        scaled,
        it.solvers.GradientDescent(step_size=0.9),
        mu,
        max_iterations=1000,
        tolerance=0.0,
        progress=False,
    ).x
    assert float((far - x).norm()) < 0.1 * float((slow - x).norm())


def test_check_solver_and_what_does_not_fit() -> None:
    problem, _ = blurred("reflect")
    assert check_solver(
        HalfQuadratic(max_iterations=2000),
        problem,
        10.0 * it.priors.TotalVariation() + it.priors.NonNegative(),
    ).ok
    poisson = it.Problem(
        torch.ones(1, 1, 4), it.operators.Identity((1, 4)), it.data_terms.Poisson()
    )
    with pytest.raises(it.InputError, match="HalfQuadratic needs a quadratic data term"):
        it.solve(poisson, it.priors.L1(), HalfQuadratic(), 1.0)
