"""Shapes that move, found from pictures: motions, the operator over time, and what rigidity is worth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Moving, NeighbourGraph, Splats, look_at
from invtoolbox.geometry.moving_shapes import places_of
from invtoolbox.geometry.rigid import rotation
from invtoolbox.geometry.rotations import of_rotation_vector, rotation_matrices
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.operators import GaussianRenderer, OverTime, VoxelRenderer
from invtoolbox.priors import (
    ARAP,
    AsIsometricAsPossible,
    ControlNodes,
    Deformation,
    Gaussians,
    LocalRigidity,
    NetworkMotion,
    NodeARAP,
    PointMotion,
    VoxelGrid,
)

N = 80


def bar() -> Splats:
    """Round Gaussians of many colors in a bar along x."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, N, 3, generator=generator) * torch.tensor(
        [2.0, 0.4, 0.4]
    ) - torch.tensor([1.0, 0.2, 0.2])
    return Splats.of_points(points, torch.rand(1, N, 3, generator=generator), 0.1, 0.8)


def bent(points: Tensor, angle: float) -> Tensor:
    """The bar along an arc of this angle."""
    radius = 2.0 / angle
    turn = points[..., 0] / radius
    return torch.stack(
        [
            (radius - points[..., 1]) * turn.sin(),
            radius - (radius - points[..., 1]) * turn.cos(),
            points[..., 2],
        ],
        -1,
    )


def cameras(count: int = 2) -> Any:
    return look_at(
        torch.tensor([[0.5, 0.8, -4.0], [-0.8, -0.5, -4.0]])[:count],
        size=(24, 24),
        field_of_view=40.0,
    )


def test_bent_gaussians_are_recovered_from_pictures_with_rigidity_and_not_without() -> None:
    splats = bar()
    truth = bent(splats.means, 1.0) - splats.means
    A = OverTime([GaussianRenderer(cameras())])
    problem = it.Problem(A(Moving(truth[:, None], None, splats)), A, it.data_terms.Photometric(0.0))
    graph = NeighbourGraph.of_points(splats.means[0], 8, symmetric=True)
    solver, errors = it.solvers.Adam(learning_rate=5e-3), {}
    for name, prior in {
        "none": Deformation(splats, PointMotion()),
        "arap": Deformation(splats, PointMotion()) + 30.0 * ARAP(graph=graph),
        "nodes": Deformation(splats, ControlNodes(10)),
    }.items():
        x = it.solve(
            problem,
            prior,
            solver,
            regularization=1.0,
            max_iterations=120,
            tolerance=0,
            progress=False,
        ).x
        errors[name] = float((x.displacements[:, 0] - truth).norm(dim=2).mean())
    rest = float(truth.norm(dim=2).mean())
    assert errors["arap"] < 0.2 * rest and errors["arap"] < 0.4 * errors["none"], errors
    assert errors["nodes"] < 0.6 * errors["none"], errors


def test_nodes_that_turn_carry_their_points_rigidly() -> None:
    splats, turn, shift = bar(), torch.tensor([0.3, -0.5, 1.0]), torch.tensor([0.2, 0.1, -0.4])
    motion = ControlNodes(6, times=2).bind(splats.means)
    R, nodes = rotation(turn), motion.nodes
    start = motion.initial()
    start["turns"][:, 1] = turn
    start["translations"][:, 1] = (nodes @ R.T + shift - nodes) / motion.size
    displacements, turns = motion.move(start, splats.means)
    assert torch.equal(displacements[:, 0], torch.zeros_like(splats.means))
    assert torch.allclose(splats.means + displacements[:, 1], splats.means @ R.T + shift, atol=1e-5)
    assert torch.allclose(rotation_matrices(turns[:, 1]), R.expand(1, N, 3, 3), atol=1e-5)
    moved = Moving(displacements, turns, splats).at(1)
    assert torch.allclose(moved.covariances, R @ splats.covariances @ R.T, atol=1e-6)


@pytest.mark.parametrize(
    "motion",
    [
        PointMotion(2),
        ControlNodes(6, times=2, rigidity=3.0 * NodeARAP(4)),
        NetworkMotion(2, width=8),
    ],
    ids=repr,
)
def test_items_of_a_batch_move_by_themselves(motion: Any) -> None:
    one = bar()
    both = Splats(
        *(
            torch.cat([t, t.flip(1)])
            for t in (one.means, one.quats, one.scales, one.opacities, one.colors)
        )
    )
    A = OverTime([GaussianRenderer(cameras(1)), GaussianRenderer(cameras())])
    truth = torch.stack([bent(both.means, angle) - both.means for angle in (0.2, 0.4)], 1)
    y = A(Moving(truth, None, both))
    assert y.shape == (2, 3, 3, 24, 24)

    def solved(shape: Splats, pictures: Tensor) -> Any:
        problem = it.Problem(pictures, A, it.data_terms.Photometric(0.0))
        return it.solve(
            problem,
            Deformation(shape, motion),
            it.solvers.Adam(subset_size=2),
            max_iterations=6,
            tolerance=0,
            progress=False,
        )

    together = solved(both, y)
    second = Splats(
        *(t[1:] for t in (both.means, both.quats, both.scales, both.opacities, both.colors))
    )
    alone = solved(second, y[1:])
    assert float(together.x.displacements.abs().amax()) > 1e-4
    assert torch.allclose(together.x.displacements[1], alone.x.displacements[0], atol=1e-6)
    values = together.history["objective"]
    assert bool(values.isfinite().all())


def test_subsets_of_pictures_are_the_pictures() -> None:
    splats = bar()
    A = OverTime(
        [GaussianRenderer(cameras()), GaussianRenderer(cameras(1)), GaussianRenderer(cameras())]
    )
    x = Moving(
        0.1 * torch.randn(1, 3, N, 3, generator=torch.Generator().manual_seed(1)), None, splats
    )
    index = torch.tensor([4, 0, 2])
    assert A.blocks == 5 and len(A.cameras) == 5
    assert torch.equal(A.subset(index)(x), A(x)[:, :, index])
    assert torch.equal(A.subset(index).subset(torch.tensor([2, 0]))(x), A(x)[:, :, [2, 4]])
    with pytest.raises(InputError, match="sees time 2"):
        A(Moving(x.displacements[:, :1], None, splats))


def test_priors_of_one_flow_take_the_mean_over_times_and_gaussians_turn_along() -> None:
    splats = bar()
    splats = Splats(
        splats.means,
        splats.quats,
        splats.scales * torch.tensor([1.0, 2.0, 0.5]),
        splats.opacities,
        splats.colors,
    )
    turn = torch.tensor([0.3, -0.5, 1.0])
    R, p = rotation(turn), splats.means
    turns = of_rotation_vector(torch.stack([0 * turn, turn]))[None, :, None].expand(1, 2, N, 4)
    rigid = Moving(torch.stack([0 * p, p @ R.T + 1 - p], 1), turns, splats)
    away = Moving(
        rigid.displacements + torch.tensor([0.0, 0.1]).view(1, 2, 1, 1) * p[:, None],
        rigid.turns,
        splats,
    )
    graph = NeighbourGraph.of_points(p[0], 6)
    arap = ARAP(graph=graph).bind(p)
    assert torch.allclose(
        arap.energy(away),
        0.5 * (arap.energy(away.displacements[:, 0]) + arap.energy(away.displacements[:, 1])),
    )
    for prior in (
        arap,
        AsIsometricAsPossible(graph=graph, covariances=splats.covariances).bind(p),
        NodeARAP(graph=graph).bind(p),
        LocalRigidity(graph=graph, orientations=splats.quats).bind(p),
    ):
        assert float(prior.energy(rigid)) < 1e-3 * float(prior.energy(away)), prior


def test_voxels_move_with_the_matter_in_them() -> None:
    space = VoxelSpace.box(17, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    places = places_of(Voxels(torch.zeros(1, space.rows), torch.zeros(1, space.rows, 1, 3), space))

    def ball(centre: Tensor) -> Voxels:
        density = 4 - 60 * (places - centre).square().sum(2)
        return Voxels(density, places[:, :, None] * 0 + 1.0, space)

    shift = torch.tensor([0.25, 0.125, 0.0])
    moved = Moving((-shift).expand(1, 1, space.rows, 3), None, ball(torch.zeros(3))).at(0)
    inside = (places - shift).abs().amax(2) < 0.7
    assert torch.allclose(moved.density[inside], ball(shift).density[inside], atol=1e-3)
    A = OverTime(
        [
            VoxelRenderer(
                look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(16, 16), field_of_view=30.0)
            )
        ]
    )
    y = A(Moving((-shift).expand(1, 1, space.rows, 3), None, ball(torch.zeros(3))))
    problem = it.Problem(y, A)
    x = it.solve(
        problem,
        Deformation(ball(torch.zeros(3)), ControlNodes(4)),
        it.solvers.Adam(learning_rate=0.01),
        max_iterations=60,
        tolerance=0,
        progress=False,
    ).x
    middle = places[0].norm(dim=1) < 0.3
    found = x.displacements[0, 0][middle].mean(0)
    assert torch.allclose(found[:2], -shift[:2], atol=0.05)


def test_a_shape_is_found_along_with_its_motion() -> None:
    splats = bar()
    A = OverTime([GaussianRenderer(cameras()), GaussianRenderer(cameras())])
    truth = torch.stack([0 * splats.means, bent(splats.means, 0.3) - splats.means], 1)
    problem = it.Problem(A(Moving(truth, None, splats)), A, it.data_terms.Photometric(0.0))
    shape = Gaussians(splats.means, degree=0, strategy=None, opacity=0.8, scale=0.1)
    solution = it.solve(
        problem,
        Deformation(shape, ControlNodes(6, times=2)),
        it.solvers.Adam(learning_rate=0.03),
        max_iterations=60,
        tolerance=0,
        progress=False,
    )
    values = solution.history["objective"][:, 0]
    assert float(values[-1]) < 0.5 * float(values[0])
    assert solution.x.shape.colors.shape == splats.colors.shape


def test_what_cannot_be_moved_is_said() -> None:
    with pytest.raises(InputError, match="strategy=None"):
        Deformation(Gaussians.random(5, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), PointMotion())
    with pytest.raises(InputError, match="got int"):
        Deformation(3, PointMotion())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="explicit priors"):
        ControlNodes(4, rigidity=VoxelGrid(VoxelSpace.box(3, (0.0,) * 3, (1.0,) * 3))).bind(
            bar().means
        )
    with pytest.raises(InputError, match="times of PointMotion must be at least 1, got 0"):
        PointMotion(0)
