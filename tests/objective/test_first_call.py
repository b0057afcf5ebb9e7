"""Faults of an operator, data term or implicit prior of the user are named before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import deepinv
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.objective.first_call import check_first_calls
from invtoolbox.parameter_choice.discrepancy import measure_residual

N, LEVEL = 16, 0.05
ROWS, COLUMNS = torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij")
TRUTH = ((ROWS > 4) & (COLUMNS > 6)).to(torch.float64)[None, None]
A = it.operators.Blur(torch.ones(3, 3, dtype=torch.float64) / 9, (N, N)).to(torch.float64)
Y = A.simulate(TRUTH, noise=LEVEL, seed=0)


def term(**methods: Callable[..., Any]) -> it.data_terms.DataTerm:
    """Return an object of a class of the user with these methods."""
    return type("Mine", (it.data_terms.DataTerm,), methods)()


def half_square(self: Any, p: Tensor, y: Tensor) -> Tensor:
    return 0.5 * ((p - y) / LEVEL).square().flatten(1).sum(1)


def gradient(self: Any, p: Tensor, y: Tensor) -> Tensor:
    return (p - y) / LEVEL**2


def prox(self: Any, p: Tensor, y: Tensor, step: Tensor) -> Tensor:
    share = torch.as_tensor(step).view(-1, 1, 1, 1) / LEVEL**2
    return (p + share * y) / (1 + share)


def changing(self: Any, p: Tensor, y: Tensor) -> Tensor:
    p -= y
    return p.square().flatten(1).sum(1)


@pytest.mark.parametrize(
    ("data_term", "message"),
    [
        (term(value=lambda self, p, y: (p - y).square().sum()), r"shape \(\) for 1 items"),
        (term(value=lambda self, p, y: (p - y).detach().norm()[None]), "has no derivative"),
        (term(value=changing), "changes its argument"),
        (term(value=half_square, grad=lambda self, p, y: y - p), "is not the gradient"),
        (term(value=half_square, grad=lambda self, p, y: p.sum()), "grad returns shape"),
        (term(value=half_square, prox=lambda self, p, y, step: p), "prox is not argmin"),
        (term(value=lambda self, p, y: self.scale * p), "raised AttributeError"),
    ],
)
def test_a_fault_of_a_data_term_is_named(data_term: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        it.solve(it.Problem(Y, A, data_term), "tv", regularization=1.0, progress=False)


@pytest.mark.parametrize(
    "methods",
    [
        {"value": half_square},
        {"value": half_square, "grad": gradient, "prox": prox},
        # A prox and a gradient make up for a value without a derivative.
        {"value": lambda s, p, y: half_square(s, p, y).detach(), "grad": gradient, "prox": prox},
    ],
)
def test_least_squares_of_the_user_finds_the_weight_from_the_noise(methods: Any) -> None:
    """The corner of the L-curve gave a weight 4 to 30 times too small."""
    own = it.solve(it.Problem(Y, A, term(**methods)), "tv", max_iterations=250, progress=False)
    rule = it.parameter_choice.DiscrepancyPrinciple()
    ours = it.solve(it.Problem(Y, A), "tv", regularization=rule, progress=False)
    assert "discrepancy" in own.weight_choice
    ratio = float(own.regularization * LEVEL**2 / ours.regularization)
    assert 0.6 < ratio < 1.6, ratio
    assert float(it.metrics.psnr(own.x, ours.x, data_range=1.0)) > 30


def test_a_prox_is_taken_next_to_a_large_constant() -> None:
    """Rounding of the constant exceeded the decrease, and the prox was refused."""
    own = term(
        value=lambda self, p, y: half_square(self, p, y) * LEVEL**2 + 1e4,
        prox=lambda self, p, y, step: prox(self, p, y, step * LEVEL**2),
    )
    y = torch.rand(1, 1, N, N, generator=torch.Generator().manual_seed(0))
    for size in torch.linspace(0.02, 0.3, 100):
        check_first_calls(it.Problem(size * y, A, own))


def test_a_term_that_prepares_itself_is_not_called_before() -> None:
    def prepare(self: Any, problem: it.Problem, solve: Any) -> it.data_terms.DataTerm:
        return self._replace(level=LEVEL)

    own = term(
        value=lambda self, p, y: half_square(self, p, y) * (LEVEL / self.level) ** 2,
        prepare=prepare,
    )
    solution = it.solve(it.Problem(Y, A, own), "tv", regularization=1.0, progress=False)
    plain = it.Problem(Y, A, term(value=half_square))
    assert torch.equal(solution.x, it.solve(plain, "tv", regularization=1.0, progress=False).x)


def test_a_cross_entropy_of_the_user_sees_shares_only() -> None:
    """Values above 1 made torch raise an error, on a GPU one that ends the process."""

    def entropy(self: Any, p: Tensor, y: Tensor) -> Tensor:
        assert float(y.min()) >= 0 and float(y.max()) <= 1
        pixels = torch.nn.functional.binary_cross_entropy(p, y, reduction="none")
        return pixels.flatten(1).sum(1)

    problem = it.Problem(TRUTH, it.operators.Identity((1, N, N)), term(value=entropy))
    assert not measure_residual(problem).data_term.measures_residual
    solution = it.solve(
        problem, Logits() + it.priors.Tikhonov(), regularization=1e-2, progress=False
    )
    assert bool((solution.x.round() == TRUTH).all())


def test_a_misfit_that_is_no_function_of_the_residual_keeps_the_l_curve() -> None:
    def correlation(self: Any, p: Tensor, y: Tensor) -> Tensor:
        p, y = (t - t.flatten(1).mean(1).view(-1, 1, 1, 1) for t in (p, y))
        inner = (p * y).flatten(1).sum(1)
        return 1e4 - inner / (p.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1) + 1e-9)

    rule = it.parameter_choice.LCurve(per_decade=2, below=1.0)
    problem = it.Problem(Y, A, term(value=correlation))
    bound, _, _ = it.solvers.binding.bind_objective(
        problem, it.priors.Tikhonov().as_sum(), rule, it.solve
    )
    assert not bound.problem.data_term.measures_residual


class Shift(it.operators.LinearOperator):
    """Mean of a pixel and its neighbour."""

    domain_shape = range_shape = (1, N, N)

    def __init__(self, back: int = -1, offset: float = 0.0, factor: float = 1.0) -> None:
        self.back, self.offset, self.factor = back, offset, factor

    def _forward(self, x: Tensor) -> Tensor:
        return (x + x.roll(1, -1)) / 2 + self.offset

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.factor * (y + y.roll(self.back, -1)) / 2


class Cut(Shift):
    def _forward(self, x: Tensor) -> Tensor:
        return x[..., 1:]


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (Shift(back=1), "_adjoint is not the adjoint of Shift"),
        (Shift(factor=-1.0), "_adjoint is not the adjoint of Shift"),
        (Shift(factor=3.0), "_adjoint is not the adjoint of Shift"),
        (Shift(offset=1.0), "Shift is not linear"),
        (Cut(), r"Cut returns shape \(1, 1, 16, 15\)"),
    ],
)
def test_a_fault_of_an_operator_is_named(operator: Any, message: str) -> None:
    """With a wrong adjoint the status was `converged`, 230 dB below the measurements."""
    with pytest.raises(InputError, match=message):
        it.reconstruct(Y, operator, progress=False)


class Masks(Shift):
    """Masks that differ from item to item."""

    def __init__(self) -> None:
        self.masks = torch.eye(N, dtype=torch.float64).expand(3, 1, N, N)

    def _forward(self, x: Tensor) -> Tensor:
        return self.masks * x

    _adjoint = _forward


def test_an_operator_with_values_per_item_is_solved_if_it_states_them() -> None:
    y = Y.repeat(3, 1, 1, 1)
    with pytest.raises(InputError, match="Masks returns 3 items for one image; .* items = 3"):
        it.solve(it.Problem(y, Masks()), progress=False)
    stated = type("Stated", (Masks,), {"items": 3, "parameters": lambda s: {"masks": s.masks}})
    solution = it.solve(it.Problem(y, stated()), "tikhonov", regularization=1e-9, progress=False)
    assert torch.allclose(solution.x, torch.eye(N).double() * y, atol=1e-6)


class Rows(Shift):
    """Product with a matrix in float64."""

    def __init__(self) -> None:
        self.matrix = torch.eye(N, dtype=torch.float64) * 2

    def _forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix

    _adjoint = _forward


def test_an_operator_is_called_in_the_precision_of_the_solve() -> None:
    """The measurements are in float32, and dtype= converts them first, as do extreme values."""
    solution = it.solve(it.Problem(Y.float(), Rows()), dtype=torch.float64, progress=False)
    assert float((2 * solution.x - Y.float()).abs().max()) < 1e-4
    tiny = Rows()
    tiny.matrix = 1e-30 * tiny.matrix
    solution = it.solve(it.Problem(1e-30 * Y.float(), tiny), progress=False)
    assert float((2 * solution.x - Y.float()).abs().max()) < 1e-4


def test_a_right_operator_is_solved() -> None:
    y = Shift()(TRUTH).repeat(3, 1, 1, 1)
    solution = it.solve(it.Problem(y, Shift()), "tv", regularization=1e-3, progress=False)
    assert float(it.metrics.psnr(solution.x, TRUTH.expand_as(y), data_range=1.0).min()) > 30


class Logits(it.priors.ImplicitPrior):
    """Images between 0 and 1."""

    def initial(self) -> dict[str, Tensor]:
        return {"z": torch.zeros(1, 1, N, N, dtype=torch.float64)}

    def decode(self, parameters: dict[str, Tensor], generator: Any = None) -> Tensor:
        return parameters["z"].sigmoid()


def implicit(**methods: Callable[..., Any]) -> it.priors.ImplicitPrior:
    return type("Mine", (Logits,), methods)()


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (implicit(initial=lambda self: torch.zeros(1)), "initial returns Tensor"),
        (implicit(initial=lambda self: {"z": torch.zeros(4, 4)}), "whose first axis must be"),
        (implicit(decode=lambda self, p, generator=None: p["z"][..., 1:]), "decode returns shape"),
        (implicit(decode=lambda self, p, generator=None: p["z"].detach()), "has no derivative"),
        (implicit(decode=lambda self, p, generator=None: p["x"]), "raised KeyError"),
        (implicit(energy=lambda self, p, x: x.sum()), r"energy returns shape \(\)"),
    ],
)
def test_a_fault_of_an_implicit_prior_is_named(prior: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        it.solve(it.Problem(Y, A), prior, max_iterations=2, progress=False)


def test_an_implicit_prior_next_to_total_variation_finds_its_weight() -> None:
    """The first weight was computed from the packed parameters, which are no image."""
    problem = it.Problem(Y, A, it.data_terms.LeastSquares(LEVEL))
    prior = Logits() + it.priors.TotalVariation()
    solution = it.solve(problem, prior, max_iterations=30, progress=False)
    residual = float((A(solution.x) - Y).square().mean().sqrt())
    assert residual == pytest.approx(LEVEL, rel=0.1)


@dataclass(frozen=True)
class Bare(it.solvers.Solver):
    """A solver whose state is the image alone."""

    def init(self, objective: Any, x: Tensor) -> Any:
        return x

    def step(self, objective: Any, state: Any) -> Any:
        return state


def test_a_state_that_is_no_state_is_named() -> None:
    with pytest.raises(InputError, match="init of Bare returns Tensor, expected a subclass of"):
        it.solve(it.Problem(Y, A), solver=Bare(), progress=False)
    with pytest.raises(InputError, match="the class Bare; pass an object of it"):
        it.solve(it.Problem(Y, A), solver=Bare, progress=False)  # type: ignore[arg-type]


def test_a_start_at_a_saddle_is_left() -> None:
    """The derivative of x^2 is 0 at 0, where the status was `converged`."""
    square = it.as_operator(torch.square, (1, N, N))
    y = (TRUTH + 0.5).square()
    problem = it.Problem(torch.cat([y, 4 * y]), square, it.data_terms.LeastSquares(0.01))
    solution = it.solve(problem, it.priors.Tikhonov(), "lbfgs", regularization=1e-3, progress=False)
    assert float((solution.x[:1] - TRUTH - 0.5).abs().max()) < 0.05
    assert float((solution.x[1:] - 2 * TRUTH - 1).abs().max()) < 0.1


def test_phase_retrieval_does_not_stay_at_zero() -> None:
    """Its derivative is 0 at 0: the status was `converged`, and nothing was explained."""
    draw = torch.Generator().manual_seed(0)
    sensing = it.operators.Matrix(torch.randn(256, 64, generator=draw) / 8, (1, 8, 8))
    x = torch.rand(1, 1, 8, 8, generator=draw)
    physics = deepinv.physics.PhaseRetrieval(deepinv.physics.LinearPhysics(A=sensing))
    square = it.as_operator(torch.square, sensing.range_shape)
    for A in (
        it.operators.PhaseRetrieval(sensing),
        it.as_operator(physics, (1, 8, 8)),
        square @ sensing,
    ):
        y = A(x)
        solution = it.solve(it.Problem(y, A), "tikhonov", regularization=1e-6, progress=False)
        assert float((A(solution.x) - y).norm() / y.norm()) < 0.01


def test_a_fourier_transform_of_the_user_gets_the_weight_of_k_space() -> None:
    """Held-out samples are not predicted by their neighbours; the weight was 500 times too large."""
    A = it.as_operator(lambda x: torch.fft.fft2(x, norm="ortho"), (1, N, N), linear=True)
    draw = torch.Generator().manual_seed(0)
    noise = LEVEL * torch.randn(1, 1, N, N, dtype=torch.complex128, generator=draw)
    problem = it.Problem(A(TRUTH) + noise, A)
    solution = it.solve(problem, "tv", max_iterations=100, progress=False)
    assert "generalized cross-validation" in solution.weight_choice
    error = float((solution.x - TRUTH).abs().square().mean().sqrt())
    assert error < 0.8 * LEVEL


def test_mixed_precisions_are_named() -> None:
    A = it.as_operator(lambda x: x.double(), (1, N, N), linear=True)
    with pytest.raises(InputError, match="mixes float32 and float64"):
        it.reconstruct(Y.float(), A, progress=False)
