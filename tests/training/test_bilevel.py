"""Bilevel learning: hypergradients against differences, methods of adaptive accuracy, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import FieldsOfExperts
from invtoolbox.priors.inexact import Decoding, InexactPrior, Pull
from invtoolbox.solve import bind
from invtoolbox.solvers import LBFGS, AdaptiveAccuracy, ScheduledAccuracy
from invtoolbox.training import PriorParameters, learn_prior
from invtoolbox.training.prior_parameters import _ritz_values

SIZE = 12


def problem_of(seed: int, dtype: torch.dtype = torch.float64) -> tuple[it.Problem, Tensor]:
    """Return the denoising of two squares, and the squares."""
    truth = torch.zeros(2, 1, SIZE, SIZE, dtype=dtype)
    truth[0, :, 3:9, 4:8], truth[1, :, 2:7, 5:11] = 1.0, 0.6
    A = it.operators.Identity((1, SIZE, SIZE))
    y = A.simulate(truth, noise=0.1, seed=seed)
    return it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.1)), truth


def hypergradient(unknown: PriorParameters, truth: Tensor) -> dict[str, Tensor]:
    parameters = {k: v.requires_grad_(True) for k, v in unknown.initial().items()}
    loss = 0.5 * (unknown.decode(parameters) - truth.reshape(1, -1)).square().mean()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))


def test_hypergradients_agree_with_differences() -> None:
    problem, truth = problem_of(0)
    prior = FieldsOfExperts(2, 3, weight=2.0, smoothing=0.1)
    unknown = PriorParameters(prior, [problem], accuracy=1e-9, curvature=100.0)
    found = hypergradient(unknown, truth)

    def loss(name: str, place: tuple[int, ...], shift: float) -> float:
        parameters = unknown.initial()
        parameters[name][place] += shift
        x = unknown.decode_to(parameters, 1e-9).x
        return float(0.5 * (x - truth.reshape(1, -1)).square().mean())

    for name, place in (("0", (0, 1, 0, 2)), ("1", (0, 0)), ("2", (0, 1))):
        step = 1e-3
        slope = (loss(name, place, step) - loss(name, place, -step)) / (2 * step)
        assert float(found[name][place]) == pytest.approx(slope, rel=2e-3)


def test_the_error_of_a_neumann_series_falls_geometrically() -> None:
    problem, truth = problem_of(0)
    prior = FieldsOfExperts.total_variation(weight=2.0, smoothing=0.05)
    exact = hypergradient(PriorParameters(prior, [problem], accuracy=1e-8, curvature=100.0), truth)
    errors = []
    for terms in (2, 8, 20):
        series = PriorParameters(prior, [problem], accuracy=1e-8, neumann=terms, curvature=100.0)
        found = hypergradient(series, truth)
        errors.append(float((found["1"] - exact["1"]).norm() / exact["1"].norm()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_a_neumann_series_of_n_terms_leaves_the_residual_of_n_factors() -> None:
    # Weight 1e-9 leaves the Hessian 100 I, and a step of 1 / 120 the factor 1 - 100 / 120.
    problem, truth = problem_of(0)
    prior = FieldsOfExperts(1, 3, weight=1e-9)
    for terms in (1, 2, 5):
        unknown = PriorParameters(prior, [problem], neumann=terms, curvature=100.0)
        parameters, slope = unknown.initial(), truth.reshape(1, -1)
        decoded = unknown.decode_to(parameters, 1e-6)
        q = unknown.pull_back(parameters, decoded, slope, 1e-6).adjoint
        torch.testing.assert_close(slope - 100 * q, slope / 6 ** (terms + 1), rtol=1e-3, atol=1e-6)


def test_ritz_values_of_a_whole_space_are_eigenvalues() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(2, 6, 6, dtype=torch.float64, generator=generator)
    matrix = factor @ factor.mT + torch.eye(6, dtype=torch.float64)
    ends = _ritz_values(lambda v: (matrix @ v[..., None])[..., 0], torch.zeros_like(factor[:, 0]))
    eigenvalues = torch.linalg.eigvalsh(matrix)[:, [0, -1]]
    torch.testing.assert_close(ends, eigenvalues, rtol=1e-4, atol=0)


def test_the_bound_of_the_error_holds() -> None:
    problem, truth = problem_of(1)
    prior = FieldsOfExperts.total_variation(weight=2.0, smoothing=0.1)
    unknown = PriorParameters(prior, [problem], curvature=100.0)
    parameters, n = unknown.initial(), truth.numel()
    best = unknown.decode_to(parameters, 1e-9)
    slope = (best.x - truth.reshape(1, -1)) / n
    exact = unknown.pull_back(parameters, best, slope, 1e-9).gradient
    for accuracy in (0.1, 1e-2, 1e-3):
        rough = unknown.decode_to(parameters, accuracy)
        assert float((rough.x - best.x).norm()) <= float(rough.error)
        pull = unknown.pull_back(parameters, rough, slope, accuracy)
        away = sum((pull.gradient[k] - exact[k]).square().sum() for k in exact)
        assert math.sqrt(float(away)) <= float(pull.error)


def test_values_are_those_of_the_exact_images_to_second_order() -> None:
    problem, truth = problem_of(1)
    unknown = PriorParameters(
        FieldsOfExperts.total_variation(weight=2.0, smoothing=0.1), [problem], curvature=100.0
    )
    y, n = truth.reshape(1, -1), truth.numel()
    outer = it.Problem(y, it.operators.Identity((n,)), it.data_terms.LeastSquares(n**0.5))
    objective = bind(outer, unknown.as_sum(), 1.0)[0]
    start = objective.layout.pack(unknown.initial())
    plain = {}
    for accuracy in (1e-7, 1e-2):
        solver = AdaptiveAccuracy(first=accuracy)
        state = solver.init(objective, start)
        plain[accuracy] = float(0.5 * (state.image - y).square().mean())
        if accuracy == 1e-7:
            exact = float(state.value)
    assert abs(float(state.value) - exact) < 0.2 * abs(plain[1e-2] - exact)
    assert abs(float(state.value) - exact) <= float(state.slack)
    for relax in (1.0, 2.0):  # the first accuracy is enough for the first step
        after = AdaptiveAccuracy(first=1e-3, relax=relax)
        assert float(after.step(objective, after.init(objective, start)).accuracy) == pytest.approx(
            relax * 1e-3
        )


@pytest.mark.parametrize(
    "solver",
    [AdaptiveAccuracy(), ScheduledAccuracy(schedule="quadratic")],
    ids=["adaptive", "quadratic"],
)
def test_weight_and_smoothing_come_near_their_best(solver: it.solvers.Solver) -> None:
    problem, truth = problem_of(0, torch.float32)
    prior = FieldsOfExperts.total_variation(weight=0.5, smoothing=0.05)
    before = prior.log_weights.clone()
    learned = learn_prior(prior, problem, truth, solver, max_iterations=10, progress=False)
    assert torch.equal(prior.log_weights, before)
    grid = [
        it.solve(
            problem,
            FieldsOfExperts.total_variation(weight, 0.01),
            it.solvers.LBFGS(),
            1.0,
            tolerance=1e-3,
            progress=False,
        ).x
        for weight in (2.0, 4.0, 8.0)
    ]
    best = min(float(0.5 * (x - truth).square().mean()) for x in grid)
    assert float(learned.losses[-1]) < 1.2 * best


class Claim(InexactPrior):
    """The image is the parameter itself, but only known up to an error that is claimed."""

    def __init__(self, error: float) -> None:
        self.error = error

    def initial(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(1, 1, dtype=torch.float64)}

    def decode_to(
        self, parameters: dict[str, Tensor], accuracy: float, start: Tensor | None = None
    ) -> Decoding:
        x = parameters["x"]
        return Decoding(x, torch.full_like(x[0], self.error), 0 * x, 1)

    def pull_back(
        self,
        parameters: dict[str, Tensor],
        decoded: Decoding,
        slope: Tensor,
        accuracy: float,
        start: Tensor | None = None,
        bounded: bool = True,
    ) -> Pull:
        return Pull({"x": slope}, 0 * slope[0], slope, 0 * slope[0], 1)

    def multiply_hessian(
        self, parameters: dict[str, Tensor], decoded: Decoding, vector: Tensor
    ) -> Tensor:
        return vector


@pytest.mark.parametrize(("error", "accepted"), [(0.8, True), (0.9, False)])
def test_a_step_is_accepted_by_the_bounds_of_both_values(error: float, accepted: bool) -> None:
    # A step from x = 0 to 1, with y = 2, lowers the value by 1.5. The bounds of the error e are
    # e^2 / 2 at the old point and e + e^2 / 2 at the new one; shorter steps need a smaller e.
    prior = Claim(error)
    y = torch.full((1, 1), 2.0, dtype=torch.float64)
    outer = it.Problem(y, it.operators.Identity((1,)), it.data_terms.LeastSquares(1.0))
    objective = bind(outer, prior.as_sum(), 1.0)[0]
    solver = AdaptiveAccuracy(first=0.5)
    state = solver.init(objective, objective.layout.pack(prior.initial()))
    after = solver.step(objective, state)
    assert float(after.x) == pytest.approx(1.0 if accepted else 0.0)
    assert float(after.accuracy) == (0.625 if accepted else 0.25)


def test_a_rough_first_solution_is_not_taken_for_the_end() -> None:
    # The corrected loss is negative here, because the bound of its error is far larger.
    truth = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    A = it.operators.Blur(torch.ones(5, 5) / 25, (6, 6))
    noise = it.data_terms.LeastSquares(noise_std=0.1)
    problem = it.Problem(A.simulate(truth, noise=0.1, seed=0), A, noise)
    prior = FieldsOfExperts.total_variation(weight=1.0) + 1e-3 * it.priors.Tikhonov()
    learned = learn_prior(prior, problem, truth, max_iterations=0, progress=False)
    assert learned.solution.status == ("max_iterations",)


def test_learned_priors_are_used_with_weight_one_and_saved_by_a_checkpoint(tmp_path) -> None:
    problem, truth = problem_of(0, torch.float32)
    prior = FieldsOfExperts(1, 3)
    kept = tmp_path / "learn.ckpt"
    first = learn_prior(prior, problem, truth, max_iterations=2, checkpoint=kept, progress=False)
    again = learn_prior(prior, problem, truth, max_iterations=4, checkpoint=kept, progress=False)
    once = learn_prior(prior, problem, truth, max_iterations=4, progress=False)
    assert len(first.losses) == 2 and torch.equal(again.losses, once.losses)
    x = it.solve(problem, once.prior, regularization=1.0, progress=False).x
    assert float(0.5 * (x - truth).square().mean()) == pytest.approx(
        float(once.losses[-1]), rel=0.05
    )


def test_the_weight_of_any_smooth_prior_is_learned() -> None:
    problem, truth = problem_of(0)
    prior = it.priors.HuberTV(0.05)
    learned = learn_prior(it.priors.LearnedWeight(prior), problem, truth, progress=False)
    assert learned.solution.status == ("converged",)
    weight = float(learned.prior.terms[0].prior.weight.detach())  # type: ignore[attr-defined]

    def loss(weight: float) -> float:
        x = it.solve(problem, weight * prior, LBFGS(), 1.0, tolerance=1e-6, progress=False).x
        return float((x - truth).square().mean())

    assert loss(weight) < min(loss(0.9 * weight), loss(1.1 * weight))
    with pytest.raises(InputError, match="positive"):
        it.priors.LearnedWeight(prior, weight=0.0)


def test_what_cannot_be_learned_is_refused() -> None:
    problem, truth = problem_of(0)
    with pytest.raises(InputError, match="nothing to learn: TotalVariation"):
        learn_prior("tv", problem, truth, progress=False)
    with pytest.raises(InputError, match="nothing to learn: Tikhonov"):
        learn_prior(it.priors.Tikhonov(), problem, truth)
    rough = it.priors.TotalVariation() + FieldsOfExperts(1, 3)
    with pytest.raises(InputError, match="TotalVariation.*total_variation\\(\\) is smooth"):
        learn_prior(rough, problem, truth)
    with pytest.raises(InputError, match="the truth of problem 0 has the shape"):
        learn_prior(FieldsOfExperts(1, 3), problem, truth[:1])
    for wrong in ({"accuracy": 0.0}, {"neumann": 0}, {"curvature": -1.0}):
        with pytest.raises(InputError, match="of learn_prior must be"):
            learn_prior(FieldsOfExperts(1, 3), problem, truth, **wrong)
    with pytest.raises(InputError, match="problem 0 hold NaN"):
        learn_prior(FieldsOfExperts(1, 3), problem, truth / 0)
    A = it.operators.Identity((1, 4, 4))
    with pytest.raises(InputError, match="are complex"):
        z = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        learn_prior(FieldsOfExperts(1, 3), it.Problem(z, A), z)
    with pytest.raises(InputError, match="1 problems and 2 truths"):
        learn_prior(FieldsOfExperts(1, 3), problem, [truth, truth])
    mask = torch.arange(SIZE).ge(8).expand(SIZE, SIZE).double()
    half = it.operators.Inpainting(mask, (1, SIZE, SIZE))
    flat = it.Problem(half(truth), half, it.data_terms.LeastSquares(noise_std=0.1))
    with pytest.raises(InputError, match="not strongly convex"):
        learn_prior(FieldsOfExperts(1, 3, weight=1e-9), flat, truth)
    with pytest.raises(InputError, match="first of AdaptiveAccuracy must lie in"):
        AdaptiveAccuracy(first=2.0)
    with pytest.raises(InputError, match="InexactPrior"):
        it.solve(problem, it.priors.Tikhonov(), AdaptiveAccuracy(), 1.0)


def test_fields_of_experts_are_a_prior() -> None:
    x = torch.rand(2, 1, 10, 9, generator=torch.Generator().manual_seed(0))
    it.testing.check_prior(FieldsOfExperts(2, 3), x, raise_error=True)
    tv = FieldsOfExperts.total_variation(weight=1.0, smoothing=1e-4)
    torch.testing.assert_close(
        tv.energy(x), it.priors.TotalVariation().energy(x), rtol=1e-3, atol=0
    )
    small = x[..., :2, :3]
    it.testing.check_prior(FieldsOfExperts(2, 5), small, raise_error=True)
    x, turned = x.double(), (0.6 + 0.8j) * x.double()  # complex images count by their modulus
    torch.testing.assert_close(tv.energy(turned), tv.energy(x))
    torch.testing.assert_close(tv.gradient(turned), (0.6 + 0.8j) * tv.gradient(x))
    with pytest.raises(InputError, match="batch, channel, rows, columns"):
        FieldsOfExperts(2, 5).energy(x[0])
    with pytest.raises(InputError, match="8 at most"):
        FieldsOfExperts(9, 3)


def test_parameters_stay_parameters_in_another_precision() -> None:
    prior = it.priors.FieldsOfExperts.total_variation(weight=0.5).to(torch.float64)
    assert [p.dtype for p in (prior.log_weights, prior.filters)] == [torch.float64] * 2
    assert isinstance(prior.log_weights, torch.nn.Parameter) and prior.log_weights.requires_grad
    assert isinstance(prior.filters, torch.nn.Parameter) and not prior.filters.requires_grad


def test_more_experts_start_from_what_was_learned() -> None:
    x = torch.rand(2, 1, 10, 9, generator=torch.Generator().manual_seed(0))
    for prior in (FieldsOfExperts.total_variation(3.0, 0.01), FieldsOfExperts(3, 3, 3.0, 0.01)):
        more = prior.extend(2, 5, length=1e-6)
        assert more.filters.shape == (2 * prior.group + len(prior.filters), 5, 5)
        torch.testing.assert_close(more.energy(x), prior.energy(x), rtol=1e-4, atol=0)
    with pytest.raises(InputError, match="does not fit"):
        prior.extend(2, 2)
