"""What a group of cameras looks at, which way is up for it, and cameras that go around."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.scenes.cameras import Cameras
from invtoolbox.scenes.rigid import rigid


def looked_at(cameras: Cameras) -> Tensor:
    """The point ``(3,)`` that is nearest to the optical axes of all cameras, in the mean square.

    Raises:
        InputError: it lies behind all of them, or their axes are parallel.

    >>> from invtoolbox.scenes.cameras import look_at
    >>> middle = looked_at(look_at(torch.tensor([[0.0, 0.0, -4.0], [4.0, 0.0, 1.0]]), (0.5, 0.0, 1.0), size=(8, 8)))
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
        looked_at(cameras) if middle is None else middle.to(cameras.world_to_camera),
        upwards(cameras),
    )
    arms = cameras.centres - middle
    distance = arms.norm(dim=1, keepdim=True)
    one_sided = float((arms / distance).mean(0).norm()) > 0.8
    smaller = cameras[:1].scaled(min(1.0, largest_side / max(cameras.size)))
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
