"""The chamfer distance against all pairs, its gradient against differences, and its life in the loop."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import Chamfer, Stack
from invtoolbox.data_terms import chamfer as module
from invtoolbox.data_terms.chamfer import RolloutChamfer
from invtoolbox.errors import InputError
from invtoolbox.operators.points import legs
from invtoolbox.testing import check_data_term


def clouds(batch: int = 2, n: int = 40, m: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, n, 3, generator=generator, dtype=torch.float64),
        torch.randn(batch, m, 3, generator=generator, dtype=torch.float64),
    )


def by_all_pairs(
    p: Tensor, q: Tensor, truncation: float | None, squared: bool, both_ways: bool
) -> Tensor:
    apart = (p[:, :, None] - q[:, None]).norm(dim=-1)
    total = torch.zeros(len(p), dtype=p.dtype)
    for axis in (2, 1) if both_ways else (2,):
        nearest = apart.amin(axis)
        nearest = nearest.square() if squared else nearest
        total += torch.where(
            nearest < (torch.inf if truncation is None else truncation), nearest, 0.0
        ).mean(1)
    return total


SETTINGS: list[dict[str, Any]] = [
    {"truncation": truncation, "squared": squared, "both_ways": both_ways}
    for truncation in (None, 0.3)
    for squared in (True, False)
    for both_ways in (True, False)
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_what_all_pairs_give(settings: dict[str, Any]) -> None:
    p, q = clouds()
    torch.testing.assert_close(Chamfer(**settings).value(p, q), by_all_pairs(p, q, **settings))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_keeps_the_contracts(settings: dict[str, Any]) -> None:
    check_data_term(Chamfer(**settings), *clouds())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_its_gradient_is_that_of_autograd(settings: dict[str, Any]) -> None:
    p, q = clouds()
    free = p.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(Chamfer(**settings).value(free, q).sum(), free)
    torch.testing.assert_close(Chamfer(**settings).grad(p, q), expected)


def test_where_points_coincide_nothing_pulls() -> None:
    p = torch.zeros(1, 1, 3)
    for squared in (True, False):
        free = p.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(Chamfer(squared=squared).value(free, p).sum(), free)
        assert torch.equal(slope, torch.zeros_like(p)) and torch.equal(
            Chamfer(squared=squared).grad(p, p), torch.zeros_like(p)
        )


def test_items_may_share_the_measurements() -> None:
    p, q = clouds()
    torch.testing.assert_close(
        Chamfer().value(p, q[:1]), Chamfer().value(p, q[:1].expand(2, -1, -1))
    )


def test_a_prepared_term_is_a_copy_that_answers_the_same() -> None:
    p, q = clouds()
    term = Chamfer()
    prepared = term.prepare(it.Problem(q, it.operators.PointWarp(p), term), it.solve)
    assert not term._trees and len(prepared._trees) == 2
    for other in (
        q,
        q.flip(0),
        q + 1,
    ):  # its trees serve the measurements they were made for, and no others
        assert torch.equal(prepared.value(p, other), term.value(p, other))
    one = torch.tensor([1])
    assert torch.equal(prepared.select(one).value(p[1:], q[1:]), term.value(p, q)[1:])


def test_one_evaluation_looks_for_neighbours_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []

    class Counting(module.Tree):
        def query(self, *arguments: Any) -> Any:
            searches.append(1)
            return super().query(*arguments)

    monkeypatch.setattr(module, "Tree", Counting)
    p, q = clouds(1)
    from invtoolbox.solve import bind

    objective = bind(it.Problem(q, it.operators.PointWarp(p), Chamfer()), it.priors.PriorSum())[0]
    searches.clear()
    objective.evaluate(torch.zeros_like(p))
    assert len(searches) == 2


def test_free_points_move_onto_the_others() -> None:
    p, q = clouds(2, 30, 30)
    problem = it.Problem(q, it.operators.PointWarp(p), Chamfer(truncation=None))
    solution = it.solve(
        problem, solver=it.solvers.Adam(learning_rate=0.05), max_iterations=200, progress=False
    )
    left = Chamfer(truncation=None).value(problem.operator(solution.x), q)
    assert bool((left < 0.3 * Chamfer(truncation=None).value(p, q)).all())


@pytest.mark.parametrize(
    "term",
    [
        Chamfer(),
        Chamfer(None),
        Chamfer(both_ways=False),
        it.data_terms.PlaneToPlane(),
    ],
)
@pytest.mark.parametrize("package", ["pykdtree", "scipy"])
def test_an_item_that_runs_away_is_said_to_and_leaves_the_others_alone(
    term: it.data_terms.DataTerm, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "scipy":
        monkeypatch.setitem(sys.modules, "pykdtree.kdtree", None)
    p, q = clouds(2, 30, 40)
    problem = it.Problem(q[:1], it.operators.PointWarp(p), term)
    start = torch.zeros_like(p)
    start[1, 4] = float("nan")
    value = term.value(problem.operator(start), q[:1])
    assert bool(value[0].isfinite()) and bool(value[1].isnan())
    solution = it.solve(
        problem,
        it.priors.FreeFlow(),
        it.solvers.Adam(),
        initial={"forward": start},
        max_iterations=3,
        progress=False,
    )
    assert solution.status == ("limit", "diverged")


def test_stacked_terms_prepare_their_own_measurements() -> None:
    p, q = clouds()
    term = Stack(Chamfer(), Chamfer(both_ways=False), weights=(1.0, 0.5))
    problem = it.Problem((q, p), it.operators.PointWarpBothWays(p), term)
    prepared = term.prepare(problem, it.solve)
    assert torch.equal(prepared.terms[0]._trees[1].points, q[1]) and torch.equal(
        prepared.terms[1]._trees[0].points, p[0]
    )
    x = (0.1 * torch.ones_like(p), torch.zeros_like(p))
    value, (first, second) = prepared.value_and_grad(problem.operator(x), problem.y)
    assert torch.equal(value, term.value(problem.operator(x), problem.y))
    assert (
        torch.equal(second, 0.5 * Chamfer(both_ways=False).grad(problem.operator(x)[1], p))
        and first.shape == p.shape
    )


def test_a_rollout_is_its_formula_prepared_or_not() -> None:
    generator = torch.Generator().manual_seed(0)
    sweeps = tuple(
        torch.randn(1, n, 3, generator=generator, dtype=torch.float64) for n in (20, 25, 30)
    )
    all_legs = legs(3, 2)  # 0 > 1, 1 > 2, 2 > 1, 1 > 0, then 0 > 2 and 2 > 0
    firsts = [leg for leg in all_legs if leg.step == 1]
    clouds_of = [
        sweeps[leg.start] + torch.randn(sweeps[leg.start].shape, generator=generator).double()
        for leg in (*all_legs, *firsts)
    ]
    term = RolloutChamfer(steps=2, cycle=0.1, speed=0.5, limit=0.2)
    arrived = dict(zip(all_legs, clouds_of))
    total = torch.zeros(1, dtype=torch.float64)
    for leg, points in arrived.items():
        before = sweeps[leg.start] if leg.step == 1 else arrived[leg._replace(step=1)]
        beyond = ((points - before).norm(dim=-1) - 0.2).clamp_min(0)
        total += 0.5 * Chamfer(2.0).value(points, sweeps[leg.end]) / len(all_legs)
        total += 0.5 * (beyond + beyond.square() / 2).mean(1) / len(all_legs)
    for leg, back in zip(firsts, clouds_of[len(all_legs) :]):
        total += 0.1 * (back - sweeps[leg.start]).norm(dim=-1).mean(1) / len(firsts)
    torch.testing.assert_close(term.value(clouds_of, sweeps), 3 * total)
    targets = tuple(term.chamfer.build_trees(sweep) for sweep in sweeps)
    prepared = term._replace(targets=targets)
    assert torch.equal(prepared.value(clouds_of, sweeps), term.value(clouds_of, sweeps))


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.zeros(2, 5, 2), r"points \(batch, M, 3\)"),
        (torch.zeros(2, 0, 3), "at least one"),
        (torch.zeros(3, 5, 3), "3 items"),
    ],
)
def test_measurements_that_are_no_points_are_refused(y: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        it.Problem(y, it.operators.PointWarp(torch.zeros(2, 4, 3)), Chamfer())


@pytest.mark.parametrize(
    "sweep",
    [
        torch.zeros(1, 5, 3).numpy(),
        torch.zeros(1, 3),
        torch.zeros(1, 5, 1, 3),
        torch.zeros(1, 5, 2),
        torch.zeros(2, 5, 3),
        torch.zeros(1, 0, 3),
    ],
    ids=lambda sweep: f"{type(sweep).__name__} {tuple(sweep.shape)}",
)
def test_a_sweep_of_a_sequence_is_one_tensor_of_points(sweep: Any) -> None:
    points = torch.zeros(1, 5, 3)
    RolloutChamfer().check_shape((points, points), ((1, 5, 3),) * 2, "y")
    with pytest.raises(InputError, match=r"y must be the sweeps .* points \(1, N, 3\) each"):
        RolloutChamfer().check_shape((points, sweep), ((1, 5, 3),) * 2, "y")
