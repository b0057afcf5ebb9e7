"""The loop and its promises: per-item stopping, purity, budgets, divergence, checkpoints, implicit derivatives."""

from __future__ import annotations

import dataclasses
import os
import random
import runpy
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.pytrees import tree_leaves
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.moving_shapes import Moving
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.priors import ExplicitPrior, ImplicitPrior
from invtoolbox.solvers import CGLS, LBFGS, Adam, ConjugateGradient, GradientDescent


class Ridge(ExplicitPrior):
    """A user's prior: an energy, and nothing else."""

    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * x.flatten(1).square().sum(1)


class QuadraticRidge(Ridge):
    def quadratic(self) -> tuple[None, None]:
        return None, None


def problem(
    batch: int = 4, n: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32
) -> it.Problem:
    generator = torch.Generator().manual_seed(seed)
    A = it.operators.FiniteDifference((1, n, n))
    y = torch.randn(batch, *A.range_shape, generator=generator, dtype=dtype)
    return it.Problem(y * torch.logspace(-1, 1, batch).view(-1, 1, 1, 1).to(dtype), A)


SOLVERS = [GradientDescent(), LBFGS(), Adam(learning_rate=0.05), ConjugateGradient()]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
class TestEverySolver:
    def test_called_twice_is_bitwise_equal(self, solver: it.solvers.Solver) -> None:
        runs = [
            it.solve(problem(), QuadraticRidge(), solver, regularization=0.3, max_iterations=20)
            for _ in range(2)
        ]
        assert torch.equal(runs[0].x, runs[1].x)
        assert torch.equal(
            runs[0].history["objective"].nan_to_num(), runs[1].history["objective"].nan_to_num()
        )

    def test_permuted_batch_permutes_the_result(self, solver: it.solvers.Solver) -> None:
        order = torch.tensor([2, 0, 3, 1])
        p = problem()
        weight = torch.tensor([0.1, 0.2, 0.4, 0.8])
        one = it.solve(p, QuadraticRidge(), solver, regularization=weight, max_iterations=15).x
        other = it.solve(
            p.select(order),
            QuadraticRidge(),
            solver,
            regularization=weight[order],
            max_iterations=15,
        ).x
        torch.testing.assert_close(other, one[order], rtol=1e-6, atol=1e-6)

    def test_an_item_alone_equals_the_item_in_company(self, solver: it.solvers.Solver) -> None:
        p = problem()
        weight = torch.tensor([0.1, 0.2, 0.4, 0.8])
        batch = it.solve(
            p, QuadraticRidge(), solver, regularization=weight, max_iterations=15, tolerance=0
        ).x
        for k in range(4):
            lone = it.solve(
                p.select(torch.tensor([k])),
                QuadraticRidge(),
                solver,
                regularization=weight[k],
                max_iterations=15,
                tolerance=0,
            ).x
            assert float((lone[0] - batch[k]).norm() / lone.norm()) < 1e-5

    def test_certificate_is_met_where_converged(self, solver: it.solvers.Solver) -> None:
        solution = it.solve(problem(), QuadraticRidge(), solver, regularization=0.3, tolerance=1e-3)
        assert solution.status == ("converged",) * 4
        for k in range(4):
            assert solution.history["certificate"][int(solution.iterations[k]) - 1, k] <= 1e-3


def test_solvers_find_the_same_minimizer() -> None:
    p = problem(dtype=torch.float64)
    truth = it.solve(p, QuadraticRidge(), ConjugateGradient(tolerance=1e-12), regularization=0.3).x
    for solver in (GradientDescent(tolerance=1e-8), LBFGS(tolerance=1e-8)):
        x = it.solve(p, Ridge(), solver, regularization=0.3).x
        assert float((x - truth).norm() / truth.norm()) < 1e-6
    default = it.solve(p, 0.3 * Ridge())
    assert "LBFGS was chosen" in default.reason
    assert float((default.x - truth).norm() / truth.norm()) < 1e-3


@pytest.mark.parametrize("solver", [GradientDescent(), LBFGS()], ids=lambda s: type(s).__name__)
def test_line_search_never_lets_an_objective_increase(solver: it.solvers.Solver) -> None:
    values = it.solve(problem(dtype=torch.float64), Ridge(), solver, regularization=0.3).history[
        "objective"
    ]
    steps = values.diff(dim=0)
    assert bool((steps[~steps.isnan()] <= 1e-12 * values[0].max()).all())


def test_items_stop_by_themselves_and_history_ends_with_them() -> None:
    # Conditioned differently from item to item: the weight of the ridge decides how many steps are
    # needed.
    weight = torch.tensor([1e-3, 1.0, 10.0, 100.0])
    solution = it.solve(
        problem(), QuadraticRidge(), ConjugateGradient(tolerance=1e-5), regularization=weight
    )
    assert solution.iterations[0] > solution.iterations[1] > solution.iterations[3]
    for k in range(4):
        known = ~solution.history["objective"][:, k].isnan()
        assert int(known.sum()) == int(solution.iterations[k]) and bool(
            known[: int(solution.iterations[k])].all()
        )


def test_stopping_does_not_depend_on_the_company() -> None:
    weight = torch.tensor([1e-3, 1.0, 10.0, 100.0])
    whole = it.solve(
        problem(), QuadraticRidge(), ConjugateGradient(), regularization=weight, tolerance=1e-4
    )
    for k in range(4):
        alone = it.solve(
            problem().select(torch.tensor([k])),
            QuadraticRidge(),
            ConjugateGradient(),
            regularization=weight[k],
            tolerance=1e-4,
        )
        assert float((alone.x[0] - whole.x[k]).norm() / alone.x.norm()) < 1e-3
        assert abs(int(alone.iterations[0]) - int(whole.iterations[k])) <= 1


class Cliff(ExplicitPrior):
    """An energy that is NaN, and its gradient too, for an item once its mean is above a half."""

    def energy(self, x: Tensor) -> Tensor:
        return -1e-6 * (0.5 - x.flatten(1).mean(1)).sqrt()


def test_divergence_is_kept_to_its_item() -> None:
    y = torch.zeros(3, 1, 4)
    y[1] = 2.0
    p = it.Problem(y + 0.25, it.operators.Identity((1, 4)))
    solution = it.solve(
        p,
        1.0 * Cliff(),
        GradientDescent(step_size=0.1),
        initial=torch.zeros(1, 1, 4),
        tolerance=1e-4,
    )
    assert solution.status == ("converged", "diverged", "converged")
    assert bool(torch.isfinite(solution.x).all())
    assert float(solution.x[1].max()) > 0.4  # the last finite iterate, not the first one
    torch.testing.assert_close(solution.x[0], torch.full((1, 4), 0.25), atol=1e-3, rtol=0)


def test_budgets_and_callbacks() -> None:
    p = problem()
    assert (
        it.solve(p, Ridge(), LBFGS(), regularization=0.1, max_iterations=2).status == ("limit",) * 4
    )
    slow = it.solve(
        p,
        Ridge(),
        GradientDescent(step_size=1e-9),
        regularization=0.1,
        time_limit=0.2,
        max_iterations=10**9,
    )
    assert slow.status == ("limit",) * 4 and slow.seconds < 5
    seen: list[int] = []

    def stop(progress: it.Progress) -> bool:
        seen.append(progress.iteration)
        assert progress.x.shape == (4, 1, 8, 8)
        return progress.iteration == 3

    assert (
        it.solve(p, Ridge(), LBFGS(), regularization=0.1, callbacks=[stop]).status
        == ("stopped",) * 4
    )
    assert seen == [1, 2, 3]


def test_zero_measurements_are_solved_at_once() -> None:
    p = it.Problem(torch.zeros(1, 1, 4), it.operators.Identity((1, 4)))
    for solver in (CGLS(), ConjugateGradient(), LBFGS(), GradientDescent()):
        solution = it.solve(p, solver=solver)
        assert solution.status == ("converged",) and float(solution.x.abs().max()) == 0


def test_cgls_stops_at_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    A = it.operators.FiniteDifference((1, 32, 32))
    clean = A(torch.rand(1, 1, 32, 32, generator=generator))
    y = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    solution = it.solve(it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.1)), solver=CGLS())
    last = solution.history["discrepancy"][-1, 0]
    assert solution.status == ("early_stopping",) and last <= 1.01 * y.numel() ** 0.5
    assert solution.history["discrepancy"][-2, 0] > 1.01 * y.numel() ** 0.5


class Square(ImplicitPrior):
    """x = z^2, a user's own implicit prior of two methods."""

    def initial(self) -> dict[str, Tensor]:
        return {"z": torch.ones(1, 1, 4)}

    def decode(
        self, parameters: dict[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        return parameters["z"].square()


@pytest.mark.parametrize(
    "solver", [LBFGS(), Adam(), GradientDescent()], ids=lambda s: type(s).__name__
)
def test_an_implicit_prior_of_two_methods_goes_through_the_same_loop(
    solver: it.solvers.Solver,
) -> None:
    y = torch.tensor([[[0.25, 1.0, 4.0, 9.0]], [[1.0, 1.0, 1.0, 16.0]]])
    solution = it.solve(
        it.Problem(y, it.operators.Identity((1, 4))),
        Square(),
        solver,
        tolerance=1e-4,
        max_iterations=3000,
    )
    torch.testing.assert_close(solution.x, y, rtol=1e-2, atol=1e-2)
    assert solution.parameters is not None and solution.parameters["z"].shape == (2, 1, 4)


def test_coordinate_network_fits_a_batch_and_each_item_alone() -> None:
    y = torch.zeros(2, 1, 24, 24)
    y[:, :, 6:15, 8:19] = torch.tensor([1.0, 30.0]).view(2, 1, 1, 1)
    prior = it.priors.CoordinateNetwork(features=32, width=32, depth=2)
    A = it.operators.Identity((1, 24, 24))
    whole = it.solve(it.Problem(y, A), prior, Adam(max_iterations=150))
    lone = it.solve(it.Problem(y[1:], A), prior, Adam(max_iterations=150))
    error = (whole.x - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
    assert float(error.max()) < 0.1
    assert float((lone.x[0] - whole.x[1]).norm() / lone.x.norm()) < 1e-3


# -- what is refused, before the first iteration ---------------------------------------------------


def test_bad_input_is_named() -> None:
    A = it.operators.Identity((1, 4, 6))
    with pytest.raises(InputError, match=r"axis 3 \(column\) has 5, expected 6"):
        it.Problem(torch.zeros(1, 1, 4, 5), A)
    with pytest.raises(InputError, match="add a batch axis"):
        it.Problem(torch.zeros(1, 4, 6), A)
    y = torch.zeros(1, 1, 4, 6)
    y[0, 0, 2, 3] = float("nan")
    y[0, 0, 3, 3] = float("inf")
    with pytest.raises(InputError, match=r"2 values of 24 .* index \(0, 0, 2, 3\)"):
        it.Problem(y, A)
    good = it.Problem(torch.zeros(2, 1, 4, 6), A)
    with pytest.raises(InputError, match="one for each of the 2 items"):
        it.solve(good, Ridge(), regularization=torch.ones(3))
    with pytest.raises(InputError, match="these would work: .*LBFGS"):
        it.solve(good, Ridge(), ConjugateGradient(), regularization=1.0)
    with pytest.raises(InputError, match="at most one implicit prior"):
        Square() + Square()
    with pytest.raises(InputError, match="did you mean 'lbfgs'"):
        it.solve(good, Ridge(), "lbfgss", regularization=1.0)
    with pytest.raises(InputError, match="offers nothing"):
        it.solve(good, type("Empty", (ExplicitPrior,), {})(), regularization=1.0)
    with pytest.raises(InputError, match="tolerance of solve must"):
        it.solve(good, Ridge(), regularization=1.0, tolerance=float("nan"))


def test_a_denoiser_of_one_level_takes_no_weight() -> None:
    class Half(ExplicitPrior):
        fixed_level = True

        def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            return 0.5 * x

    p = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    for prior, weight in ((0.5 * Half(), "auto"), (Half(), 2.0)):
        with pytest.raises(InputError, match="one noise level only"):
            it.solve(p, prior, GradientDescent(step_size=0.1), regularization=weight)
    # RED: the gradient is x - denoise(x), so the minimizer of 1/2 |x - 1|^2 with slope x / 2 is
    # 2/3.
    red = it.solve(p, Half(), GradientDescent(step_size=0.5))
    torch.testing.assert_close(red.x, torch.full((1, 1, 4), 2 / 3), rtol=1e-3, atol=0)
    assert any("no objective" in note for note in red.notes) and bool(
        red.history["objective"].isnan().all()
    )


# -- checkpoints -----------------------------------------------------------------------------------

RUN = """
    import sys, time, torch
    torch.set_num_threads(1)
    import invtoolbox as it
    from tests.test_solve import QuadraticRidge, Ridge, problem
    solvers = {"LBFGS": it.solvers.LBFGS(), "Adam": it.solvers.Adam(learning_rate=1e-3)}
    for name in sys.argv[3:]:
        path = sys.argv[1] + name
        solution = it.solve(problem(n=16), QuadraticRidge(), solvers[name], regularization=torch.tensor([1e-5, 1e-4, 1e-2, 10.0]),
                            max_iterations=200, tolerance=1e-7, checkpoint=it.Checkpoint(path, every=0.0),
                            callbacks=[lambda progress: time.sleep(float(sys.argv[2]))])
        torch.save((solution.x, solution.history, solution.iterations, solution.status), path + ".pt")
"""


def test_killed_at_a_random_moment_and_resumed_is_bitwise_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solvers = ("LBFGS", "Adam")
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN))
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def command(name: str, pause: float, *solvers: str) -> list[str]:
        return [sys.executable, str(script), str(tmp_path / name), str(pause), *solvers]

    monkeypatch.setattr(sys, "argv", command("undisturbed", 0.0, *solvers)[1:])
    runpy.run_path(str(script))
    for solver in solvers:
        disturbed = subprocess.Popen(command("killed", 0.01, solver), env=environment)
        while not (tmp_path / f"killed{solver}").exists():
            assert disturbed.poll() is None
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.2))
        disturbed.send_signal(signal.SIGKILL)
        disturbed.wait()
        assert not (tmp_path / f"killed{solver}.pt").exists()
    subprocess.run(command("killed", 0.0, *solvers), env=environment, check=True)
    for solver in solvers:
        one, other = (
            torch.load(tmp_path / f"{name}{solver}.pt", weights_only=True)
            for name in ("undisturbed", "killed")
        )
        assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])
        assert one[3] == other[3]
        for name, values in one[1].items():
            assert torch.equal(values.nan_to_num(), other[1][name].nan_to_num()), name


def test_a_checkpoint_of_another_problem_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    it.solve(problem(), Ridge(), LBFGS(), regularization=0.1, checkpoint=path, max_iterations=3)
    before = path.read_bytes()
    with pytest.raises(InputError, match="another problem"):
        it.solve(problem(seed=1), Ridge(), LBFGS(), regularization=0.1, checkpoint=path)
    assert path.read_bytes() == before
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        it.solve(problem(), Ridge(), LBFGS(), regularization=0.1, checkpoint=path)


def test_a_solution_survives_save_and_load(tmp_path: Path) -> None:
    solution = it.solve(problem(), Ridge(), regularization=0.1)
    path = solution.save(tmp_path / "s.h5")
    with pytest.raises(InputError, match="exists"):
        solution.save(path)
    loaded = it.Solution.load(path)
    assert torch.equal(loaded.x, solution.x) and loaded.status == solution.status
    assert torch.equal(loaded.measured_and_predicted()[0], solution.problem.y)
    (tmp_path / "broken.h5").write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="not a readable saved solution"):
        it.Solution.load(tmp_path / "broken.h5")


def scenes() -> list[Any]:
    points = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0))
    splats = Splats.of_points(points, torch.ones(1, 5, 3), 0.1, 0.5)
    box = VoxelSpace.box((3, 3, 3), (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    corner = torch.zeros(2, 2, 2, dtype=torch.bool)
    corner[0, 0, 0] = True
    space = box.keep_cells(corner)
    voxels = Voxels(torch.ones(1, 8), torch.ones(1, 8, 1, 3), space)
    moving = Moving(torch.zeros(1, 2, 5, 3), None, splats)
    return [splats, voxels, moving]


@pytest.mark.parametrize("number", range(3))
def test_a_solution_with_a_scene_survives_save_and_load(tmp_path: Path, number: int) -> None:
    scene = scenes()[number]
    y = torch.zeros(1, 1, 2, 2)
    flat = it.solve(it.Problem(y, it.operators.Identity((1, 2, 2))), Ridge(), regularization=0.1)
    solution = dataclasses.replace(flat, x=scene, problem=None, measurements=y, prediction=y)
    loaded = it.Solution.load(solution.save(tmp_path / "s.h5")).x
    assert type(loaded) is type(scene)
    before, after = dict(tree_leaves(scene)), dict(tree_leaves(loaded))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    if number == 1:
        assert loaded.space.cell == scene.space.cell and loaded.space.rows == 8
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file["x"].attrs["kind"] = "subprocess:Popen"
    with pytest.raises(InputError, match="subprocess:Popen, which is no scene"):
        it.Solution.load(tmp_path / "s.h5")


# -- derivatives -----------------------------------------------------------------------------------


def test_implicit_derivatives_agree_with_differences() -> None:
    p = problem(dtype=torch.float64)
    y = p.y.clone().requires_grad_(True)
    weight = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
    solver = ConjugateGradient(tolerance=1e-12)
    solution = it.solve(
        it.Problem(y, p.operator),
        QuadraticRidge(),
        solver,
        regularization=weight,
        differentiate="implicit",
    )
    solution.x.square().sum().backward()

    def loss(measurements: Tensor, regularization: Tensor) -> Tensor:
        x = it.solve(
            it.Problem(measurements, p.operator),
            QuadraticRidge(),
            solver,
            regularization=regularization,
        ).x
        return x.square().flatten(1).sum(1)

    step = 1e-5
    slope = (loss(p.y, weight.detach() + step) - loss(p.y, weight.detach() - step)) / (2 * step)
    torch.testing.assert_close(weight.grad, slope, rtol=1e-5, atol=1e-8)
    direction = torch.randn(
        p.y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    along = (
        loss(p.y + step * direction, weight.detach())
        - loss(p.y - step * direction, weight.detach())
    ) / (2 * step)
    torch.testing.assert_close((y.grad * direction).flatten(1).sum(1), along, rtol=1e-5, atol=1e-8)
