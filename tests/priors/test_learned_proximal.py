"""Learned proximal operators: what holds whatever the weights are, the prior's value, and the solvers that keep to the theorem."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators.base import inner
from invtoolbox.priors import (
    ConvexConvolution,
    ConvexDense,
    ConvexEnergy,
    ConvexNetwork,
    ConvexPatches,
    LearnedProximal,
)

NETWORKS: dict[str, Any] = {
    "dense": (lambda seed: ConvexDense(6, 12, 3, beta=5.0, seed=seed), (1, 6)),
    "dense, one layer": (
        lambda seed: ConvexDense(5, 8, 1, beta=5.0, strong_convexity=0.1, seed=seed),
        (5,),
    ),
    "images of odd sizes": (
        lambda seed: ConvexConvolution(2, (5, 4, 3), (1, 2, 3), beta=5.0, seed=seed),
        (2, 7, 6),
    ),
    "strided at once": (
        lambda seed: ConvexConvolution(1, (6, 4), (2, 2), 5, 5.0, strong_convexity=0.01, seed=seed),
        (1, 9, 5),
    ),
    "volume": (
        lambda seed: ConvexConvolution(1, (4, 3), (1, 2), beta=5.0, dimension=3, seed=seed),
        (1, 4, 5, 3),
    ),
    "energies": (
        lambda seed: ConvexEnergy(2, (3, 2, 2), (4, 4, 3), (2, 1, 3), 5, beta=5.0, seed=seed),
        (2, 7, 6),
    ),
    "energies, filters larger than the image": (
        lambda seed: ConvexEnergy(1, (3, 2), (4, 3), (2, 2), beta=5.0, seed=seed),
        (1, 2, 5),
    ),
    "patches": (
        lambda seed: ConvexPatches(
            ConvexDense(9, 8, 2, beta=5.0, strong_convexity=0.1, seed=seed), 3, 1
        ),
        (1, 4, 7),
    ),
    "color patches": (
        lambda seed: ConvexPatches(ConvexDense(32, 8, 2, beta=5.0, seed=seed), 4, 2),
        (2, 5, 3),
    ),
    "signal": (
        lambda seed: ConvexConvolution(1, (4,), (2,), beta=5.0, dimension=1, seed=seed),
        (1, 7),
    ),
}


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_output_is_the_gradient_of_a_convex_function(name: str, seed: int) -> None:
    make, shape = NETWORKS[name]
    network = make(seed).double()
    # Off what it starts from: other offsets, larger weights.
    for k, parameter in enumerate(network.parameters()):
        parameter.data += 0.2 * drawn(*parameter.shape, seed=k)
    network.load_state_dict(network.project(network.state_dict()))
    x = drawn(2, *shape, seed=seed + 5)
    psi, f = network.potential_and_gradient(x)
    by_autograd = ConvexNetwork.potential_and_gradient(network, x)
    torch.testing.assert_close((psi, f), by_autograd, rtol=1e-12, atol=1e-12)
    assert torch.equal(network(x), f) and not x.requires_grad

    jacobian: Any = torch.autograd.functional.jacobian(lambda v: network(v[None])[0], x[0])
    J = jacobian.reshape(x[0].numel(), -1)
    assert float((J - J.T).norm() / J.norm()) < 1e-12
    assert float(torch.linalg.eigvalsh((J + J.T) / 2).min()) > -1e-12
    a, b = drawn(50, *shape, seed=7), 3 * drawn(50, *shape, seed=8)
    assert bool((inner(network(a) - network(b), a - b) >= -1e-12).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_no_point_of_the_range_is_better_than_the_prox(name: str) -> None:
    make, shape = NETWORKS[name]
    prior = LearnedProximal(make(3).double())
    y = 2 * drawn(4, *shape)
    p, energy = prior.prox_and_energy(y)
    torch.testing.assert_close(p, prior.prox(y, 1.0))
    identity = (p * y).flatten(1).sum(1) - 0.5 * p.flatten(1).square().sum(1) - prior.psi(y)
    torch.testing.assert_close(energy, identity, rtol=1e-10, atol=1e-10)
    at_p = energy + 0.5 * (p - y).flatten(1).square().sum(1)
    for scale in (0.01, 0.3, 3.0):
        v, other = prior.prox_and_energy(y + scale * drawn(4, *shape, seed=9))
        assert bool((other + 0.5 * (v - y).flatten(1).square().sum(1) >= at_p - 1e-12).all())


def test_inversion_finds_where_the_prox_came_from_and_tells_how_well() -> None:
    prior = LearnedProximal(ConvexDense(6, 12, 3, beta=5.0, strong_convexity=0.1).double())
    y = drawn(3, 1, 6)
    x, energy = prior.prox_and_energy(y)
    found = prior.inverse(x)
    torch.testing.assert_close(found.y, y, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.energy, energy, rtol=0, atol=1e-9)
    assert bool(found.converged.all()) and float(found.residual.max()) < 1e-6
    torch.testing.assert_close(prior.gradient(x), y - x, rtol=0, atol=1e-4)
    # A softplus network alone has a bounded range: far outside of it R is infinite, and the bound
    # says that it has not come to an end.
    bounded = LearnedProximal(ConvexDense(1, 8, 2).double())
    outside = bounded.inverse(torch.full((1, 1), 1e3, dtype=torch.float64), max_iterations=20)
    assert float(outside.residual) > 1 and not bool(outside.converged)


def test_units_and_channels() -> None:
    network = ConvexConvolution(1, (5, 4), (1, 2), beta=5.0, strong_convexity=0.2).double()
    plain = LearnedProximal(network)
    x = drawn(2, 3, 6, 5)
    color = LearnedProximal(network, channelwise=True)
    alone = [plain.prox_and_energy(x[:, k : k + 1]) for k in range(3)]
    p, energy = color.prox_and_energy(x)
    torch.testing.assert_close(p, torch.cat([a for a, _ in alone], 1))
    torch.testing.assert_close(energy, sum(e for _, e in alone))
    hounsfield = LearnedProximal(network, intensity_range=(-1000.0, 1000.0), channelwise=True)
    q, scaled = hounsfield.prox_and_energy(2000 * x - 1000)
    torch.testing.assert_close(q, 2000 * p - 1000)
    torch.testing.assert_close(scaled, 2000.0**2 * energy)
    by_identity = (
        (q * (2000 * x - 1000)).flatten(1).sum(1)
        - 0.5 * q.flatten(1).square().sum(1)
        - hounsfield.psi(2000 * x - 1000)
    )
    shift = by_identity - scaled
    assert float((shift - shift[0]).abs().max()) < 1e-9 * float(
        scaled.abs().max()
    )  # known up to a constant
    torch.testing.assert_close(hounsfield.inverse(q).energy, scaled, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("patch", "stride", "shape"), [(4, 2, (9, 6)), (3, 1, (5, 8)), (6, 3, (4, 7)), (4, 4, (5, 3))]
)
def test_patches_cover_every_pixel_alike(patch: int, stride: int, shape: tuple[int, int]) -> None:
    """What each patch is left as leaves the image as it is, and what is made of it is the average over the patches around a pixel."""

    class Same(ConvexNetwork):
        def potential(self, x: Tensor) -> Tensor:
            return 0.5 * x.flatten(1).square().sum(1)

    x = drawn(2, 3, *shape)
    network = ConvexPatches(Same(), patch, stride)
    psi, f = network.potential_and_gradient(x)
    torch.testing.assert_close(f, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(psi, 0.5 * x.flatten(1).square().sum(1), rtol=1e-13, atol=0)

    dense = ConvexDense(patch**2, 6, 2, beta=5.0).double()
    image = drawn(1, 1, 20, 20, seed=2)
    f = ConvexPatches(dense, patch, stride)(image)[0, 0]
    around = []
    for top in range(10 - 10 % stride - patch + stride, 11, stride):
        for left in range(9 - 9 % stride - patch + stride, 10, stride):
            part = image[..., top : top + patch, left : left + patch]
            around.append(dense(part)[0, 0, 10 - top, 9 - left])
    # Patches start at multiples of the stride, counted from the first that reaches into the image.
    offset = (patch - stride) % stride
    assert offset == 0 and len(around) == (patch // stride) ** 2
    torch.testing.assert_close(f[10, 9], torch.stack(around).mean())


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        # Both networks give their potential and its derivative to the same prior.
        pytest.param(ConvexDense(4, 8, 2, strong_convexity=0.1), (1, 4), marks=pytest.mark.slow),
        (ConvexConvolution(1, (4, 4), (1, 2), beta=10.0, strong_convexity=0.2), (1, 4, 3)),
    ],
)
def test_check_prior(network: ConvexNetwork, shape: tuple[int, ...]) -> None:
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    assert it.testing.check_prior(LearnedProximal(network), x, item_tolerance=1e-5).ok


def test_gradients_pass_where_the_image_asks_for_them_and_the_network_stays_as_it_is() -> None:
    network = ConvexDense(3, 8, 2)
    prior = LearnedProximal(network)
    x = torch.ones(1, 1, 3)
    assert not prior.prox(x).requires_grad and prior.prox(x.requires_grad_(True)).requires_grad
    assert all(p.grad is None for p in network.parameters())


# -- in solvers ------------------------------------------------------------------------------------


def blurred(dtype: torch.dtype = torch.float64) -> it.Problem:
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]], dtype=dtype)
    A = it.operators.Blur(kernel / kernel.sum(), (12, 10))
    x = torch.rand(
        2, 1, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(dtype)
    return it.Problem(A.simulate(x, 0.05), A)


def image_prior(dtype: torch.dtype = torch.float64, **settings: Any) -> LearnedProximal:
    return LearnedProximal(
        ConvexConvolution(1, (8, 6, 6), (1, 2, 1), beta=10.0, strong_convexity=0.01, seed=2).to(
            dtype
        ),
        **settings,
    )


def test_proximal_gradient_never_increases_the_objective() -> None:
    problem, prior = blurred(), image_prior()
    weight = float(problem.operator.norm(dtype=torch.float64)) ** 2 / 0.99
    solution = it.solve(
        problem,
        prior,
        "proximal-gradient",
        regularization=weight,
        max_iterations=300,
        tolerance=1e-9,
        progress=False,
    )
    objective = solution.history["objective"]
    change = objective.diff(dim=0)
    assert float(change[~change.isnan()].max()) <= 1e-12 * float(objective[0].abs().max())
    assert solution.status == ("converged",) * 2
    # A fixed point, whose objective is the one that the inversion finds.
    moved = prior.prox(
        solution.x - problem.operator.adjoint(problem.operator(solution.x) - problem.y) / weight
    )
    assert float((moved - solution.x).abs().max()) < 1e-7
    last = torch.stack([row[~row.isnan()][-1] for row in objective.T])
    value = problem.data_term.value(
        problem.operator(solution.x), problem.y
    ) + weight * prior.energy(solution.x)
    torch.testing.assert_close(value, last, rtol=1e-6, atol=1e-6)


def test_admm_never_increases_its_augmented_lagrangian_which_ends_as_the_objective() -> None:
    problem, prior = blurred(), image_prior()
    weight = (
        float(problem.operator.norm(dtype=torch.float64, tolerance=1e-6, max_iterations=500)) ** 2
        / 0.99
    )
    solution = it.solve(
        problem,
        prior,
        "admm",
        regularization=weight,
        max_iterations=150,
        tolerance=0.0,
        progress=False,
    )
    objective = solution.history["objective"]
    objective = objective[~objective.isnan().any(1)]
    fell = objective[0] - objective[-1]
    assert bool((objective.diff(dim=0).amax(0) <= 1e-12 * fell).all()) and bool((fell > 0).all())
    at_z = problem.data_term.value(problem.operator(solution.x), problem.y) + weight * prior.energy(
        solution.x
    )
    torch.testing.assert_close(objective[-1], at_z, rtol=1e-6, atol=1e-6)
    moved = prior.prox(
        solution.x - problem.operator.adjoint(problem.operator(solution.x) - problem.y) / weight
    )
    assert float((moved - solution.x).norm() / solution.x.norm()) < 1e-5


def test_admm_and_douglas_rachford_reach_the_same_fixed_point() -> None:
    problem, prior = blurred(), image_prior()
    answers = {}
    for name in ("proximal-gradient", "admm", "douglas-rachford"):
        solution = it.solve(
            problem,
            prior,
            name,
            regularization=1.2,
            max_iterations=3000,
            tolerance=1e-8,
            progress=False,
        )
        assert solution.status == ("converged",) * 2, name
        answers[name] = solution.x
    torch.testing.assert_close(answers["admm"], answers["proximal-gradient"], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        answers["douglas-rachford"], answers["proximal-gradient"], rtol=0, atol=1e-5
    )


def test_the_default_weight_is_that_of_bayes_or_a_proven_one() -> None:
    problem = blurred(torch.float32)
    std = it.parameter_choice.estimate_noise_std(problem.y, problem.operator)
    noisy = it.Problem(problem.y, problem.operator, it.data_terms.LeastSquares(noise_std=std))

    def chosen(given: it.Problem, **settings: Any) -> it.Solution:
        prior = image_prior(torch.float32, sigma=0.1, **settings)
        solution = it.solve(given, prior, max_iterations=2, progress=False)
        assert solution.solver.startswith("ADMM")
        return solution

    def first_weight(solution: it.Solution) -> Tensor:
        assert solution.weight_search is not None
        return solution.weight_search.weights[:, 0]

    bayes = chosen(noisy)
    torch.testing.assert_close(first_weight(bayes), torch.full((2,), 0.6 / 0.1**2))
    assert "max_iterations=20" in bayes.solver
    assert "Bayes' rule" in bayes.notes[0] and "within_theorem=True" in bayes.notes[0]
    torch.testing.assert_close(first_weight(chosen(problem)), 0.6 * (std / 0.1).square())
    least = problem.operator.norm().square().expand(2)
    proven = chosen(problem, within_theorem=True)
    assert "max_iterations=500" in proven.solver
    torch.testing.assert_close(proven.regularization, 1.05 * least, rtol=1e-2, atol=0)
    torch.testing.assert_close(
        chosen(noisy, within_theorem=True).regularization,
        proven.regularization / std.square(),
        rtol=1e-3,
        atol=0,
    )


def test_a_picture_has_the_same_output_alone_bit_by_bit() -> None:
    x = torch.rand(4, 1, 24, 17, generator=torch.Generator().manual_seed(0))
    prior, denoiser = (
        image_prior(torch.float32),
        it.priors.Denoiser(it.priors.DnCNN(depth=5, width=16)),
    )
    together = [*prior.prox_and_energy(x), prior.prox(x), prior.psi(x), denoiser.denoise(x, 0.1)]
    for k, item in enumerate(x.split(1)):
        alone = [*prior.prox_and_energy(item), prior.prox(item), prior.psi(item)]
        alone.append(denoiser.denoise(item, 0.1))
        assert all(torch.equal(a, b[k : k + 1]) for a, b in zip(alone, together))


@pytest.mark.parametrize("solver", ["admm", "proximal-gradient"])
def test_an_item_alone_and_in_company_and_twice(solver: str) -> None:
    problem, prior = blurred(torch.float32), image_prior(torch.float32)

    def solved(part: it.Problem) -> Tensor:
        x: Tensor = it.solve(
            part,
            prior,
            solver,
            regularization=1.5,
            max_iterations=20,
            tolerance=0.0,
            progress=False,
        ).x
        return x

    both = solved(problem)
    assert torch.equal(both, solved(problem))
    for k in range(2):
        torch.testing.assert_close(
            solved(problem.select(torch.tensor([k]))), both[k : k + 1], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("settings", "call", "fault"),
    [
        ({"within_theorem": True}, {"regularization": 0.5}, "known to converge for weights above"),
        ({"within_theorem": True}, {"regularization": "l-curve"}, "rule for the weight"),
        ({}, {"solver": "pdhg"}, "knows the prox at one alone"),
        ({}, {"solver": "fista"}, "ADMM"),
        ({}, {"solver": it.solvers.ProximalGradient(step_size=2.0)}, "leave the step"),
        (
            {},
            {"solver": it.solvers.ADMM(rho=3.0), "regularization": 1.0},
            "leave the step",
        ),
    ],
)
def test_what_is_outside_the_theorem_is_refused(
    settings: dict[str, Any], call: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InputError, match=fault):
        it.solve(blurred(), image_prior(**settings), progress=False, **call)


def test_weights_outside_the_theorem_are_allowed() -> None:
    solution = it.solve(
        blurred(),
        image_prior(),
        it.solvers.ADMM(rho=0.1),
        regularization=0.1,
        max_iterations=20,
        progress=False,
    )
    assert bool(solution.x.isfinite().all())
    assert bool(solution.history["objective"][:5].isfinite().all())


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="ConvexNetwork"):
        LearnedProximal(torch.nn.Identity())  # type: ignore[arg-type]
    negative = ConvexDense(2, 4, 2)
    negative.readout.data[0, 0] = -0.1
    with pytest.raises(InputError, match=r"'readout' .* -0\.1"):
        LearnedProximal(negative)
    prior = LearnedProximal(ConvexDense(2, 4, 2))
    with pytest.raises(InputError, match="step 1 only"):
        prior.prox(torch.ones(1, 1, 2), 0.5)
    with pytest.raises(InputError, match=r"noise level 0\.05 only"):
        prior.denoise(torch.ones(1, 1, 2), 0.2)
    with pytest.raises(InputError, match="float64"):
        prior.prox(torch.ones(1, 1, 2, dtype=torch.float64))
    with pytest.raises(InputError, match="size 2"):
        prior.prox(torch.ones(1, 1, 3))
    with pytest.raises(InputError, match=r"step times weight is 0\.5"):
        prior.prox(torch.ones(2, 1, 2), torch.tensor([1.0, 0.5]))
    for image, fault in (
        (torch.ones(1, 1, 2, dtype=torch.int64), "floating point, got torch.int64"),
        (torch.ones(1, 1, 2, dtype=torch.complex64), "real images"),
        ([[1.0, 2.0]], "takes a tensor .* got list"),
    ):
        with pytest.raises(InputError, match=fault):
            prior.prox(image)  # type: ignore[arg-type]
    for settings in (
        {"sigma": "loud"},
        {"sigma": float("nan")},
        {"intensity_range": "HU"},
        {"intensity_range": (0, 1, 2)},
        {"intensity_range": (1.0, 0.0)},
        {"intensity_range": (0.0, float("inf"))},
    ):
        with pytest.raises(
            InputError, match="sigma of LearnedProximal must be positive|intensity_range is"
        ):
            LearnedProximal(ConvexDense(2, 4, 2), **settings)
    robust = it.Problem(
        torch.ones(1, 1, 2), it.operators.Identity((1, 2)), it.data_terms.L1(noise_std=0.1)
    )
    with pytest.raises(InputError, match="leave within_theorem=True out"):
        it.solve(robust, LearnedProximal(ConvexDense(2, 4, 2), within_theorem=True), progress=False)
    negative = ConvexPatches(ConvexDense(4, 4, 2), 2)
    negative.network.readout.data[0, 0] = -0.1  # type: ignore[union-attr,index]
    with pytest.raises(InputError, match=r"'network\.readout'"):
        LearnedProximal(negative)
    LearnedProximal(negative.__class__(ConvexDense(4, 4, 2), 2)).prox(torch.ones(1, 1, 5, 4))
    for patch, stride in ((4, 3), (0, 1), (2, 0)):
        with pytest.raises(InputError, match="divides"):
            ConvexPatches(ConvexDense(4), patch, stride)
    with pytest.raises(InputError, match="images"):
        LearnedProximal(ConvexPatches(ConvexDense(4), 2)).prox(torch.ones(1, 4))
    for arguments in (
        {"widths": (4,), "strides": (1, 2)},
        {"kernel_size": 2},
        {"dimension": 4},
        {"beta": 0.0},
    ):
        with pytest.raises(InputError):
            ConvexConvolution(1, **arguments)
