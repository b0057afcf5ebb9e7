"""Poisson data terms: their proximal operators, curvatures, and the misfit of simulated counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import DataTerm, Poisson, PoissonTransmission
from invtoolbox.errors import InputError

TERMS: dict[str, Callable[[], DataTerm]] = {
    "emission": Poisson,
    "emission-background": lambda: Poisson(torch.tensor([0.5, 2.0])),
    "transmission": lambda: PoissonTransmission(50.0),
    "transmission-field": lambda: PoissonTransmission(torch.linspace(20, 60, 30).view(1, 1, 30)),
    "transmission-background": lambda: PoissonTransmission(
        torch.tensor([50.0, 80.0]), background=5.0
    ),
}


def predictions() -> Tensor:
    return 0.05 + 3 * torch.rand(
        2, 1, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def counts() -> Tensor:
    y = torch.poisson(
        torch.full((2, 1, 30), 4.0), generator=torch.Generator().manual_seed(1)
    ).double()
    y[..., :3] = 0
    return y


@pytest.mark.parametrize("name", TERMS)
def test_value_is_a_divergence_and_gradient_its_derivative(name: str) -> None:
    term, p, y = TERMS[name](), predictions(), counts()
    assert bool((term.value(p, y) > 0).all())
    free = p.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda q: term.value(q, y), free)
    (gradient,) = torch.autograd.grad(term.value(free, y).sum(), free)
    torch.testing.assert_close(term.grad(p, y), gradient)


def test_value_in_full() -> None:
    p, y = predictions(), counts()
    log = torch.distributions.Poisson(p + 0.5)
    saturated = torch.where(y > 0, y * y.clamp_min(1).log() - y, 0.0) - (y + 1).lgamma()
    expected = (saturated - log.log_prob(y)).flatten(1).sum(1)
    torch.testing.assert_close(Poisson(0.5).value(p, y), expected)
    transmitted = torch.distributions.Poisson(50 * torch.exp(-p) + 5)
    expected = (saturated - transmitted.log_prob(y)).flatten(1).sum(1)
    torch.testing.assert_close(PoissonTransmission(50.0, 5.0).value(p, y), expected)


def test_zero_where_the_mean_is_the_count() -> None:
    y = counts().float()
    assert Poisson().value(y, y).tolist() == [0, 0]
    large = torch.full((1, 1, 1000), 1e6)
    # Written with y log y, the terms would be near 1e7 and their rounding near 1.
    assert Poisson().value(large + 1, large).item() == pytest.approx(1000 * 0.5e-6, rel=0.1)


def test_finite_behind_an_opaque_object() -> None:
    """The mean underflows, its logarithm does not: one count behind p = 200 costs about 200."""
    p, y = torch.full((1, 1, 1), 200.0), torch.ones(1, 1, 1)
    assert PoissonTransmission(1.0).value(p, y).item() == pytest.approx(199.0)
    assert PoissonTransmission(1.0).grad(p, y).item() == 1.0


def test_infinite_outside_of_the_domain() -> None:
    p = torch.tensor([[[-1.0]], [[0.0]], [[0.0]], [[-1.0]]])
    y = torch.tensor([[[0.0]], [[0.0]], [[1.0]], [[1.0]]])
    assert Poisson().value(p, y).tolist() == [float("inf"), 0, float("inf"), float("inf")]
    assert Poisson(2.0).value(p, y).isfinite().all()
    gradient = Poisson().grad(p, y)
    assert gradient.isfinite().all() and gradient[2] < 0 and gradient[3] < 0


@pytest.mark.parametrize("name", [n for n in TERMS if n != "transmission-background"])
def test_prox_is_the_stationary_point(name: str) -> None:
    term, y = TERMS[name](), counts()
    for p in (predictions(), -predictions(), 30 * predictions()):
        for step in (torch.tensor([0.01, 0.3], dtype=torch.float64), 5.0):
            t = torch.as_tensor(step, dtype=torch.float64).reshape(-1, 1, 1)
            u = term.prox(p, y, step)
            assert bool(u.isfinite().all())

            def objective(v: Tensor, p: Tensor = p, t: Tensor = t, term: DataTerm = term) -> Tensor:
                return term.value(v, y) + ((v - p).square() / (2 * t)).flatten(1).sum(1)

            best = objective(u)
            for size in (1e-4, 1e-2, 0.3):
                for sign in (-1, 1):
                    generator = torch.Generator().manual_seed(2)
                    direction = torch.rand(p.shape, generator=generator, dtype=p.dtype)
                    assert bool(
                        (objective(u + sign * size * direction) >= best - 1e-9 * best.abs()).all()
                    )
            inside = (
                (y > 0) if name.startswith("emission") else torch.ones_like(y, dtype=torch.bool)
            )
            slope = torch.where(inside, term.grad(u, y) + (u - p) / t, 0.0)
            assert bool((slope.abs() <= 1e-8 * (1 + (u - p).abs() / t)).all())


def test_prox_in_single_precision_at_extremes() -> None:
    y = torch.tensor([0.0, 1e-3, 1.0, 1e5]).view(1, 1, 4)
    for term in (Poisson(), Poisson(3.0), PoissonTransmission(1e5)):
        for p in (-1e4, -1.0, 0.0, 1.0, 1e4):
            u32 = term.prox(torch.full_like(y, p), y, 2.0)
            u64 = term.prox(torch.full_like(y, p).double(), y.double(), 2.0)
            torch.testing.assert_close(u32.double(), u64, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["emission-background", "transmission", "transmission-background"])
def test_curvature_bounds_the_second_derivative(name: str) -> None:
    term = TERMS[name]()
    y = counts() * torch.tensor([1.0, 100.0]).view(2, 1, 1)
    bound = term.curvature(y)
    assert bound is not None and Poisson().curvature(y) is None
    for level in (0.0, 0.01, 0.3, 1.0, 3.0, 6.0, 10.0):
        p = torch.full_like(y, level).requires_grad_(True)
        (second,) = torch.autograd.grad(
            torch.autograd.grad(term.value(p, y).sum(), p, create_graph=True)[0].sum(), p
        )
        assert bool((second.abs().flatten(1).amax(1) <= bound * (1 + 1e-9)).all())


def test_convexity_is_told_honestly() -> None:
    y = torch.full((1, 1, 1), 100.0, dtype=torch.float64)
    assert Poisson(1.0).is_convex and PoissonTransmission(50.0).is_convex
    term = PoissonTransmission(50.0, background=5.0)
    assert (
        not term.is_convex
        and "prox" not in term.offers
        and "prox" in PoissonTransmission(50.0).offers
    )
    # A chord below the function: it is indeed not convex.
    ends = (torch.tensor(2.0).view(1, 1, 1).double(), torch.tensor(8.0).view(1, 1, 1).double())
    chord = (term.value(ends[0], y) + term.value(ends[1], y)) / 2
    assert float(term.value((ends[0] + ends[1]) / 2, y)) > float(chord)


@pytest.mark.parametrize(
    ("term", "mean"),
    [
        (Poisson(3.0), lambda p: 20 * p + 3.0),
        (PoissonTransmission(200.0, 5.0), lambda p: 200 * torch.exp(-p) + 5),
    ],
)
def test_the_expected_discrepancy_is_met(term: DataTerm, mean: Callable[[Tensor], Tensor]) -> None:
    p = 2 * torch.rand(50, 1, 400, generator=torch.Generator().manual_seed(0))
    y = torch.poisson(mean(p), generator=torch.Generator().manual_seed(1))
    prediction = 20 * p if isinstance(term, Poisson) else p
    expected = term.expected_discrepancy(y)
    assert expected is not None
    measured = term.discrepancy(prediction, y).square().mean().sqrt()
    assert float(measured) == pytest.approx(float(expected[0]), rel=0.03) and float(
        expected[0]
    ) == pytest.approx(20)


@pytest.mark.parametrize("name", TERMS)
def test_batch_equals_items(name: str) -> None:
    term, p, y = TERMS[name](), predictions(), counts()
    for k in range(2):
        alone, i = term.select(torch.tensor([k])), slice(k, k + 1)
        assert torch.equal(alone.value(p[i], y[i]), term.value(p, y)[i])
        assert torch.equal(alone.grad(p[i], y[i]), term.grad(p, y)[i])


def test_bad_input_is_refused() -> None:
    y = torch.tensor([1.0, -2.0, 3.0]).view(1, 1, 3)
    with pytest.raises(InputError, match=r"1 values below 0, the first at index \(0, 0, 1\)"):
        it.Problem(y, it.operators.Identity((1, 3)), Poisson())
    for make in (
        lambda: Poisson(-1.0),
        lambda: PoissonTransmission(0.0),
        lambda: PoissonTransmission(1.0, float("nan")),
    ):
        with pytest.raises(InputError):
            make()


@pytest.mark.parametrize(
    "term",
    [
        it.data_terms.Poisson(background=2.0),
        it.data_terms.PoissonTransmission(100.0),
        it.data_terms.PoissonTransmission(100.0, background=2.0),
    ],
    ids=repr,
)
def test_the_fitting_prediction_is_the_minimizer(term: it.data_terms.DataTerm) -> None:
    y = torch.tensor([[[5.0, 40.0, 90.0]]], dtype=torch.float64)
    torch.testing.assert_close(
        term.grad(term.fitting_prediction(y), y), torch.zeros_like(y), rtol=0, atol=1e-10
    )
    nothing = torch.zeros(1, 1, 3, dtype=torch.float64)
    assert bool(term.fitting_prediction(nothing).isfinite().all())


def test_a_rule_finds_the_weight_of_counts_though_they_start_at_zero() -> None:
    x = torch.zeros(1, 1, 24, 24)
    x[..., 6:18, 8:16] = 0.08
    A = it.operators.ParallelBeam((24, 24), torch.arange(24) * torch.pi / 24, 36)
    y = torch.poisson(500 * torch.exp(-A(x)), generator=torch.Generator().manual_seed(0))
    problem = it.Problem(y, A, it.data_terms.PoissonTransmission(500.0))
    solution = it.solve(
        problem, it.priors.TotalVariation() + it.priors.NonNegative(), progress=False
    )
    assert solution.status == ("converged",)
    discrepancy = float(solution.history["discrepancy"][-1])
    assert discrepancy == pytest.approx(float(problem.data_term.expected_discrepancy(y)), rel=0.07)
    assert float(it.metrics.psnr(solution.x, x, data_range=0.08)) > 25


def test_a_long_step_of_the_transmission_prox_does_not_cancel() -> None:
    term = it.data_terms.PoissonTransmission(1e4)
    y, steps = torch.tensor([[[200.0, 2000.0, 9000.0]]]), (1e-6, 1e-2, 1e2, 1e6)
    for step in steps:
        single = term.prox(torch.zeros(1, 1, 3), y, step)
        double = term.prox(torch.zeros(1, 1, 3, dtype=torch.float64), y.double(), step)
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)
        # The optimality of the prox: p = v - step grad D(p).
        torch.testing.assert_close(double / step, -term.grad(double, y.double()))


def test_the_prox_of_transmission_holds_for_long_steps_in_single_precision() -> None:
    """s and omega are both near t y = 3e9; the root is near log(I0 / y)."""
    term = it.data_terms.PoissonTransmission(11000.0)
    p, y, t = torch.tensor([[[0.0, 0.5]]]), torch.tensor([[[10000.0, 4000.0]]]), 3e5
    root = term.prox(p, y, t)
    assert torch.allclose(root, (11000.0 / y).log(), rtol=1e-4)
    residual = (root - p).double() / t + y - 11000.0 * torch.exp(-root.double())
    assert bool((residual.abs() < 1e-2).all())


def test_a_map_of_the_background_may_leave_out_its_first_axes() -> None:
    """A map of 32 rows was taken for one number per item, and 5 of them were selected."""
    generator = torch.Generator().manual_seed(0)
    y = torch.poisson(torch.full((1, 1, 8, 8), 30.0), generator=generator)
    background = torch.arange(64.0).view(8, 8) / 4
    A = it.operators.Identity((1, 8, 8))
    problems = [
        it.Problem(y, A, it.data_terms.Poisson(b)) for b in (background, background[None, None])
    ]
    answers = [it.solve(p, "tv", regularization=0.1, progress=False).x for p in problems]
    assert torch.equal(*answers)
    with pytest.raises(InputError, match="background of Poisson has the shape"):
        it.Problem(y, A, it.data_terms.Poisson(background[:5]))
    with pytest.raises(InputError, match="has 8 values, and the measurements have 1 items"):
        it.Problem(y, A, it.data_terms.Poisson(background[0]))


def test_a_background_above_the_counts_is_refused() -> None:
    """No image explains it; the answer was 0 with the status `converged`."""
    A = it.operators.Identity((1, 8, 8))
    dark = torch.poisson(torch.full((2, 1, 8, 8), 20.0), generator=torch.Generator().manual_seed(1))
    it.Problem(dark, A, it.data_terms.Poisson(20.0))
    with pytest.raises(InputError, match=r"exceeds the measured counts of item 1, 2\.[0-9]+"):
        it.Problem(torch.cat([dark[:1], dark[1:] / 10]), A, it.data_terms.Poisson(20.0))
    # A slice without a count is no evidence of another unit, and one measurement serves several items.
    it.Problem(torch.cat([dark[:1], 0 * dark[1:]]), A, it.data_terms.Poisson(20.0))
    it.Problem(dark[:1], A, it.data_terms.Poisson(torch.full((3, 1, 1, 1), 20.0)))
