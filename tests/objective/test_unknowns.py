"""`Problem(unknown=...)`: parameters of the operator are found together with the image, by the same loop."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError

# Every search starts from a wrong shift.
pytestmark = pytest.mark.filterwarnings("ignore:the axis of rotation projects to cell")


def phantom(n: int = 24) -> torch.Tensor:
    grid = torch.linspace(-1, 1, n)
    disc = (torch.hypot(grid[:, None], grid[None, :]) < 0.7).float()
    spot = (torch.hypot(grid[:, None] - 0.3, grid[None, :] + 0.2) < 0.2).float()
    return (disc + spot)[None, None]


def scan(shift: float = 0.0, n: int = 24) -> it.operators.ParallelBeam:
    return it.operators.ParallelBeam(
        (n, n), torch.arange(30) * torch.pi / 30, n + 14, detector_shift=shift
    )


def problem(
    true: tuple[float, ...] = (0.0,), start: float = 1.5, noise: float = 0.05
) -> it.Problem:
    y = torch.cat([scan(shift).simulate(phantom(), noise, seed=0) for shift in true])
    return it.Problem(
        y,
        scan(start),
        it.data_terms.LeastSquares(noise_std=noise),
        unknown={"detector_shift": None},
    )


@pytest.mark.parametrize(
    "solver", [None, it.solvers.GaussNewton(), it.solvers.LBFGS(max_iterations=600)], ids=repr
)
def test_a_detector_shift_is_found(solver: it.solvers.Solver | None) -> None:
    solution = it.solve(
        problem(), 30 * it.priors.Tikhonov(), solver, tolerance=1e-5, progress=False
    )
    assert solution.parameters is not None
    assert abs(float(solution.parameters["detector_shift"])) < 0.03
    assert solution.problem is not None and torch.equal(
        solution.problem.operator.detector_shift, solution.parameters["detector_shift"]
    )
    objective = solution.history["objective"][:, 0]
    assert bool((objective.diff() <= 1e-5 * objective[:-1].abs()).all())
    # Given settings stay unchanged, and the picture is as good as with the right geometry.
    given = problem()
    assert float(given.operator.parameters()["detector_shift"]) == 1.5
    right = it.solve(
        it.Problem(given.y, scan(0.0), given.data_term), 30 * it.priors.Tikhonov(), progress=False
    )
    assert (
        float(it.metrics.psnr(solution.x, phantom()))
        > float(it.metrics.psnr(right.x, phantom())) - 0.2
    )


def test_every_item_has_its_own() -> None:
    both = problem((0.0, -1.0))
    settings = dict(
        prior=30 * it.priors.Tikhonov(), max_iterations=12, tolerance=0.0, progress=False
    )
    together = it.solve(both, **settings)
    assert together.parameters is not None
    torch.testing.assert_close(
        together.parameters["detector_shift"],
        torch.tensor([[0.0], [-1.0]], dtype=torch.float64),
        atol=0.05,
        rtol=0,
    )
    for k in range(2):
        alone = it.solve(both.select(torch.tensor([k])), **settings)
        assert alone.parameters is not None
        torch.testing.assert_close(alone.x, together.x[k : k + 1], rtol=0, atol=1e-5)
        torch.testing.assert_close(
            alone.parameters["detector_shift"],
            together.parameters["detector_shift"][k : k + 1],
            rtol=0,
            atol=1e-5,
        )


def test_a_prior_of_the_unknown_holds_it() -> None:
    given = problem()
    held = it.Problem(
        given.y,
        given.operator,
        given.data_term,
        unknown={"detector_shift": 1e8 * it.priors.Tikhonov(reference=torch.full((1, 1), 1.5))},
    )
    solution = it.solve(held, 30 * it.priors.Tikhonov(), max_iterations=10, progress=False)
    assert solution.parameters is not None
    assert abs(float(solution.parameters["detector_shift"]) - 1.5) < 0.01


def test_a_kernel_is_found() -> None:
    # With the picture all but known, the kernel is a linear least-squares problem with one answer.
    x = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.5, 0.2], [0.0, 0.1, 0.0]])
    start = torch.zeros(3, 3)
    start[1, 1] = 1.0
    y = it.operators.Blur(kernel, (24, 24))(x)
    blind = it.Problem(y, it.operators.Blur(start, (24, 24)), unknown={"kernel": None})
    solution = it.solve(blind, 100.0 * it.priors.Tikhonov(reference=x), initial=x, progress=False)
    assert solution.parameters is not None
    torch.testing.assert_close(
        solution.parameters["kernel"][0, 0].float(), kernel, atol=1e-3, rtol=0
    )


@pytest.mark.filterwarnings("ignore:the last view repeats the first")  # with the wrong shift
def test_an_implicit_prior_and_an_unknown_together() -> None:
    prior = it.priors.CoordinateNetwork(features=16, width=16, depth=2, bandwidth=2.0)
    solution = it.solve(
        problem(start=0.5),
        prior,
        it.solvers.Adam(learning_rate=5e-3),
        max_iterations=30,
        progress=False,
    )
    assert (
        solution.parameters is not None
        and "weight0" in solution.parameters
        and "x" not in solution.parameters
    )
    assert float(solution.parameters["detector_shift"]) != 0.5
    assert float(solution.history["objective"][-1, 0]) < float(solution.history["objective"][0, 0])


def test_a_run_is_resumed_bitwise(tmp_path) -> None:  # type: ignore[no-untyped-def]
    settings = dict(prior=30 * it.priors.Tikhonov(), tolerance=0.0, progress=False)
    whole = it.solve(problem(), max_iterations=8, **settings)
    it.solve(problem(), max_iterations=3, checkpoint=tmp_path / "run", **settings)
    rest = it.solve(problem(), max_iterations=8, checkpoint=tmp_path / "run", **settings)
    assert torch.equal(whole.x, rest.x)


def test_a_wrong_unknown_is_told() -> None:
    y = scan()(phantom())
    with pytest.raises(InputError, match="no parameter of .*; it has angles, detector_shift"):
        it.Problem(y, scan(), unknown={"angle": None})
    with pytest.raises(InputError, match="explicit one or None"):
        it.Problem(y, scan(), unknown={"angles": it.priors.CoordinateNetwork()})
    with pytest.raises(InputError, match="detector_shift of the operator are unknown"):
        it.solve(
            problem(),
            it.priors.TotalVariation(),
            it.solvers.PDHG(),
            regularization=1.0,
            progress=False,
        )
