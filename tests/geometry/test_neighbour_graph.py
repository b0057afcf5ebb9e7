"""Graphs of neighbours: against distances of all pairs, labels, and what is refused; and the rotation that fits best."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.geometry.rigid import rotation
from invtoolbox.geometry.rotations import best_rotation


def cloud(n: int = 60, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed))


def as_set(graph: NeighbourGraph) -> set[tuple[int, int]]:
    return set(map(tuple, graph.edges.T.tolist()))


def test_joins_the_nearest() -> None:
    points = cloud()
    distance = torch.cdist(points, points).fill_diagonal_(torch.inf)
    expected = {(i, j) for i in range(60) for j in distance[i].argsort()[:4].tolist()}
    assert as_set(NeighbourGraph.of_points(points, 4)) == expected
    both = as_set(NeighbourGraph.of_points(points, 4, symmetric=True))
    assert both == expected | {(j, i) for i, j in expected}
    near = as_set(NeighbourGraph.of_points(points, 4, radius=0.15))
    assert near == {(i, j) for i, j in expected if distance[i, j] <= 0.15}
    assert as_set(NeighbourGraph.of_points(points, None, radius=0.3)) == set(
        map(tuple, (distance <= 0.3).nonzero().tolist())
    )


def test_stays_within_labels() -> None:
    points, labels = cloud(), torch.arange(60) % 4 - 1
    graph = NeighbourGraph.of_points(points, 3, labels=labels)
    i, j = graph.edges
    assert bool((labels[i] == labels[j]).all()) and bool((labels[i] >= 0).all())
    assert bool(
        (torch.bincount(i, minlength=60)[labels >= 0] == 3).all()
    )  # the three nearest of its own label
    within = NeighbourGraph.of_points(points, None, radius=0.3, labels=labels)
    assert bool((labels[within.edges[0]] == labels[within.edges[1]]).all())


def test_points_at_one_place_and_few_points() -> None:
    same = NeighbourGraph.of_points(torch.zeros(9, 3), 3)
    assert bool((same.edges[0] != same.edges[1]).all()) and same.edges.shape[1] == 27
    assert NeighbourGraph.of_points(cloud(3), 10).edges.shape[1] == 6
    assert NeighbourGraph.of_points(cloud(1), 10).edges.shape[1] == 0
    assert NeighbourGraph.of_points(cloud(5), 2, labels=torch.full((5,), -1)).edges.shape[1] == 0


def test_differences_and_weights() -> None:
    points = cloud().double()
    graph = NeighbourGraph.of_points(points, 5, weights="gaussian", scale=0.1)
    assert torch.allclose(graph.differences(points), graph.vectors)
    assert torch.allclose(graph.weights, torch.exp(-50 * graph.vectors.square().sum(1)))
    assert graph.to(torch.float32).differences(points.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbours": None}, "a number of neighbours"),
        ({"neighbours": 0}, "at least 1"),
        ({"radius": -1.0}, "radius"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "labels of shape"),
        ({"weights": "cosine"}, "cosine"),
        ({"scale": 0.0}, "scale"),
    ],
)
def test_says_what_does_not_fit(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        NeighbourGraph.of_points(cloud(), **settings)


def test_refuses_points_that_are_not_finite() -> None:
    with pytest.raises(InputError, match="finite"):
        NeighbourGraph.of_points(torch.full((4, 3), torch.nan))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_best_rotation_is_that_of_the_decomposition(rank: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(rank)
    a = torch.randn(300, 8, 3, generator=generator, dtype=torch.float64)
    a[..., rank:] = 0  # a plane, a line
    a = a @ rotation(torch.randn(300, 3, generator=generator, dtype=torch.float64)).transpose(1, 2)
    b = a @ rotation(3 * torch.randn(300, 3, generator=generator, dtype=torch.float64)).transpose(
        1, 2
    )
    S = (b + noise * torch.randn(b.shape, generator=generator, dtype=torch.float64)).transpose(
        1, 2
    ) @ a
    R = best_rotation(S)
    U, sigma, V = torch.linalg.svd(S)
    best = sigma[:, 0] + sigma[:, 1] + sigma[:, 2] * torch.linalg.det(U @ V)
    assert torch.allclose(
        R @ R.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(300, 3, 3), atol=1e-12
    )
    assert float(torch.linalg.det(R).min()) > 0
    assert torch.allclose((R * S).sum((1, 2)), best, rtol=1e-9)


def test_best_rotation_of_nothing_and_of_a_reflection() -> None:
    assert torch.equal(best_rotation(torch.zeros(2, 3, 3)), torch.eye(3).expand(2, 3, 3))
    R = best_rotation(torch.diag(torch.tensor([3.0, 2.0, -1.0])))
    assert torch.allclose(R, torch.eye(3), atol=1e-6)
