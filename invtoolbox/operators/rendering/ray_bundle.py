"""Rays of a renderer: all rays of some cameras, or any rays."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.core.constants import compute_once, is_nonzero
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras


class RayBundle(Settings):
    """Numbered rays of cameras, or given by origins and directions.

    The rays of cameras are computed on demand, so poses can be moved, and a subset computes only
    its own rays.

    Args:
        tensors: poses, intrinsics and twist of cameras, or origins and directions.
        size: size (row, column) of the pictures; ``None`` for given rays.
    """

    def __init__(self, tensors: dict[str, Tensor], size: tuple[int, int] | None) -> None:
        self.tensors = tensors
        self.size = size
        self.index: Tensor | None = None

    @classmethod
    def of(cls, rays: Any) -> RayBundle:
        """Create a bundle from cameras, or from origins and directions."""
        if isinstance(rays, RayBundle):
            return rays
        if isinstance(rays, Cameras):
            rays.require_pinholes("a renderer of rays")
            twist = rays.world_to_camera.new_zeros(len(rays), 6)
            tensors = {
                "world_to_camera": rays.world_to_camera,
                "intrinsics": rays.intrinsics,
                "twist": twist,
            }
            return cls(tensors, rays.size)
        if not (
            isinstance(rays, (tuple, list))
            and len(rays) == 2
            and all(isinstance(t, Tensor) for t in rays)
            and rays[0].shape == rays[1].shape
            and rays[0].ndim == 2
            and rays[0].shape[1] == 3
        ):
            raise InputError(
                "a renderer takes Cameras, or origins and directions of rays (R, 3) as a tuple of "
                "two tensors"
            )
        return cls({"origins": rays[0], "directions": rays[1]}, None)

    @property
    def cameras(self) -> Cameras:
        """Cameras after the twist."""
        if self.size is None:
            raise InputError("these rays belong to no camera")
        cameras = Cameras(self.tensors["world_to_camera"], self.tensors["intrinsics"], self.size)
        twist = self.tensors["twist"]
        return (
            cameras.rotate(twist)
            if twist.requires_grad or compute_once(is_nonzero, twist)
            else cameras
        )

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Shape ``(cameras, height, width)`` of the pictures."""
        if self.size is None or self.index is not None:
            raise InputError("these rays do not form whole pictures")
        return (len(self.tensors["twist"]), *self.size)

    def __len__(self) -> int:
        if self.index is not None:
            return len(self.index)
        if self.size is None:
            return len(self.tensors["origins"])
        return len(self.tensors["twist"]) * self.size[0] * self.size[1]

    def take_blocks(self, index: Any) -> Self:
        """Return a bundle of some of the rays."""
        bundle = copy.copy(self)
        if self.index is not None:
            bundle.index = self.index[index]
        else:
            first = next(iter(self.tensors.values()))
            bundle.index = (
                torch.as_tensor(index, device=first.device)
                if isinstance(index, (list, Tensor))
                else torch.arange(len(self), device=first.device)[index]
            )
        return bundle

    def lines(self) -> tuple[Tensor, Tensor]:
        """Compute origins and directions, ``(R, 3)`` each.

        A direction of a camera has the length of one unit of depth.
        """
        if self.size is None:
            o, d = self.tensors["origins"], self.tensors["directions"]
            return (o, d) if self.index is None else (o[self.index], d[self.index])
        cameras = self.cameras
        if self.index is None:
            origins, directions = cameras.rays()
            return origins.reshape(-1, 3), directions.reshape(-1, 3)
        height, width = self.size
        which = self.index // (height * width)
        row, column = self.index % (height * width) // width, self.index % width
        pixels = torch.stack([column, row, torch.ones_like(row)], dim=-1).to(cameras.intrinsics)
        pixels[:, :2] += 0.5
        K = cameras.intrinsics
        inverse = torch.linalg.inv_ex(K, check_errors=not K.is_cuda).inverse
        back = cameras.world_to_camera[:, :3, :3].transpose(1, 2) @ inverse
        return cameras.centres[which], (back[which] @ pixels[..., None]).squeeze(-1)

    def parameters(self) -> dict[str, Tensor]:
        """Return the ``twist`` of cameras, or origins and directions of given rays."""
        return {"twist": self.tensors["twist"]} if self.size is not None else dict(self.tensors)

    def replace_tensors(self, parameters: dict[str, Tensor]) -> Self:
        bundle = copy.copy(self)
        bundle.tensors = {**self.tensors, **parameters}
        return bundle

    def __repr__(self) -> str:
        if self.size is None or self.index is not None:
            return f"{len(self)} rays"
        return f"{len(self.tensors['twist'])} cameras of {self.size[0]} by {self.size[1]} pixels"
