"""Neural scene flow: the network as published, tuples through the whole loop, and what the prior is worth on boxes that move."""

from __future__ import annotations

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

import pytest
import torch
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.data_terms import Chamfer, Stack
from invtoolbox.errors import InputError
from invtoolbox.jobs.flow import published
from invtoolbox.jobs.flow.published import Fit
from invtoolbox.operators import PointWarp, PointWarpBothWays
from invtoolbox.priors import FreeFlow, NeuralSceneFlow
from invtoolbox.solvers import Adam
from invtoolbox.testing import check_prior

FAST = Adam(learning_rate=0.008, iterate="best")


def both_ways(batch: int = 2, n: int = 150, dtype: torch.dtype = torch.float32) -> it.Problem:
    generator = torch.Generator().manual_seed(0)
    points = 4 * torch.rand(batch, n, 3, generator=generator, dtype=dtype)
    shift = 0.2 * torch.randn(batch, 1, 3, generator=generator, dtype=dtype)
    return it.Problem(
        (points + shift, points), PointWarpBothWays(points), Stack(Chamfer(), Chamfer())
    )


def small(**settings: Any) -> NeuralSceneFlow:
    return NeuralSceneFlow(width=16, depth=3, **settings)


def test_it_is_the_published_network() -> None:
    points = torch.rand(1, 20, 3)
    prior = NeuralSceneFlow().prepare(it.Problem(points, PointWarp(points), Chamfer()), it.solve)
    parameters = prior.initial()
    layers = [nn.Linear(3, 128), *[nn.Linear(128, 128) for _ in range(7)], nn.Linear(128, 3)]
    for k, layer in enumerate(layers):
        with torch.no_grad():
            layer.weight.copy_(parameters[f"forward_weight{k}"][0].T)
            layer.bias.copy_(parameters[f"forward_bias{k}"][0])
    network = nn.Sequential(
        *[part for layer in layers[:-1] for part in (layer, nn.ReLU())], layers[-1]
    )
    torch.testing.assert_close(prior.decode(parameters)[0], network(points[0]))
    assert sum(t.numel() for t in parameters.values()) == 116_483


def test_the_first_weights_spread_as_those_of_torch() -> None:
    points = torch.rand(1, 20, 3)
    problem = it.Problem(points, PointWarp(points), Chamfer())
    for kind, bound in (("default", 1 / 128**0.5), ("xavier", (6 / 256) ** 0.5)):
        parameters = NeuralSceneFlow(initialization=kind).prepare(problem, it.solve).initial()
        assert 0.98 * bound < float(parameters["forward_weight3"].abs().max()) <= bound
        assert (float(parameters["forward_bias3"].abs().max()) > 0) == (kind == "default")


def test_the_way_back_starts_as_a_copy_and_is_taken_where_points_arrive() -> None:
    problem = both_ways(1)
    prior = small().prepare(problem, it.solve)
    parameters = prior.initial()
    assert torch.equal(parameters["forward_weight1"], parameters["backward_weight1"])
    forward, backward = prior.decode(parameters)
    torch.testing.assert_close(forward, prior.flow_at(parameters, problem.operator.points))
    torch.testing.assert_close(
        backward, prior.flow_at(parameters, problem.operator.points + forward)
    )


@pytest.mark.parametrize("prior", [small(), small(initialization="xavier"), FreeFlow()], ids=repr)
@pytest.mark.parametrize("back", [True, False])
def test_it_keeps_the_contracts_of_implicit_priors(prior: Any, back: bool) -> None:
    problem = both_ways(3)
    if not back:
        problem = it.Problem(problem.y[0], PointWarp(problem.operator.points), Chamfer())
    check_prior(prior, problem.y0, problem=problem)
    assert prior.points is None


def test_what_moves_no_points_is_refused() -> None:
    problem = it.Problem(torch.zeros(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    for prior in (NeuralSceneFlow(), FreeFlow()):
        with pytest.raises(InputError, match="about the flow of points"):
            it.solve(problem, prior, Adam())
    with pytest.raises(InputError, match="prepared"):
        NeuralSceneFlow().initial()


@pytest.mark.parametrize("prior", [small(), FreeFlow()], ids=repr)
class TestThroughTheLoop:
    def test_twice_is_bitwise_the_same(self, prior: Any) -> None:
        one, other = (
            it.solve(both_ways(), prior, FAST, max_iterations=15, progress=False) for _ in range(2)
        )
        assert all(torch.equal(a, b) for a, b in zip(one.x, other.x)) and torch.equal(
            one.history["objective"], other.history["objective"]
        )

    def test_an_item_alone_is_bitwise_the_item_in_company(self, prior: Any) -> None:
        problem = both_ways(3)
        together = it.solve(problem, prior, FAST, max_iterations=15, tolerance=0, progress=False)
        for k in range(3):
            alone = it.solve(
                problem.select(torch.tensor([k])),
                prior,
                FAST,
                max_iterations=15,
                tolerance=0,
                progress=False,
            )
            assert all(torch.equal(a[0], b[k]) for a, b in zip(alone.x, together.x))

    def test_a_tuple_is_saved_loaded_reported_and_printed(self, prior: Any, tmp_path: Path) -> None:
        seen = []
        solution = it.solve(
            both_ways(),
            prior,
            FAST,
            max_iterations=5,
            progress=True,
            callbacks=[lambda p: seen.append(p.x) and None],
        )
        assert (
            isinstance(solution.x, tuple)
            and isinstance(seen[-1], tuple)
            and "((2, 150, 3), (2, 150, 3))" in str(solution)
        )
        again = it.Solution.load(solution.save(tmp_path / "s.h5"))
        assert all(torch.equal(a, b) for a, b in zip(solution.x, again.x))
        assert all(
            torch.equal(a, b)
            for a, b in zip(solution.measured_and_predicted()[1], again.measured_and_predicted()[1])
        )
        page = solution.report(tmp_path / "s.html").read_text()
        assert "150 x 3 and 150 x 3" in page and solution.plot() is not None


@pytest.mark.parametrize(
    "solver", ["adam", "lbfgs", "gradient-descent", "gauss-newton", "levenberg-marquardt"]
)
def test_every_solver_of_parameters_takes_tuples(solver: str) -> None:
    problem = both_ways(2, 60)
    start = problem.data_term.value(
        problem.operator((torch.zeros(2, 60, 3), torch.zeros(2, 60, 3))), problem.y
    )
    solution = it.solve(
        problem, FreeFlow() + 0.01 * it.priors.ARAP(), solver, max_iterations=10, progress=False
    )
    assert bool((problem.data_term.value(problem.operator(solution.x), problem.y) < start).all())


def test_patience_ends_an_item_by_itself_and_keeps_its_best_iterate(tmp_path: Path) -> None:
    problem = both_ways(3)
    solver = Adam(learning_rate=0.05, iterate="best", patience=8, min_delta=1e-4)
    solution = it.solve(problem, small(), solver, max_iterations=400, tolerance=0, progress=False)
    assert set(solution.status) == {"early_stopping"} and len(set(solution.iterations.tolist())) > 1
    misfit = problem.data_term.value(problem.operator(solution.x), problem.y)
    for k in range(3):
        curve = solution.history["objective"][: int(solution.iterations[k]), k]
        torch.testing.assert_close(misfit[k], curve.min())
        best, waited = float("inf"), 0
        for value in curve.tolist():
            best, waited = (value, 0) if value < best - 1e-4 else (best, waited + 1)
        assert waited == 8
        alone = it.solve(
            problem.select(torch.tensor([k])),
            small(),
            solver,
            max_iterations=400,
            tolerance=0,
            progress=False,
        )
        assert torch.equal(alone.x[0][0], solution.x[0][k])


def test_patience_survives_a_resume(tmp_path: Path) -> None:
    solver = Adam(learning_rate=0.05, iterate="best", patience=8, min_delta=1e-4)
    whole = it.solve(both_ways(3), small(), solver, max_iterations=400, tolerance=0, progress=False)
    for budget in (20, 30, 400):
        resumed = it.solve(
            both_ways(3),
            small(),
            solver,
            max_iterations=budget,
            tolerance=0,
            progress=False,
            checkpoint=tmp_path / "c",
        )
    assert all(torch.equal(a, b) for a, b in zip(whole.x, resumed.x)) and torch.equal(
        whole.iterations, resumed.iterations
    )
    with pytest.raises(InputError, match="patience"):
        Adam(patience=0)


def test_a_checkpoint_belongs_to_its_source_points(tmp_path: Path) -> None:
    problem = both_ways(1)
    moved = PointWarp(problem.operator.points + 1)
    it.solve(
        it.Problem(problem.y[0], PointWarp(problem.operator.points), Chamfer()),
        small(),
        FAST,
        max_iterations=2,
        checkpoint=tmp_path / "c",
        progress=False,
    )
    with pytest.raises(InputError, match="another problem"):
        it.solve(
            it.Problem(problem.y[0], moved, Chamfer()),
            small(),
            FAST,
            max_iterations=2,
            checkpoint=tmp_path / "c",
            progress=False,
        )


RUN = """
    import sys, time, torch
    import invtoolbox as it
    from invtoolbox.jobs.flow import published
    torch.set_num_threads(1)
    points = 4 * torch.rand(120, 3, generator=torch.Generator().manual_seed(0))
    pause = float(sys.argv[2])
    fit = published.Fit(max_iterations=12, callbacks=(lambda p: time.sleep(pause),),
                        checkpoint=it.Checkpoint(sys.argv[1], every=0.0))
    flow = published.nsfp(points, points + 0.1, fit)
    torch.save(flow, sys.argv[1] + ".pt")
"""


@pytest.mark.slow  # tests/test_solve.py kills and resumes the same loop, with Adam
def test_killed_and_resumed_is_bitwise_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "OMP_NUM_THREADS": "1",
    }

    def command(name: str, pause: float) -> list[str]:
        return [sys.executable, str(script), str(tmp_path / name), str(pause)]

    disturbed = subprocess.Popen(command("killed", 0.1), env=environment)
    while not (tmp_path / "killed").exists():
        assert disturbed.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 0.5))
    disturbed.send_signal(signal.SIGKILL)
    disturbed.wait()
    assert not (tmp_path / "killed.pt").exists()
    subprocess.run(command("killed", 0.0), env=environment, check=True)
    monkeypatch.setattr(sys, "argv", command("undisturbed", 0.0)[1:])
    runpy.run_path(str(script))
    one, other = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("undisturbed", "killed")
    )
    assert torch.equal(one, other)


# -- what the prior is worth -----------------------------------------------------------------------


def boxes(seed: int, n: int = 700) -> tuple[Tensor, Tensor, Tensor]:
    """Two walls, four poles and five boxes that move along x, sampled anew in either sweep: source, target and true flow."""
    generator = torch.Generator().manual_seed(seed)

    def box(
        centre: tuple[float, float, float], size: tuple[float, float, float], count: int
    ) -> Tensor:
        points = torch.rand(count, 3, generator=generator) - 0.5
        face = torch.randint(0, 3, (count,), generator=generator)
        points[torch.arange(count), face] = torch.randint(0, 2, (count,), generator=generator) - 0.5
        return points * torch.tensor(size) + torch.tensor(centre)

    def sweep(moved: float) -> tuple[Tensor, Tensor]:
        still = [box((0.0, 12.0 * side, 2.0), (40.0, 0.5, 4.0), n // 4) for side in (-1, 1)]
        still += [box((-15.0 + 6 * k, 0.0, 2.0), (0.3, 0.3, 4.0), n // 20) for k in range(4)]
        flow = [torch.zeros(sum(map(len, still)), 3)]
        for k in range(5):
            speed = torch.tensor([1.0 if k % 2 == 0 else -1.0, 0.0, 0.0])
            still.append(
                box((-14.0 + 7 * k, 5.0 * (-1) ** k, 1.0), (4.0, 1.8, 1.6), n // 16) + moved * speed
            )
            flow.append(speed.expand(n // 16, 3))
        return torch.cat(still), torch.cat(flow)

    source, flow = sweep(0.0)
    return source, sweep(1.0)[0], flow


def test_the_network_finds_what_moves_and_free_vectors_do_not() -> None:
    # Of the scenes 0 to 4, one where 200 steps reach half of the bound: on the way there the error
    # depends on the processor's rounding.
    source, target, truth = boxes(4)
    moving = truth.norm(dim=1) > 0
    flow = published.nsfp(source, target, Fit(patience=100, max_iterations=200))
    fit = Fit(learning_rate=0.02, patience=None, min_delta=0.0, max_iterations=150)
    problem = it.Problem(target[None], it.operators.PointWarp(source[None]), Chamfer(2.0))
    free = fit.solve(problem, it.priors.FreeFlow()).x[0]
    error, free_error = (float(it.metrics.end_point_error(f, truth, moving)) for f in (flow, free))
    misfit, free_misfit = (
        float(Chamfer().value((source + f)[None], target[None])) for f in (flow, free)
    )
    assert free_misfit < 0.3 * misfit and error < 0.3 and free_error > 2 * error


def test_what_was_not_fitted_gets_a_flow_too() -> None:
    source, target, _ = boxes(1, 400)
    flow = published.nsfp(source, target, Fit(points=100, max_iterations=3))
    assert flow.shape == source.shape and bool(flow.isfinite().all())
    with pytest.raises(InputError, match="not finite"):
        published.nsfp(source.clone().fill_(float("nan")), target)
    with pytest.raises(InputError, match="at least one"):
        published.nsfp(source[:0], target)
