"""Priors of rigidity: contracts, what rigid motion and scale cost, and that majorization goes down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.geometry.rigid import rotation
from invtoolbox.geometry.rotations import (
    fit_rotation,
    of_rotation_vector,
    product,
    rotation_matrices,
)
from invtoolbox.priors import (
    ARAP,
    AsIsometricAsPossible,
    ExplicitPrior,
    Isometry,
    LocalRigidity,
    LocalRotation,
    NodeARAP,
)
from invtoolbox.priors.motion.rigidity import GraphPrior
from invtoolbox.testing import check_prior

N = 60
TURN = torch.tensor([0.3, -0.5, 2.0], dtype=torch.float64)
SHIFT = torch.tensor([0.2, -0.4, 0.7], dtype=torch.float64)


def points(batch: int = 1, seed: int = 0) -> Tensor:
    """In the unit box."""
    return torch.rand(
        batch, N, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def flow(batch: int = 1, seed: int = 1, size: float = 0.05) -> Tensor:
    return size * torch.randn(
        batch, N, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


PRIORS: dict[str, Callable[[], GraphPrior]] = {
    "isometry": lambda: Isometry(8),
    "isometry, l1, Gaussian": lambda: Isometry(8, norm="l1", weights="gaussian", smoothing=0.1),
    "as isometric": lambda: AsIsometricAsPossible(6, smoothing=0.1),
    "local rigidity": lambda: LocalRigidity(8, smoothing=0.1),
    "local rotation": lambda: LocalRotation(8, smoothing=0.1),
}
EVERY = {"arap": lambda: ARAP(8), "arap, Gaussian": lambda: ARAP(8, weights="gaussian"), **PRIORS}


@pytest.mark.parametrize("batch", [1, 3], ids=["one cloud", "a cloud an item"])
@pytest.mark.parametrize("name", PRIORS)
def test_keeps_the_contracts(name: str, batch: int) -> None:
    check_prior(
        PRIORS[name](), flow(3), problem=it.Problem(flow(3), it.operators.PointWarp(points(batch)))
    )


@pytest.mark.parametrize("name", EVERY)
def test_a_rigid_motion_costs_nothing(name: str) -> None:
    p = points()
    prior = EVERY[name]().bind(p)
    moved = p @ rotation(TURN).T + SHIFT - p
    assert float(prior.energy(moved).abs()) < 1e-6 * float(prior.energy(flow(size=0.3)))


def surface() -> tuple[Tensor, Tensor]:
    """A bumpy height field in the unit box, as a mesh."""
    n = 7
    xy = torch.cartesian_prod(torch.arange(n), torch.arange(n)).double() / (n - 1)
    vertices = torch.cat([xy, 0.3 * (4 * xy[:, :1]).sin() * (3 * xy[:, 1:]).cos()], 1)
    corner = (torch.arange(n - 1)[:, None] * n + torch.arange(n - 1)).reshape(-1, 1)
    return vertices, torch.cat(
        [corner + torch.tensor([0, 1, n]), corner + torch.tensor([n + 1, n, 1])]
    )


@pytest.mark.parametrize("weights", ["spokes-and-rims", "cotangent", "clamped", "uniform"])
def test_meshes_and_voxels_turn_for_nothing_and_grow_for_the_mean_square_of_their_edges(
    weights: Any,
) -> None:
    vertices, faces = surface()
    density = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    R = rotation(TURN)
    for graph in (
        NeighbourGraph.of_mesh(vertices, faces, weights),
        NeighbourGraph.of_grid(density.shape, 0.25, density),
    ):
        p, square = graph.positions, graph.vectors.square().sum(1)
        bent = p.square() @ torch.tensor(
            [[0.0, 0.3, 0.1], [0.2, 0.0, 0.3], [0.4, 0.1, 0.0]], dtype=torch.float64
        )
        mean = float((graph.weights * square).sum() / graph.weights.sum())
        for prior in (ARAP(graph=graph).bind(p[None]), Isometry(graph=graph).bind(p[None])):
            if graph.signed and isinstance(prior, Isometry):
                continue  # a sum of squares with weights of both signs is no energy
            assert float(prior.energy((p @ R.T + SHIFT - p)[None]).abs()) < 1e-6 * float(
                prior.energy(bent[None])
            )
            assert float(prior.energy(0.3 * p[None])) == pytest.approx(0.09 * mean, rel=1e-9)
    i, j = graph.edges  # of the grid
    assert torch.allclose(graph.weights, (density.flatten()[i] * density.flatten()[j]).sqrt())


def test_a_mesh_with_obtuse_triangles_goes_back_to_rest_by_default_and_crumples_under_signed_cotangents() -> (
    None
):
    vertices, faces = surface()
    sheared = vertices @ torch.tensor(
        [[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64
    )
    held = torch.arange(0, len(vertices), 6)
    A = it.operators.ObservedPoints(sheared[None], held)
    problem = it.Problem(
        torch.zeros(1, len(held), 3, dtype=torch.float64), A, it.data_terms.Exact()
    )
    start = 0.02 * torch.randn(
        1, len(vertices), 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    moved = {}
    for weights in ("clamped", "spokes-and-rims", "cotangent"):
        graph = NeighbourGraph.of_mesh(sheared, faces, weights)
        x = it.solve(
            problem,
            ARAP(graph=graph),
            it.solvers.LocalGlobal(),
            initial=start,
            regularization=1.0,
            max_iterations=2000,
            tolerance=1e-9,
            progress=False,
        ).x
        moved[weights] = (
            float(x.norm(dim=2).max()),
            float(ARAP(graph=graph).bind(sheared[None]).energy(x)),
        )
    for weights in ("clamped", "spokes-and-rims"):
        assert moved[weights][0] < 1e-6 and moved[weights][1] >= 0
    assert moved["cotangent"][0] > 1e-3 and moved["cotangent"][1] < 0


def test_nodes_that_move_rigidly_at_every_time_cost_nothing() -> None:
    p = points()
    turns = torch.stack([rotation(k * TURN) for k in (0.0, 0.7, 1.5, 2.0)])
    there = (
        p[:, None] @ turns.transpose(1, 2)
        + torch.arange(4.0, dtype=torch.float64)[:, None, None] * SHIFT
        - p[:, None]
    )
    prior = NodeARAP(8).bind(p)
    assert float(prior.energy(there)) < 1e-6 * float(
        prior.energy(torch.stack([flow(seed=k, size=0.3) for k in range(4)], 1))
    )


@pytest.mark.parametrize("factor", [1.1, 0.7])
def test_a_uniform_scale_costs_what_it_should(factor: float) -> None:
    p, more = points(), abs(factor - 1)
    scaled = (factor - 1) * p
    graph = NeighbourGraph.of_points(p[0], 8)
    length = graph.vectors.norm(dim=1)
    mean = float(length.mean())

    def corner(values: Tensor, smoothing: float) -> float:
        return float(((values**2 + smoothing**2).sqrt() - smoothing).mean())

    def cost(prior: GraphPrior) -> float:
        return float(prior.bind(p).energy(scaled))

    square = more**2 * float(length.square().mean())
    assert cost(ARAP(8)) == pytest.approx(square, rel=1e-9)
    assert cost(Isometry(8)) == pytest.approx(square, rel=1e-9)
    assert cost(Isometry(8, norm="l1")) == pytest.approx(
        corner(more * length, 1e-3 * mean), rel=1e-9
    )
    assert cost(LocalRigidity(8, weights="uniform")) == pytest.approx(
        corner(more * length, 1e-3 * mean), rel=1e-9
    )
    assert cost(LocalRotation(8)) == pytest.approx(0.0, abs=1e-9)
    weights = torch.exp(-0.5 * (length / float(length.median())) ** 2)
    assert cost(ARAP(8, weights="gaussian")) == pytest.approx(
        more**2 * float((weights * length**2).sum() / weights.sum()), rel=1e-9
    )
    i, j = graph.edges
    moments = (graph.vectors[:, :, None] * graph.vectors[:, None]).view(N, 8, 3, 3).mean(1)
    tiny = (1e-6 * mean**2) ** 2
    apart = (moments[i] - moments[j]).square().sum((1, 2))
    change = (apart * factor**4 + tiny).sqrt() - (apart + tiny).sqrt()
    expected = corner(more * length, 1e-3 * mean) + 100 * corner(change, 1e-3 * mean**2)
    assert cost(AsIsometricAsPossible(8)) == pytest.approx(expected, rel=1e-9)
    nodes = torch.stack(
        [scaled, (factor**2 - 1) * p], dim=1
    )  # by the factor from one time to the next
    assert float(NodeARAP(8).bind(p).energy(nodes)) == pytest.approx(square * factor**2, rel=1e-9)


def gaussians() -> tuple[Tensor, Tensor, Tensor]:
    """Means, quaternions and covariances at rest."""
    generator = torch.Generator().manual_seed(5)
    q = torch.randn(1, N, 4, generator=generator, dtype=torch.float64)
    scales = 0.02 + 0.05 * torch.rand(1, N, 3, generator=generator, dtype=torch.float64)
    R = rotation_matrices(q)
    return points(), q, R * scales[..., None, :] ** 2 @ R.transpose(-1, -2)


def test_gaussians_that_move_rigidly_cost_nothing() -> None:
    p, q, S = gaussians()
    R, turn = rotation(TURN), of_rotation_vector(TURN)
    moved = p @ R.T + SHIFT - p
    turned = -product(turn, q)  # the sign of a quaternion says nothing
    aiap = AsIsometricAsPossible(6, covariances=S[0]).bind(p)
    reference = float(aiap.energy((flow(), S)))
    assert float(aiap.energy((moved, R @ S @ R.T)).abs()) < 1e-6 * reference
    # The six numbers of the upper triangle, off-diagonal ones once, change by some per cent under
    # the same motion.
    i, j = NeighbourGraph.of_points(p[0], 6).edges
    six = torch.triu(torch.ones(3, 3, dtype=torch.bool))
    before, after = ((c[0, i] - c[0, j])[:, six].norm(dim=1) for c in (S, R @ S @ R.T))
    assert float((before - after).abs().mean()) > 0.01 * float(before.mean())
    for prior in (
        LocalRigidity(8, orientations=q[0]).bind(p),
        LocalRotation(8, orientations=q[0]).bind(p),
    ):
        assert float(prior.energy((moved, turned)).abs()) < 1e-6 * float(
            prior.energy((flow(), q.flip(1)))
        )
        assert (
            float(prior.energy((moved, q)) if isinstance(prior, LocalRigidity) else 1.0) > 1e-2
        )  # they did not turn along


def test_gaussians_that_grow_change_their_covariances_alone() -> None:
    p, _, S = gaussians()
    prior = AsIsometricAsPossible(
        6, covariances=S, position_weight=0.0, covariance_weight=1.0, smoothing=1e-9
    ).bind(p)
    i, j = NeighbourGraph.of_points(p[0], 6).edges
    apart = (S[0, i] - S[0, j]).square().sum((1, 2)).sqrt().mean()
    assert float(prior.energy((torch.zeros_like(p), 1.44 * S))) == pytest.approx(
        0.44 * float(apart), rel=1e-4
    )


@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_gaussians_that_are_scaled_cost_the_closed_form(factor: float) -> None:
    p, q, S = gaussians()
    graph = NeighbourGraph.of_points(p[0], 6)
    i, j = graph.edges
    length = float(graph.vectors.norm(dim=1).mean())
    apart = float((S[0, i] - S[0, j]).square().sum((1, 2)).sqrt().mean())
    grown = (factor - 1) * p
    expected = abs(factor - 1) * length + 100 * abs(factor**2 - 1) * apart
    aiap = AsIsometricAsPossible(6, covariances=S, smoothing=1e-9).bind(p)
    assert float(aiap.energy((grown, factor**2 * S))) == pytest.approx(expected, rel=1e-4)
    rigid = LocalRigidity(6, weights="uniform", orientations=q, smoothing=1e-9).bind(p)
    assert float(rigid.energy((grown, q))) == pytest.approx(abs(factor - 1) * length, rel=1e-6)
    assert float(LocalRotation(6, orientations=q).bind(p).energy((grown, q))) == pytest.approx(
        0.0, abs=1e-12
    )


def test_a_point_is_no_neighbour_of_its_own() -> None:
    for prior in (
        AsIsometricAsPossible().bind(points()),
        ARAP(graph=NeighbourGraph.of_points(points()[0], 5)).bind(points()),
    ):
        piece = prior.pieces[0]
        i, j = piece.edges if hasattr(piece, "edges") else (piece.tails, piece.heads)
        assert not bool((i == j).any()) and torch.equal(
            torch.bincount(i.long(), minlength=N), torch.full((N,), 5)
        )


def test_tuples_in_batches_are_their_items() -> None:
    _, q, S = gaussians()
    rest = torch.cat([points(), points(seed=9)])
    x = (flow(2), torch.cat([S, 1.3 * S]))
    aiap = AsIsometricAsPossible(6, covariances=torch.cat([S, S.flip(1)])).bind(rest)
    y = (flow(2), torch.cat([q, q.flip(1)]))
    rigid = LocalRigidity(6, orientations=torch.cat([q, q.roll(1, 1)])).bind(rest)
    for prior, values in ((aiap, x), (rigid, y)):
        for k in range(2):
            alone = prior.select(torch.tensor([k])).energy(tuple(v[k : k + 1] for v in values))
            assert torch.allclose(alone[0], prior.energy(values)[k], rtol=1e-12)


def test_the_derivative_of_the_best_rotation() -> None:
    S = torch.randn(
        7, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    ) + 2 * torch.eye(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(fit_rotation, S.requires_grad_(True), atol=1e-5)


def test_the_curvature_of_nodes_lies_above_and_reweighting_goes_down() -> None:
    p = points()
    prior = NodeARAP(6, symmetric=True)
    x = torch.stack([flow(2, seed=k, size=0.2) for k in range(3)], dim=1)
    check_prior(prior.bind(p), x, problem=it.Problem(x, it.operators.Identity(x.shape[1:])))
    problem = it.Problem(x, it.operators.Identity(x.shape[1:]))
    bound = NodeARAP(6, graph=NeighbourGraph.of_points(p[0], 6))
    values = it.solve(
        problem,
        500.0 * bound,
        it.solvers.Reweighted(),
        max_iterations=30,
        tolerance=0,
        progress=False,
    ).history["objective"]
    assert float((values[1:] - values[:-1]).max()) <= 1e-12 * float(values[0].max()) and bool(
        (values[-1] < 0.9 * values[0]).all()
    )


@pytest.mark.parametrize(
    "prior",
    [
        ARAP(8),
        Isometry(12),
        Isometry(12, norm="l1", smoothing=0.01),
    ],
    ids=lambda prior: repr(prior),
)
@pytest.mark.parametrize(
    "solver",
    [
        it.solvers.LocalGlobal(memory=0),
        it.solvers.LocalGlobal(plain_steps=3),
        it.solvers.Reweighted(),
    ],
    ids=["plain", "with memory", "reweighted"],
)
def test_majorization_never_goes_up(prior: ExplicitPrior, solver: it.solvers.Solver) -> None:
    p = points(2)
    seen = torch.arange(0, N, 4)
    A = it.operators.ObservedPoints(p, seen)
    y = A.displacements((p @ rotation(TURN / 2).T)[:, seen]) + 0.02 * flow(2)[:, seen]
    values = it.solve(
        it.Problem(y, A), 30.0 * prior, solver, max_iterations=25, tolerance=0, progress=False
    ).history["objective"]
    assert float((values[1:] - values[:-1]).max()) <= 1e-12 * float(values[0].max())
    assert bool((values[-1] < 0.5 * values[0]).all())


def test_a_reflection_is_an_isometry_and_not_rigid() -> None:
    p = points()
    mirror = p * torch.tensor([-1.0, 1, 1], dtype=torch.float64) - p
    assert float(Isometry(8).bind(p).energy(mirror)) < 1e-20
    assert float(LocalRigidity(8).bind(p).energy(mirror)) > 1e-2


def test_displacements_of_voxels_hold_where_there_is_density() -> None:
    shape = (4, 5, 3)
    density = torch.zeros(shape, dtype=torch.float64)
    density[:3] = 1.0
    graph = NeighbourGraph.of_grid(shape, 0.1, density)
    prior = ARAP(graph=graph).bind(graph.positions[None])
    place = graph.positions.T.reshape(1, 3, *shape)
    turned = torch.einsum("ab,nb...->na...", rotation(TURN), place) - place
    assert float(prior.energy(turned)) < 1e-20
    away = turned.clone()
    away[:, :, 3] += 0.3  # empty voxels go where they like
    assert float(prior.energy(away)) < 1e-20
    assert float(prior.energy(0.1 * place)) == pytest.approx(0.01 * 0.01, rel=1e-9)
    where = torch.zeros(shape, dtype=torch.bool)
    where[0, ::4, ::2] = where[2, 2, 1] = True  # five voxels are seen
    A = it.operators.Sampling(where, (3, *shape))
    solution = it.solve(
        it.Problem(A(turned), A, it.data_terms.Exact()),
        ARAP(graph=graph),
        it.solvers.LocalGlobal(tolerance=1e-8),
        progress=False,
    )
    assert float((solution.x - turned)[:, :, :3].abs().max()) < 1e-4


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(InputError, match="norm"):
        Isometry(norm="l3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="covariances at rest"):
        AsIsometricAsPossible(covariances=torch.zeros(3, 6))
    with pytest.raises(InputError, match="quaternions"):
        LocalRigidity(orientations=torch.zeros(3, 3))
    with pytest.raises(InputError, match="displacements of shape"):
        NodeARAP(4).bind(points()).energy(flow())
