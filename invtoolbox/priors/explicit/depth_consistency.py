"""Depths of several views that agree: what one camera sees lies where the others see it."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.scenes.cameras import Cameras


class DepthConsistency(ExplicitPrior):
    r"""``R(d) = mean of rho((z_ij(p) - d_j(q)) / d_j(q))`` over pairs of views i and j and the pixels p of i.

    Pixel p of view i at its depth d_i(p) is a point; z_ij is that point's depth in view j and q the place where it is seen there, between
    whose pixels d_j is interpolated. ``rho(r) = sqrt(r^2 + s^2) - s``, s the smoothing. Pixels take part where both views meet something,
    q lies in the picture, and the two depths differ by less than ``tolerance``: what is farther than that is hidden in view j, or hides
    what view i does not see, and says nothing. Where neighbouring pixels of view j differ by as much there is an edge, and nothing
    between them.

    Of depths ``(batch, 1, picture, row, column)``, measured ones or, ``DepthConsistency(cameras) @ A``, those of a renderer. A scene
    agrees with itself but for what is seen through haze; depths that are variables of their own (a network's, a sensor's) are where it
    matters.

    Source: Bai et al., "GeoVideo", 2025 (the multi-view geometric loss).

    Args:
        cameras: of the pictures.
        tolerance: relative difference of depths beyond which a point counts as hidden.
        smoothing: s, below which relative differences cost their square.
        neighbours: only views so many places apart in their order are compared; None for all pairs.

    >>> from invtoolbox.scenes import look_at
    >>> cameras = look_at(torch.tensor([[0.0, 0.0, -2.0], [0.5, 0.0, -2.0]]), target=(0.0, 0.0, 1e6), size=(8, 8))
    >>> wall = torch.full((2, 1, 2, 8, 8), 3.0)  # both look straight at a wall
    >>> wall[1, :, 0] = 3.3
    >>> [round(e, 3) for e in DepthConsistency(cameras, smoothing=0.01).energy(wall).tolist()]
    [0.0, 0.086]
    """

    is_smooth = True

    def __init__(
        self,
        cameras: Cameras,
        tolerance: float = 0.2,
        smoothing: float = 1e-3,
        neighbours: int | None = None,
    ) -> None:
        if not (tolerance > 0 and smoothing > 0) or (neighbours is not None and neighbours < 1):
            raise InputError(
                f"DepthConsistency takes a tolerance and a smoothing above 0 and a neighbour at least, got {tolerance}, "
                f"{smoothing} and {neighbours}"
            )
        if len(cameras) < 2:
            raise InputError("DepthConsistency compares views, and needs two cameras at least")
        self.cameras, self.tolerance, self.smoothing, self.neighbours = (
            cameras,
            tolerance,
            smoothing,
            neighbours,
        )

    def energy(self, x: Tensor) -> Tensor:
        count, size = len(self.cameras), self.cameras.size
        if x.ndim != 5 or tuple(x.shape[1:]) != (1, count, *size):
            raise InputError(
                f"{self!r} takes depths (batch, 1, {count}, {size[0]}, {size[1]}), got {tuple(x.shape)}; renderers of "
                "voxels give pictures with block='picture'"
            )
        depths = x[:, 0]
        total, pixels = depths.new_zeros(len(x)), depths.new_zeros(len(x))
        cameras = self.cameras.to(depths.dtype, depths.device)
        origins, directions = cameras.rays()
        for i in range(count):
            points = (
                origins[i] + depths[:, i, :, :, None] * directions[i]
            )  # (batch, row, column, 3)
            for j in range(count):
                if i == j or (self.neighbours is not None and abs(i - j) > self.neighbours):
                    continue
                misfit, known = self._compared(points, depths[:, i], depths[:, j], cameras[j])
                total, pixels = (
                    total + (misfit * known).flatten(1).sum(1),
                    pixels + known.flatten(1).sum(1),
                )
        return total / pixels.clamp_min(1)

    def _compared(
        self, points: Tensor, own: Tensor, other: Tensor, camera: Cameras
    ) -> tuple[Tensor, Tensor]:
        """What each point costs in another view, and whether it takes part, ``(batch, row, column)`` each."""
        height, width = camera.size
        places, z = camera.project(points.reshape(-1, 3))
        places, z = places[0].view(*points.shape[:3], 2), z[0].view(points.shape[:3])
        ahead = z > 0
        places = torch.where(ahead[..., None], places, -1.0)  # behind the camera they mean nothing
        grid = 2 * places / places.new_tensor([width, height]) - 1
        seen = functional.grid_sample(
            other[:, None], grid, align_corners=False, padding_mode="border"
        )[:, 0]
        # Between pixels that see different things, or of which one meets nothing, there is no depth.
        fixed = other.detach()[:, None]
        spread = functional.max_pool2d(fixed, 3, 1, 1) + functional.max_pool2d(-fixed, 3, 1, 1)
        whole = ((fixed > 0) & (spread < self.tolerance * fixed)).to(other)
        solid = functional.grid_sample(whole, grid, align_corners=False, padding_mode="border")[
            :, 0
        ]
        inside = ((grid.abs() <= 1).all(-1)) & ahead & (own > 0) & (solid > 0.999)
        apart = (z - seen) / torch.where(inside, seen, 1.0)
        known = (inside & (apart.detach().abs() < self.tolerance)).to(other)
        return (apart.square() + self.smoothing**2).sqrt() - self.smoothing, known

    def subset(self, index: Any) -> Self:
        other = copy.copy(self)
        other.cameras = self.cameras[index]
        return other

    def __repr__(self) -> str:
        return f"DepthConsistency({len(self.cameras)} cameras, tolerance={self.tolerance:g})"
