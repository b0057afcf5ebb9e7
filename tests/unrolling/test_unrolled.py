"""Solvers as networks: the same answers as `solve`, exact derivatives, and training by the one loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

import invtoolbox as it
from invtoolbox import solvers as S
from invtoolbox.errors import InputError, MeasurementWarning
from invtoolbox.training import L2, MeasuredPairs, SkipLoss, Stage, train
from tests.training.interruption import check_same_weights, trained_in_two_goes

KERNEL = torch.tensor([[0.0, 0.04, 0.0], [0.03, 0.8, 0.05], [0.0, 0.02, 0.0]], dtype=torch.float64)


class Small(nn.Module):
    """A denoiser of 28 weights that knows noise levels."""

    def __init__(self) -> None:
        super().__init__()
        generator = Generator().manual_seed(1)
        self.first, self.last = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 2)
        for p in self.parameters():
            p.data = 0.4 * torch.randn(p.shape, generator=generator)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x - 0.3 * sigma.view(-1, 1, 1, 1) * self.last(
            F.pad(torch.tanh(self.first(x)), (0, 1, 0, 1))
        )


def measured(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 1, 4, 4, dtype=torch.float64, generator=Generator().manual_seed(seed))


def problem(boundary: Any = "reflect", batch: int = 2) -> it.Problem:
    return it.Problem(measured(batch), it.operators.Blur(KERNEL, (4, 4), boundary=boundary))


def denoiser() -> it.priors.Denoiser:
    return it.priors.Denoiser(Small().double(), sigma=0.5)


def proximal() -> it.priors.LearnedProximal:
    torch.manual_seed(0)
    return it.priors.LearnedProximal(
        it.priors.ConvexConvolution(1, (3, 3), (1, 1), beta=10.0, strong_convexity=0.2).double(),
        within_theorem=True,
    )


def tv() -> Any:
    return 0.1 * it.priors.TotalVariation()


def smooth() -> Any:
    return 0.3 * it.priors.Tikhonov("gradient")


#: A solver whose steps are all given, priors, and whether it has a fixed point.
CASES: dict[str, tuple[S.Solver, Any, bool]] = {
    "gradient descent": (S.GradientDescent(step_size=0.4), smooth, True),
    "RED": (S.GradientDescent(step_size=0.3), denoiser, True),
    "proximal gradient": (S.ProximalGradient(step_size=0.4), denoiser, True),
    "ISTA": (S.ProximalGradient(step_size=0.4), lambda: 0.1 * it.priors.L1(), True),
    "learned prox, proximal gradient": (S.ProximalGradient(), proximal, True),
    "FISTA": (S.FISTA(step_size=0.3), denoiser, True),
    "ADMM": (S.ADMM(rho=0.7), denoiser, True),
    "ADMM, its penalty the weight": (S.ADMM(), denoiser, True),
    "ADMM, TV": (S.ADMM(rho=0.6), tv, True),
    "learned prox, ADMM": (S.ADMM(), proximal, True),
    "half-quadratic": (S.HalfQuadratic(penalty=0.7), denoiser, True),
    "DPIR": (S.HalfQuadratic(schedule=3), denoiser, True),
    "PDHG": (S.PDHG(adaptive=False, ratio=0.7), lambda: tv() + it.priors.NonNegative(), True),
    "Condat-Vu": (S.CondatVu(adaptive=False, ratio=0.7), tv, True),
    "Douglas-Rachford": (S.DouglasRachford(step_size=0.8), denoiser, True),
    "conjugate gradients": (S.ConjugateGradient(), smooth, True),
    "CGLS": (S.CGLS(), lambda: None, False),
    "LSMR": (S.LSMR(), smooth, False),
    "SIRT": (S.SIRT(), it.priors.NonNegative, False),
}
#: One of each kind, where a check costs more.
FEW = ["proximal gradient", "learned prox, ADMM", "ADMM, TV", "PDHG", "half-quadratic"]


def learnable(network: nn.Module) -> list[Tensor]:
    return [p for p in network.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", CASES)
def test_n_steps_are_those_of_solve_and_their_derivative_is_exact(name: str) -> None:
    solver, prior, _ = CASES[name]
    learn = () if name in ("CGLS", "SIRT") else None
    network = it.unroll(solver, problem(), 3, prior(), learn=learn)
    assert learnable(network) or learn is not None
    y = measured(seed=5)
    own = it.Problem(y, problem().operator)
    weight: Any = "auto" if "learned prox" in name else 1.0
    solution = it.solve(
        own, prior(), solver, weight, max_iterations=3, tolerance=0.0, progress=False
    )
    with torch.no_grad():
        torch.testing.assert_close(network(y), solution.x, rtol=1e-13, atol=1e-14)
    free = y.requires_grad_(True)
    torch.testing.assert_close(network(y).detach(), solution.x, rtol=1e-13, atol=1e-14)
    assert torch.autograd.gradcheck(
        lambda y, *p: network(y), (free, *learnable(network)), eps=1e-6, atol=1e-6, fast_mode=True
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FEW else pytest.mark.slow)
        for name, case in CASES.items()
        if case[2] and name not in ("RED", "learned prox, ADMM", "DPIR")
    ],
)
def test_the_fixed_point_is_that_of_solve_and_its_derivative_that_of_many_steps(name: str) -> None:
    solver, prior, _ = CASES[name]
    network = it.equilibrium(
        solver, problem(), prior(), max_iterations=4000, tolerance=1e-9, adjoint_tolerance=1e-8
    )
    steps = 12 if name == "conjugate gradients" else 160
    learn = [
        *network.learned.logarithms,
        *(["network"] if list(network.learned.networks.parameters()) else []),
    ]
    unrolled = it.unroll(solver, problem(), steps, prior(), learn=learn, per_iteration=False)
    y = measured(seed=5).requires_grad_(True)
    weight: Any = "auto" if "learned prox" in name else 1.0
    own = it.Problem(y.detach(), problem().operator)
    solution = it.solve(
        own, prior(), solver, weight, max_iterations=4000, tolerance=1e-9, progress=False
    )
    settled = network.settle(y)
    assert settled.status == ("converged", "converged") and torch.equal(settled.x, solution.x)
    assert torch.equal(settled.iterations, solution.iterations)
    cotangent = measured(seed=6)
    ours = torch.autograd.grad((cotangent * settled.x).sum(), [y, *learnable(network)])
    theirs = torch.autograd.grad((cotangent * unrolled(y)).sum(), [y, *learnable(unrolled)])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["proximal gradient", "learned prox, ADMM"])
def test_the_derivative_of_a_fixed_point_against_finite_differences(name: str) -> None:
    solver, prior, _ = CASES[name]
    network = it.equilibrium(
        solver, problem(), prior(), max_iterations=4000, tolerance=1e-11, adjoint_tolerance=1e-10
    )
    y = measured(1, seed=5).requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda y, *p: network(y), (y, *learnable(network)), eps=1e-4, atol=1e-5, fast_mode=True
    )


def test_a_fixed_point_has_the_derivative_of_differentiate_implicit() -> None:
    kernel = KERNEL.clone().requires_grad_(True)
    uncertain = it.Problem(measured(), it.operators.Blur(kernel, (4, 4)))
    network = it.equilibrium(
        S.GradientDescent(), uncertain, smooth(), tolerance=1e-12, adjoint_tolerance=1e-10
    )
    cotangent = measured(seed=6)
    (ours,) = torch.autograd.grad((cotangent * network(uncertain.y)).sum(), kernel)
    solution = it.solve(
        uncertain,
        smooth(),
        S.GradientDescent(),
        1.0,
        tolerance=1e-12,
        differentiate="implicit",
        progress=False,
    )
    (theirs,) = torch.autograd.grad((cotangent * solution.x).sum(), kernel)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_items_with_nan_give_nan_and_leave_the_others_alone() -> None:
    both = problem()
    broken = torch.where(torch.arange(2).view(2, 1, 1, 1) == 1, torch.nan, both.y)
    layers = it.unroll(it.solvers.ProximalGradient(step_size=1.0), both, 2, denoiser())
    limit = it.equilibrium(it.solvers.ProximalGradient(), both, proximal(), max_iterations=200)
    for network in (layers, limit):
        with pytest.warns(MeasurementWarning, match="item 1 is skipped"):
            x = network(broken)
        assert bool(x[1].isnan().all()) and torch.equal(x[:1], network(both.y[:1]))
    with pytest.warns(MeasurementWarning):
        assert limit.settle(broken).status[1] == "invalid"


@pytest.mark.parametrize("name", FEW)
def test_an_item_is_the_same_alone_and_calls_change_nothing(name: str) -> None:
    solver, prior, _ = CASES[name]
    y = measured(3)
    for network in (
        it.unroll(solver, problem(), 3, prior()),
        it.equilibrium(solver, problem(), prior()),
    ):
        together = network(y)
        assert torch.equal(network(y), together)
        assert torch.equal(network(y[1:2]), together[1:2])
        (gradient,) = torch.autograd.grad(network(y[1:2]).sum(), learnable(network)[:1])
        (among,) = torch.autograd.grad(network(y)[1:2].sum(), learnable(network)[:1])
        torch.testing.assert_close(gradient, among, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", FEW)
def test_iterations_that_are_computed_again_give_the_same_derivative(name: str) -> None:
    solver, prior, _ = CASES[name]
    plain, again = (
        it.unroll(solver, problem(), 3, prior(), per_iteration=True, recompute=r)
        for r in (False, True)
    )
    # Under functional_call the module has its own parameters back by the time of the way back.
    moved = {
        name: (value + 0.01).detach().requires_grad_(True)
        for name, value in plain.named_parameters()
    }
    ours, theirs = (
        torch.autograd.grad(
            torch.func.functional_call(network, moved, (measured(),)).square().sum(),
            list(moved.values()),
        )
        for network in (plain, again)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs)) and any(bool(a.any()) for a in ours)


def test_every_iteration_may_have_its_own() -> None:
    shared = it.unroll(
        S.ProximalGradient(step_size=0.4), problem(), 3, denoiser(), per_iteration=False
    )
    usual = it.unroll(S.ProximalGradient(step_size=0.4), problem(), 3, denoiser())
    every = it.unroll(
        S.ProximalGradient(step_size=0.4), problem(), 3, denoiser(), per_iteration=True
    )
    weights = sum(p.numel() for p in Small().parameters())
    assert [sum(p.numel() for p in n.parameters()) for n in (shared, usual, every)] == [
        2 + weights,
        6 + weights,
        6 + 3 * weights,
    ]
    y = measured()
    assert torch.equal(shared(y), usual(y)) and torch.equal(shared(y), every(y))
    chosen = it.unroll(
        S.ProximalGradient(step_size=0.4),
        problem(),
        3,
        denoiser(),
        learn=["step_size", "network"],
        per_iteration=["network"],
    )
    assert {name: tuple(p.shape) for name, p in chosen.learned.logarithms.items()} == {
        "step_size": (1,)
    }


def test_the_prior_of_the_caller_is_left_alone_and_the_network_moves() -> None:
    prior = denoiser()
    network = it.unroll(S.ADMM(), problem(), 2, prior)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1
    assert torch.equal(prior.network.first.weight, Small().double().first.weight)  # type: ignore[union-attr]
    y = measured()
    exact = network(y)
    single = network.to(torch.float32)
    assert single is network and single(y.float()).dtype == torch.float32
    torch.testing.assert_close(single(y.float()).double(), exact, rtol=1e-4, atol=1e-5)
    assert single.prior.terms[0].prior.network is single.learned.networks[0][0]  # type: ignore[attr-defined, index]


class Thresholds(it.priors.ExplicitPrior):
    """A prior of a user, with bare parameters: a norm with one threshold per row, and a centre."""

    is_convex = True

    def __init__(self) -> None:
        self.thresholds = nn.Parameter(torch.linspace(0.02, 0.2, 4, dtype=torch.float64))
        self.centre = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def energy(self, x: Tensor) -> Tensor:
        return (self.thresholds[:, None] * (x - self.centre).abs()).flatten(1).sum(1)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        limit = self.thresholds[:, None] * torch.as_tensor(step).reshape(-1, 1, 1, 1)
        away = x - self.centre
        return self.centre + away.sign() * (away.abs() - limit).clamp_min(0)


@pytest.mark.parametrize("each", [(), ("network",)])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_bare_parameter_of_a_prior_is_learned(each: Any, recompute: bool) -> None:
    """Its derivative against differences; the caller's parameter stays, the copy is trained."""
    prior = Thresholds()
    network = it.unroll(
        S.ProximalGradient(step_size=0.8), problem(), 3, prior, per_iteration=each,
        recompute=recompute, learn=("network",),
    )  # fmt: skip
    names = dict(network.named_parameters())
    assert len(names) == (6 if each else 2), list(names)
    y = measured()
    assert torch.equal(
        network(y).detach(),
        it.solve(
            problem(), prior, S.ProximalGradient(step_size=0.8), regularization=1.0,
            max_iterations=3, tolerance=0, progress=False,
        ).x,
    )  # fmt: skip

    def answer(*values: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(names, values)), (y,))

    values = tuple(p.detach().clone().requires_grad_() for p in names.values())
    assert torch.autograd.gradcheck(answer, values, eps=1e-6, atol=1e-6)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        loss = (network(y) - 0.5).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert prior.centre.grad is None and float(prior.centre) == pytest.approx(0.4)
    again = it.unroll(
        S.ProximalGradient(step_size=0.8),
        problem(),
        3,
        prior,
        per_iteration=each,
        learn=("network",),
    )
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(y), network(y))
    assert network.float()(y.float()).dtype == torch.float32


def test_what_cannot_be_done_is_said() -> None:
    pg, p = S.ProximalGradient(step_size=0.4), problem()
    with pytest.raises(InputError, match="at least one, got 0"):
        it.unroll(pg, p, 0, denoiser())
    with pytest.raises(
        InputError,
        match=r"steps of LBFGS cannot be differentiated; those of ADMM, .*ProximalGradient.* can",
    ):
        it.unroll(S.LBFGS(), p, 3, denoiser())
    with pytest.raises(
        InputError,
        match=r"LSMR are not those of a map with a fixed point .*; those of ADMM, .* are",
    ):
        it.equilibrium(S.LSMR(), p, smooth())
    with pytest.raises(InputError, match="nothing to learn"):
        it.unroll(S.CGLS(), p, 3)
    with pytest.raises(InputError, match="is an implicit prior"):
        it.unroll(
            S.GradientDescent(step_size=0.1), p, 3, it.priors.CoordinateNetwork(features=4, width=4)
        )
    with pytest.raises(InputError, match="'rho', which is none of what can be learned"):
        it.unroll(S.ADMM(), p, 3, denoiser(), learn=["rho"])
    with pytest.raises(InputError, match="these would work: "):
        it.unroll(S.ADMM(), p, 3, None)
    with pytest.raises(
        InputError, match=r"prox of TotalVariation\(\) is iterated .* ADMM and PDHG"
    ):
        it.unroll(pg, p, 3, it.priors.TotalVariation())(measured())
    with pytest.raises(InputError, match="expected 4"):
        it.unroll(pg, p, 3, denoiser())(torch.zeros(1, 1, 5, 4, dtype=torch.float64))
    each = it.unroll(
        pg,
        it.Problem(measured(), p.operator, it.data_terms.LeastSquares(torch.tensor([0.5, 0.6]))),
        3,
        denoiser(),
    )
    assert each(measured()).shape == (2, 1, 4, 4)
    with pytest.raises(
        InputError,
        match=r"noise_std of LeastSquares has 2 values, and the measurements have 3 items",
    ):
        each(measured(3))
    with pytest.raises(InputError, match="is a rule"):
        it.unroll(pg, p, 3, denoiser(), regularization="gcv")


def test_a_fixed_point_that_is_not_reached_is_reported() -> None:
    network = it.equilibrium(
        S.ProximalGradient(step_size=0.4), problem(), denoiser(), max_iterations=3
    )
    with pytest.warns(
        UserWarning,
        match=r"not reached for 2 of 2 items in 3 iterations: .* gradient mapping is 0\.\d+ at the most",
    ):
        settled = network.settle(measured())
    assert settled.status == ("limit", "limit") and bool((settled.residual > 1e-4).all())
    # An item that diverges takes no part in the derivative, and does not spoil it.
    wild = it.equilibrium(
        S.ProximalGradient(step_size=50.0), problem(), denoiser(), max_iterations=2000
    )
    y = torch.cat([torch.zeros_like(measured(1)), measured(1)])
    with pytest.warns(UserWarning, match="not reached"):
        x = wild(y)
    assert bool(x.isfinite().all())


# -- training --------------------------------------------------------------------------------------


BOX = torch.ones(3, 3) / 9
#: A blur that a few iterations undo, so that fixed points are reached.
MILD = KERNEL.float()


def pictures() -> list[Tensor]:
    rows = torch.linspace(0, 1, 12)
    corner = (rows[:, None] > 0.4) & (rows > 0.3)
    disc = (rows[:, None] - 0.5).square() + (rows - 0.5).square() < 0.1
    return [corner.float()[None, None], disc.float()[None, None]]


def blurred(kernel: Tensor = BOX) -> tuple[it.Problem, MeasuredPairs]:
    A = it.operators.Blur(kernel, (8, 8))
    return it.Problem(torch.zeros(1, 1, 8, 8), A), MeasuredPairs(pictures(), A, noise_std=0.02)


def networks() -> dict[str, nn.Module]:
    simple, mild = blurred()[0], blurred(MILD)[0]
    torch.manual_seed(0)
    dncnn = it.priors.Denoiser(it.priors.DnCNN(depth=3, width=4), sigma=0.1)
    convex = it.priors.LearnedProximal(
        it.priors.ConvexConvolution(1, (4, 4), (1, 2), beta=10.0), within_theorem=True
    )
    return {
        "unrolled proximal gradient": it.unroll(
            S.ProximalGradient(step_size=1.0), simple, 4, dncnn, recompute=True
        ),
        "unrolled ADMM, a learned prox": it.unroll(S.ADMM(), simple, 3, convex),
        "equilibrium": it.equilibrium(
            S.ProximalGradient(step_size=1.0),
            mild,
            it.priors.Denoiser(Small(), sigma=0.3),
            skip="step",
            max_iterations=40,
            tolerance=1e-2,
            adjoint_tolerance=1e-3,
            adjoint_iterations=15,
        ),
    }


def loss_of(name: str) -> Any:
    return SkipLoss(L2(), 0.1) if name == "equilibrium" else L2()


@pytest.mark.parametrize(
    "name", ["unrolled proximal gradient", "unrolled ADMM, a learned prox", "equilibrium"]
)
def test_training_lowers_the_loss_and_a_resumed_one_gives_the_same_weights(
    name: str, tmp_path: Path
) -> None:
    network = networks()[name]
    _, pairs = blurred(MILD) if name == "equilibrium" else blurred()
    stages = [Stage(loss_of(name), 12, 5e-3, 8), Stage(loss_of(name), 4, 1e-3, 8)]
    whole = train(network, pairs, stages, seed=3, progress=False)
    assert float(whole.losses[-6:].mean()) < 0.95 * float(whole.losses[:3].mean())

    resumed = trained_in_two_goes(network, pairs, stages, 3, tmp_path, at=9)
    check_same_weights(whole.network, resumed.network)
    for part in whole.network.modules():
        if isinstance(part, it.priors.ConvexNetwork):
            part.check_convex()


def test_a_predicted_start_spares_iterations() -> None:
    simple, pairs = blurred()
    skip = nn.Conv2d(1, 1, 5, padding=2, padding_mode="reflect")
    nn.init.dirac_(skip.weight)
    nn.init.zeros_(skip.bias)  # type: ignore[arg-type]
    prior = 0.02 * it.priors.Tikhonov("gradient")
    network = it.equilibrium(
        S.GradientDescent(step_size=0.9), simple, prior, skip=skip, learn=(), tolerance=1e-3
    )
    trained = train(network, pairs, [Stage(SkipLoss(), 25, 1e-2, 4)], progress=False).network
    y, _ = pairs.draw(8, Generator().manual_seed(9))
    with torch.no_grad():
        taught, untaught = trained.settle(y), network.settle(y)  # type: ignore[operator]
    assert int(taught.iterations.sum()) < 0.85 * int(untaught.iterations.sum())
    assert taught.status == untaught.status == ("converged",) * 8
    with pytest.raises(InputError, match="predicts none"):
        train(
            networks()["unrolled proximal gradient"],
            pairs,
            [Stage(SkipLoss(), 1, 1e-2, 4)],
            progress=False,
        )


def test_an_unrolled_scan_starts_at_its_filtered_back_projection() -> None:
    A = it.operators.ParallelBeam((8, 8), torch.arange(9) * torch.pi / 9, 12)
    y = A(torch.rand(2, 1, 8, 8, generator=Generator().manual_seed(0)))
    solver = S.GradientDescent(step_size=1e-3)
    network = it.unroll(solver, it.Problem(y[:1], A), 2, learn=(), inverse=True)
    expected = it.unroll(solver, it.Problem(y[:1], A), 2, learn=())(y, A.pseudo_inverse(y))
    torch.testing.assert_close(network(y), expected)
    y.requires_grad_(True)
    (slope,) = torch.autograd.grad(network(y).sum(), y)
    (other,) = torch.autograd.grad(A.pseudo_inverse(y).sum(), y)
    assert float((slope - other).norm()) < float(slope.norm())  # the start is differentiated too
