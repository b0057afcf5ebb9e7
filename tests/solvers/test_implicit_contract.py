"""Every solver keeps its contract for every implicit prior that it accepts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.catalogue.registry import lookup, names
from invtoolbox.priors import ImplicitPrior
from invtoolbox.solve import bind
from invtoolbox.solvers import Solver
from invtoolbox.solvers.choice import unsupported_reason
from invtoolbox.testing import check_solver

P = it.priors


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scaled(*shape: int) -> Tensor:
    """Return items of different size, so that mixing them shows."""
    return drawn(*shape) * torch.tensor([1.0, 0.2]).view(-1, *[1] * (len(shape) - 1))


def blurred(*space: int) -> it.Problem:
    A = it.operators.Blur(torch.ones(3, 3) / 9, space)
    return it.Problem(A.simulate(scaled(2, 1, *space), 0.01), A)


def decoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ELU(), nn.Linear(8, 8), nn.Unflatten(1, (1, 8)))


def line() -> it.Problem:
    return it.Problem(scaled(2, 1, 8), it.operators.Identity((1, 8)))


def points() -> it.Problem:
    cloud = 4 * drawn(2, 24, 3)
    moved = cloud + torch.tensor([[[0.3, -0.1, 0.2]], [[0.0, 0.2, -0.1]]]) + 0.05 * drawn(2, 24, 3)
    return it.Problem(moved, it.operators.PointWarp(cloud))


def origin() -> ImplicitPrior:
    return P.GradientOrigin.fit(P.GradientOriginNetwork(decoder(), 3), drawn(20, 1, 8, seed=1))


def autoencoder() -> ImplicitPrior:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(8, 6))
    return P.VariationalAutoencoder(P.AutoencoderNetwork(encoder, decoder()), 3)


def compressive() -> ImplicitPrior:
    network = P.MeanScaleHyperprior(1, widths=(4, 4, 6), latents=5, hyper=3)
    return P.CompressiveAutoencoder(network.eval().requires_grad_(False))


#: Stock implicit priors whose image is one tensor, each with a problem of two items.
CASES: dict[str, Callable[[], tuple[it.Problem, ImplicitPrior]]] = {
    "coordinates": lambda: (
        blurred(6, 6),
        P.CoordinateNetwork(features=4, width=8, depth=2, bandwidth=2.0),
    ),
    "origin": lambda: (line(), origin()),
    "autoencoder": lambda: (line(), autoencoder()),
    "compressive": lambda: (blurred(16, 16), compressive()),
    "free flow": lambda: (points(), P.FreeFlow()),
    "scene flow": lambda: (points(), P.NeuralSceneFlow(width=8, depth=2)),
    "voxel flow": lambda: (points(), P.VoxelFlow(2.0)),
    "clusters": lambda: (points(), P.RigidClusters(torch.arange(24) % 3)),
    "rigid": lambda: (points(), P.RigidMotion()),
    "track": lambda: (points(), P.RigidTrack((-1.0, 1.0, 2.0))),
}
#: Solvers that need no argument.
SOLVERS = [
    name for name in names("solvers") if lookup("solvers", name).__module__.startswith("inv")
]
FAST = {
    ("coordinates", "gauss-newton"),
    ("coordinates", "levenberg-marquardt"),
    ("origin", "lbfgs"),
    ("rigid", "levenberg-marquardt"),
    ("free flow", "adam"),
    ("autoencoder", "nonlinear-admm"),
}


def check(case: str, name: str, iterations: int, max_iterations: int) -> None:
    torch.manual_seed(0)
    problem, prior = CASES[case]()
    solver: Solver = lookup("solvers", name)()
    if unsupported_reason(solver, bind(problem, prior.as_sum(), 1.0)[0]) is not None:
        pytest.skip("the solver refuses this prior")
    assert check_solver(
        solver, problem, prior, iterations=iterations, max_iterations=max_iterations
    ).ok


@pytest.mark.parametrize(("case", "name"), sorted(FAST))
def test_a_sample_keeps_the_contract(case: str, name: str) -> None:
    check(case, name, 5, 10)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_keeps_the_contract(case: str, name: str) -> None:
    check(case, name, 25, 60)
