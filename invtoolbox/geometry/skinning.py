"""Skinning: points that follow several bones, poses between times, and the tree of the bones.

A pose of B bones is ``(B, 4, 4)``, the rigid motion of each bone from rest, about the origin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rigid, rotation, transform
from invtoolbox.geometry.rotations import quaternions, rotation_matrices


class Skinning(NamedTuple):
    """Bones of a moving shape.

    Attributes:
        weights: share with which each point follows each bone, ``(batch, N, B)``; not negative,
            with a sum of 1 over the bones.
        poses: motion of each bone from rest at T times, ``(batch, T, B, 4, 4)``.
    """

    weights: Tensor
    poses: Tensor


def blend(weights: Tensor, poses: Tensor, points: Tensor) -> Tensor:
    """Move points by the weighted mean of the motions of their bones (linear blend skinning).

    ``p' = sum_b w_b (R_b p + t_b)``.

    Args:
        weights: shares, ``(batch, N, B)``.
        poses: motions, ``(batch, T, B, 4, 4)``.
        points: points at rest, ``(batch, N, 3)``.

    Returns:
        positions, ``(batch, T, N, 3)``.
    """
    batch, times, count = poses.shape[:3]
    ones = torch.ones_like(points[..., :1])
    # p' = sum_bj (w_b q_j) P_bj with q = (p, 1): one product per item, whose bits do not depend on
    # the batch.
    arms = (weights[..., None] * torch.cat([points, ones], -1)[..., None, :]).flatten(2)
    columns = poses[..., :3, :].permute(0, 2, 4, 1, 3).reshape(batch, count * 4, times * 3)
    positions = torch.stack([a @ c for a, c in zip(arms.expand(batch, -1, -1), columns)])
    return positions.unflatten(2, (times, 3)).transpose(1, 2)


def spread(weights: Tensor, poses: Tensor, points: Tensor, moved: Tensor) -> Tensor:
    """Compute the mean square distance between a moved point and the places of its bones.

    ``sum_b w_b |R_b p + t_b - p'|^2`` is 0 where all bones of a point agree, as at a hinge.

    Args:
        weights: shares, ``(batch, N, B)``.
        poses: motions, ``(batch, T, B, 4, 4)``.
        points: points at rest, ``(batch, N, 3)``.
        moved: the positions that `blend` returns.

    Returns:
        ``(batch, T, N)``, in squared units of the points.
    """
    places = transform(poses, points[:, None, None])  # of each bone, (batch, T, B, N, 3)
    off = (places - moved[:, :, None]).square().sum(-1)
    return (weights.transpose(1, 2)[:, None] * off).sum(2)


def interpolate_poses(poses: Tensor, centres: Tensor, time: float) -> Tensor:
    """Interpolate poses between times by cubics (Catmull-Rom).

    The path of the centre of a bone and its quaternion are interpolated, so that a bone that turns
    about its centre stays there.

    Args:
        poses: poses at the times 0 to T - 1, ``(batch, T, B, 4, 4)``.
        centres: centre of each bone at rest, ``(batch, B, 3)``.
        time: time from 0 to T - 1.

    Returns:
        a pose, ``(batch, B, 4, 4)``.

    Raises:
        InputError: if the time lies outside of the times.
    """
    last = poses.shape[1] - 1
    if not 0 <= time <= last:
        raise InputError(f"poses are known from time 0 to {last}, and time {time:g} was asked for")
    # Catmull and Rom (1974), with tension 1/2, at the share s between the times k and k + 1.
    k = min(int(time), max(last - 1, 0))
    s = time - k
    index = torch.tensor([k - 1, k, k + 1, k + 2], device=poses.device)
    shares = poses.new_tensor(
        [
            0.5 * (-s + 2 * s**2 - s**3),
            0.5 * (2 - 5 * s**2 + 3 * s**3),
            0.5 * (s + 4 * s**2 - 3 * s**3),
            0.5 * (s**3 - s**2),
        ]
    ).view(1, 4, 1, 1)
    # Beyond the ends, the path goes on in a straight line.
    knots = poses[:, index.clamp(0, last)]  # (batch, 4, B, 4, 4)
    R = knots[..., :3, :3]
    places = (R @ centres[:, None, :, :, None]).squeeze(-1) + knots[..., :3, 3]
    turns = quaternions(R)
    # q and -q are the same rotation: all take the sign of the knot at k.
    turns = torch.where((turns * turns[:, 1:2]).sum(-1, keepdim=True) < 0, -turns, turns)
    places, turns = (_extend(path, k, last) for path in (places, turns))
    turn = rotation_matrices((shares * turns).sum(1))
    place = (shares * places).sum(1)
    # The motion that turns and carries the centre c to its place: t = place - R c.
    return rigid(turn, place - (turn @ centres[..., None]).squeeze(-1))


def _extend(path: Tensor, k: int, last: int) -> Tensor:
    """Replace values before the first and after the last time by linear extrapolation."""
    before, a, b, after = path.unbind(1)
    return torch.stack(
        [2 * a - b if k < 1 else before, a, b, 2 * b - a if k + 2 > last else after], 1
    )


@dataclass(frozen=True, eq=False)
class Skeleton(Settings):
    """Tree of the bones of a shape: two bones are joined where they share most points.

    Attributes:
        centres: centre of each bone at rest, ``(B, 3)``.
        parents: bone that each bone is joined to, ``(B,)``, -1 for the root, the bone of most
            points.
        joints: place of the joint with the parent at rest, ``(B, 3)``; of the root, its centre.

    >>> weights = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    >>> line = torch.arange(4.0)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    >>> skeleton = Skeleton.of(weights, line)
    >>> skeleton.parents, skeleton.joints[1]
    (tensor([-1,  0]), tensor([2., 0., 0.]))
    >>> quarter = torch.tensor([0.0, 0.0, torch.pi / 2])
    >>> transform(skeleton.pose({1: quarter})[1], line[3:]).round()
    tensor([[2., 1., 0.]])
    """

    centres: Tensor
    parents: Tensor
    joints: Tensor

    @classmethod
    def of(cls, weights: Tensor, points: Tensor) -> Skeleton:
        """Find the tree of bones whose shared points weigh most (maximum spanning tree).

        Args:
            weights: share with which each point follows each bone, ``(N, B)``.
            points: points at rest, ``(N, 3)``.
        """
        from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

        weights, points = weights.detach(), points.detach()
        # contact_ab = sum_n w_an w_bn, and touch is its cosine, from 0 (no common point) to 1.
        contact = weights.T @ weights
        centres = _means(weights.T, points)
        # Bones that share no point are joined by their distance, after all others.
        gap = torch.cdist(centres, centres)
        gap_cost = 1 + gap / gap.amax().clamp_min(1e-30)
        squares = contact.diagonal()
        touch = contact / (squares[:, None] * squares[None]).sqrt().clamp_min(1e-30)
        # The tree of least cost has the most contact. An entry 0 would be no edge for SciPy.
        cost = torch.where(touch > 1e-6, 1 - touch.clamp_max(1 - 1e-6), gap_cost)
        tree = minimum_spanning_tree(torch.triu(cost, 1).double().cpu().numpy())
        root = int(weights.sum(0).argmax())
        _, before = breadth_first_order(tree, root, directed=False)
        parents = torch.from_numpy(np.where(before < 0, -1, before).astype(np.int64))
        parents = parents.to(points.device)
        # A joint is the mean of the points, weighted by the product of the shares of both bones; bones
        # without a common point fall back to the mean over all their points.
        shared = weights.T * weights.T[parents.clamp_min(0)]
        places = _means(shared + 1e-12 * (weights.T + weights.T[parents.clamp_min(0)]), points)
        joints = torch.where((parents < 0)[:, None], centres, places)
        return cls(centres, parents, joints)

    def pose(self, turns: Mapping[int, Any], shift: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
        """Return the pose in which some bones turn about their joints, ``(B, 4, 4)``.

        The bones beyond a joint follow.

        Args:
            turns: rotation vector in radians for the numbers of the bones that turn.
            shift: translation of the whole shape.
        """
        count = len(self.parents)
        wrong = [bone for bone in turns if not 0 <= bone < count]
        if wrong:
            raise InputError(f"the skeleton has the bones 0..{count - 1}, and no bone {wrong[0]}")
        joints = self.joints
        # A turn about the joint j is p -> R (p - j) + j.
        local = torch.eye(4).to(joints).repeat(count, 1, 1)
        for bone, vector in turns.items():
            R = rotation(torch.as_tensor(vector).to(joints))
            local[bone] = rigid(R, joints[bone] - R @ joints[bone])
        base = torch.eye(4).to(joints)
        base[:3, 3] = torch.as_tensor(shift).to(joints)
        # Forward kinematics: the turns of all ancestors follow the turn of the bone.
        poses: dict[int, Tensor] = {}

        def of(bone: int) -> Tensor:
            if bone not in poses:
                parent = int(self.parents[bone])
                poses[bone] = (base if parent < 0 else of(parent)) @ local[bone]
            return poses[bone]

        return torch.stack([of(bone) for bone in range(count)])

    def __len__(self) -> int:
        return len(self.parents)

    def __repr__(self) -> str:
        return f"Skeleton({len(self)} bones)"


def _means(weights: Tensor, points: Tensor) -> Tensor:
    """Return the weighted means ``(B, 3)`` of points, for weights ``(B, N)``."""
    return weights @ points / weights.sum(1, keepdim=True).clamp_min(1e-30)
