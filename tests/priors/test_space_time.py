"""Fields of flow of a whole sequence: what is predicted along them, what it costs, and the loop that finds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import Chamfer, RolloutChamfer
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import FlowField
from invtoolbox.jobs.flow.published import EulerSettings, euler_flow
from invtoolbox.kernels.points.sparse_product import weighted_rows
from invtoolbox.operators import EulerRollout
from invtoolbox.operators.points import Leg, legs
from invtoolbox.priors import AlongField, ImplicitPrior, SpaceTimeFlow, SpaceTimeVoxels
from invtoolbox.testing import check_prior


@dataclass(frozen=True, eq=False)
class Even(FlowField):
    """The same displacement everywhere, forward; its opposite backward."""

    step: Tensor

    def displacement(self, points: Tensor, time: Tensor, direction: Tensor) -> Tensor:
        return direction[:, None] * self.step.expand_as(points)


STEP = torch.tensor([0.3, -0.1, 0.0], dtype=torch.float64)


def walk(sweeps: int = 5, n: int = 30) -> tuple[Tensor, ...]:
    points = (
        torch.rand(1, n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    )
    return tuple(points + t * STEP for t in range(sweeps))


def problem(sweeps: int = 5) -> it.Problem:
    return it.Problem(walk(sweeps), EulerRollout(walk(sweeps)), RolloutChamfer())


def test_legs_stay_within_the_sequence() -> None:
    assert legs(2, 3) == [Leg(0, 1, 1), Leg(1, -1, 1)]
    assert len(legs(5, 3)) == 2 * (4 + 3 + 2) and all(0 <= leg.end < 5 for leg in legs(5, 3))


def test_points_go_along_the_true_field_from_sweep_to_sweep() -> None:
    A, y = EulerRollout(walk()), walk()
    prediction = A(Even(STEP))
    ways = legs(5, 3)
    assert [tuple(p.shape[1:]) for p in prediction] == list(A.range_shape)
    for leg, arrived in zip(ways, prediction):
        assert torch.allclose(arrived, y[leg.end])
    for leg, back in zip(ways, prediction[len(ways) :]):
        assert torch.allclose(back, y[leg.start])
    assert float(RolloutChamfer().value(prediction, y)) < 1e-9


def test_the_misfit_is_the_sum_of_what_it_says() -> None:
    y = walk(3)
    field = Even(torch.tensor([1.0, 0.5, -0.2], dtype=torch.float64))
    prediction = EulerRollout(y, steps=2)(field)
    ways = legs(3, 2)
    chamfer = torch.stack(
        [Chamfer(2.0).value(p, y[leg.end]) for leg, p in zip(ways, prediction)]
    ).mean(0)
    beyond = float(field.step.norm()) - 0.5
    expected = 3 * (0.5 * chamfer + 2.0 * (beyond + 0.5 * beyond**2))
    assert torch.allclose(RolloutChamfer(2, speed=2.0, limit=0.5).value(prediction, y), expected)
    there = (
        *prediction[: len(ways)],
        *(p + 1.0 for p in prediction[len(ways) :]),
    )  # nothing comes back
    more = RolloutChamfer(2, cycle=0.1, speed=2.0, limit=0.5).value(there, y)
    assert torch.allclose(more, expected + 3 * 0.1 * 3**0.5)


def test_a_window_is_a_problem_of_its_own() -> None:
    whole = problem(6)
    part = whole.subset(torch.tensor([2, 3, 4]))
    assert part.operator.times == (2.0, 3.0, 4.0) and torch.equal(part.y[1], whole.y[3])
    drawn = [
        whole.subset(3, torch.Generator().manual_seed(seed)).operator.times for seed in range(20)
    ]
    assert all(times[2] - times[0] == 2 for times in drawn) and {times[0] for times in drawn} == {
        0.0,
        1.0,
        2.0,
        3.0,
    }


FIELDS = [SpaceTimeFlow(width=16, depth=2), SpaceTimeVoxels(1.0, levels=2)]


@pytest.mark.parametrize("prior", FIELDS, ids=repr)
def test_keeps_the_contracts(prior: ImplicitPrior) -> None:
    check_prior(prior, torch.zeros(1, 1, 3), problem=problem())


@pytest.mark.parametrize("prior", FIELDS, ids=repr)
def test_the_objective_has_the_right_gradient(prior: ImplicitPrior) -> None:
    known = problem(4)
    bound = prior.prepare(known, it.solve)
    generator = torch.Generator().manual_seed(1)
    leaves = {
        k: (t + 0.05 * torch.randn(t.shape, generator=generator, dtype=t.dtype)).requires_grad_()
        for k, t in bound.initial().items()
    }
    directions = {
        k: torch.randn(t.shape, generator=generator, dtype=t.dtype) for k, t in leaves.items()
    }

    def value(share: float) -> Tensor:
        # Without the nearest neighbours, whose changes are kinks.
        arrived = known.operator(
            bound.decode({k: t + share * directions[k] for k, t in leaves.items()})
        )
        return torch.stack([p.square().sum() for p in arrived]).sum()

    slope = torch.stack(
        [
            (g * directions[k]).sum()
            for k, g in zip(leaves, torch.autograd.grad(value(0.0), list(leaves.values())))
        ]
    ).sum()
    numeric = (value(1e-6) - value(-1e-6)) / 2e-6
    assert float((slope - numeric.detach()).abs() / numeric.detach().abs()) < 1e-4


def test_voxels_hold_a_linear_field_of_space_and_time() -> None:
    known = problem(5)
    prior = SpaceTimeVoxels(1.0, span=1.0, levels=1).prepare(known, it.solve)
    grid = prior.grids[0]
    keys = (grid.table < grid.count).nonzero()[:, 0]
    sx, sy, _ = grid.strides.tolist()
    corners = (torch.stack([keys // sx, keys % sx // sy, keys % sy], dim=1) + grid.low).double()
    parameters = prior.initial()
    times = torch.arange(grid.knots, dtype=torch.float64)
    slope = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    parameters["velocity0"] = (corners[:, None] * slope + times[:, None])[None]
    field = prior.decode(parameters)
    for t in (0.0, 2.5, 4.0):
        p = known.y[int(t)]
        assert torch.allclose(field.flow(p, t), p * slope + t)
        back = field.displacement(
            p, torch.full((30,), t, dtype=torch.float64), -torch.ones(30, dtype=torch.float64)
        )
        assert torch.allclose(back, -(p * slope + t))
    assert not bool(field.flow(known.y[0] + 1000, 0.0).any())


@pytest.mark.parametrize(
    "field",
    ["voxels", SpaceTimeFlow(width=32, depth=3, first_scale=0.01)],
    ids=["voxels", "network"],
)
def test_finds_how_a_cloud_walks(field: str | ImplicitPrior) -> None:
    sweeps = [points[0].float() for points in walk(6, n=100)]
    settings = EulerSettings(field, window=3, max_iterations=50, learning_rate=0.015)  # type: ignore[arg-type]
    flows = euler_flow(sweeps, settings)
    assert len(flows) == 5 and flows[0].shape == (100, 3)
    error = torch.stack([(flow - STEP.float()).norm(dim=1).mean() for flow in flows])
    assert float(error.max()) < 0.1 * float(STEP.norm())
    assert torch.equal(
        flows[2], euler_flow(sweeps, settings)[2]
    )  # the windows are a function of the seed


def test_independent_draws_of_a_wall_are_at_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    side = torch.tensor([6.0, 0.0, 3.0])
    sweeps = [side * torch.rand(150, 3, generator=generator) for _ in range(3)]
    speeds = [
        float(torch.cat(euler_flow(sweeps, settings)).norm(dim=1).mean())
        for settings in (
            EulerSettings(window=3, max_iterations=20),
            EulerSettings(window=3, max_iterations=20, cycle=0.01, rigid=0.0, still=0.0),
        )
    ]
    assert speeds[0] < 0.3 * speeds[1]


def test_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    sweeps = [points[0].float() for points in walk(5)]
    path = tmp_path / "field.checkpoint"
    whole = euler_flow(sweeps, EulerSettings(window=3, max_iterations=12))
    short = euler_flow(sweeps, EulerSettings(window=3, max_iterations=5), checkpoint=path)
    resumed = euler_flow(sweeps, EulerSettings(window=3, max_iterations=12), checkpoint=path)
    assert all(map(torch.equal, resumed, whole)) and not torch.equal(short[0], whole[0])


def test_adam_takes_subsets_of_any_measurements() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, x = torch.randn(40, 5, generator=generator), torch.randn(1, 1, 5, generator=generator)
    A = it.operators.Matrix(matrix)
    known = it.Problem(A(x), A)
    found = it.solve(
        known,
        solver=it.solvers.Adam(learning_rate=0.05, subset_size=8, decay=0.01),
        max_iterations=600,
        progress=False,
    )
    assert bool((found.x - x).abs().max() < 1e-2)
    with pytest.raises(InputError, match="different subsets"):
        it.solve(known, solver=it.solvers.Adam(subset_size=8, iterate="best"), progress=False)
    with pytest.raises(InputError, match="blocks"):
        it.solve(known, solver=it.solvers.Adam(subset_size=80), progress=False)


def test_priors_of_flows_hold_for_a_field() -> None:
    y = walk(5)
    known = it.Problem(y, EulerRollout(y), RolloutChamfer())
    field = Even(torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64))
    for prior, expected in (
        (it.priors.SpeedLimit(4.0), 5 * 1.5),
        (it.priors.ARAP(5), 0.0),
        (it.priors.StaticWorld(threshold=1e-9), 25.0),
    ):
        along = AlongField(prior).prepare(known, it.solve)
        assert float(along.energy(field)) == pytest.approx(expected, abs=1e-6)
        assert float(along.at(7).energy(field)) == pytest.approx(expected, abs=1e-6)
    sweeps = [points[0].float() for points in y]
    settings = EulerSettings(window=3, max_iterations=20)
    free, held = (
        euler_flow(sweeps, settings, priors=w * AlongField(it.priors.StaticWorld()))
        for w in (0.0, 100.0)
    )
    assert float(held[1].norm(dim=1).mean()) < 0.5 * float(free[1].norm(dim=1).mean())
    with pytest.raises(InputError, match="field of flow"):
        along.energy(y[0])
    with pytest.raises(InputError, match="must be prepared"):
        AlongField(it.priors.ARAP()).energy(field)


def test_rows_by_weights_have_their_derivatives() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = torch.randint(0, 6, (9, 4), generator=generator)
    assert torch.autograd.gradcheck(lambda t, w: weighted_rows(t, rows, w), (table, weights))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EulerRollout(walk(1)), "two sweeps"),
        (lambda: EulerRollout(walk(3))(torch.zeros(1, 30, 3)), "flow field"),
        (lambda: EulerRollout(walk(3), times=[0, 1]), "2 times"),
        (lambda: problem().subset(torch.tensor([1])), "at least two sweeps"),
        (
            lambda: it.Problem(walk(3)[0], EulerRollout(walk(3)), RolloutChamfer()),
            "sweeps of a sequence",
        ),
        (
            lambda: RolloutChamfer(2).value(EulerRollout(walk(3))(Even(STEP)), walk(3)[:2]),
            "takes 4 clouds",
        ),
        (lambda: SpaceTimeFlow().initial(), "must be prepared"),
        (
            lambda: it.solve(
                it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4))),
                SpaceTimeVoxels(),
                progress=False,
            ),
            "EulerRollout",
        ),
        (lambda: euler_flow([torch.zeros(3, 3)]), "two sweeps"),
    ],
)
def test_says_what_does_not_fit(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]
