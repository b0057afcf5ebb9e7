"""Normals that fit the depths: what a scene shows as its surface is one."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.scenes.cameras import Cameras


class NormalConsistency(ExplicitPrior):
    r"""``R(p) = mean over pixels of alpha - n . N``, n the rendered normal and N that of the surface which the rendered depths make.

    Of predictions ``(batch, 5, picture, row, column)``: normals in the world weighed by alpha, alpha, and depths along z, as
    ``GaussianRenderer(cameras, outputs=("normal", "alpha", "depth"))`` gives them; ``NormalConsistency(cameras) @ A`` is a prior of the
    scene, on cameras that took pictures or on any others. With the weights w_i of what a pixel composites, n is ``sum w_i n_i``, so the
    pixel costs ``sum w_i (1 - n_i . N)``: 0 where everything in it lies along the surface, up to 2 alpha where it looks the other way.
    N is the cross product of the differences between the points that the pixels below and above, right and left see, towards the camera.
    Pixels take part where these and their own meet something and differ by less than ``tolerance``; elsewhere there is an edge.

    Depths of Gaussians are those of their means, so that N says something where they are smaller than what they make up.

    Source: Huang et al., "2D Gaussian splatting for geometrically accurate radiance fields", SIGGRAPH 2024, equation 14.

    Args:
        cameras: of the pictures.
        tolerance: relative difference of neighbouring depths beyond which there is an edge.

    Raises:
        InputError: for predictions of other channels, or of pictures that are not those of the cameras.

    >>> from invtoolbox.scenes import look_at
    >>> camera = look_at(torch.tensor([[0.0, 0.0, -3.0]]), size=(8, 8))
    >>> wall = torch.zeros(1, 5, 1, 8, 8)
    >>> wall[:, 2], wall[:, 3], wall[:, 4] = -0.9, 0.9, 3.0  # it faces the camera, and so do its normals
    >>> turned = wall.clone()
    >>> turned[:, 1], turned[:, 2] = -0.9 * 0.6, -0.9 * 0.8
    >>> [round(float(NormalConsistency(camera).energy(p)), 4) + 0.0 for p in (wall, turned)]
    [0.0, 0.18]
    """

    is_smooth = True

    def __init__(self, cameras: Cameras, tolerance: float = 0.1) -> None:
        if not tolerance > 0:
            raise InputError(f"the tolerance of NormalConsistency is positive, got {tolerance}")
        self.cameras, self.tolerance = cameras, tolerance

    def energy(self, x: Tensor) -> Tensor:
        if (
            x.ndim != 5
            or x.shape[1] != 5
            or x.shape[2] != len(self.cameras)
            or tuple(x.shape[3:]) != self.cameras.size
        ):
            raise InputError(
                f"{self!r} takes pictures (batch, 5, {len(self.cameras)}, {self.cameras.size[0]}, {self.cameras.size[1]}) of "
                f"normal, alpha and depth, got {tuple(x.shape)}; render them with outputs=('normal', 'alpha', 'depth')"
            )
        if min(x.shape[3:]) < 3:
            raise InputError(
                f"{self!r} compares pixels with those on both sides, and pictures of {x.shape[3]} by {x.shape[4]} have none"
            )
        normal, alpha, depth = x[:, :3].movedim(1, -1), x[:, 3], x[:, 4]
        origins, directions = self.cameras.to(x.dtype, x.device).rays()
        points = origins + depth[..., None] * directions
        inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        own = depth[inside]
        down, known = self._across(points, depth, own, 2)
        right, also = self._across(points, depth, own, 3)
        surface = torch.linalg.cross(down, right)  # towards the camera, whatever the depths
        length = surface.norm(dim=-1, keepdim=True)
        known = known * also * (length[..., 0].detach() > 0)
        surface = surface / torch.where(length > 0, length, 1.0)
        apart = known * (alpha[inside] - (normal[inside] * surface).sum(-1))
        return apart.flatten(1).sum(1) / known.flatten(1).sum(1).clamp_min(1)

    def _across(
        self, points: Tensor, depth: Tensor, own: Tensor, axis: int
    ) -> tuple[Tensor, Tensor]:
        """From the pixel before to the pixel after along an axis, and whether both lie on the surface of the one between."""
        other = 5 - axis
        size = points.shape[axis]
        ends = [
            (
                points.narrow(axis, first, size - 2).narrow(other, 1, points.shape[other] - 2),
                depth.detach()
                .narrow(axis, first, size - 2)
                .narrow(other, 1, points.shape[other] - 2),
            )
            for first in (0, 2)
        ]
        (before, a), (after, b) = ends
        middle = own.detach()
        on = (middle > 0) & (a > 0) & (b > 0)
        on = (
            on
            & ((a - middle).abs() < self.tolerance * middle)
            & ((b - middle).abs() < self.tolerance * middle)
        )
        return after - before, on.to(points)

    def subset(self, index: Any) -> Self:
        other = copy.copy(self)
        other.cameras = self.cameras[index]
        return other

    def __repr__(self) -> str:
        return f"NormalConsistency({len(self.cameras)} cameras, tolerance={self.tolerance:g})"
