"""Moving shapes: Gaussians, voxels or points at rest with displacements over time, and skinning.

Skinning weights give the share to which each point follows each bone or control node, and the
rigidity of the edges follows from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import tree_map
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.rotations import product, quaternions
from invtoolbox.geometry.skinning import Skeleton, Skinning, blend, interpolate_poses
from invtoolbox.geometry.voxels import Voxels, VoxelSpace

#: Raw density of nodes whose matter came from outside of the box: empty.
_EMPTY = -40.0


class Moving(NamedTuple):
    """A moving shape, decoded by `priors.Deformation` and rendered by `operators.OverTime`.

    Attributes:
        displacements: motion of the points, ``(batch, T, N, 3)``, in the unit of the scene. For
            Gaussians, the motion of each mean. For voxels, the place from which matter has come to
            every kept node, ``from = node + displacement``, so that every node has a value. Priors
            of rigidity use the displacements.
        turns: rotation since rest, quaternions ``(batch, T, N, 4)``, w x y z; None for voxels and
            points.
        shape: shape at rest, `Splats`, `Voxels` or points ``(batch, N, 3)``. Colors that depend on
            the direction of view do not rotate.
        skinning: weights and poses of the bones, if the shape is moved by `priors.Bones`.
    """

    displacements: Tensor
    turns: Tensor | None
    shape: Any
    skinning: Skinning | None = None

    def at(self, time: float) -> Any:
        """Return the shape at a time from 0 to T - 1: `Splats`, `Voxels` or points.

        A whole number is one of the T times. Between them, the poses of bones are interpolated;
        other motions have no shape there.
        """
        if time != int(time):
            bones = self._bones("the shape between two times")
            places = places_of(self.shape)
            # The centre of a bone is the mean of the points, weighted by their shares in it.
            centres = torch.stack(
                [w.T @ p / w.sum(0)[:, None] for w, p in zip(bones.weights, places)]
            )
            return self.at_pose(interpolate_poses(bones.poses, centres, time))
        index = int(time)
        turns = None if self.turns is None else self.turns[:, index]
        return _displace(self.shape, self.displacements[:, index], turns)

    def at_pose(self, pose: Tensor) -> Any:
        """Return the shape in a pose of its bones, which need not occur at any of the times.

        Args:
            pose: motion of each bone from rest, ``(B, 4, 4)`` or ``(batch, B, 4, 4)``, such as
                ``x.skeleton().pose({3: (0.0, 0.0, 0.5)})``.

        Raises:
            InputError: if the shape has no bones, or another number of them.
        """
        bones = self._bones("a shape in another pose")
        if pose.ndim not in (3, 4) or tuple(pose.shape[-3:]) != tuple(bones.poses.shape[2:]):
            raise InputError(
                f"a pose of {bones.poses.shape[2]} bones is ({bones.poses.shape[2]}, 4, 4), got "
                f"{tuple(pose.shape)}"
            )
        poses = pose.to(bones.poses).expand(len(bones.poses), *bones.poses.shape[2:])[:, None]
        points = places_of(self.shape)
        displacements = blend(bones.weights, poses, points)[:, 0] - points
        is_splats = isinstance(self.shape, Splats)
        turns = blend_turns(bones.weights, poses)[:, 0] if is_splats else None
        return _displace(self.shape, displacements, turns)

    def skeleton(self, item: int = 0) -> Skeleton:
        """Return the tree of the bones of an item."""
        bones = self._bones("a skeleton")
        return Skeleton.of(bones.weights[item], places_of(self.shape)[item])

    def _bones(self, what: str) -> Skinning:
        if self.skinning is None:
            raise InputError(f"{what} needs bones; move the shape by priors.Bones")
        return self.skinning

    @property
    def times(self) -> int:
        """Number T of times."""
        return int(self.displacements.shape[1])


def blend_turns(weights: Tensor, poses: Tensor) -> Tensor:
    """Return the mean rotation of the bones of each point, unit quaternions ``(batch, T, N, 4)``.

    Args:
        weights: shares, ``(batch, N, B)``.
        poses: motions of the bones, ``(batch, T, B, 4, 4)``.
    """
    turns = quaternions(poses[..., :3, :3])
    # q and -q are the same rotation: all have the sign of the first bone.
    sign = (turns * turns[:, :, :1]).sum(-1, keepdim=True)
    turns = torch.where(sign < 0, -turns, turns)
    # The normalized mean, near the mean rotation if the bones of a point turn alike.
    mixed = torch.stack([w @ q for w, q in zip(weights.expand(len(turns), -1, -1), turns)])
    return mixed / mixed.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Choose ``count`` of the points ``(N, 3)``, each as far as possible from the points before it.

    The result is the numbers of the points; the first is the farthest from the mean.

    >>> farthest_points(torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]), 2)
    tensor([2, 0])
    """
    check_range("farthest_points", f"[1, {len(points)}]", count=count)
    # Greedy: the distance to the nearest chosen point is updated by each new one (Gonzalez 1985).
    chosen = [int((points - points.mean(0)).square().sum(1).argmax())]
    distance = (points - points[chosen[0]]).square().sum(1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen, device=points.device)


def blend_weights(
    points: Tensor, nodes: Tensor, neighbours: int = 3, width: float | None = None
) -> tuple[Tensor, Tensor]:
    r"""Compute Gaussian weights ``exp(-d^2 / (2 width^2))`` of each point's nearest nodes.

    The weights of a point add up to 1.

    Args:
        points: points, ``(N, 3)``.
        nodes: nodes, ``(K, 3)``.
        neighbours: number of nodes that a point follows.
        width: width in the unit of the points; by default the mean distance of a node to its
            nearest node.

    Returns:
        the numbers of the nodes and their weights, ``(N, neighbours)`` both.
    """
    count = min(neighbours, len(nodes))
    if count < 1 or not bool(nodes.isfinite().all()):
        raise InputError(
            "blend weights need at least one neighbour and finite nodes, got "
            f"{neighbours} and {len(nodes)} nodes"
        )
    if width is None:
        # The mean over the nodes of the distance to the nearest other node; 1 for a single node.
        between = torch.cdist(nodes, nodes) + torch.diag(nodes.new_full((len(nodes),), torch.inf))
        width = float(between.amin(1).mean()) if len(nodes) > 1 else 1.0
    squared, index = (
        (points[:, None] - nodes[None]).square().sum(2).topk(count, dim=1, largest=False)
    )
    # Relative to the nearest node, so that a point far from all nodes has weights too.
    weights = torch.exp(-(squared - squared[:, :1]) / (2 * width**2))
    return index, weights / weights.sum(1, keepdim=True)


def places_of(shape: Any) -> Tensor:
    """Return the movable points: means or points ``(batch, N, 3)``, or kept nodes ``(1, N, 3)``."""
    if isinstance(shape, Tensor):
        return shape
    if isinstance(shape, Splats):
        return shape.means
    if isinstance(shape, Voxels):
        space, like = shape.space, shape.density
        low, cell = like.new_tensor(space.low), like.new_tensor(space.cell)
        return (low + cell * space.places().to(low))[None]
    raise InputError(f"only Splats, Voxels and points can be deformed, got {type(shape).__name__}")


def map_tensors(shape: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``change`` to every tensor of a shape's items, but not to those of its grid."""
    if isinstance(shape, Voxels):
        return shape._replace(density=change(shape.density), color=change(shape.color))
    return tree_map(change, shape)


def _displace(shape: Any, displacements: Tensor, turns: Tensor | None) -> Any:
    """Return a shape after displacements ``(batch, N, 3)`` and rotations ``(batch, N, 4)``."""
    if isinstance(shape, Tensor):
        return shape + displacements
    if isinstance(shape, Voxels):
        return _warp(shape, displacements)
    quats = shape.quats.expand(len(displacements), -1, -1)
    if turns is not None:
        # The rotation since rest follows the orientation at rest.
        quats = product(turns, quats)
    return dataclasses.replace(shape, means=shape.means + displacements, quats=quats)


def _warp(voxels: Voxels, displacements: Tensor) -> Voxels:
    """Interpolate voxels at the places from which matter has come."""
    space = voxels.space
    low, high = displacements.new_tensor(space.low), displacements.new_tensor(space.high)
    # The box in [-1, 1]^3, as grid_sample takes it.
    sources = places_of(voxels).to(displacements) + displacements
    unit = 2 * (sources - low) / (high - low) - 1
    # A tolerance for rounding: nodes on the faces of the box are inside.
    outside = (unit.abs() > 1 + 1e-6).any(-1)
    density, color = (
        _sample(space, leaf, unit, fill)
        for leaf, fill in ((voxels.density, _EMPTY), (voxels.color, 0.0))
    )
    return Voxels(torch.where(outside, _EMPTY, density), color, space)


def _sample(space: VoxelSpace, leaf: Tensor, unit: Tensor, fill: float) -> Tensor:
    """Interpolate a grid at points in [-1, 1]^3, ``(batch, N, 3)``."""
    grid = space.spread(leaf, fill)
    grid = grid.flatten(4) if leaf.ndim > 2 else grid[..., None]
    batch = max(len(grid), len(unit))
    # grid_sample takes the last axis of the grid as the first coordinate.
    samples = functional.grid_sample(
        grid.movedim(-1, 1).expand(batch, -1, -1, -1, -1),
        unit.flip(-1).expand(batch, -1, -1)[:, :, None, None],
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return samples[..., 0, 0].transpose(1, 2).reshape(batch, unit.shape[1], *leaf.shape[2:])
