"""Rigid motion of an item: recovered exactly, item by item, and upright."""

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rotation


def body(seed):
    """The surface of a box, 4 by 2 by 1.5 m, without its floor."""
    generator = torch.Generator().manual_seed(seed)
    faces = torch.rand(600, 3, generator=generator, dtype=torch.float64) - 0.5
    axis = torch.randint(0, 3, (600,), generator=generator)
    side = torch.where(torch.rand(600, generator=generator, dtype=torch.float64) < 0.5, -0.5, 0.5)
    side = torch.where(axis == 2, 0.5, side).double()
    return faces.scatter(1, axis[:, None], side[:, None]) * torch.tensor(
        [4.0, 2.0, 1.5], dtype=torch.float64
    )


def move(points, yaw, shift):
    R = rotation(torch.tensor([0.0, 0.0, yaw], dtype=torch.float64))
    return points @ R.T + torch.tensor(shift, dtype=torch.float64)


def test_two_bodies_are_registered_as_two_items():
    here, there = body(0), body(1)  # other points of the same surface
    other = here + torch.tensor([40.0, 0.0, 0.0], dtype=torch.float64)
    target = torch.cat(
        [
            move(there, 0.05, [0.6, 0.2, 0.0]),
            move(there, -0.02, [-0.5, 0.3, 0.0])
            + torch.tensor([40.0, 0.0, 0.0], dtype=torch.float64),
        ]
    )[None]
    points = torch.stack([here, other])
    problem = it.Problem(target, it.operators.PointWarp(points), it.data_terms.PlaneToPlane())
    solution = it.solve(
        problem,
        it.priors.RigidMotion(),
        "levenberg-marquardt",
        max_iterations=40,
        tolerance=0.0,
        progress=False,
    )
    expected = torch.stack(
        [move(here, 0.05, [0.6, 0.2, 0.0]) - here, move(here, -0.02, [-0.5, 0.3, 0.0]) - here]
    )
    assert float((solution.x - expected).norm(dim=-1).max()) < 0.02
    alone = it.solve(
        it.Problem(target, it.operators.PointWarp(points[1:]), it.data_terms.PlaneToPlane()),
        it.priors.RigidMotion(),
        "levenberg-marquardt",
        max_iterations=40,
        tolerance=0.0,
        progress=False,
    )
    torch.testing.assert_close(alone.x, solution.x[1:], atol=1e-6, rtol=0)


def test_upright_bodies_do_not_leave_the_plane():
    points = body(0)[None]
    problem = it.Problem(
        points + torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64),
        it.operators.PointWarp(points),
        it.data_terms.PlaneToPlane(scale=(1.0, 1.0)),
    )
    free = it.solve(
        problem,
        it.priors.RigidMotion(upright=0.0),
        "levenberg-marquardt",
        max_iterations=30,
        progress=False,
    )
    held = it.solve(
        problem,
        it.priors.RigidMotion(upright=100.0),
        "levenberg-marquardt",
        max_iterations=30,
        progress=False,
    )
    assert float(free.x[..., 2].mean()) > 0.25 and float(held.x[..., 2].abs().mean()) < 0.01


def test_calling_twice_gives_the_same_bits():
    points = body(0)[None].float()
    problem = it.Problem(points + 0.1, it.operators.PointWarp(points), it.data_terms.PlaneToPlane())
    first, second = (
        it.solve(
            problem,
            it.priors.RigidMotion(),
            "levenberg-marquardt",
            max_iterations=5,
            progress=False,
        ).x
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_what_it_cannot_move_is_said():
    with pytest.raises(InputError, match="PointWarp"):
        it.solve(
            it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4))),
            it.priors.RigidMotion(),
            progress=False,
        )
    with pytest.raises(InputError, match="upright"):
        it.priors.RigidMotion(upright=-1.0)
