"""Bones: parts found from motion, poses that did not occur, the skeleton, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Mesh, Splats, look_at
from invtoolbox.geometry.meshes import mesh_edges
from invtoolbox.geometry.moving_shapes import Moving
from invtoolbox.geometry.rigid import rigid, rotation, transform
from invtoolbox.geometry.rigid_parts import rigid_parts
from invtoolbox.geometry.skinning import Skeleton, blend, interpolate_poses, spread
from invtoolbox.operators import GaussianRenderer, OverTime, TrackedPoints
from invtoolbox.priors import Bones, Deformation, PointMotion

ANGLES = (0.0, 0.3, 0.6, 0.9)


def tube(around: int = 8, along: int = 25) -> Mesh:
    """A tube of radius 1/2 and length 6 along x."""
    turn = torch.arange(around) * (2 * torch.pi / around)
    ring = torch.stack([torch.zeros(around), 0.5 * turn.cos(), 0.5 * turn.sin()], 1)
    steps = torch.linspace(0, 6, along)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    vertices = (steps[:, None] + ring).flatten(0, 1)
    i = torch.arange(around * (along - 1))
    right = i // around * around + (i + 1) % around
    faces = torch.cat(
        [
            torch.stack([i, right, i + around], 1),
            torch.stack([right, right + around, i + around], 1),
        ]
    )
    return Mesh(vertices, faces)


def hinge(angle: float) -> Tensor:
    """Poses of two bones, the second bent about z at x = 3."""
    R = rotation(torch.tensor([0.0, 0.0, angle]))
    joint = torch.tensor([3.0, 0.0, 0.0])
    return torch.stack([torch.eye(4), rigid(R, joint - R @ joint)])


def bent(points: Tensor, angle: float) -> Tensor:
    """The tube bent by two bones, with a joint that is a little soft."""
    share = ((points[:, 0] - 3.0) / 0.25).sigmoid()
    weights = torch.stack([1 - share, share], 1)[None]
    return blend(weights, hinge(angle)[None, None], points[None])[0, 0]


def test_bones_found_from_frames_pose_the_shape_as_it_was_never_seen() -> None:
    mesh = tube()
    frames = torch.stack([bent(mesh.vertices, angle) for angle in ANGLES])
    x = it.find_bones(mesh, frames, count=2, max_iterations=40).x
    size = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())

    def off(found: Tensor, truth: Tensor) -> float:
        return float((found[0] - truth).norm(dim=-1).mean()) / size

    assert max(off(x.at(t), frame) for t, frame in enumerate(frames)) < 5e-3
    # Between two times, and in a pose far beyond the frames.
    assert off(x.at(1.5), bent(mesh.vertices, 0.45)) < 1e-2
    skeleton = x.skeleton()
    assert sorted(skeleton.parents.tolist()) == [-1, 0] or sorted(skeleton.parents.tolist()) == [
        -1,
        1,
    ]
    child = int((skeleton.parents >= 0).nonzero()[0])
    assert abs(float(skeleton.joints[child][0]) - 3) < 0.4
    sign = 1.0 if float(skeleton.centres[child][0]) > 3 else -1.0
    posed = x.at_pose(skeleton.pose({child: (0.0, 0.0, 1.5 * sign)}))[0]
    far, near = ((mesh.vertices[:, 0] > 4.5), (mesh.vertices[:, 0] < 1.5))
    wanted = bent(mesh.vertices, 1.5)
    # The root is at rest; a shape bent the other way round is the same up to a rigid motion.
    lengths = (posed[far].mean(0) - posed[near].mean(0)).norm()
    truth = (wanted[far].mean(0) - wanted[near].mean(0)).norm()
    assert abs(float(lengths - truth)) < 0.15


def test_points_that_were_not_seen_follow_noisy_tracks() -> None:
    mesh = tube()
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(len(mesh.vertices), generator=generator)[:40]
    frames = torch.stack([bent(mesh.vertices, angle) for angle in ANGLES])
    noisy = frames[:, index] + 0.05 * torch.randn(4, 40, 3, generator=generator)
    x = it.find_bones(mesh, noisy, 2, index=index, noise_std=0.05, max_iterations=40).x
    others = torch.ones(len(mesh.vertices), dtype=torch.bool).index_fill(0, index, False)
    off = (x.at(3)[0] - frames[3]).norm(dim=-1)[others].mean()
    moved = (frames[3] - mesh.vertices).norm(dim=-1)[others].mean()
    assert float(off) < 0.06 < 0.1 * float(moved)


def test_known_bones_are_posed_by_few_points() -> None:
    mesh = tube()
    weights = (mesh.vertices[:, :1] - 3).sigmoid()
    known = torch.cat([weights, 1 - weights], 1)
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[0, 2, 3] = 0.5
    moved = blend(known[None], poses[None, None], mesh.vertices[None])[0]
    index = torch.tensor([0, 2, 197, 199])
    x = it.find_bones(mesh, moved[:, index], index=index, weights=known, noise_std=1e-3).x
    assert torch.equal(x.skinning.weights[0], known)
    assert float((x.at(0)[0] - moved[0]).norm(dim=-1).mean()) < 0.1


def problem_of(points: Tensor, frames: Tensor) -> it.Problem:
    A = TrackedPoints(points, frames.shape[1])
    return it.Problem(A.displacements(frames), A, it.data_terms.LeastSquares(0.02))


def test_bones_keep_their_contract() -> None:
    points = tube(6, 9).vertices.double()[None]
    frames = torch.stack([bent(points[0].float(), a).double() for a in ANGLES])[None]
    other = torch.stack([points[0].flip(-1), points[0]])[None]
    two = torch.cat([points, points.flip(-1)])
    both = torch.cat([frames, other.repeat(1, 2, 1, 1)])
    for given, seen in ((points, frames), (two, both)):
        report = it.testing.check_prior(
            Deformation(given, Bones(2, times=4, nodes=20)), seen, problem=problem_of(given, seen)
        )
        assert not report.faults
    known = torch.rand(points.shape[1], 3, generator=torch.Generator().manual_seed(0))
    fixed = Deformation(points, Bones(3, times=4, weights=known))
    assert not it.testing.check_prior(fixed, frames, problem=problem_of(points, frames)).faults


def test_items_are_fitted_by_themselves() -> None:
    mesh = tube(6, 13)
    frames = torch.stack(
        [
            torch.stack([bent(mesh.vertices, a) for a in angles])
            for angles in ((0.2, 0.4, 0.6), (-0.5, -0.1, 0.3))
        ]
    )
    points = mesh.vertices[None]

    def solved(seen: Tensor) -> Any:
        return it.solve(
            problem_of(points, seen),
            Deformation(mesh, Bones(3, times=3, nodes=30)),
            it.solvers.LBFGS(),
            max_iterations=8,
            progress=False,
        ).x

    together = solved(frames)
    for k in range(2):
        alone = solved(frames[k : k + 1])
        assert torch.equal(together.displacements[k], alone.displacements[0])
        assert torch.equal(together.skinning.weights[k], alone.skinning.weights[0])


def test_gaussians_seen_in_pictures_turn_with_their_bones() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, 60, 3, generator=generator) * torch.tensor([6.0, 0.6, 0.6])
    splats = Splats.of_points(points, torch.rand(1, 60, 3, generator=generator), 0.3, 0.9)
    known = torch.stack([points[0, :, 0] < 3, points[0, :, 0] >= 3], 1).float()
    truth = blend(known[None], hinge(0.3)[None, None], points) - points[:, None]
    camera = look_at(torch.tensor([[3.0, 2.0, -9.0]]), (3.0, 0.0, 0.0), size=(24, 32))
    A = OverTime([GaussianRenderer(camera)])
    problem = it.Problem(A(Moving(truth, None, splats)), A, it.data_terms.Photometric(0.0))
    for motion in (Bones(2, weights=known, weight=1e-4), Bones(4, nodes=30, weight=1e-4)):
        x = it.solve(
            problem,
            Deformation(splats, motion),
            it.solvers.Adam(learning_rate=0.01),
            max_iterations=40,
            tolerance=0,
            progress=False,
        ).x
        off = (x.displacements - truth).norm(dim=-1).mean()
        assert float(off) < 0.6 * float(truth.norm(dim=-1).mean()), motion
        turned = x.at_pose(x.skinning.poses[:, 0])
        assert torch.allclose(turned.means, x.at(0).means, atol=1e-5)
        assert torch.allclose(turned.covariances, x.at(0).covariances, atol=1e-5)


def test_rigid_parts_are_found_under_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(240, 3, generator=generator) * torch.tensor([6.0, 1.0, 1.0])
    truth = (points[:, 0] / 2).long().clamp_max(2)
    turns = 0.6 * torch.randn(5, 3, 3, generator=generator)
    R = rotation(turns)
    tracks = torch.stack([(R[:, b] @ p) for b, p in zip(truth, points)], 1)
    tracks = tracks + 0.02 * torch.randn(tracks.shape, generator=generator)
    near = torch.cdist(points, points).topk(6, largest=False).indices
    parts = rigid_parts(points, tracks, 3, near)
    best = torch.stack([torch.bincount(truth[parts.labels == b]).max() for b in range(3)]).sum()
    assert int(best) >= 225
    moved = torch.stack(
        [
            parts.rotations[:, b] @ p + parts.translations[:, b]
            for b, p in zip(parts.labels, points)
        ],
        1,
    )
    assert float((moved - tracks).norm(dim=-1).median()) < 0.06


def test_bones_agree_at_a_hinge_and_a_hinge_turns_between_its_poses() -> None:
    half = torch.full((1, 1, 2), 0.5)
    poses = torch.stack([hinge(0.0), hinge(0.4), hinge(0.8)])[None]
    joint, away = torch.tensor([[[3.0, 0.0, 0.7]]]), torch.tensor([[[4.0, 0.0, 0.0]]])
    assert float(spread(half, poses, joint, blend(half, poses, joint)).max()) < 1e-10
    apart = spread(half, poses, away, blend(half, poses, away))[0, :, 0]
    # Two places at the distance 2 sin(angle / 2) have a mean square distance of half of it.
    expected = (torch.tensor([0.0, 0.2, 0.4]).sin()).square()
    assert torch.allclose(apart, expected, atol=1e-6)
    centres = torch.tensor([[[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]])
    between = interpolate_poses(poses, centres, 1.5)[0]
    assert torch.allclose(between, hinge(0.6), atol=5e-3)
    assert torch.allclose(interpolate_poses(poses, centres, 2), poses[:, 2], atol=1e-6)


def test_a_chain_of_bones_is_a_tree_and_the_bones_beyond_a_joint_follow() -> None:
    x = torch.linspace(0, 9, 91)
    points = torch.stack([x, 0 * x, 0 * x], 1)
    weights = torch.stack([(-(((x - c) / 0.8) ** 2)).exp() for c in (1.5, 4.5, 7.5)], 1)
    skeleton = Skeleton.of(weights / weights.sum(1, keepdim=True), points)
    ends = [b for b in range(3) if b not in skeleton.parents.tolist()]
    assert 1 not in ends
    root = int((skeleton.parents < 0).nonzero()[0])
    tip = next(b for b in ends if b != root)
    poses = skeleton.pose({1: (0.0, 0.0, 0.5)} if root != 1 else {tip: (0.0, 0.0, 0.5)})
    assert torch.equal(poses[root], torch.eye(4))
    joint = skeleton.joints[1 if root != 1 else tip]
    assert torch.allclose(transform(poses[tip], joint[None])[0], joint, atol=1e-5)
    with pytest.raises(InputError, match="no bone 7"):
        skeleton.pose({7: (0.0, 0.0, 1.0)})


def test_other_points_may_be_seen_at_other_times() -> None:
    points = torch.rand(1, 6, 3, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([[0, 1], [4, 2]])
    A = TrackedPoints(points, 2, index)
    moved = torch.rand(1, 2, 6, 3, generator=torch.Generator().manual_seed(1))
    y = A(Moving(moved, None, points))
    assert torch.equal(y[0, 1], moved[0, 1, [4, 2]])
    assert torch.allclose(A.displacements(points[:, index] + y), y)
    start = Deformation(points, Bones(2, times=2)).prepare(it.Problem(y, A), it.solve).initial()
    assert float(start["motion.turns"].abs().max()) == 0  # no tracks, so at rest


def test_what_bones_cannot_move_is_said() -> None:
    mesh = tube(6, 9)
    twice = Mesh(
        torch.cat([mesh.vertices, mesh.vertices + 9]),
        torch.cat([mesh.faces, mesh.faces + len(mesh.vertices)]),
    )
    with pytest.raises(InputError, match="2 pieces that share no edge"):
        Bones(3).bind(twice.vertices[None], twice.faces)
    # Points without faces are joined by their neighbours.
    assert mesh_edges(twice.faces, len(twice.vertices)).shape[0] == 2
    assert len(Bones(3).bind(twice.vertices[None]).start) == 1
    with pytest.raises(InputError, match="as many points as bones"):
        Bones(3).bind(torch.zeros(1, 0, 3))
    with pytest.raises(InputError, match="must not be negative"):
        Bones(2, weights=torch.tensor([[1.0, -1.0]]))
    with pytest.raises(InputError, match="are those of 4 points"):
        Bones(2, weights=torch.ones(4, 2)).bind(mesh.vertices[None])
    with pytest.raises(InputError, match="'learned' or a tensor"):
        Bones(2, weights="uniform")  # type: ignore[arg-type]
    few = TrackedPoints(mesh.vertices[None], 2, torch.arange(5))
    with pytest.raises(InputError, match="more than 6 points"):
        Deformation(mesh, Bones(3, times=2)).prepare(
            it.Problem(torch.zeros(1, 2, 5, 3), few), it.solve
        )
    with pytest.raises(InputError, match="3 times"):
        Deformation(mesh, Bones(3, times=3)).prepare(
            it.Problem(torch.zeros(1, 2, 5, 3), few), it.solve
        )
    still = Moving(torch.zeros(1, 2, 4, 3), None, torch.zeros(1, 4, 3))
    with pytest.raises(InputError, match="move the shape by priors.Bones"):
        still.at(0.5)
    with pytest.raises(InputError, match="point 1 of frame 0"):
        it.find_bones(mesh, torch.full((1, 54, 3), torch.nan).index_fill(1, torch.tensor(0), 0.0))
    with pytest.raises(InputError, match="frames have 5 points"):
        it.find_bones(mesh, torch.zeros(2, 5, 3))
    moving = Deformation(mesh, PointMotion(2)).prepare(None, None)
    assert moving.decode(moving.initial()).at(1).shape == (1, 54, 3)


def test_frames_that_are_no_positions_are_named() -> None:
    bar = torch.cartesian_prod(torch.arange(8.0), torch.arange(3.0), torch.arange(3.0))
    lift = (bar[:, :1] - 4).clamp_min(0) * torch.tensor([0.0, 0.0, 1.0])
    frames = [bar + a * lift for a in (0.1, 0.2)]

    def find(frames: Any, **settings: Any) -> Any:
        return it.find_bones(bar, frames, count=2, max_iterations=10, **settings)

    assert find(frames).notes == ()
    order = torch.randperm(len(bar), generator=torch.Generator().manual_seed(0))
    changes = (lambda f: f - bar, lambda f: 1000 * f, lambda f: f[order])
    for change in changes:
        wrong = find([change(frame) for frame in frames])
        assert "are positions and no displacements" in wrong.notes[-1]
    is_seen = torch.arange(len(bar)) % 2 == 0
    numbers = is_seen.nonzero().squeeze(1)
    seen = [f[is_seen] for f in frames]
    masked, numbered = find(seen, index=is_seen), find(seen, index=numbers)
    assert torch.equal(masked.x.at(0), numbered.x.at(0))
    with pytest.raises(InputError, match="the shape at rest first"):
        it.find_bones(frames, bar, count=2)
