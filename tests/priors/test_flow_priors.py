"""Explicit priors of motion: invariances, known answers, and the contracts of every prior."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.catalogue.registry import build
from invtoolbox.errors import InputError
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.geometry.rigid import rotation
from invtoolbox.priors import (
    ARAP,
    AccelerationLimit,
    ClusterConsistency,
    ExplicitPrior,
    SpatialConsistency,
    SpeedLimit,
    StaticWorld,
)
from invtoolbox.testing import check_prior

N = 40


def points(batch: int = 1, n: int = N, seed: int = 0) -> Tensor:
    return (
        torch.rand(batch, n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * 4
    )


def flow(batch: int = 1, n: int = N, seed: int = 1) -> Tensor:
    return 0.2 * torch.randn(
        batch, n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def problem(batch: int = 1) -> it.Problem:
    return it.Problem(points(max(batch, 1)), it.operators.PointWarp(points(batch)))


LABELS = torch.arange(N) % 5 - 1
PRIORS: dict[str, Callable[[], ExplicitPrior]] = {
    "arap": lambda: ARAP(neighbours=6),
    "arap, Gaussian, labels": lambda: ARAP(neighbours=5, weights="gaussian", labels=LABELS),
    "arap, radius": lambda: ARAP(neighbours=None, radius=1.0),
    "clusters": lambda: ClusterConsistency(LABELS),
    "clusters, squared": lambda: ClusterConsistency(LABELS, squared=True),
    "clusters, per item": lambda: ClusterConsistency(
        torch.stack([LABELS, LABELS.flip(0), LABELS.roll(3)])
    ),
    "consistency of neighbours": lambda: SpatialConsistency(neighbours=6, tau=1.0, iterations=60),
    "consistency of clusters": lambda: SpatialConsistency(
        LABELS, tau=1.0, largest=7, iterations=60
    ),
    "static": lambda: StaticWorld(threshold=0.1),
    "static, limit": lambda: StaticWorld(limit=0.2),
    "static, weights": lambda: StaticWorld(torch.arange(3 * N).view(3, N) % 7),
    "speed": lambda: SpeedLimit(0.2),
}


@pytest.mark.parametrize("batch", [1, 3], ids=["one cloud", "a cloud an item"])
@pytest.mark.parametrize("name", PRIORS)
def test_keeps_the_contracts(name: str, batch: int) -> None:
    x = flow(3)
    shared = it.Problem(x, it.operators.PointWarp(points(batch)))
    check_prior(PRIORS[name](), x, problem=shared)


def test_arap_does_not_mind_a_rigid_motion() -> None:
    p = points()
    moved = p @ rotation(torch.tensor([0.3, -0.5, 2.0], dtype=torch.float64)).T + torch.tensor(
        [5.0, -3.0, 1.0], dtype=torch.float64
    )
    prior = ARAP(6).bind(p)
    assert float(prior.energy(moved - p)) < 1e-20
    assert float(prior.gradient(moved - p).abs().max()) < 1e-10
    single = ARAP(6).bind(p.float())
    assert float(single.energy((moved - p).float())) < 1e-10


def test_arap_minds_stretching_shearing_and_reflection() -> None:
    p = points()
    prior = ARAP(6).bind(p)
    edges = NeighbourGraph.of_points(p[0], 6).vectors.square().sum(1).mean()
    assert float(prior.energy(0.1 * p)) == pytest.approx(
        0.01 * float(edges), rel=1e-9
    )  # scale 1.1: a tenth of every edge
    shear = torch.zeros_like(p)
    shear[..., 0] = 0.1 * p[..., 1]
    assert 0 < float(prior.energy(shear)) < 0.01 * float(edges)
    mirror = p * torch.tensor([-1.0, 1, 1], dtype=torch.float64) - p
    assert float(prior.energy(mirror)) > 0.1 * float(edges)


def test_arap_knows_planes_and_lines() -> None:
    p = points()
    for flat in (
        p * torch.tensor([1.0, 1, 0], dtype=torch.float64),
        p * torch.tensor([1.0, 0, 0], dtype=torch.float64),
    ):
        moved = flat @ rotation(torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64)).T
        assert float(ARAP(6).bind(flat).energy(moved - flat)) < 1e-14


def test_arap_takes_a_graph_and_labels_free_what_they_leave_out() -> None:
    p = points()
    graph = NeighbourGraph.of_points(p[0], 6)
    assert torch.equal(ARAP(graph=graph).bind(p).energy(flow()), ARAP(6).bind(p).energy(flow()))
    labels = (p[0, :, 0] > 2).long()
    prior = ARAP(6, labels=labels).bind(p)
    apart = labels[:, None].double() * torch.tensor(
        [0.0, 3.0, 0.0], dtype=torch.float64
    )  # two bodies move past each other
    assert float(prior.energy(apart[None])) < 1e-20
    assert float(ARAP(6).bind(p).energy(apart[None])) > 1e-2
    assert float(ARAP(6, labels=torch.full((N,), -1)).bind(p).energy(flow())) == 0


def test_arap_of_the_first_flow_of_two() -> None:
    prior = ARAP(6).bind(points())
    assert torch.equal(prior.energy((flow(), 100 * flow())), prior.energy(flow()))


def test_clusters_that_move_as_one_cost_nothing() -> None:
    whole = (LABELS.double() * 0.7)[None, :, None].expand(1, N, 3)
    assert float(ClusterConsistency(LABELS).to(torch.float64).energy(whole)) < 1e-12
    assert float(ClusterConsistency(LABELS).to(torch.float64).energy(flow())) > 0.1
    none = ClusterConsistency(torch.full((N,), -1)).to(torch.float64)
    assert float(none.energy(flow())) == 0 and float(none.gradient(flow()).abs().max()) == 0


def test_acceleration_keeps_the_contracts_and_is_that_of_a_tuple() -> None:
    x = torch.stack([flow(3, seed=k) for k in range(4)], dim=1)
    check_prior(AccelerationLimit(0.2), x)
    assert torch.equal(
        AccelerationLimit(0.2).energy(tuple(x.unbind(1))), AccelerationLimit(0.2).energy(x)
    )
    assert not bool(AccelerationLimit(0.1).energy(x[:, :1].expand(-1, 4, -1, -1)).any())


def test_consistency_orders_motions_by_how_much_of_a_body_they_keep() -> None:
    p = points()
    turned = p @ rotation(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).T - p
    for prior in (
        SpatialConsistency(torch.zeros(N, dtype=torch.long)).bind(p),
        SpatialConsistency(neighbours=8).bind(p),
    ):
        energies = []
        for stray in (0, 5, 20):  # so many points go their own way
            x = turned.clone()
            x[:, :stray] += flow(n=N)[:, :stray] * 5
            energies.append(float(prior.energy(x)))
        assert abs(energies[0]) < 1e-9 and energies[0] < energies[1] < energies[2]
    whole = SpatialConsistency(torch.zeros(N, dtype=torch.long), iterations=100).bind(p)
    half = turned.clone()
    half[:, : N // 2] += torch.tensor(
        [100.0, 0, 0], dtype=torch.float64
    )  # two bodies of one size: lambda / n = 1 / 2
    assert float(whole.energy(half)) == pytest.approx(0.6931, abs=0.02)


def test_a_static_world_lets_go() -> None:
    prior = StaticWorld(fade_to=0.1, fade_over=100)
    assert [
        float(prior.at(k).energy(flow()) / prior.energy(flow())) for k in (0, 50, 100, 1000)
    ] == pytest.approx([1, 0.55, 0.1, 0.1])
    still = torch.zeros(1, N, 3)
    assert not bool(StaticWorld().gradient(still).any()) and not bool(
        SpeedLimit(0.0).gradient(still).any()
    )
    limited, fast = StaticWorld(limit=0.2), flow().norm(dim=-1) > 0.2
    assert not bool(limited.gradient(flow())[fast].any()) and not limited.is_convex
    assert torch.equal(
        limited.gradient(flow())[~fast], StaticWorld().gradient(flow())[~fast]
    ) and bool(fast.any())
    chosen = torch.arange(N) < 3
    assert torch.equal(
        StaticWorld(chosen).energy(flow()), StaticWorld().energy(flow()[:, :3]) * 3 / N
    )


@pytest.mark.parametrize(
    "name",
    [
        "arap",
        "spatial-consistency",
        "static-world",
        "speed-limit",
        "acceleration-limit",
        "voxel-flow",
    ],
)
def test_has_a_name(name: str) -> None:
    assert isinstance(build("priors", name, {}), it.priors.Prior)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ARAP().energy(flow()), "must be prepared"),
        (lambda: ARAP().bind(points()).energy(flow(n=7)), "takes a flow"),
        (
            lambda: ARAP(graph=NeighbourGraph.of_points(points()[0], 3)).bind(points(n=7)),
            "has 40 points",
        ),
        (lambda: ClusterConsistency(LABELS.double()), "whole numbers"),
        (lambda: ClusterConsistency(LABELS).bind(points(n=7)), "labels of 40 points"),
        (lambda: SpatialConsistency(tau=0), "tau of SpatialConsistency must be positive"),
        (lambda: SpatialConsistency(LABELS).bind(points(n=7)), "labels of 40 points"),
        (lambda: StaticWorld(torch.tensor([-1.0])), "not negative"),
        (lambda: StaticWorld(torch.ones(3)).energy(flow()), "takes a flow"),
        (lambda: StaticWorld(threshold=0.1, limit=0.05), "limit"),
        (lambda: SpeedLimit(-1), "not be negative"),
        (lambda: AccelerationLimit().energy(flow()), "takes flows"),
        (lambda: AccelerationLimit().energy((flow(),)), "one time only"),
        (
            lambda: it.solve(
                it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4))),
                ARAP(),
                "adam",
                progress=False,
            ),
            "PointWarp",
        ),
    ],
)
def test_says_what_does_not_fit(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    "make",
    [
        lambda labels: ClusterConsistency(labels),
        lambda labels: ARAP(labels=labels),
        lambda labels: SpatialConsistency(labels, tau=1.0),
    ],
)
def test_items_of_one_cloud_may_have_labels_of_their_own(make: Callable[[Tensor], ARAP]) -> None:
    generator = torch.Generator().manual_seed(4)
    points, flow = (torch.rand(n, 40, 3, generator=generator) for n in (1, 2))
    labels = torch.stack([torch.arange(40) // 20, torch.arange(40) % 2])
    energy = make(labels).bind(points).energy(flow)
    alone = torch.cat([make(labels[k]).bind(points).energy(flow[k : k + 1]) for k in range(2)])
    assert torch.equal(energy, alone)
    for items, wrong in ((3, labels), (2, labels.repeat(2, 1))):
        with pytest.raises(InputError, match=f"labels for {len(wrong)} items"):
            make(wrong).bind(points.expand(items, -1, -1))


def test_clusters_are_compared_in_the_precision_of_the_flow() -> None:
    flow = torch.rand(1, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior = ClusterConsistency(torch.arange(6) // 3)
    torch.testing.assert_close(prior.energy(flow), prior.energy(flow.float()).double())
    assert prior.energy(flow).dtype == torch.float64
