"""Distances read off a grid against those to the nearest point, and the data term made of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import DistanceTransform
from invtoolbox.errors import InputError
from invtoolbox.kernels.points.distance_field import distance_field, interpolate
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.testing import check_data_term


def walls(count: int = 6000, seed: int = 0) -> Tensor:
    """Points of three walls and a pole, and a few alone: ``(count + 20, 3)``."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(count, 3, generator=generator, dtype=torch.float64) * torch.tensor(
        [10.0, 8.0, 3.0]
    )
    kind = torch.arange(count) % 4
    p[kind == 0, 0], p[kind == 1, 1], p[kind == 2, 1] = 0.0, 0.0, 8.0
    p[kind == 3, :2] = torch.tensor([5.0, 4.0], dtype=torch.float64) + 0.1 * p[kind == 3, :2]
    alone = torch.rand(20, 3, generator=generator, dtype=torch.float64) * torch.tensor(
        [10.0, 8.0, 3.0]
    )
    return torch.cat([p, alone])


def positions(field: object) -> Tensor:
    n = field.values.shape  # type: ignore[attr-defined]
    index = torch.stack(
        torch.meshgrid(*[torch.arange(k, dtype=torch.float64) for k in n], indexing="ij"), dim=-1
    )
    return torch.tensor(field.origin, dtype=torch.float64) + field.cell * index.flatten(0, 2)  # type: ignore[attr-defined]


def test_nodes_hold_the_distance_to_the_points_themselves() -> None:
    points = walls().float()
    field = distance_field(points, 0.1, 1.0)
    true, _ = Tree(points.double()).query(positions(field))
    error = field.values.flatten().double() - true
    assert float(error.min()) > -1e-5 and float(error.max()) < 0.1
    assert float(error[true <= 0.25].abs().max()) < 1e-5 and float(error.abs().mean()) < 2e-3


def test_the_look_up_is_near_the_distance_of_a_tree() -> None:
    points = walls().float()
    generator = torch.Generator().manual_seed(1)
    queries = points + 0.15 * torch.randn(points.shape, generator=generator)
    error = (
        interpolate(distance_field(points, 0.1, 1.0), queries) - Tree(points).query(queries)[0]
    ).abs()
    assert float(error.max()) < 0.10 and float(error.mean()) < 0.025


def test_a_look_up_between_nodes_is_trilinear_and_beyond_them_leads_back() -> None:
    field = distance_field(walls(400).float(), 0.5, 1.0)
    low = torch.tensor(field.origin, dtype=torch.float64)
    high = low + field.cell * (torch.tensor(field.values.shape) - 1)
    nodes = positions(field)
    torch.testing.assert_close(
        interpolate(field, nodes).float(), field.values.flatten(), rtol=1e-5, atol=1e-5
    )
    middle = nodes[::7].clamp(max=high - 0.5) + 0.25
    corners = [
        interpolate(field, middle + 0.25 * torch.tensor([a, b, c], dtype=torch.float64))
        for a in (-1, 1)
        for b in (-1, 1)
        for c in (-1, 1)
    ]
    torch.testing.assert_close(
        interpolate(field, middle), torch.stack(corners).mean(0), rtol=1e-5, atol=1e-5
    )
    outside = (high + torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64))[None].requires_grad_(True)
    value = interpolate(field, outside)
    torch.testing.assert_close(value.detach(), interpolate(field, high[None]) + 5.0)
    (slope,) = torch.autograd.grad(value.sum(), outside)
    torch.testing.assert_close(slope[0, [0, 2]], torch.tensor([0.6, 0.8], dtype=torch.float64))
    assert bool(interpolate(field, torch.full((1, 3), float("nan"))).isnan().all())


def in_cells(points: Tensor, cell: float, seed: int) -> Tensor:
    field = distance_field(points.float(), cell, 1.0)
    generator = torch.Generator().manual_seed(seed)
    where = torch.rand(400, 3, generator=generator, dtype=torch.float64) * (
        torch.tensor(field.values.shape) - 2
    )
    where = where.floor() + 0.4 + 0.2 * torch.rand(400, 3, generator=generator, dtype=torch.float64)
    found = torch.tensor(field.origin, dtype=torch.float64) + cell * where
    return found[(interpolate(field, found) - 0.4).abs() > 0.02]


@pytest.mark.parametrize("truncation", [None, 0.4])
def test_it_keeps_the_contracts(truncation: float | None) -> None:
    # Predictions in the middle of cells and off the truncation: differences across a kink or a jump
    # say nothing.
    y = torch.stack([walls(300, seed) for seed in (0, 1)])
    p = torch.stack([in_cells(points, 0.3, seed)[:60] for seed, points in enumerate(y)])
    term = DistanceTransform(cell=0.3, truncation=truncation)
    prepared = term.prepare(it.Problem(y, it.operators.PointWarp(p), term), it.solve)
    assert not term._grids and len(prepared._grids) == 2
    for one in (term, prepared):
        check_data_term(one, p, y)
    assert torch.equal(prepared.value(p, y), term.value(p, y)) and torch.equal(
        prepared.value(p, y.flip(0)), term.value(p, y.flip(0))
    )
    free = p.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(term.value(free, y).sum(), free)
    torch.testing.assert_close(slope, term.grad(p, y))


def test_points_move_onto_the_measured_ones_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    y = walls(800)[None].float()
    p = y[:, :300] + torch.tensor([0.15, -0.1, 0.05])
    problem = it.Problem(y, it.operators.PointWarp(p), DistanceTransform())
    x = it.solve(
        problem,
        it.priors.FreeFlow(),
        it.solvers.Adam(learning_rate=0.01),
        max_iterations=60,
        progress=False,
    ).x
    assert float(Tree(y[0]).query((p + x)[0])[0].mean()) < 0.4 * float(
        Tree(y[0]).query(p[0])[0].mean()
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(
        it.solve(
            problem,
            it.priors.FreeFlow(),
            it.solvers.Adam(learning_rate=0.01),
            max_iterations=60,
            progress=False,
        ).x,
        x,
    )


def test_a_grid_that_is_too_large_is_refused_with_a_cell_that_would_do() -> None:
    y = torch.tensor([[[0.0, 0.0, 0.0], [300.0, 300.0, 20.0]]])
    with pytest.raises(
        InputError,
        match=r"nodes takes 8.\d GB, and the budget is 1 GB; crop the points, or take a cell of 0.2 m",
    ):
        it.Problem(y, it.operators.PointWarp(y), DistanceTransform())
    it.Problem(y, it.operators.PointWarp(y), DistanceTransform(cell=0.22))
    with pytest.raises(InputError, match="positive"):
        DistanceTransform(cell=0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_as_on_the_cpu() -> None:
    points = walls().float()
    on_cpu, on_gpu = distance_field(points, 0.1, 1.0), distance_field(points.cuda(), 0.1, 1.0)
    torch.testing.assert_close(on_gpu.values.cpu(), on_cpu.values)
    torch.testing.assert_close(
        interpolate(on_gpu, points.cuda()).cpu(), interpolate(on_cpu, points)
    )
