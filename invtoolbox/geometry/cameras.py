"""Pinhole cameras: where they stand, what they see, the ray of each pixel.

What a group of cameras looks at, which way is up for it, and cameras that go around.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, rigid, rotation, transform
from invtoolbox.geometry.rotations import best_rotation


@dataclass(frozen=True, eq=False)
class Cameras:
    """C pinhole cameras with pictures of one size.

    A camera looks along its z, with x to the right and y down (OpenCV, COLMAP, gsplat). Pixel coordinates are ``(column, row)``, and the
    centre of the first pixel is ``(0.5, 0.5)``. Lenses do not distort: readers straighten pictures, or say that they did not.

    Attributes:
        world_to_camera: rigid motions, ``(C, 4, 4)``: ``p_camera = R p_world + t``; what gsplat calls viewmats.
        intrinsics: ``(C, 3, 3)``, pixels; ``[[fx, s, cx], [0, fy, cy], [0, 0, 1]]``.
        size: ``(height, width)``, pixels.
        names: a word for each, such as the name of its picture's file; or none.

    >>> camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(2, 4), field_of_view=90.0)
    >>> camera.project(torch.zeros(1, 3))
    (tensor([[[2., 1.]]]), tensor([[4.]]))
    """

    world_to_camera: Tensor
    intrinsics: Tensor
    size: tuple[int, int]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.world_to_camera)
        if self.world_to_camera.shape != (count, 4, 4) or self.intrinsics.shape != (count, 3, 3):
            raise InputError(
                "Cameras takes world_to_camera (C, 4, 4) and intrinsics (C, 3, 3), got "
                f"{tuple(self.world_to_camera.shape)} and {tuple(self.intrinsics.shape)}"
            )
        if min(self.size) < 1 or (self.names and len(self.names) != count):
            raise InputError(
                "Cameras needs a size (height, width) of at least one pixel and no names or one a camera, got "
                f"{self.size} and {len(self.names)} names for {count} cameras"
            )

    def __len__(self) -> int:
        return len(self.world_to_camera)

    def __getitem__(self, index: Any) -> Cameras:
        """Some of the cameras: a slice, numbers, or a mask; one number gives one camera, still as a batch."""
        rows = torch.arange(len(self))[index].reshape(-1)
        names = tuple(self.names[int(k)] for k in rows) if self.names else ()
        rows = rows.to(self.world_to_camera.device)
        return replace(
            self,
            world_to_camera=self.world_to_camera[rows],
            intrinsics=self.intrinsics[rows],
            names=names,
        )

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Cameras:
        return replace(
            self,
            world_to_camera=self.world_to_camera.to(dtype=dtype, device=device),
            intrinsics=self.intrinsics.to(dtype=dtype, device=device),
        )

    @property
    def centres(self) -> Tensor:
        """Where the cameras stand in the world: ``(C, 3)``."""
        return inverse(self.world_to_camera)[:, :3, 3]

    def scale(self, factor: float) -> Cameras:
        """The cameras of pictures that are ``factor`` times as large, rounded to whole pixels."""
        height, width = (max(1, round(side * factor)) for side in self.size)
        across = self.intrinsics.new_tensor([width / self.size[1], height / self.size[0], 1.0])
        return replace(self, intrinsics=across[:, None] * self.intrinsics, size=(height, width))

    def rotate(self, twist: Tensor) -> Cameras:
        """The cameras moved in their own frames, ``world_to_camera -> exp(twist) world_to_camera``, differentiable in the twist.

        Args:
            twist: ``(C, 6)``: a rotation vector in radians, then a translation, which is made after the turn.
        """
        step = rigid(rotation(twist[:, :3]), twist[:, 3:])
        return replace(self, world_to_camera=step @ self.world_to_camera)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the world ``(N, 3)`` in the pictures: pixels ``(C, N, 2)`` and depths along z ``(C, N)``.

        Pixels of points behind a camera, of depth 0 or less, mean nothing.
        """
        seen = transform(self.world_to_camera, points)
        image = seen @ self.intrinsics.transpose(1, 2)
        return image[..., :2] / image[..., 2:], seen[..., 2]

    def rays(self, pixels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Origins and directions in the world of the rays through the centres of the pixels, ``(C, height, width, 3)`` each.

        A direction goes one unit of depth, so that ``origin + depth * direction`` is a point of that depth; it is not of length 1.

        Args:
            pixels: ``(C, ..., 2)`` coordinates ``(column, row)`` to take instead; the answer then has their shape.
        """
        if pixels is None:
            height, width = self.size
            middles = [
                torch.arange(side, dtype=self.intrinsics.dtype, device=self.intrinsics.device) + 0.5
                for side in (height, width)
            ]
            rows, columns = torch.meshgrid(*middles, indexing="ij")
            pixels = torch.stack([columns, rows], dim=-1).expand(len(self), height, width, 2)
        flat = pixels.reshape(len(self), -1, 2)
        homogeneous = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1)
        inside = torch.linalg.solve(self.intrinsics, homogeneous.transpose(1, 2))
        directions = (self.world_to_camera[:, :3, :3].transpose(1, 2) @ inside).transpose(1, 2)
        shape = (*pixels.shape[:-1], 3)
        return self.centres[:, None].expand_as(directions).reshape(shape), directions.reshape(shape)


def intrinsics(focal_length: float | Sequence[float], size: tuple[int, int]) -> Tensor:
    """``(3, 3)`` for a focal length in pixels, or one for columns and one for rows, with the principal point in the middle."""
    fx, fy = (
        (focal_length, focal_length) if isinstance(focal_length, (int, float)) else focal_length
    )
    return torch.tensor([[fx, 0.0, size[1] / 2], [0.0, fy, size[0] / 2], [0.0, 0.0, 1.0]])


def look_at(
    centres: Tensor,
    target: Sequence[float] = (0.0, 0.0, 0.0),
    up: Sequence[float] = (0.0, -1.0, 0.0),
    *,
    size: tuple[int, int],
    field_of_view: float = 50.0,
) -> Cameras:
    """Cameras that look at one point.

    Args:
        centres: where they stand, ``(C, 3)``.
        up: a direction of the world that goes up in the pictures.
        size: ``(height, width)``, pixels.
        field_of_view: across the width, degrees.

    Raises:
        InputError: where a camera stands in the target, or looks along `up`.
    """
    forward = centres.new_tensor(target) - centres
    distance = forward.norm(dim=-1, keepdim=True)
    z = forward / distance
    right = torch.linalg.cross(z, centres.new_tensor(up).expand_as(z))
    length = right.norm(dim=-1, keepdim=True)
    if bool((distance == 0).any()) or bool((length < 1e-6).any()):
        raise InputError(
            "look_at needs cameras that stand apart from the target and do not look along up"
        )
    x = right / length
    R = torch.stack([x, torch.linalg.cross(z, x), z], dim=1)
    focal_length = (
        0.5
        * size[1]
        / float(torch.tan(torch.deg2rad(torch.tensor(field_of_view, dtype=torch.float64)) / 2))
    )
    K = intrinsics(focal_length, size).to(centres).expand(len(centres), 3, 3)
    return Cameras(rigid(R, -(R @ centres[..., None]).squeeze(-1)), K, size)


def focus_point(cameras: Cameras) -> Tensor:
    """The point ``(3,)`` that is nearest to the optical axes of all cameras, in the mean square.

    Raises:
        InputError: it lies behind all of them, or their axes are parallel.

    >>> from invtoolbox.geometry.cameras import look_at
    >>> middle = focus_point(look_at(torch.tensor([[0.0, 0.0, -4.0], [4.0, 0.0, 1.0]]), (0.5, 0.0, 1.0), size=(8, 8)))
    >>> bool((middle - torch.tensor([0.5, 0.0, 1.0])).abs().max() < 1e-5)
    True
    """
    centres, axes = cameras.centres.double(), cameras.world_to_camera[:, 2, :3].double()
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    # Along parallel axes every point is as near.
    spread = torch.linalg.eigvalsh(across.mean(0))
    middle = torch.linalg.lstsq(across.sum(0), (across @ centres[..., None]).sum(0)).solution[:, 0]
    if float(spread[0]) < 1e-6 or not bool((((middle - centres) * axes).sum(1) > 0).any()):
        raise InputError(
            "the cameras look all in one direction or away from one another, so nothing is in the middle of their pictures"
        )
    return middle.to(cameras.world_to_camera)


def upwards(cameras: Cameras) -> Tensor:
    """The direction ``(3,)``, of length 1, that is up in the pictures on average."""
    up = -cameras.world_to_camera[:, 1, :3].mean(0)
    if float(up.norm()) < 1e-3:
        up = -cameras.world_to_camera[0, 1, :3]
    return up / up.norm()


def turntable(
    cameras: Cameras, frames: int = 24, largest_side: int = 256, middle: Tensor | None = None
) -> Cameras:
    """Cameras that go once around what a group of cameras looks at, in their mean distance and height.

    Where all of them look from one side, the new ones go around the mean of their places, in a circle as wide as these are spread.

    Args:
        cameras: of the photographs.
        frames: how many new ones.
        largest_side: of their pictures, pixels.
        middle: what they go around, ``(3,)``, where it is not to be what the cameras look at.
    """
    middle, up = (
        focus_point(cameras) if middle is None else middle.to(cameras.world_to_camera),
        upwards(cameras),
    )
    arms = cameras.centres - middle
    distance = arms.norm(dim=1, keepdim=True)
    one_sided = float((arms / distance).mean(0).norm()) > 0.8
    smaller = cameras[:1].scale(min(1.0, largest_side / max(cameras.size)))
    turn = torch.arange(frames) * 2 * math.pi / frames
    if one_sided:
        mean = arms.mean(0)
        side = torch.linalg.cross(up, mean)
        side, spread = side / side.norm(), (arms - mean).norm(dim=1).square().mean().sqrt()
        lift = torch.linalg.cross(mean / mean.norm(), side)
        places = mean + spread * (turn.cos()[:, None] * side + turn.sin()[:, None] * lift)
    else:
        height = float(((arms / distance) @ up).clamp(-0.94, 0.94).median())
        first = arms[0] - (arms[0] @ up) * up
        first = (
            first / first.norm()
            if float(first.norm()) > 1e-6
            else torch.linalg.cross(up, cameras.world_to_camera[0, 0, :3])
        )
        side = torch.linalg.cross(up, first)
        flat = turn.cos()[:, None] * first + turn.sin()[:, None] * side
        places = distance.median() * (math.sqrt(1 - height**2) * flat + height * up)
    z = -places / places.norm(dim=1, keepdim=True)
    x = torch.linalg.cross(z, up.expand_as(z))
    x = x / x.norm(dim=1, keepdim=True)
    R = torch.stack([x, torch.linalg.cross(z, x), z], dim=1)
    pose = rigid(R, -(R @ (middle + places)[..., None]).squeeze(-1))
    return replace(
        smaller, world_to_camera=pose, intrinsics=smaller.intrinsics.expand(frames, 3, 3), names=()
    )


@dataclass(frozen=True, eq=False)
class Similarity:
    """``p -> scale R p + t``.

    Attributes:
        scale: above 0, a tensor without axes.
        rotation: R, ``(3, 3)``.
        shift: t, ``(3,)``.
    """

    scale: Tensor
    rotation: Tensor
    shift: Tensor

    @classmethod
    def between(cls, source: Tensor, target: Tensor) -> Similarity:
        """The one that takes points to others with the least squared distance (Umeyama, IEEE TPAMI 13, 1991), computed in float64.

        Args:
            source, target: ``(N, 3)``, three or more that lie on no line.

        >>> source = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> found = Similarity.between(source, 2 * source + 1)
        >>> round(float(found.scale), 5), found.shift
        (2.0, tensor([1., 1., 1.]))
        """
        if (
            source.ndim != 2
            or source.shape != target.shape
            or source.shape[1] != 3
            or len(source) < 3
        ):
            raise InputError(
                f"a similarity is found from three or more pairs of points (N, 3), got {tuple(source.shape)} and "
                f"{tuple(target.shape)}"
            )
        p, q = source.to(torch.float64), target.to(torch.float64)
        middle_p, middle_q = p.mean(0), q.mean(0)
        p, q = p - middle_p, q - middle_q
        R = best_rotation(q.T @ p)
        size = p.square().sum()
        if not float(size) > 0:
            raise InputError(
                "a similarity is found from points in several places, and these are all in one"
            )
        scale = (q * (p @ R.T)).sum() / size
        return cls(scale.to(source), R.to(source), (middle_q - scale * R @ middle_p).to(source))

    @classmethod
    def of_cameras(cls, source: Cameras, target: Cameras) -> Similarity:
        """The one that takes the places of cameras to those of others."""
        return cls.between(source.centres, target.centres)

    def points(self, points: Tensor) -> Tensor:
        """``(..., 3)``, moved."""
        return self.scale * points @ self.rotation.T + self.shift

    def cameras(self, cameras: Cameras) -> Cameras:
        """The cameras that see moved points as the given ones see them where they were; depths grow by the scale."""
        to_world = inverse(cameras.world_to_camera)
        moved = rigid(self.rotation @ to_world[:, :3, :3], self.points(to_world[:, :3, 3]))
        return replace(cameras, world_to_camera=inverse(moved))

    def inverse(self) -> Similarity:
        back = self.rotation.T
        return Similarity(1 / self.scale, back, -(back @ self.shift) / self.scale)
