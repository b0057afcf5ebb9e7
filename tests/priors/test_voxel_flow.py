"""Implicit priors of motion: voxels of flow and rigid clusters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rigid, rotation, transform
from invtoolbox.priors import RigidClusters, VoxelFlow
from invtoolbox.testing import check_prior


def points(batch: int = 1, n: int = 60, seed: int = 0) -> Tensor:
    return (
        torch.rand(batch, n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * 6
        - 3
    )


def problem(batch: int = 1) -> it.Problem:
    return it.Problem(points(max(batch, 1)), it.operators.PointWarp(points(batch)))


def linear(p: Tensor) -> Tensor:
    matrix = torch.tensor(
        [[0.1, -0.2, 0.3], [0.0, 0.5, 0.1], [-0.4, 0.2, 0.0]], dtype=torch.float64
    )
    return p @ matrix.T + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


LABELS = torch.arange(60) % 4 - 1


@pytest.mark.parametrize("batch", [1, 3], ids=["one cloud", "a cloud an item"])
@pytest.mark.parametrize(
    "prior", [VoxelFlow(1.0), VoxelFlow(0.7, levels=3), RigidClusters(LABELS)], ids=repr
)
def test_keeps_the_contracts(prior: it.priors.ImplicitPrior, batch: int) -> None:
    check_prior(prior, points(3), problem=problem(batch))


def test_voxels_hold_a_linear_field_exactly() -> None:
    p = points()
    prior = VoxelFlow(0.8).bind(p)
    parameters = prior.initial()
    parameters["level0"] = linear(corner_positions(prior))[None]
    assert torch.allclose(prior.decode(parameters), linear(p), atol=1e-12)
    assert torch.allclose(prior.flow_at(parameters, p[0]), linear(p[0]), atol=1e-12)
    inside = (p[0] / 0.8).floor() * 0.8 + 0.3  # other points of the same voxels
    assert torch.allclose(prior.flow_at(parameters, inside), linear(inside), atol=1e-12)
    assert float(prior.flow_at(parameters, p[0] + 100).abs().max()) == 0


def corner_positions(prior: VoxelFlow) -> Tensor:
    keys = prior.touched[0].keys
    whole = torch.stack([(keys >> shift) & (2**21 - 1) for shift in (42, 21, 0)], dim=-1) - 2**20
    return whole.double() * prior.cell


def test_levels_are_summed_and_finer_ones_step_less() -> None:
    p = points()
    prior = VoxelFlow(0.5, levels=3, rate=0.5).bind(p)
    parameters = {name: torch.ones_like(leaf) for name, leaf in prior.initial().items()}
    assert torch.allclose(prior.decode(parameters), torch.full_like(p, 3.0))
    sizes = [leaf.shape[1] for leaf in parameters.values()]
    assert sizes == sorted(sizes)
    assert list(prior.learning_rates(parameters).values()) == [1.0, 0.5, 0.25]


def test_starts_at_rest() -> None:
    assert not bool(VoxelFlow().bind(points()).decode(VoxelFlow().bind(points()).initial()).any())
    assert not bool(
        RigidClusters(LABELS)
        .bind(points())
        .decode(RigidClusters(LABELS).bind(points()).initial())
        .any()
    )


def motions() -> Tensor:
    turn = rotation(torch.tensor([[0.0, 0, 0.3], [0.1, -0.2, 0.0], [0, 0, 0]], dtype=torch.float64))
    return rigid(
        turn, torch.tensor([[1.0, 0, 0], [0, 0.5, 0.2], [-0.3, 0.4, 0]], dtype=torch.float64)
    )


def move(p: Tensor) -> Tensor:
    there = torch.stack([transform(motion, p) for motion in motions()])
    return torch.where((LABELS < 0)[:, None], p, there[LABELS.clamp_min(0), torch.arange(len(p))])


def test_rigid_clusters_start_where_they_are_told_to() -> None:
    p = points()
    prior = RigidClusters(LABELS, motions()).bind(p)
    assert torch.allclose(p[0] + prior.decode(prior.initial())[0], move(p[0]), atol=1e-12)
    assert torch.allclose(prior.motions(prior.initial())[0], motions(), atol=1e-12)


def test_rigid_clusters_find_a_motion() -> None:
    p = points()
    known = it.Problem(move(p[0])[None], it.operators.PointWarp(p))
    solution = it.solve(
        known,
        RigidClusters(LABELS),
        it.solvers.Adam(learning_rate=0.05),
        max_iterations=400,
        progress=False,
    )
    prior = RigidClusters(LABELS).bind(p)
    assert torch.allclose(prior.motions(solution.parameters)[0], motions(), atol=2e-3)
    assert bool((solution.x[0, LABELS < 0] == 0).all())


def test_says_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="must be prepared"):
        VoxelFlow().initial()
    with pytest.raises(InputError, match="cell of VoxelFlow must be positive"):
        VoxelFlow(cell=0)
    with pytest.raises(InputError, match="beyond a grid"):
        VoxelFlow(0.001).bind(torch.full((1, 2, 3), 1e6))
    with pytest.raises(InputError, match="every label"):
        RigidClusters(torch.full((5,), -1))
    with pytest.raises(InputError, match="labels of 60 points"):
        RigidClusters(LABELS).bind(points(n=7))
    with pytest.raises(InputError, match="starts from motions"):
        RigidClusters(LABELS, torch.eye(4)[None])
