"""Convex clustering: the contracts, the optimum of a cone program, and equal values in groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import NeighbourGraph
from invtoolbox.priors import SumOfNorms
from invtoolbox.priors.motion.sum_of_norms import GraphDifferences
from invtoolbox.testing import check_operator, check_prior


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_groups() -> tuple[Tensor, SumOfNorms]:
    """Two clouds of ten points each, whose values are their noisy positions in the plane."""
    place = torch.cat(
        [0.6 * drawn(10, 3), 0.6 * drawn(10, 3, seed=1) + torch.tensor([6.0, 0.0, 0.0])]
    )
    graph = NeighbourGraph.of_points(place, neighbours=12, weights="gaussian", scale=2.0)
    return place[:, :2].T[None].contiguous(), SumOfNorms(graph)


def test_keeps_the_contracts() -> None:
    _, prior = two_groups()
    check_prior(prior, drawn(2, 3, 20))
    check_operator(GraphDifferences(prior.graph, 2))


def test_the_optimum_of_a_cone_program_and_equal_values_within_a_group() -> None:
    cvxpy = pytest.importorskip("cvxpy")
    y, prior = two_groups()
    problem = it.Problem(y, it.operators.Identity((2, 20)))
    solution = it.solve(
        problem, prior, regularization=0.5, max_iterations=5000, tolerance=1e-7, progress=False
    )
    i, j = prior.graph.edges.numpy()
    x = cvxpy.Variable((2, 20))
    jumps = cvxpy.norm(x[:, i] - x[:, j], axis=0)
    cost = 0.5 * cvxpy.sum_squares(x - y[0].numpy()) + 0.5 * prior.graph.weights.numpy() @ jumps
    best = cvxpy.Problem(cvxpy.Minimize(cost)).solve(solver="CLARABEL")
    ours = 0.5 * (solution.x - y).square().sum() + 0.5 * prior.energy(solution.x)[0]
    assert abs(float(ours) / best - 1) < 1e-4
    groups = prior.groups(solution.x, 0.01)[0]
    assert torch.equal(groups, torch.arange(20) // 10)


def test_bad_values() -> None:
    with pytest.raises(InputError, match="takes values"):
        two_groups()[1].energy(torch.ones(1, 20, 3))
